"""Noise in the recurrence: zoneout and variational dropout around any cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import Carry, Cell, Deltas, Noise, Params, Residuals
from jaxrnn.cells.dense import cast_like
from jaxrnn.cells.wrapped import WrappedCell
from jaxrnn.checks import check_fraction, check_like, settle
from jaxrnn.promotion import default_promotion


class ZoneoutNoise(NamedTuple):
    """Random numbers of zoneout."""

    keep: Carry  # every leaf (time, *batch, n): 1 where a unit keeps its previous value, else 0
    cell: Noise  # the wrapped cell's


@dataclass(frozen=True, kw_only=True)
class Zoneout(WrappedCell):
    """Units that keep their previous value at random: zoneout of Krueger et al. (2017), "Zoneout:
    regularizing RNNs by randomly preserving hidden activations", eqs. 3-4.

    Equations, with d a draw of Bernoulli(rate) for each unit, sequence and step::

        S̃_t = cell(params, S_{t-1}, x_t)
        S_t = d ⊙ S_{t-1} + (1 − d) ⊙ S̃_t        for h and c each, with rates of their own
        y_t = h_t

    Without noise the cell is deterministic: d is its expectation, the rate, as is used after training. For
    training, draw noise with ``cell.noise(key, time, batch_shape)`` and give it to ``unroll``, which draws
    none by itself.

    Derivative::

        ∂S̃          = (1 − d) ⊙ (∂L/∂S_t + [∂L/∂y_t in h])
        ∂L/∂S_{t-1} = d ⊙ (∂L/∂S_t + [∂L/∂y_t in h]) + the cell's, for ∂S̃

    Params and carry are the wrapped cell's own. Where a skip connection is wanted too, it goes outside:
    ``Residual(Zoneout(cell))``.

    Args:
      cell: a cell whose output is its hidden state h, with nothing but h and perhaps c in its carry.
      rate_h: probability that a unit of h keeps its value, in [0, 1).
      rate_c: the same of c, where there is one.

    Raises:
      ValueError: for rates outside [0, 1), or a carry with other fields.

    >>> from jaxrnn.cells.lstm import LSTM
    >>> cell = Zoneout(LSTM(hidden_size=4), rate_h=0.05, rate_c=0.5)
    >>> noise = cell.noise(jax.random.key(0), time=5, batch_shape=(2,))
    >>> noise.keep.c.shape
    (5, 2, 4)
    """

    rate_h: float = 0.05
    rate_c: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, check_fraction, "rate_h", "rate_c")
        fields = _fields(self.cell)
        if "h" not in fields or not set(fields) <= {"h", "c"}:
            raise ValueError(
                f"Zoneout wraps a cell whose carry has the field h and perhaps c, "
                f"got {self.cell} with {', '.join(fields) or 'no named fields'}"
            )
        if not self.cell.outputs_h:
            raise ValueError(
                f"Zoneout wraps a cell whose output is h, and that of {self.cell} is not; "
                f"put Zoneout inside it instead"
            )

    @property
    def carries_h(self) -> bool:
        """True: h_t contains d ⊙ h_{t-1}."""
        return True

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> ZoneoutNoise:
        """A draw for each unit, sequence and step."""
        key_own, key_cell = jax.random.split(key)
        carry = jax.eval_shape(lambda: self.initial_carry(batch_shape))
        keys = jax.random.split(key_own, len(carry))
        draws = [
            jax.random.bernoulli(k, getattr(self, f"rate_{name}"), (time, *leaf.shape)).astype(leaf.dtype)
            for k, (name, leaf) in zip(keys, carry._asdict().items(), strict=True)
        ]
        return ZoneoutNoise(type(carry)(*draws), self.cell.noise(key_cell, time, batch_shape))

    @default_promotion()
    def step(
        self, params: Params, carry: Carry, x: Array, noise: ZoneoutNoise | None = None
    ) -> tuple[Carry, Array]:
        """One step.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        keep, cell_noise = self._noise_of_step(carry, noise)
        after, y = self.cell.step(params, carry, x, cell_noise)
        after = _mix(keep, carry, after)
        return after, after.h.astype(y.dtype)

    def step_fwd(
        self, params: Params, carry: Carry, x: Array, noise: ZoneoutNoise | None = None
    ) -> tuple[Carry, Array, Residuals]:
        """One step; the residuals are d and the wrapped cell's."""
        keep, cell_noise = self._noise_of_step(carry, noise)
        after, y, residuals = self.cell.step_fwd(params, carry, x, cell_noise)
        after = _mix(keep, carry, after)
        return after, after.h.astype(y.dtype), (keep, residuals)

    def step_bwd(
        self, params: Params, carry_before: Carry, residuals: Residuals, d_carry: Carry, d_y: Array
    ) -> tuple[Carry, Deltas]:
        """dL/dS_{t-1}, and the wrapped cell's δ_t."""
        keep, cell_residuals = residuals
        d_after = d_carry._replace(h=d_carry.h + d_y)
        d_step = jax.tree.map(lambda d, g: (1 - d) * g, keep, d_after)
        d_before, delta = self.cell.step_bwd(
            params, carry_before, cell_residuals, cast_like(d_step, d_carry), jnp.zeros_like(d_y)
        )
        total = jax.tree.map(lambda d, g, through: d * g + through, keep, d_after, d_before)
        return cast_like(total, carry_before), delta

    def input_grads(self, params: Params, residuals: Residuals, deltas: Deltas) -> Array:
        """The wrapped cell's input gradient."""
        return self.cell.input_grads(params, residuals[1], deltas)

    def param_grads(
        self, params: Params, xs: Array, carries_before: Carry, residuals: Residuals, deltas: Deltas
    ) -> Params:
        """The wrapped cell's parameter gradients."""
        return self.cell.param_grads(params, xs, carries_before, residuals[1], deltas)

    def gates(
        self, params: Params, carry: Carry, x: Array, noise: ZoneoutNoise | None = None
    ) -> dict[str, Array]:
        """The wrapped cell's gates but f, which zoneout changes: c keeps more than f."""
        gates = self.cell.gates(params, carry, x, None if noise is None else noise.cell)
        return {name: value for name, value in gates.items() if name != "f"}

    def _noise_of_step(self, carry: Carry, noise: ZoneoutNoise | None) -> tuple[Carry, Noise]:
        if noise is not None:
            check_like("noise.keep", carry, noise.keep)
            return noise.keep, noise.cell
        rates = {name: jnp.asarray(getattr(self, f"rate_{name}")) for name in carry._fields}
        return type(carry)(**rates), None


class VariationalNoise(NamedTuple):
    """Masks of variational dropout: 0 where dropped, else 1/(1 − rate); the same at every step."""

    h: Any  # (time, *batch, n), or None at rate 0
    y: Any  # (time, *batch, out_features), or None at rate 0
    cell: Noise  # the wrapped cell's


@dataclass(frozen=True, kw_only=True)
class VariationalDropout(WrappedCell):
    """Dropout with one mask for all steps of a sequence: Gal & Ghahramani (2016), "A theoretically
    grounded application of dropout in recurrent neural networks".

    Equations, with m_h and m_y drawn once a sequence, each entry 0 with probability ``rate``, else
    1/(1 − rate)::

        S_t, ỹ_t = cell(params, S_{t-1} with m_h ⊙ h_{t-1} for h_{t-1}, x_t)
        y_t      = m_y ⊙ ỹ_t

    Without noise the cell is deterministic: the masks are 1, and nothing is dropped. For training, draw
    noise with ``cell.noise(key, time, batch_shape)`` and give it to ``unroll``, which draws none by itself.
    The output mask is the input mask of the layer above.

    Derivative::

        ∂ỹ = m_y ⊙ ∂L/∂y_t       ∂L/∂h_{t-1} = m_h ⊙ the cell's

    Params and carry are the wrapped cell's own.

    Args:
      cell: any cell; for ``rate_h`` above 0, one that uses h_{t-1} only in products with weights. The
        memory of a GRU, which carries h itself on, would be erased where dropped and grow elsewhere.
      rate_h: probability that a unit of h_{t-1} is dropped, in [0, 1).
      rate_y: the same of the output.

    Raises:
      ValueError: for rates outside [0, 1), or ``rate_h`` above 0 with a cell that carries h on.

    >>> from jaxrnn.cells.lstm import LSTM
    >>> cell = VariationalDropout(LSTM(hidden_size=4), rate_h=0.25, rate_y=0.5)
    >>> noise = cell.noise(jax.random.key(0), time=5, batch_shape=(2,))
    >>> noise.y.shape, bool(jnp.all(noise.y == noise.y[0]))
    ((5, 2, 4), True)
    """

    rate_h: float = 0.25
    rate_y: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, check_fraction, "rate_h", "rate_y")
        if self.rate_h > 0 and (self.cell.carries_h or "h" not in _fields(self.cell)):
            raise ValueError(
                f"rate_h must be 0 for {self.cell}, got {self.rate_h}: only a cell whose h_(t-1) enters "
                f"nothing but products with weights can have it dropped"
            )

    @property
    def outputs_h(self) -> bool:
        """Whether the wrapped cell's output is h, and nothing of it is dropped."""
        return self.cell.outputs_h and self.rate_y == 0

    @property
    def carries_h(self) -> bool:
        """As the wrapped cell."""
        return self.cell.carries_h

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> VariationalNoise:
        """One mask a sequence, repeated along time."""
        key_h, key_y, key_cell = jax.random.split(key, 3)
        carry = jax.eval_shape(lambda: self.initial_carry(batch_shape))
        return VariationalNoise(
            h=_repeated_mask(key_h, self.rate_h, time, carry.h.shape) if self.rate_h else None,
            y=_repeated_mask(key_y, self.rate_y, time, (*batch_shape, self.out_features))
            if self.rate_y
            else None,
            cell=self.cell.noise(key_cell, time, batch_shape),
        )

    @default_promotion()
    def step(
        self, params: Params, carry: Carry, x: Array, noise: VariationalNoise | None = None
    ) -> tuple[Carry, Array]:
        """One step.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        masks = _NO_MASKS if noise is None else noise
        after, y = self.cell.step(params, _masked_h(carry, masks.h), x, masks.cell)
        return after, _masked(y, masks.y)

    def step_fwd(
        self, params: Params, carry: Carry, x: Array, noise: VariationalNoise | None = None
    ) -> tuple[Carry, Array, Residuals]:
        """One step; the residuals are the masks and the wrapped cell's."""
        masks = _NO_MASKS if noise is None else noise
        after, y, residuals = self.cell.step_fwd(params, _masked_h(carry, masks.h), x, masks.cell)
        return after, _masked(y, masks.y), (masks, residuals)

    def step_bwd(
        self, params: Params, carry_before: Carry, residuals: Residuals, d_carry: Carry, d_y: Array
    ) -> tuple[Carry, Deltas]:
        """dL/dS_{t-1}, and the wrapped cell's δ_t."""
        masks, cell_residuals = residuals
        seen = _masked_h(carry_before, masks.h)
        d_seen, delta = self.cell.step_bwd(params, seen, cell_residuals, d_carry, _masked(d_y, masks.y))
        return _masked_h(d_seen, masks.h), delta

    def input_grads(self, params: Params, residuals: Residuals, deltas: Deltas) -> Array:
        """The wrapped cell's input gradient."""
        return self.cell.input_grads(params, residuals[1], deltas)

    def param_grads(
        self, params: Params, xs: Array, carries_before: Carry, residuals: Residuals, deltas: Deltas
    ) -> Params:
        """The wrapped cell's parameter gradients, at the carries that it saw."""
        masks, cell_residuals = residuals
        seen = _masked_h(carries_before, masks.h)
        return self.cell.param_grads(params, xs, seen, cell_residuals, deltas)

    def gates(
        self, params: Params, carry: Carry, x: Array, noise: VariationalNoise | None = None
    ) -> dict[str, Array]:
        """The wrapped cell's gates, at the h_{t-1} that it sees."""
        masks = _NO_MASKS if noise is None else noise
        return self.cell.gates(params, _masked_h(carry, masks.h), x, masks.cell)


_NO_MASKS = VariationalNoise(h=None, y=None, cell=None)


def _fields(cell: Cell) -> tuple[str, ...]:
    """Names of the carry's fields; none unless it is a named tuple."""
    return getattr(jax.eval_shape(cell.initial_carry), "_fields", ())


def _mix(keep: Carry, before: Carry, after: Carry) -> Carry:
    """The mixture d ⊙ S_{t-1} + (1 − d) ⊙ S̃_t, leaf by leaf in the dtype of S_{t-1}."""
    return cast_like(jax.tree.map(lambda d, a, b: d * a + (1 - d) * b, keep, before, after), before)


def _repeated_mask(key: Array, rate: float, time: int, shape: tuple[int, ...]) -> Array:
    mask = jax.random.bernoulli(key, 1 - rate, shape).astype(float) / (1 - rate)
    return jnp.broadcast_to(mask, (time, *shape))


def _masked(array: Array, mask: Array | None) -> Array:
    if mask is None:
        return array
    check_like("noise", array, mask)  # a mask drawn for another batch could broadcast
    return (array * mask).astype(array.dtype)


def _masked_h(carry: Carry, mask: Array | None) -> Carry:
    return carry if mask is None else carry._replace(h=_masked(carry.h, mask))
