"""Cells written without the base class: the methods that they need, and an adapter to ``Cell``."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import Carry, Cell, DType, Noise, Params

NEEDED = ("init", "initial_carry", "out_features", "step")


@dataclass(frozen=True, repr=False)
class Adapted(Cell):
    """An object with a cell's few methods as a ``Cell`` with all of them, but no hand-derived derivative.

    >>> class Sum:
    ...     out_features = 3
    ...     def init(self, key, in_features, dtype="float32"): return ()
    ...     def initial_carry(self, shape=(), dtype="float32"): return jnp.zeros((*shape, 3), dtype)
    ...     def step(self, params, carry, x, noise=None): return carry + x, carry + x
    >>> cell = as_cell(Sum())
    >>> carry, y = cell.step((), cell.initial_carry(), jnp.ones(3))
    >>> y.tolist(), cell.has_derivative
    ([1.0, 1.0, 1.0], False)
    """

    cell: Any

    def __repr__(self) -> str:
        return repr(self.cell)

    @property
    def out_features(self) -> int:
        """Features of the object's output."""
        return self.cell.out_features

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> Params:
        """The object's parameters."""
        return self.cell.init(key, in_features, dtype)

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> Carry:
        """The object's carry."""
        return self.cell.initial_carry(batch_shape, dtype)

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The object's noise, if it has any."""
        draw = getattr(self.cell, "noise", None)
        return None if draw is None else draw(key, time, batch_shape)

    def step(self, params: Params, carry: Carry, x: Array, noise: Noise = None) -> tuple[Carry, Array]:
        """The object's step, which need not know of noise."""
        return self.cell.step(params, carry, x, *(() if noise is None else (noise,)))

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """The object's own check; that of every cell, if it has none."""
        check = super().check if getattr(self.cell, "check", None) is None else self.cell.check
        check(params, carry, x)


def as_cell(cell: Any) -> Cell:
    """A cell as the library takes it: itself if it has all of ``Cell``'s methods, else as an ``Adapted``.

    Raises:
      TypeError: for a class in place of its instance, or an object that lacks ``init``, ``initial_carry``,
        ``out_features`` or ``step``, or cannot be hashed.
    """
    if inspect.isclass(cell):
        raise TypeError(f"expected a cell, got the class {cell.__name__}; make one: {cell.__name__}(...)")
    if type(cell) in (list, tuple):
        raise TypeError(f"expected a cell, got a {type(cell).__name__} of {len(cell)}; use Stack([...])")
    is_one = issubclass(type(cell), Cell)
    missing = [] if is_one else [name for name in NEEDED if not _has(cell, name)]
    if missing:
        raise TypeError(f"{cell!r} is no cell: it has no {', '.join(missing)}")
    try:
        hash(cell)
    except TypeError as error:
        raise TypeError(
            f"a cell must be hashable, and {cell!r} is not ({error}): make {type(cell).__name__} a frozen "
            "dataclass of numbers and strings, and keep arrays in its params"
        ) from error
    return cell if is_one else Adapted(cell)


def _has(cell: Any, name: str) -> bool:
    """Whether there is such an attribute."""
    try:
        return getattr(cell, name) is not None
    except AttributeError:
        return False
