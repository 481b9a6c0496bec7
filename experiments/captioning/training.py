"""Training a captioner, and reading it again."""

import functools
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.captioning.data import (
    NAMED,
    Data,
    DataSettings,
    batches_in_order,
    examples_of,
    training_batches,
)
from experiments.captioning.efficientnet import WEIGHTS_SHA256
from experiments.captioning.model import CaptionerSettings, CaptioningModel, ModelParams, build_model
from experiments.captioning.writing import Writer
from experiments.data.tokens import load_tokenizer, save_tokenizer
from experiments.data.words import drop_words
from experiments.harness import run as runs
from experiments.harness.fit import load
from experiments.harness.settings import Count, LengthPenalty, Positive, check_zero_or_more, settings
from experiments.harness.study import check_no_study
from experiments.harness.task import Loss, Sums, Task, never, past_its_best
from jaxrnn.models.captioner import doubly_stochastic_penalty
from jaxrnn.models.losses import cross_entropy

VOCABULARY, TRAINING_CAPTIONS = "words.json", "training_captions.txt"


@settings
class Train(DataSettings, CaptionerSettings):
    """Train a captioner, then let it caption what it has not seen."""

    compare: bool = False
    """Train with the image by three ways and by attention, three seeds each, and print the table."""
    beam: Count = 5
    """Hypotheses followed when the test images are captioned; once more with 1, the most probable word at
    every step."""
    length_penalty: LengthPenalty = 0.7
    """Above 0, longer captions of a beam gain (alpha of Wu et al. 2016)."""
    steps: Count = 3200
    """Training steps; fewer on a file, once validation no longer improves."""
    learning_rate: Positive = 4e-3
    warmup_steps: Annotated[int, check_zero_or_more] = 400
    evaluate_every: Count = 400


def build_task(config: Train, data: Data, model: CaptioningModel) -> Task:
    """The cross-entropy of every word, given those before it and the image."""
    train = examples_of(data.train, data.tokenizer, config, print)
    valid = batches_in_order(data.valid, examples_of(data.valid, data.tokenizer, config, print))

    def save(folder: Path) -> None:
        save_tokenizer(data.tokenizer, folder / VOCABULARY)
        lines = [caption for of in data.train.captioned.captions for caption in of]
        runs.write_text(folder / TRAINING_CAPTIONS, "\n".join(lines) + "\n")

    record = dict(data.digests)
    if config.encoder != "small":
        record["weights" + runs.DIGEST] = WEIGHTS_SHA256
    return Task(
        init=model.init,
        loss=caption_loss(model, config.word_dropout, config.doubly_stochastic, config.label_smoothing),
        batch=training_batches(data.train, train, config.batch_size, config.seed),
        valid=lambda: (batch() for batch in valid),
        unit="nats per word",
        items=("captions", config.batch_size),
        record=record,
        assets=save,
        stop=never if config.data in NAMED else past_its_best,
    )


@functools.lru_cache  # the same function for equal models, which compiles once
def caption_loss(
    model: CaptioningModel, word_dropout: float, doubly_stochastic: float, label_smoothing: float
) -> Loss:
    """The cross-entropy of every word; only training drops words, smooths labels, and adds the penalty on
    attention, by its weight.
    """

    def loss(params: ModelParams, batch: Any, key: Array | None) -> Sums:
        key_image, key_drop, key_words = (None, None, None) if key is None else jax.random.split(key, 3)
        fed = batch.fed
        if key_drop is not None and word_dropout:
            fed = jnp.concatenate([fed[:1], drop_words(key_drop, fed[1:], word_dropout)])
        encoded, captioner = model.encode(params, batch.inputs, key_image), model.captioner
        options: dict[str, Any] = {"lengths": batch.lengths, "key": key_words}
        penalised = key is not None and doubly_stochastic > 0
        if penalised:
            logits, weights = captioner.logits_and_weights(params.captioner, encoded, fed, **options)
        else:
            logits = captioner.logits(params.captioner, encoded, fed, **options)
        within = jnp.arange(len(batch.fed))[:, None] < batch.lengths
        smoothing = 0.0 if key is None else label_smoothing
        nats, count = cross_entropy(logits, batch.targets, within, label_smoothing=smoothing)
        if penalised:
            penalty, sequences = doubly_stochastic_penalty(weights, batch.lengths)
            nats = nats + doubly_stochastic * penalty / sequences * count
        return {"loss": (nats, count)}

    return loss


def load_run(folder: Path) -> tuple[Writer, Train, list[str]]:
    """The best model of a run, its settings, and the captions that it was trained on.

    Raises:
      ValueError: if there is none, or features of other weights than those here.
    """
    check_no_study(folder)
    config, record = runs.load_settings(folder, Train), runs.load_config(folder)
    if config.encoder != "small" and (theirs := record.get("weights" + runs.DIGEST)) != WEIGHTS_SHA256:
        raise ValueError(
            f"the run in {folder} has seen features of other weights of {config.encoder}: expected SHA-256 "
            f"{WEIGHTS_SHA256}, got {theirs}"
        )
    tokenizer = load_tokenizer(folder / VOCABULARY)
    model = build_model(config, tokenizer.get_vocab_size())
    params = load(folder, config, model.init)
    training = (folder / TRAINING_CAPTIONS).read_text(encoding="utf-8").split("\n")
    return Writer(model, params, tokenizer, config.max_length), config, training[:-1]
