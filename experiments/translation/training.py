"""Training a translation model, and its translations of sentences it has not seen."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.batches import EVERY
from experiments.data.tokens import Vocabularies
from experiments.harness import run as runs
from experiments.harness.fit import Fitted, fit, load, report
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, LengthPenalty, settings
from experiments.harness.task import Loss, Sums, Task
from experiments.translation.batches import Batch, encode_pairs, training_batches, validation_batches
from experiments.translation.data import Data, ParallelSettings, load_data
from experiments.translation.model import Seq2SeqSettings, build_model, check, teacher_forced
from experiments.translation.pictures import attention_picture
from experiments.translation.translating import (
    Hypothesis,
    Translator,
    described,
    evaluate,
)
from jaxrnn.models.losses import cross_entropy
from jaxrnn.models.seq2seq import Seq2Seq
from jaxrnn.training.processes import shared

VOCABULARIES = "vocabularies" + runs.DIGEST  # in the record of a run
SHOWN = 8  # translations printed at the end of training


@settings
class Train(ParallelSettings, Seq2SeqSettings):
    """Train a translation model, then translate what it has not seen."""

    beam: Count = 5
    """Hypotheses followed when the test pairs are translated."""
    length_penalty: LengthPenalty = 1.0
    """Above 0, longer translations gain (alpha of Wu et al. 2016)."""


class Chunk(NamedTuple):
    """The input of a training step."""

    batch: Batch
    sampling_rate: np.float32  # of scheduled sampling


def train_command(config: Train, whole: Path | None = None) -> None:
    """Train, and translate the test pairs; ``whole`` is the study that the run is a part of."""
    check_settings(config)
    if config.resume:
        load_vocabularies(config.folder)
    data = load_data(config)
    model = build_model(config, data.vocabularies.sizes)
    sizes = " and ".join(f"{size:,}" for size in data.vocabularies.sizes)
    print(f"{config.data}: {len(data.pairs):,} pairs, {sizes} tokens; run in {config.folder}", flush=True)
    task, decode = build_task(config, data, model), functools.partial(translated, config, data, model)
    finish(fit(config, task, whole=whole, decode=decode), config, data)


def check_settings(config: Train) -> None:
    """Raise ValueError for settings that do not go together, before any work is done."""
    if config.tied == "all" and not config.joint:
        raise ValueError("--tied all needs one vocabulary for both languages; give --joint too")
    check(config)


def build_task(config: Train, data: Data, model: Seq2Seq) -> Task:
    """The cross-entropy of every target token, given those before it."""
    batches = training_batches(data.pairs, data.buckets, config.batch_size, config.seed)
    valid_pairs = encode_pairs(data.vocabularies, data.text.valid)
    valid = validation_batches(valid_pairs, data.buckets, config.batch_size)

    def chunk(position: int, lanes: slice = EVERY) -> Chunk:
        return Chunk(
            batches(position, lanes), np.float32(config.scheduled_sampling * position / config.steps)
        )

    return Task(
        init=model.init,
        loss=token_loss(model, config.label_smoothing, bool(config.scheduled_sampling)),
        batch=chunk,
        valid=lambda: (Chunk(batch, np.float32(0)) for batch in valid),
        unit="nats per token",
        items=("tokens", config.batch_size * float(np.mean([len(pair.target) + 1 for pair in data.pairs]))),
        record=data.digests | {VOCABULARIES: data.vocabularies.digest},
        assets=data.vocabularies.save,
    )


@functools.lru_cache  # the same function for equal models, which compiles once
def token_loss(model: Seq2Seq, label_smoothing: float, scheduled_sampling: bool) -> Loss:
    """The cross-entropy of every target token; only training smooths labels, and samples."""

    def loss(params: Any, chunk: Chunk, key: jax.Array | None) -> Sums:
        batch, training = chunk.batch, key is not None
        rate = chunk.sampling_rate if training and scheduled_sampling else None
        logits = teacher_forced(model, params, batch, key, rate)
        smoothing = label_smoothing if training else 0.0
        return {"loss": cross_entropy(logits, batch.targets, batch.mask, label_smoothing=smoothing)}

    return loss


def load_vocabularies(folder: Path) -> Vocabularies:
    """The vocabularies of a run.

    Raises:
      ValueError: if they are missing, damaged, or not those that it was trained with.
    """
    vocabularies = Vocabularies.load(folder)
    if runs.load_config(folder).get(VOCABULARIES, vocabularies.digest) != vocabularies.digest:
        raise ValueError(f"the vocabularies in {folder} are not those that its model was trained with")
    return vocabularies


def load_run(folder: Path) -> tuple[Translator, Train]:
    """The best model of a run, and its settings."""
    config = runs.load_settings(folder, Train)
    vocabularies = load_vocabularies(folder)
    model = build_model(config, vocabularies.sizes)
    return Translator(((model, load(folder, config, model.init)),), vocabularies, config.lowercase), config


def translated(
    config: Train, data: Data, model: Seq2Seq, params: Any
) -> tuple[dict[str, Any], list[Hypothesis]]:
    """Figures on the test pairs, and their translations; none where that fails."""
    translator, test = Translator(((model, params),), data.vocabularies, config.lowercase), data.text.test
    how: Any = {"beam": config.beam, "length_penalty": config.length_penalty, "share": shared}
    with (
        part("the translation of the test pairs"),
        counted(f"translating {len(test.source):,} test sentences") as on_batch,
    ):
        return evaluate(translator, test, **how, on_batch=on_batch)
    return {}, []


def finish(fitted: Fitted, config: Train, data: Data) -> None:
    """The figures of the best checkpoint, translations, and where the model looked."""
    test, out = data.text.test, fitted.out
    for name, lines in zip(("source", "target"), test, strict=True):
        runs.write_text(out / f"test_{name}.txt", "\n".join(lines) + "\n")
    figures, found = fitted.decoded
    if found:
        with part("translations.txt"):
            runs.write_text(out / "translations.txt", "\n".join(h.text for h in found) + "\n")
    for source, target, hypothesis in list(zip(*test, found, strict=False))[:SHOWN]:
        right = "" if hypothesis.text == target else f"    (reference: {target})"
        print(f"{source}\n    {hypothesis.text}{right}")
    if figures:
        print(f"{'-' * 79}\n{described(figures)}")
    _, curve = runs.Metrics(out / "metrics.jsonl").curve("valid_loss")
    smoothed = f", labels smoothed by {config.label_smoothing}" if config.label_smoothing else ""
    report(
        fitted,
        {
            "valid_nats_per_token": min(filter(math.isfinite, curve), default=math.nan),
            **{f"test_{name}": value for name, value in figures.items()},
        },
        title=f"{config.cell} {config.hidden_size} × {config.layers} on {config.data}",
        training=f"training{smoothed}",
        packages=("tokenizers", "sacrebleu", "grain", "num2words"),
    )
    if config.attention != "none" and found:
        with part("attention.png"):
            attention_picture(out / "attention.png", found)
        print("attention.png shows where it looked")
