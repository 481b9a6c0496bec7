"""Sequence-to-sequence models by their settings, and how they are trained: a batch of pairs a step."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.data.batches import Batch
from experiments.harness.devices import batch_mesh, replicate, shard
from experiments.harness.optimizer import adam
from jaxrnn import GRU, LSTM, Elman, VariationalDropout
from jaxrnn.attention import Additive, Dot, General
from jaxrnn.cells.cell import Cell
from jaxrnn.checks import check_fraction, check_positive
from jaxrnn.models.language_model import next_token_nats
from jaxrnn.models.seq2seq import Direction, Seq2Seq, Tied
from jaxrnn.training.state import TrainState, init_state
from jaxrnn.training.step import StepMetrics, truncated_step

CELLS = {"elman": Elman, "lstm": LSTM, "gru": GRU}


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSettings:
    """Settings of a sequence-to-sequence model and its training, which experiments inherit."""

    cell: Literal["elman", "lstm", "gru"] = "gru"
    """Recurrent cell."""
    layers: int = 1
    """Cells on top of each other, in encoder and decoder."""
    hidden_size: int = 256
    """Hidden units of each layer and direction."""
    embedding_size: int = 256
    """Size of the token embeddings, and of what the output reads where there is attention."""
    reverse: bool = False
    """Read the source from its end; with --no-bidirectional."""
    bidirectional: bool = True
    """Read the source in both directions."""
    attention: Literal["none", "additive", "dot", "general"] = "additive"
    """How the decoder looks at the source; dot needs a source of --hidden-size, so --no-bidirectional."""
    input_feeding: bool = True
    """Feed what attention has read to the decoder's next step."""
    tied: Tied = "none"
    """Embeddings that share their weights: none, output (with the target's), all (with --joint)."""
    dropout: float = 0.2
    """Probability that a feature is dropped: of embeddings, between layers, and at the output."""
    variational: bool = False
    """One dropout mask for all steps of a sentence; lstm and elman then drop recurrent units as well."""
    label_smoothing: float = 0.1
    """Part of the probability that training spreads over all tokens."""
    scheduled_sampling: float = 0.0
    """Probability, at the end of training, that a step is fed the model's own draw; it rises from 0."""
    batch_size: int = 64
    """Pairs of a step."""
    steps: int = 1000
    """Training steps."""
    learning_rate: float = 2e-3
    """Highest learning rate of Adam; it decays to a hundredth along a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""


def check(config: Seq2SeqSettings) -> None:
    """Raise ValueError for settings that cannot be, before any work is done."""
    for name in ("layers", "hidden_size", "embedding_size", "batch_size", "steps"):
        check_positive(name, getattr(config, name))
    for name in ("dropout", "label_smoothing", "scheduled_sampling"):
        check_fraction(name, getattr(config, name))
    if config.reverse and config.bidirectional:
        raise ValueError("--reverse is for a source read in one direction; give --no-bidirectional too")
    if config.attention == "dot" and config.bidirectional:
        raise ValueError(
            "--attention dot compares states of one size, and both directions together have twice as many "
            "units as the decoder; give --no-bidirectional, or --attention general"
        )


def build_model(config: Seq2SeqSettings, vocabulary_sizes: tuple[int, int]) -> Seq2Seq:
    """The model that the settings ask for."""
    cell: Cell = CELLS[config.cell](config.hidden_size)
    if config.variational and not cell.carries_h:
        cell = VariationalDropout(cell, rate_h=config.dropout, rate_y=0.0)
    kinds = {"none": None, "additive": Additive(config.hidden_size), "dot": Dot(), "general": General()}
    directions: dict[tuple[bool, bool], Direction] = {
        (False, False): "forward",
        (True, False): "reversed",
        (False, True): "bidirectional",
    }
    return Seq2Seq(
        *vocabulary_sizes,
        [cell] * config.layers,
        embedding_size=config.embedding_size,
        direction=directions[config.reverse, config.bidirectional],
        attention=kinds[config.attention],
        input_feeding=config.input_feeding,
        tied=config.tied,
        dropout=config.dropout,
        variational=config.variational,
        backward="bptt",
    )


class Chunk(NamedTuple):
    """What a training step is given."""

    batch: Batch
    sampling_rate: Any  # of scheduled sampling, a number


class Training(NamedTuple):
    """What training needs besides data."""

    state: TrainState
    step: Callable[[TrainState, Chunk], tuple[TrainState, StepMetrics]]
    mesh: Mesh


def build_training(config: Seq2SeqSettings, model: Seq2Seq) -> Training:
    """The first state, the step, and the devices over which the batch is split."""
    optimizer = adam(
        config.learning_rate,
        config.steps,
        warmup_steps=config.warmup_steps,
        clip_norm=config.clip_norm,
        clip_value=None,
    )

    def loss(params: Any, carry: tuple[()], chunk: Chunk, key: jax.Array) -> tuple[jax.Array, tuple[()]]:
        rate = chunk.sampling_rate if config.scheduled_sampling else None
        batch = chunk.batch
        logits = teacher_forced(model, params, batch, key, rate)
        smoothing = config.label_smoothing
        nats, count = next_token_nats(logits, batch.targets, batch.mask, label_smoothing=smoothing)
        return nats / count, carry

    mesh = batch_mesh(config.batch_size)
    key_params, key = jax.random.split(jax.random.key(config.seed))
    state = init_state(model.init(key_params), optimizer, (), key)
    return Training(replicate(state, mesh), truncated_step(loss, optimizer), mesh)


def chunks(config: Seq2SeqSettings, batches: Callable[[int], Batch], mesh: Mesh) -> Callable[[int], Chunk]:
    """The data of a step by its position, split over the devices."""

    def chunk(position: int) -> Chunk:
        leaves = [shard(leaf, mesh, axis=leaf.ndim - 1) for leaf in batches(position)]
        rate = np.float32(config.scheduled_sampling * position / config.steps)
        return Chunk(Batch(*leaves), replicate(rate, mesh))

    return chunk


def teacher_forced(
    model: Seq2Seq, params: Any, batch: Batch, key: jax.Array | None = None, sampling_rate: Any = None
) -> jax.Array:
    """The logits of every target token of a batch."""
    key_source, key_target = (None, None) if key is None else jax.random.split(key)
    encoded = model.encode(params, batch.source, lengths=batch.source_lengths, key=key_source)
    return model.logits(
        params,
        encoded,
        batch.fed,
        lengths=batch.target_lengths,
        key=key_target,
        sampling_rate=sampling_rate,
    )


def nats_per_token(model: Seq2Seq, params: Any, batches: Iterable[Batch]) -> float:
    """The mean cross-entropy of the targets, nothing dropped or smoothed."""
    measured = [jax.device_get(_batch_nats(model, params, batch)) for batch in batches]
    nats, count = (sum(map(float, numbers)) for numbers in zip(*measured, strict=True))
    return nats / count


@functools.partial(jax.jit, static_argnums=0)
def _batch_nats(model: Seq2Seq, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return next_token_nats(teacher_forced(model, params, batch), batch.targets, batch.mask)
