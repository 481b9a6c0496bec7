"""A model of the word at every step from the words on its left, on its right, or on both sides."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxrnn.layers import dropout
from jaxrnn.models.encoder import Encoder


class BlankModelParams(NamedTuple):
    """Parameters of a model of blanks."""

    encoder: Any  # EncoderParams
    w: Array  # (encoder.out_features, embedding_size)
    b: Array  # (vocabulary_size,)


@dataclass(frozen=True)
class BlankModel:
    """What word stands at each step, by the hidden states next to it, which have not read it.

    Melamud, Goldberger & Dagan 2016, "context2vec: learning generic context embedding with bidirectional
    LSTM". Equations, for words w_0..w_{T+1}, of which the first is the start and the last the end, →h_t
    having read w_0..w_t and ←h_t having read w_{T+1}..w_t::

        logits_t = E (D([→h_{t−1}; ←h_{t+1}]) W)ᵀ + b         E the embedding of the inputs, D(·) dropout

    of a forward encoder with →h alone, and of a reversed one with ←h alone. The encoder has one layer: in a
    second, each direction would have read the word through the other. ``Stack`` makes one cell of several.
    """

    encoder: Encoder

    def __post_init__(self) -> None:
        if len(self.encoder.cells) != 1 or self.encoder.embedding_size is None:
            raise ValueError("a model of blanks needs an encoder of one layer with an embedding")

    def init(self, key: Array) -> BlankModelParams:
        """Draw the parameters: the projection LeCun normal, the encoder its own way."""
        key_encoder, key_w = jax.random.split(key)
        shape: Any = (self.encoder.out_features, self.encoder.embedding_size)
        w = jax.nn.initializers.lecun_normal()(key_w, shape)
        return BlankModelParams(self.encoder.init(key_encoder), w, jnp.zeros(self.encoder.vocabulary_size))

    def apply(
        self, params: BlankModelParams, inputs: ArrayLike, *, lengths: ArrayLike, key: Array | None = None
    ) -> Array:
        """The logits ``(time, batch, vocabulary_size)`` of the word at each step of ``(time, batch)``."""
        keys = (None, None) if key is None else jax.random.split(key)
        layer_keys = None if keys[0] is None else keys[0][None]
        _, ys = self.encoder.apply(params.encoder, inputs, lengths=lengths, keys=layer_keys)
        around = self._around(ys)
        if keys[1] is not None:
            around = dropout(keys[1], around, self.encoder.dropout)
        return around @ params.w @ params.encoder.embedding.T + params.b

    def _around(self, ys: Array) -> Array:
        """Outputs at the step before, of forward features, and at the one after, of backward ones."""
        none = jnp.zeros_like(ys[:1])
        before, after = jnp.concatenate([none, ys[:-1]]), jnp.concatenate([ys[1:], none])
        features = ys.shape[-1]
        forward = {"forward": features, "reversed": 0, "bidirectional": features // 2}
        return jnp.where(jnp.arange(features) < forward[self.encoder.direction], before, after)
