"""Training and measuring a character language model."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.char_lm.writing import draw
from experiments.data.parts import Parts, check_held_out, load_parts
from experiments.harness import run as runs
from experiments.harness.devices import Split
from experiments.harness.fit import Fitted, fit, load, report
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, Fraction, Optimizer, Positive, TrainingSettings, settings
from experiments.harness.task import Task
from experiments.harness.text_streams import curve_chunks, first_carry, stream_loss
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.data.text import Streams, Vocabulary
from jaxrnn.models.language_model import LanguageModel, text_nats


@settings
class Train(TrainingSettings):
    """Train a character model, then print samples."""

    corpus: str = "stdlib"
    """stdlib (the running Python's standard library), tiny_shakespeare, war_and_peace, or a UTF-8 file."""
    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 256
    """Hidden units of each layer."""
    embedding_size: Count | None = None
    """Size of the learned character embedding; None feeds one-hot vectors."""
    tied: bool = False
    """Share the embedding with the output; needs embedding-size equal to hidden-size."""
    dropout: Fraction = 0.0
    """Probability that a feature is dropped: at the input, between layers, and at the output."""
    model_devices: Count = 1
    """Devices over which the output layer is split while it trains, for a vocabulary of many thousands."""
    batch_size: Count = 32
    """Streams of text read side by side."""
    chunk_length: Count = 64
    """Characters between truncations of back-propagation through time."""
    steps: Count = 2000
    """Training steps, each one chunk of every stream."""
    optimizer: Optimizer = "muon"
    learning_rate: Positive = 1e-2
    valid_fraction: float = 0.05
    """Part of the text held out for validation, after the training text."""
    test_fraction: float = 0.05
    """Part of the text held out for the final test, after the validation text."""
    valid: str | None = None
    """UTF-8 file to validate on; then the corpus gives up no part for it, and has all of its characters."""
    test: str | None = None
    """UTF-8 file for the final test, likewise."""


def train_command(config: Train) -> None:
    """Train, measure the best model on all held-out text, and let it write."""
    files = {"valid": config.valid, "test": config.test}
    fractions = {"valid": config.valid_fraction, "test": config.test_fraction}
    data = load_parts(config.corpus, files=files, fractions=fractions)
    streams = Streams(data.train, config.batch_size, config.chunk_length)
    check_held_out(data, config.corpus, files=files, fractions=fractions)
    model = build_model(config, len(data.vocabulary))
    task = build_task(config, data, streams, model)
    distinct = len(data.vocabulary)
    size = f"{len(data.text):,} characters, {distinct} distinct"
    print(f"{config.corpus}: {size}; run in {config.folder}", flush=True)
    finish(fit(config, task), config, data, model)


def build_model(config: Train, vocabulary_size: int) -> LanguageModel:
    """The model that the settings ask for."""
    return LanguageModel(
        vocabulary_size,
        [CELLS[config.cell](config.hidden_size)] * config.layers,
        embedding_size=config.embedding_size,
        tied=config.tied,
        dropout=config.dropout,
        backward="bptt",
    )


def build_task(config: Train, data: Parts, streams: Streams, model: LanguageModel) -> Task:
    """Truncated back-propagation through contiguous streams of the text."""

    def sample(params: Any, step: int) -> None:
        text = draw(model, params, data.vocabulary, config.seed)
        runs.write_text(config.folder / "samples" / f"step_{step:06d}.txt", text)

    return Task(
        init=model.init,
        loss=stream_loss(model),
        batch=streams.chunk,
        valid=lambda: curve_chunks(data.valid),
        unit="nats per character",
        items=("characters", config.batch_size * config.chunk_length),
        record=data.digests,
        assets=lambda folder: data.vocabulary.save(folder / "vocabulary.json"),
        on_evaluate=sample,
        carry=first_carry(model),
        split=Split(config.model_devices, model.output_specs("model", config.model_devices)),
    )


def finish(fitted: Fitted, config: Train, data: Parts, model: LanguageModel) -> None:
    """The figures of the best checkpoint, samples, and the learning curve."""
    nats = {
        name: nats_per_character(model, fitted.params, ids, f"of {name} text")
        for name, ids in {"valid": data.valid, "test": data.test}.items()
    }
    bits = nats["test"] / math.log(2)
    with part("samples.txt"):
        samples = [draw(model, fitted.params, data.vocabulary, seed) for seed in range(2)]
        runs.write_text(fitted.out / "samples.txt", "\n\n".join(samples))
        for text in samples:
            print(f"\n--- sample {'-' * 60}\n{text}")
    valid, test = nats.values()
    print(f"{'-' * 71}\nvalid {valid:z.4f}, test {test:z.4f} nats per character ({bits:z.3f} bits)")
    figures = {f"{name}_nats_per_char": of for name, of in nats.items()} | {"bits_per_char": bits}
    report(
        fitted, figures, title=f"{config.cell} {config.hidden_size} × {config.layers} on {config.corpus}"
    )


def nats_per_character(model: LanguageModel, params: Any, ids: np.ndarray, of: str = "") -> float:
    """The cross-entropy of a text, the hidden state carried over all of it."""
    with counted(f"measuring {len(ids):,} characters {of}".rstrip()) as on_chunk:
        nats, count = text_nats(model, params, ids, on_chunk=on_chunk)
    return nats / count


def load_run(folder: Path) -> tuple[LanguageModel, Any, Vocabulary]:
    """The best model of a run, its parameters and its vocabulary."""
    config = runs.load_settings(folder, Train)
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    model = build_model(config, len(vocabulary))
    carry = jax.eval_shape(lambda: model.initial_carry((config.batch_size,)))
    params = load(folder, config, model.init, carry)
    return model, params, vocabulary
