"""Scheduled sampling: a decoder that is at times fed its own draws while it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, Noise, Params
from jaxrnn.checks import check_number, check_positive, settle
from jaxrnn.models.tokens import embed
from jaxrnn.promotion import default_promotion


class SamplingParams(NamedTuple):
    """Parameters of the cell, and those that draw a token from its output and feed it back."""

    cell: Params
    embedding: Array  # (vocabulary, in_features)
    w_out: Array  # (out_features, vocabulary)
    b_out: Array  # (vocabulary,)


class SamplingCarry(NamedTuple):
    """The decoder's carry, and the embedding of the token drawn last."""

    cell: Carry
    drawn: Array  # (*batch, in_features)


class SamplingNoise(NamedTuple):
    """Random numbers of scheduled sampling."""

    own: Bool[Array, "time *batch"]  # where the token drawn last is fed
    keys: Key[Array, " time"]
    mask: Any  # (time, *batch, in_features): dropout of what is fed, which x has had already; or None
    cell: Noise


@dataclass(frozen=True)
class ScheduledSampling(Cell):
    """A decoder's cell that is fed its own draws in part (Bengio et al. 2015, "Scheduled sampling for
    sequence prediction with recurrent neural networks", section 2.4).

    Equations, with w̃_t the token drawn at a step; no gradient passes through the draw::

        x̃_t = m_t ⊙ E[w̃_{t-1}] where own_t, else x_t          own_t ~ Bernoulli(rate); never at t = 1
        S_t, y_t = cell(params, S_{t-1}, x̃_t)
        w̃_t ~ softmax(y_t W_out + b_out)

    with m_t the dropout mask of the inputs, 1 unless one is given. What x_t has beyond ``in_features``, a
    decoder's condition, stays as it is. Without noise this is the cell itself, teacher forcing.

    >>> from jaxrnn import GRU
    >>> cell = ScheduledSampling(GRU(4), in_features=3)
    >>> params = SamplingParams(
    ...     cell.cell.init(jax.random.key(0), 3), jnp.eye(5, 3), jnp.ones((4, 5)), jnp.zeros(5)
    ... )
    >>> noise = cell.draw_noise(jax.random.key(1), 0.5, time=6, batch_shape=(2,))
    >>> from jaxrnn import unroll
    >>> unroll(cell, params, jnp.ones((6, 2, 3)), noise=noise)[1].shape
    (6, 2, 4)
    """

    cell: Cell
    in_features: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", as_cell(self.cell))
        settle(self, check_positive, "in_features")

    @property
    def out_features(self) -> int:
        """Features of the decoder's output."""
        return self.cell.out_features

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> SamplingCarry:
        """The decoder's own; nothing has been drawn."""
        drawn = jnp.zeros((*batch_shape, self.in_features), dtype)
        return SamplingCarry(self.cell.initial_carry(batch_shape, dtype), drawn)

    def draw_noise(
        self,
        key: Key[Array, ""],
        rate: Float[ArrayLike, ""],
        time: int,
        batch_shape: Sequence[int] = (),
        mask: Float[Array, "time *batch in_features"] | None = None,
    ) -> SamplingNoise:
        """Where the decoder is fed its own draws: with probability ``rate``, which may be traced; and the
        dropout mask of its inputs, where they have one.
        """
        if not isinstance(rate, jax.core.Tracer) and not 0 <= check_number("rate", rate) <= 1:
            raise ValueError(f"the rate of sampling must lie in [0, 1], got {rate}")
        key_own, key_draws, key_cell = jax.random.split(key, 3)
        own = jax.random.bernoulli(key_own, rate, (time, *batch_shape)).at[:1].set(False)
        draws = jax.random.split(key_draws, time)
        return SamplingNoise(own, draws, mask, self.cell.noise(key_cell, time, batch_shape))

    @default_promotion()
    def step(
        self, params: SamplingParams, carry: SamplingCarry, x: Array, noise: SamplingNoise | None = None
    ) -> tuple[SamplingCarry, Array]:
        """One step.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        if noise is None:
            cell_carry, y = self.cell.step(params.cell, carry.cell, x)
            return SamplingCarry(cell_carry, carry.drawn), y
        drawn = carry.drawn.astype(x.dtype)
        drawn = drawn if noise.mask is None else noise.mask * drawn
        rest = x[..., self.in_features :]
        x = jnp.where(noise.own[..., None], jnp.concatenate([drawn, rest], axis=-1), x)
        cell_carry, y = self.cell.step(params.cell, carry.cell, x, noise.cell)
        token = jax.random.categorical(noise.keys, y @ params.w_out + params.b_out)
        return SamplingCarry(cell_carry, embed(params.embedding, token).astype(carry.drawn.dtype)), y

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """Raise ValueError unless the decoder's params and carry, and x, fit each other."""
        self.cell.check(params.cell, carry.cell, x)
