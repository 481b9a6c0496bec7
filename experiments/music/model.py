"""A recurrent network that foretells which keys sound, each in view of the lower ones of its step."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.layers import dropout
from jaxrnn.models.encoder import Encoder, EncoderParams

lecun_normal = jax.nn.initializers.lecun_normal()


class ChordParams(NamedTuple):
    """Parameters by which a key knows the lower ones of its step."""

    w_state: Array  # (out_features, chord_size)
    b: Array  # (chord_size,)
    w_in: Array  # (keys, chord_size)
    w_out: Array  # (keys, chord_size)


class MusicParams(NamedTuple):
    """Parameters of a music model."""

    encoder: EncoderParams
    w_out: Array  # (out_features, keys)
    b_out: Array  # (keys,)
    chord: ChordParams | None


@dataclass(frozen=True)
class MusicModel:
    """An encoder of the steps so far, and a neural autoregressive estimator of the next one's keys.

    Equations, for the keys x_1 … x_K of a step, from the lowest, y the encoder's output at the step before,
    D(·) dropout::

        h   = D(y)
        a_k = h W_state + b + Σ_{j<k} x_j W_in,j
        p(x_k = 1 | x_1 … x_{k−1}, the steps before) = σ(h w_out,k + b_out,k + relu(a_k) · w′_out,k)

    With ``chord_size`` None there is no a: keys are independent of each other, given the steps before.

    Source: Boulanger-Lewandowski et al. 2012, "Modeling temporal dependencies in high-dimensional
    sequences" (section 5, RNN-NADE); with relu, and w′_out apart from W_in, Uria et al. 2016, "Neural
    autoregressive distribution estimation" (section 2).

    >>> from jaxrnn import GRU
    >>> model = MusicModel(Encoder([GRU(4)], in_features=3), keys=3, chord_size=2)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((6, 2, 3)), jnp.zeros((6, 2, 3))).shape
    (6, 2, 3)
    """

    encoder: Encoder
    _: KW_ONLY
    keys: int
    chord_size: int | None
    dropout: float = 0.0

    def init(self, key: Array) -> MusicParams:
        """Draw the parameters: LeCun normal, biases 0; at first no key minds another."""
        key_encoder, key_out, key_state, key_in = jax.random.split(key, 4)
        features, chord = self.encoder.out_features, None
        if self.chord_size is not None:
            chord = ChordParams(
                lecun_normal(key_state, (features, self.chord_size)),
                jnp.zeros(self.chord_size),
                lecun_normal(key_in, (self.keys, self.chord_size)),
                jnp.zeros((self.keys, self.chord_size)),
            )
        w_out = lecun_normal(key_out, (features, self.keys))
        return MusicParams(self.encoder.init(key_encoder), w_out, jnp.zeros(self.keys), chord)

    def apply(
        self, params: MusicParams, inputs: Any, targets: Any, *, lengths: Any = None, key: Any = None
    ) -> Array:
        """Logits of every key of ``targets``, given the lower ones and the steps of ``inputs``.

        Args:
          params: from ``init``.
          inputs: ``(time, *batch, keys)``, 1 for a key that sounds.
          targets: likewise, each step that which follows.
          lengths: as in ``unroll``.
          key: dropout's; without one nothing is dropped.
        """
        _, ys = self.encoder.apply(params.encoder, inputs, lengths=lengths)
        if key is not None:
            ys = dropout(key, ys, self.dropout)
        return _key_by_key(params, ys, targets, lambda logit, x: x)[0]

    def draw(self, params: MusicParams, ys: Array, key: Array) -> Array:
        """Next steps ``(*batch, keys)`` of 0 and 1, drawn after outputs ``(*batch, out_features)`` of the
        encoder.
        """
        uniform = jax.random.uniform(key, (*ys.shape[:-1], self.keys))
        return _key_by_key(params, ys, uniform, lambda logit, u: 1.0 * (u < jax.nn.sigmoid(logit)))[1]


def _key_by_key(
    params: MusicParams, ys: Array, given: Any, decide: Callable[[Array, Array], Array]
) -> tuple[Array, Array]:
    """Logits and keys ``(*batch, keys)``: ``decide`` says, from its logit and what is given for it, whether
    a key sounds, before the next higher one is looked at.
    """
    logits = ys @ params.w_out + params.b_out
    if params.chord is None:
        return logits, decide(logits, given)
    chord = params.chord

    def step(a: Array, of: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        logit, w_in, w_out, given = of
        logit = logit + jax.nn.relu(a) @ w_out
        x = decide(logit, given)
        return a + x[..., None] * w_in, (logit, x)

    first = jnp.moveaxis(logits, -1, 0), chord.w_in, chord.w_out, jnp.moveaxis(jnp.asarray(given), -1, 0)
    _, found = jax.lax.scan(step, ys @ chord.w_state + chord.b, first)
    logits, xs = (jnp.moveaxis(of, 0, -1) for of in found)
    return logits, xs
