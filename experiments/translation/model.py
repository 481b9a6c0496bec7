"""Sequence-to-sequence models by their settings."""

from typing import Any, Literal

import jax

from experiments.harness.settings import Count, Fraction, TrainingSettings, settings
from experiments.translation.batches import Batch
from jaxrnn import VariationalDropout
from jaxrnn.attention import Additive, Dot, General
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.seq2seq import Direction, Seq2Seq, Tied


@settings
class Seq2SeqSettings(TrainingSettings):
    """Settings of a sequence-to-sequence model and its training."""

    cell: CellName = "gru"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other, in encoder and decoder."""
    hidden_size: Count = 256
    """Hidden units of each layer and direction."""
    embedding_size: Count = 256
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
    dropout: Fraction = 0.2
    """Probability that a feature is dropped: of embeddings, between layers, and at the output."""
    variational: bool = False
    """One dropout mask for all steps of a sentence; lstm and elman then drop recurrent units as well."""
    label_smoothing: Fraction = 0.1
    """Part of the probability that training spreads over all tokens."""
    scheduled_sampling: Fraction = 0.0
    """Probability, at the end of training, that a step is fed the model's own draw; it rises from 0."""
    evaluate_every: Count = 250


def check(config: Seq2SeqSettings) -> None:
    """Raise ValueError for settings that do not go together."""
    if config.reverse and config.bidirectional:
        raise ValueError("--reverse is for a source read in one direction; give --no-bidirectional too")
    if config.attention == "dot" and config.bidirectional:
        raise ValueError(
            "--attention dot compares states of one size, and both directions together have twice as many "
            "units as the decoder; give --no-bidirectional, or --attention general"
        )


def build_model(config: Seq2SeqSettings, vocabulary_sizes: tuple[int, int]) -> Seq2Seq:
    """The model that the settings ask for."""
    cell = CELLS[config.cell](config.hidden_size)
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
