"""The cells whose derivatives the mutation study puts its mistakes into."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxrnn
from jaxrnn.cells.cell import Cell
from jaxrnn.cells.dense import DenseCell, cast_like
from jaxrnn.cells.table import CELLS

MASKED_STEP = "masked step"


class DemandingCarry(NamedTuple):
    """The carry of ``Demanding``."""

    h: Array  # (*batch, n)
    c: Array  # (*batch, n, 2)


class Demanding(DenseCell):
    """A cell that needs everything the contract gives: no argument can be mistaken unnoticed.

    With n_t the noise (1 without), its carry starts at one half, c has a dimension more than h, and δ_t
    stops before the slope, so that ``input_grads`` and ``param_grads`` need the residuals::

        a_t = tanh(n_t ⊙ (x_t W_ih + h_{t-1} W_hh + b))
        h_t = a_t + Σ_k c_{t-1,k}        c_t = (a_t + h_{t-1}) ⊙ c_{t-1}        y_t = h_t
    """

    def init(self, key: Any, in_features: int, dtype: Any = jnp.float32) -> jaxrnn.ElmanParams:
        return jaxrnn.Elman(self.hidden_size).init(key, in_features, dtype)

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: Any = jnp.float32) -> DemandingCarry:
        h = jnp.full((*batch_shape, self.hidden_size), 0.5, dtype)
        return DemandingCarry(h, jnp.full((*h.shape, 2), 0.5, dtype))

    def noise(self, key: Any, time: int, batch_shape: Sequence[int] = ()) -> Array:
        return jax.random.uniform(key, (time, *batch_shape, self.hidden_size))

    def step_fwd(self, params: Any, carry: DemandingCarry, x: Array, noise: Any = None) -> tuple[Any, ...]:
        noise = jnp.ones_like(carry.h) if noise is None else noise
        a = jnp.tanh(noise * self.pre_activations(params, carry.h, x))
        after = DemandingCarry(a + carry.c.sum(-1), (a + carry.h)[..., None] * carry.c)
        return cast_like(after, carry), after.h, (a, noise)

    def step_bwd(
        self, params: Any, carry_before: DemandingCarry, residuals: Any, d_carry: DemandingCarry, d_y: Array
    ) -> tuple[DemandingCarry, Array]:
        a, _ = residuals
        d_h = d_carry.h + d_y
        through_c = (d_carry.c * carry_before.c).sum(-1)
        delta = d_h + through_c
        d_z = _past_slope(delta, residuals)
        d_c = d_carry.c * (a + carry_before.h)[..., None] + d_h[..., None]
        before = DemandingCarry(d_z @ params.w_hh.astype(d_z.dtype).T + through_c, d_c)
        return cast_like(before, carry_before), delta

    def input_grads(self, params: Any, residuals: Any, deltas: Array) -> Array:
        return super().input_grads(params, residuals, _past_slope(deltas, residuals))

    def param_grads(
        self, params: Any, xs: Array, carries_before: Any, residuals: Any, deltas: Array
    ) -> Any:
        d_z = _past_slope(deltas, residuals)
        return super().param_grads(params, xs, carries_before, residuals, d_z)


def _past_slope(delta: Array, residuals: tuple[Array, Array]) -> Array:
    a, noise = residuals
    return delta * noise * (1 - a * a)


def subject_of(name: str) -> str:
    """The subject that a cell of the table belongs to: cells of one class share their derivative."""
    return type(CELLS[name](2)).__name__


# By subject, cells other than the table's, from the hidden size. Wrappers wrap what needs everything.
_SPECIAL: dict[str, list[Callable[[int], Cell]]] = {
    # At n = 3, two equal sizes: with different ones most mistakes end in an error.
    "ProjectedLSTM": [lambda n: jaxrnn.ProjectedLSTM(n, projection_size=6 - n)],
    "Stack": [
        lambda n: jaxrnn.Stack([Demanding(3), Demanding(n), Demanding(3)]),
        lambda n: jaxrnn.Stack([Demanding(3), jaxrnn.GRU(n)]),
    ],
    "Residual": [lambda n: jaxrnn.Residual(Demanding(3))],
    "Zoneout": [lambda n: jaxrnn.Zoneout(Demanding(n), rate_h=0.4, rate_c=0.6)],
    "VariationalDropout": [
        lambda n: jaxrnn.VariationalDropout(Demanding(n), rate_h=0.5, rate_y=0.5),
        lambda n: jaxrnn.VariationalDropout(Demanding(n), rate_h=0.5, rate_y=0.0),
    ],
    MASKED_STEP: [Demanding],
}
# All cells of a subject, which reach every line only together.
SUBJECTS: dict[str, list[Callable[[int], Cell]]] = {
    subject: [make for name, make in CELLS.items() if subject_of(name) == subject]
    for subject in dict.fromkeys(map(subject_of, CELLS))
} | _SPECIAL
