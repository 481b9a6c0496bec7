"""Captioning models by their settings: an encoder of images, and a captioner of its grid."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.captioning.encoders import SIZES, EncoderName, grid_of, init_encoder
from experiments.data.tokens import PAD, START, UNKNOWN
from experiments.harness.settings import Count, Fraction, TrainingSettings, check_zero_or_more, settings
from jaxrnn.attention import Additive
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.captioner import Captioner, CaptionerParams, Context, EncodedImage, Entry

NEVER_WRITTEN = (PAD, START, UNKNOWN)


@settings
class CaptionerSettings(TrainingSettings):
    """Settings of a captioner and its training."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 128
    """Hidden units of each layer."""
    embedding_size: Count = 128
    """Size of the word embedding, and of what the output reads where there is attention."""
    projection_size: Count = 128
    """Features of each of the image's vectors once they are projected."""
    entry: Entry = "carry"
    """How the mean v of those vectors enters: carry (v makes the first state, so that the first step alone
    is told), input (v is the input before the start token), every (v enters every step, by weights of its
    own)."""
    attention: Literal["none", "additive"] = "additive"
    """Whether every step looks at the places of the image."""
    input_feeding: bool = False
    """Feed what attention has read to the decoder's next step."""
    gate: bool = False
    """Scale what attention reads by a number from 0 to 1 that each step chooses (Xu et al. 2015)."""
    doubly_stochastic: Annotated[float, check_zero_or_more] = 0.0
    """Weight of the penalty on places that attention leaves out, or looks at too often (Xu et al. 2015)."""
    tied: bool = False
    """The output shares the embedding's weights; without attention, where both sizes agree."""
    dropout: Fraction = 0.1
    """Probability that a feature is dropped: of the image's, of embeddings, between layers, and at the
    output."""
    word_dropout: Fraction = 0.15
    """Probability that training feeds an unknown word for one of the caption's, so that what comes next has
    to be seen in the image."""
    label_smoothing: Fraction = 0.1
    """Share of the training target that is spread over all words, so that none is ruled out by the one
    before it."""


class ModelParams(NamedTuple):
    """Parameters of a captioning model."""

    encoder: Any
    captioner: CaptionerParams


@dataclass(frozen=True)
class CaptioningModel:
    """An encoder and a captioner."""

    encoder: EncoderName
    captioner: Captioner

    def init(self, key: Array) -> ModelParams:
        """Draw the parameters."""
        key_encoder, key_captioner = jax.random.split(key)
        return ModelParams(init_encoder(self.encoder, key_encoder), self.captioner.init(key_captioner))

    def encode(self, params: ModelParams, inputs: Array, key: Array | None = None) -> EncodedImage:
        """What the decoder is told of ``inputs (rows, batch, ...)``."""
        grid = grid_of(self.encoder, params.encoder, jnp.moveaxis(inputs, 1, 0))
        return self.captioner.encode(params.captioner, grid, key=key)

    def step(
        self, params: ModelParams, carry: Any, tokens: Array, context: Context
    ) -> tuple[Any, Any, Any]:
        """A step of a decoder, which writes words alone, none that is unknown."""
        carry, logits, weights = self.captioner.step(params.captioner, carry, tokens, context)
        return carry, logits.at[:, jnp.array(NEVER_WRITTEN)].set(-jnp.inf), weights


def build_model(config: Any, vocabulary_size: int) -> CaptioningModel:
    """The model that the settings ask for.

    Raises:
      ValueError: for settings that do not go together.
    """
    attends = config.attention != "none"
    if config.doubly_stochastic and not attends:
        raise ValueError("--doubly-stochastic is a penalty on attention; give --attention additive too")
    captioner = Captioner(
        vocabulary_size,
        [CELLS[config.cell](config.hidden_size)] * config.layers,
        config.embedding_size,
        image_features=SIZES[config.encoder],
        projection_size=config.projection_size,
        entry=config.entry,
        attention=Additive(config.hidden_size) if attends else None,
        input_feeding=config.input_feeding,
        gate=config.gate,
        tied=config.tied,
        dropout=config.dropout,
        backward="bptt",
    )
    return CaptioningModel(config.encoder, captioner)
