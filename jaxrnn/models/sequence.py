"""Sequences to labels: one for the whole sequence, or one at every step."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.cells.cell import DType
from jaxrnn.checks import check_like, check_positive, on_device, settle
from jaxrnn.layers import dropout
from jaxrnn.models.encoder import Encoder, EncoderParams
from jaxrnn.promotion import default_promotion
from jaxrnn.sharding import batch_product

Pool = Literal["last", "mean", "max", "each"]


class SequenceModelParams(NamedTuple):
    """Parameters of a sequence model."""

    encoder: EncoderParams
    w_out: Array  # (encoder.out_features, out_features)
    b_out: Array  # (out_features,)


@dataclass(frozen=True)
class SequenceModel:
    """An encoder, its outputs pooled over time or not, and a linear readout: many to one, or many to many
    in step (Graves & Schmidhuber 2005, "Framewise phoneme classification with bidirectional LSTM").

    Equations, for a sequence of T steps, y the encoder's outputs, D(·) its dropout::

        last    v = y_T; of a reversed encoder y_1; of both directions the forward cell's y_T and the
                backward cell's y_1: what each has once it has read everything
        mean    v = (1/T) Σ_t y_t
        max     v = max_t y_t, feature by feature
                logits = D(v) W_out + b_out
        each    logits_t = D(y_t) W_out + b_out

    Padding takes no part. A sequence of length 0 has v = 0.

    Args:
      encoder: tokens or feature vectors, through stacked layers, in one direction or both.
      out_features: number of classes.
      pool: "last", "mean" or "max" for one row of logits a sequence, "each" for one a step.

    Raises:
      ValueError: for ``out_features`` below 1, or an unknown ``pool``.

    >>> from jaxrnn import GRU
    >>> model = SequenceModel(Encoder([GRU(4)], in_features=3, direction="bidirectional"), 5, pool="mean")
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((6, 2, 3)), lengths=jnp.array([6, 4])).shape
    (2, 5)
    """

    encoder: Encoder
    out_features: int
    _: KW_ONLY
    pool: Pool = "last"

    def __post_init__(self) -> None:
        settle(self, check_positive, "out_features")
        if self.pool not in get_args(Pool):
            raise ValueError(f"pool must be one of {', '.join(get_args(Pool))}, got {self.pool!r}")

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> SequenceModelParams:
        """Draw the parameters: the output LeCun normal, the encoder its own way."""
        key_encoder, key_out = jax.random.split(key)
        shape = (self.encoder.out_features, self.out_features)
        return SequenceModelParams(
            self.encoder.init(key_encoder, dtype),
            jax.nn.initializers.lecun_normal()(key_out, shape, dtype),
            jnp.zeros(self.out_features, dtype),
        )

    @default_promotion()
    def apply(
        self,
        params: SequenceModelParams,
        inputs: ArrayLike,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*positions out_features"]:
        """The logits, ``(*batch, out_features)``, or ``(time, *batch, out_features)`` with "each".

        Args:
          params: from ``init``.
          inputs: token ids ``(time, *batch)``, or feature vectors ``(time, *batch, in_features)``.
          lengths: as in ``unroll``.
          key: dropout's and the cells' noise; without one nothing is dropped.

        Raises:
          ValueError: for parameters of another model, and as ``Encoder.apply``.
        """
        self._check(params)
        keys = None if key is None else jax.random.split(key, len(self.encoder.cells) + 1)
        layer_keys = None if keys is None else keys[:-1]
        _, ys = self.encoder.apply(params.encoder, inputs, lengths=lengths, keys=layer_keys)
        ys = ys if self.pool == "each" else self._pooled(ys, lengths)
        if keys is not None:
            variational = self.encoder.variational and self.pool == "each"
            ys = dropout(keys[-1], ys, self.encoder.dropout, variational=variational)
        return _logits(params, ys)

    @default_promotion()
    def record(
        self,
        params: SequenceModelParams,
        inputs: ArrayLike,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
    ) -> tuple[Float[Array, "*positions out_features"], tuple[Any, ...]]:
        """``apply`` without dropout, and what every layer held at every step, as ``Encoder.record``.

        Raises:
          ValueError: as ``apply``.
        """
        self._check(params)
        _, ys, layers = self.encoder.record(params.encoder, inputs, lengths=lengths)
        return _logits(params, ys if self.pool == "each" else self._pooled(ys, lengths)), layers

    def _pooled(self, ys: Array, lengths: Any) -> Array:
        """Outputs ``(time, *batch, features)``, zero at padding, to one vector a sequence."""
        time, batch_shape = ys.shape[0], ys.shape[1:-1]
        lengths = jnp.full(batch_shape, time) if lengths is None else jnp.clip(on_device(lengths), 0, time)
        steps = jnp.arange(time).reshape(time, *(1 for _ in batch_shape))
        counts, features = lengths[..., None], ys.shape[-1]  # (*batch, 1)
        if self.pool == "mean":
            return jnp.sum(ys, axis=0) / jnp.maximum(counts, 1).astype(ys.dtype)
        if self.pool == "max":
            within = (steps < lengths)[..., None]
            most = jnp.max(ys, axis=0, where=within, initial=-jnp.inf)
            return jnp.where(counts > 0, most, 0)
        first, last = ((steps == at)[..., None] for at in (0, lengths - 1))
        backward = {"forward": features, "reversed": 0, "bidirectional": features // 2}
        # By a mask, as the steps differ from sequence to sequence; what is added is zero.
        of_backward = jnp.arange(features) >= backward[self.encoder.direction]
        return jnp.sum(jnp.where(jnp.where(of_backward, first, last), ys, 0), axis=0)

    def _check(self, params: SequenceModelParams) -> None:
        """Raise ValueError unless the readout fits; the encoder checks its own parameters."""
        shape: Any = jax.ShapeDtypeStruct
        w_out = shape((self.encoder.out_features, self.out_features), jnp.float32)
        b_out = shape((self.out_features,), jnp.float32)
        check_like("params", SequenceModelParams(params.encoder, w_out, b_out), params)


def _logits(params: SequenceModelParams, ys: Array) -> Array:
    return batch_product(ys.astype(params.w_out.dtype), params.w_out) + params.b_out
