"""Base of the cells that wrap a cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, Noise, Params


@dataclass(frozen=True)
class WrappedCell(Cell):
    """A cell around a cell, with the same parameters, carry and output."""

    cell: Cell

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", as_cell(self.cell))

    @property
    def out_features(self) -> int:
        """Features of the wrapped cell's output."""
        return self.cell.out_features

    @property
    def has_derivative(self) -> bool:
        """Whether both carry their hand-derived derivative."""
        return super().has_derivative and self.cell.has_derivative

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> Params:
        """The wrapped cell's parameters."""
        return self.cell.init(key, in_features, dtype)

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> Carry:
        """The wrapped cell's carry."""
        return self.cell.initial_carry(batch_shape, dtype)

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """The wrapped cell's checks, which it may have of its own."""
        self.cell.check(params, carry, x)

    def gates(self, params: Params, carry: Carry, x: Array, noise: Noise = None) -> dict[str, Array]:
        """The wrapped cell's gates."""
        return self.cell.gates(params, carry, x, noise)
