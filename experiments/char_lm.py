"""How well can a recurrent network learn to write? A character language model, trained and sampled.

    python -m experiments.char_lm                                    train on Python's standard library
    python -m experiments.char_lm train --corpus tiny_shakespeare    or another corpus, or any text file
    python -m experiments.char_lm sample --run DIR --prompt "def "   more samples; see sample --help
    python -m experiments.char_lm evaluate --run DIR --text FILE     nats and bits per character

The first command takes about two minutes on two CPU cores, needs no network, and ends near 1.3 nats per
character on held-out files, with samples that look like Python.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.data.corpora import read_text
from experiments.harness import run as runs
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, on_one_device, replicate, shard
from experiments.harness.loop import Loop, train
from experiments.harness.optimizer import adam
from experiments.harness.parts import load_parts
from experiments.harness.plots import training_curves
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.writing import (
    first_character,
    most_probable,
    print_texts,
    unescaped,
    without_replacement,
    write,
)
from jaxrnn import GRU, LSTM, Elman
from jaxrnn.checks import check_positive
from jaxrnn.data.text import Chunk, Streams, Vocabulary
from jaxrnn.decoding.sampling import Feedback
from jaxrnn.models.language_model import LanguageModel, next_token_nats, text_nats
from jaxrnn.training.state import TrainState, init_state
from jaxrnn.training.step import StepMetrics, truncated_step

CELLS = {"elman": Elman, "lstm": LSTM, "gru": GRU}

# The learning curve is an estimate from pieces spread over the validation text, read side by side (the last
# prediction of each is of the next piece's first character); the final figures are of the whole text.
CURVE_PIECES = 50
CURVE_PIECE = 2000  # characters

TEMPERATURE = 0.75  # of samples, unless asked otherwise: surer than the model is


@dataclass(frozen=True)
class Train:
    """Train a character model, then print samples."""

    corpus: str = "stdlib"
    """stdlib (the running Python's standard library), tiny_shakespeare, war_and_peace, or a UTF-8 file."""
    cell: Literal["elman", "lstm", "gru"] = "lstm"
    """Recurrent cell."""
    layers: int = 1
    """Cells on top of each other."""
    hidden_size: int = 256
    """Hidden units of each layer."""
    embedding_size: int | None = None
    """Size of the learned character embedding; None feeds one-hot vectors."""
    tied: bool = False
    """Share the embedding with the output; needs embedding-size equal to hidden-size."""
    dropout: float = 0.0
    """Probability that a feature is dropped: at the input, between layers, and at the output."""
    batch_size: int = 32
    """Streams of text read side by side."""
    chunk_length: int = 64
    """Characters between truncations of back-propagation through time."""
    steps: int = 2800
    """Training steps, each one chunk of every stream."""
    learning_rate: float = 4e-3
    """Highest learning rate of Adam; it decays to a hundredth along a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    clip_value: float | None = None
    """Largest magnitude of a gradient's entries; None does not clip."""
    valid_fraction: float = 0.05
    """Part of the text held out for validation, after the training text."""
    test_fraction: float = 0.05
    """Part of the text held out for the final test, after the validation text."""
    valid: str | None = None
    """UTF-8 file to validate on; then the corpus gives up no part for it, and has all of its characters."""
    test: str | None = None
    """UTF-8 file for the final test, likewise."""
    seed: int = 0
    """Seed of initialisation, dropout and samples."""
    evaluate_every: int = 500
    """Steps between evaluations, each with a sample."""
    checkpoint_every: int = 500
    """Steps between checkpoints; they also fall every 30 seconds."""
    tensorboard: bool = False
    """Also write events for TensorBoard."""
    out: Path | None = None
    """Folder of the run; by default out/char_lm/<date-time>."""
    resume: bool = False
    """Continue the run in --out from its latest checkpoint."""


@dataclass(frozen=True)
class Sample:
    """Print text that a trained model writes."""

    run: Path
    """Folder of a run."""
    prompt: str | None = None
    r"""Text to continue, with \n for a line break, \t for a tab and \\ for a backslash; printed before the
    sample. None: a line break; without one in the vocabulary a space; else its first character."""
    length: int = 500
    """Characters to draw."""
    temperature: float = TEMPERATURE
    """Below 1 the model plays safe, above 1 it dares more; at 0 it takes the most probable character."""
    top_k: int | None = None
    """Draw from the k most probable characters only."""
    top_p: float | None = None
    """Draw from the most probable characters that together have this probability."""
    beam: int | None = None
    """Draw nothing, but look for the most probable texts, with a beam that follows this many at a time; all
    of them are printed, best first. Expect dull text: the most probable goes on and on about the same."""
    without_replacement: int | None = None
    """Draw this many texts, no two alike: as if each were drawn from what the ones before it have left
    (stochastic beam search)."""
    feedback: Feedback = "token"
    """What is fed back: the drawn character, or the whole softmax vector, to see why that fails."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on a text; the hidden state is carried over all of it."""

    run: Path
    """Folder of a run; the result also goes into its evaluation.json."""
    text: Path
    """UTF-8 text file."""


def train_command(config: Train) -> None:
    """Data, model, loop, result."""
    for name in ("batch_size", "chunk_length", "steps", "evaluate_every", "checkpoint_every"):
        check_positive(name, getattr(config, name))
    out = config.out or runs.default_directory("char_lm")
    runs.check_out(out, resume=config.resume)
    data = load_parts(
        config.corpus,
        files={"valid": config.valid, "test": config.test},
        fractions={"valid": config.valid_fraction, "test": config.test_fraction},
    )
    streams = Streams(data.train, config.batch_size, config.chunk_length)
    check_measurable(config, valid=data.valid, test=data.test)
    model = build_model(config, len(data.vocabulary))
    training = build_training(config, model)
    record = runs.config_record(config) | data.digests
    if config.resume:
        runs.check_same_config(runs.load_config(out), record, out)
    else:
        runs.create(out, record, fill=lambda folder: data.vocabulary.save(folder / "vocabulary.json"))
    curve_ids = pieces(data.valid)

    def evaluate(state: TrainState) -> dict[str, float]:
        nats, count = text_nats(model, on_one_device(state.params), curve_ids, streams=CURVE_PIECES)
        return {"valid_estimate": nats / count}

    def report(state: TrainState) -> None:
        sample = draw(model, on_one_device(state.params), data.vocabulary, config.seed)
        runs.write_text(out / "samples" / f"step_{int(state.step):06d}.txt", sample)

    size, distinct = len(data.text), len(data.vocabulary)
    print(f"{config.corpus}: {size:,} characters, {distinct} distinct; run in {out}", flush=True)
    loop = Loop(
        directory=out,
        config=record,
        train_step=training.step,
        chunk=lambda position: shard_chunk(streams.chunk(position), training.mesh),
        evaluate=evaluate,
        report=report,
        criterion="valid_estimate",
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        items_per_step=config.batch_size * config.chunk_length,
        unit="nats/char",
        tensorboard=config.tensorboard,
    )
    _, seconds = train(loop, training.state, resume=config.resume)
    finish(out, seconds, config, {"valid": data.valid, "test": data.test})


def check_measurable(config: Train, **parts: np.ndarray) -> None:
    """Raise ValueError unless each held-out part has a character to predict and one before it."""
    for name, ids in parts.items():
        if len(ids) < 2:
            file, fraction = getattr(config, name), getattr(config, f"{name}_fraction")
            characters = "1 character" if len(ids) == 1 else f"{len(ids)} characters"
            what = f"{config.corpus} leaves {characters} for --{name}-fraction {fraction}"
            if file is not None:
                what = f"--{name} {file} holds {characters}"
            raise ValueError(f"{what}, and at least 2 are needed")


def pieces(ids: np.ndarray) -> np.ndarray:
    """Pieces spread evenly over a long text; all of a short one."""
    if len(ids) <= CURVE_PIECES * CURVE_PIECE:
        return ids
    starts = np.linspace(0, len(ids) - CURVE_PIECE, CURVE_PIECES).astype(int)
    return np.concatenate([ids[start : start + CURVE_PIECE] for start in starts])


def build_model(config: Train, vocabulary_size: int) -> LanguageModel:
    """The model that the settings ask for."""
    check_positive("layers", config.layers)
    if config.cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {config.cell!r}")
    return LanguageModel(
        vocabulary_size,
        [CELLS[config.cell](config.hidden_size)] * config.layers,
        embedding_size=config.embedding_size,
        tied=config.tied,
        dropout=config.dropout,
        backward="bptt",
    )


class Training(NamedTuple):
    """What training needs besides data."""

    state: TrainState
    step: Callable[[TrainState, Chunk], tuple[TrainState, StepMetrics]]
    mesh: Mesh


def build_training(config: Train, model: LanguageModel) -> Training:
    """The first state, the step, and the devices over which the batch is split."""
    optimizer = adam(
        config.learning_rate,
        config.steps,
        warmup_steps=config.warmup_steps,
        clip_norm=config.clip_norm,
        clip_value=config.clip_value,
    )

    mesh = batch_mesh(config.batch_size)
    key_params, key = jax.random.split(jax.random.key(config.seed))
    carry = shard(model.initial_carry((config.batch_size,)), mesh, axis=0)
    state = init_state(model.init(key_params), optimizer, (), key)
    return Training(
        replicate(state, mesh)._replace(carry=carry), truncated_step(stream_loss(model), optimizer), mesh
    )


def stream_loss(model: LanguageModel) -> Callable[..., tuple[jax.Array, Any]]:
    """The mean loss of a chunk, the hidden state starting anew with every pass over the text."""

    def loss(params: Any, carry: Any, chunk: Chunk, key: jax.Array) -> tuple[jax.Array, Any]:
        initial = model.initial_carry(chunk.inputs.shape[1:])
        carry = jax.tree.map(lambda a, b: jnp.where(chunk.first, a, b), initial, carry)
        carry, logits = model.apply(params, chunk.inputs, carry, key=key)
        nats, count = next_token_nats(logits, chunk.targets, chunk.mask)
        return nats / count, carry

    return loss


def shard_chunk(chunk: Chunk, mesh: Mesh) -> Chunk:
    """The streams of a chunk split over the devices."""
    inputs, targets, mask = shard((chunk.inputs, chunk.targets, chunk.mask), mesh, axis=1)
    return Chunk(inputs, targets, mask, replicate(chunk.first, mesh))


def load_run(directory: Path) -> tuple[LanguageModel, Any, Vocabulary, Train]:
    """The best model of a run: model, parameters, vocabulary, settings."""
    config = runs.load_settings(directory, Train)
    vocabulary = Vocabulary.load(directory / "vocabulary.json")
    model = build_model(config, len(vocabulary))
    return model, runs.best_params(directory, build_training(config, model).state), vocabulary, config


def finish(out: Path, seconds: float, config: Train, parts: dict[str, np.ndarray]) -> None:
    """The figures of the best checkpoint, the learning curve, and samples."""
    model, params, vocabulary, _ = load_run(out)
    figures = {}
    for name, ids in parts.items():
        with counted(f"measuring {len(ids):,} characters of {name} text") as on_chunk:
            nats, count = text_nats(model, params, ids, on_chunk=on_chunk)
        figures[f"{name}_nats_per_char"] = nats / count
    summary = {
        **figures,
        "bits_per_char": figures["test_nats_per_char"] / math.log(2),
        "characters_per_second": config.steps * config.batch_size * config.chunk_length / seconds,
        "train_seconds": seconds,
        "steps": config.steps,
        "seed": config.seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        **runs.environment(),
    }
    runs.write_json(out / "summary.json", summary)
    with part("samples.txt"):
        samples = [draw(model, params, vocabulary, seed) for seed in range(2)]
        runs.write_text(out / "samples.txt", "\n\n".join(samples))
        for text in samples:
            print(f"\n--- sample {'-' * 60}\n{text}")
    valid, test, bits = (summary[f"{name}_per_char"] for name in ("valid_nats", "test_nats", "bits"))
    print(f"{'-' * 71}\nvalid {valid:z.4f}, test {test:z.4f} nats per character ({bits:z.3f} bits)")
    print(f"{config.steps} steps in {seconds:.0f} s; all in {out}")
    with part("learning_curve.png"):
        training_curves(
            out,
            {"training": "loss", "validation": "valid_estimate"},
            per_step=config.batch_size * config.chunk_length / 1e6,
            x_label="characters seen (millions)",
            y_label="loss (nats per character)",
            title=f"{config.cell} {config.hidden_size} × {config.layers} on {config.corpus}",
        )


def draw(model: LanguageModel, params: Any, vocabulary: Vocabulary, seed: int) -> str:
    """A sample that continues nothing."""
    return write(
        model, params, vocabulary, first_character(vocabulary), 500, seed=seed, temperature=TEMPERATURE
    )


def sample_command(config: Sample) -> None:
    """Print a prompt and its continuation, or continuations."""
    check_positive("length", config.length)
    drawing = ("temperature", "top_k", "top_p", "feedback")
    changed = [name for name in drawing if getattr(config, name) != getattr(Sample, name)]
    several = [name for name in ("beam", "without_replacement") if getattr(config, name) is not None]
    for name in several:
        check_positive(name, getattr(config, name))
    if len(several) > 1 or (several and changed):
        given = ", ".join("--" + name.replace("_", "-") for name in [*several, *changed])
        raise ValueError(f"{given} do not go together; see sample --help")
    if not config.temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, got {config.temperature}")
    model, params, vocabulary, _ = load_run(config.run)
    prompt = first_character(vocabulary) if config.prompt is None else unescaped(config.prompt)
    what = (model, params, vocabulary, prompt, config.length)
    if config.beam is not None:
        print_texts(prompt, most_probable(*what, config.beam))
    elif config.without_replacement is not None:
        print_texts(prompt, without_replacement(*what, config.without_replacement, seed=config.seed))
    else:
        options = {name: getattr(config, name) for name in drawing}
        print(prompt + write(*what, seed=config.seed, **options))


def evaluate_command(config: Evaluate) -> None:
    """Print and keep the nats and bits per character of a text."""
    model, params, vocabulary, _ = load_run(config.run)
    ids = vocabulary.encode(read_text(config.text))
    with counted(f"measuring {len(ids):,} characters") as on_chunk:
        nats, count = text_nats(model, params, ids, on_chunk=on_chunk)
    result = {
        "text": str(config.text),
        "characters": count,
        "nats_per_char": nats / count,
        "bits_per_char": nats / count / math.log(2),
    }
    print(f"{result['nats_per_char']:z.6f} nats, {result['bits_per_char']:z.6f} bits per character")
    with part("evaluation.json"):
        runs.write_json(config.run / "evaluation.json", result)


if __name__ == "__main__":
    main(
        __doc__ or "",
        {
            "train": (Train, train_command),
            "sample": (Sample, sample_command),
            "evaluate": (Evaluate, evaluate_command),
        },
    )
