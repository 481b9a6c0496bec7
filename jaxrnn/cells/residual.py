"""A cell with a skip connection around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import Carry, Deltas, DType, Noise, Params, Residuals
from jaxrnn.cells.wrapped import WrappedCell
from jaxrnn.promotion import default_promotion


class ResidualDeltas(NamedTuple):
    """The wrapped cell's δ_t, and the gradient that passes around it."""

    cell: Deltas
    d_y: Array  # (*batch, in_features)


@dataclass(frozen=True)
class Residual(WrappedCell):
    """A cell whose input is added to its output, as between the layers of Wu et al. (2016), "Google's
    neural machine translation system", eq. 6 (He et al. 2016 for feed-forward networks).

    Equations::

        S_t, ỹ_t = cell(params, S_{t-1}, x_t)
        y_t      = ỹ_t + x_t

    Derivative: that of the cell, and ∂L/∂x_t gains ∂L/∂y_t.

    Params, carry and noise are the wrapped cell's own.

    Args:
      cell: a cell with as many output features as input features.

    Raises:
      ValueError: in ``init`` and ``step``, if the two differ.

    >>> import jax
    >>> from jaxrnn.cells.lstm import LSTM
    >>> cell = Residual(LSTM(hidden_size=4))
    >>> params = cell.init(jax.random.key(0), in_features=4)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 4)))
    >>> bool(jnp.all(y == carry.h + 1))
    True
    """

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> Params:
        """The wrapped cell's parameters."""
        self._check_sizes(in_features)
        return super().init(key, in_features, dtype)

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """The wrapped cell's checks, and that input and output can be added."""
        super().check(params, carry, x)
        self._check_sizes(x.shape[-1])

    @property
    def outputs_h(self) -> bool:
        """False: y_t is h_t and x_t."""
        return False

    @property
    def carries_h(self) -> bool:
        """As the wrapped cell."""
        return self.cell.carries_h

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The wrapped cell's noise."""
        return self.cell.noise(key, time, batch_shape)

    @default_promotion()
    def step(self, params: Params, carry: Carry, x: Array, noise: Noise = None) -> tuple[Carry, Array]:
        """One step.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        self.check(params, carry, x)
        carry, y = self.cell.step(params, carry, x, noise)
        return carry, y + x.astype(y.dtype)

    def step_fwd(
        self, params: Params, carry: Carry, x: Array, noise: Noise = None
    ) -> tuple[Carry, Array, Residuals]:
        """One step; the residuals are the wrapped cell's."""
        carry, y, residuals = self.cell.step_fwd(params, carry, x, noise)
        return carry, y + x.astype(y.dtype), residuals

    def step_bwd(
        self, params: Params, carry_before: Carry, residuals: Residuals, d_carry: Carry, d_y: Array
    ) -> tuple[Carry, ResidualDeltas]:
        """dL/dS_{t-1}, the wrapped cell's δ_t, and dL/dy_t for the way around."""
        d_before, delta = self.cell.step_bwd(params, carry_before, residuals, d_carry, d_y)
        return d_before, ResidualDeltas(delta, d_y)

    def input_grads(self, params: Params, residuals: Residuals, deltas: ResidualDeltas) -> Array:
        """The wrapped cell's input gradient and dL/dy."""
        through = self.cell.input_grads(params, residuals, deltas.cell)
        return through + deltas.d_y.astype(through.dtype)

    def param_grads(
        self,
        params: Params,
        xs: Array,
        carries_before: Carry,
        residuals: Residuals,
        deltas: ResidualDeltas,
    ) -> Params:
        """The wrapped cell's parameter gradients."""
        return self.cell.param_grads(params, xs, carries_before, residuals, deltas.cell)

    def _check_sizes(self, in_features: int) -> None:
        if in_features != self.out_features:
            raise ValueError(
                f"Residual adds input and output: {self.cell} puts out {self.out_features} features, "
                f"got inputs of {in_features}"
            )
