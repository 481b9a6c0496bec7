"""Several cells as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Deltas, DType, Noise, Params, Residuals
from jaxrnn.checks import check_count
from jaxrnn.promotion import default_promotion


@dataclass(frozen=True)
class Stack(Cell):
    """Cells on top of each other, stepped together: the deep RNN of Graves (2013), "Generating
    sequences with recurrent neural networks", without skip connections.

    Equations, for layers l = 1..L and x = y⁰::

        Sˡ_t, yˡ_t = cellˡ(paramsˡ, Sˡ_{t-1}, yˡ⁻¹_t)          y_t = yᴸ_t

    Derivative, from the top layer down::

        ∂L/∂yˡ⁻¹_t = the input gradient of layer l

    For whole sequences, an ``unroll`` per layer is as exact and faster; Stack is for where one step at a
    time is needed: decoders, streaming. Params, carry, noise, residuals and deltas are tuples with one
    entry per layer.

    Args:
      cells: the layers, bottom first; a list becomes a tuple.

    Raises:
      ValueError: without cells.

    >>> from jaxrnn.cells.lstm import LSTM
    >>> stack = Stack([LSTM(4), LSTM(5)])
    >>> params = stack.init(jax.random.key(0), in_features=3)
    >>> carry, y = stack.step(params, stack.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 5)
    """

    cells: Sequence[Cell]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        if not self.cells:
            raise ValueError("Stack needs at least one cell, got none")

    @property
    def out_features(self) -> int:
        """Features of the top layer's output."""
        return self.cells[-1].out_features

    @property
    def has_derivative(self) -> bool:
        """Whether every layer carries its hand-derived derivative."""
        return super().has_derivative and all(cell.has_derivative for cell in self.cells)

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> tuple[Params, ...]:
        """The layers' own parameters, each layer fed by the one below."""
        keys = jax.random.split(key, len(self.cells))
        in_sizes = [in_features] + [cell.out_features for cell in self.cells[:-1]]
        layers = zip(self.cells, keys, in_sizes, strict=True)
        return tuple(cell.init(k, size, dtype) for cell, k, size in layers)

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> tuple[Carry, ...]:
        """The layers' own initial carries."""
        return tuple(cell.initial_carry(batch_shape, dtype) for cell in self.cells)

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """Each layer's own checks, on what it is given by the one below."""
        check_count("params of a Stack", params, len(self.cells), "layer")
        check_count("carry of a Stack", carry, len(self.cells), "layer")
        for cell, layer_params, layer_carry in zip(self.cells, params, carry, strict=True):
            cell.check(layer_params, layer_carry, x)
            x = jax.ShapeDtypeStruct((*x.shape[:-1], cell.out_features), x.dtype)

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The layers' own noise, each from a key of its own; None where no layer uses any."""
        keys = jax.random.split(key, len(self.cells))
        noises = tuple(cell.noise(k, time, batch_shape) for cell, k in zip(self.cells, keys, strict=True))
        return noises if jax.tree.leaves(noises) else None

    def step_fwd(
        self, params: tuple[Params, ...], carry: tuple[Carry, ...], x: Array, noise: Noise = None
    ) -> tuple[tuple[Carry, ...], Array, Residuals]:
        """One step of every layer; the residuals are each layer's input and residuals."""
        noises = self._noises(noise)
        after, residuals = [], []
        y = x
        for layer, cell in enumerate(self.cells):
            x = y
            layer_carry, y, layer_residuals = cell.step_fwd(params[layer], carry[layer], x, noises[layer])
            after.append(layer_carry)
            residuals.append((x, layer_residuals))
        return tuple(after), y, tuple(residuals)

    @default_promotion()
    def step(
        self, params: tuple[Params, ...], carry: tuple[Carry, ...], x: Array, noise: Noise = None
    ) -> tuple[tuple[Carry, ...], Array]:
        """One step of every layer.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        self.check(params, carry, x)
        noises = self._noises(noise)
        after = []
        for layer, cell in enumerate(self.cells):
            layer_carry, x = cell.step(params[layer], carry[layer], x, noises[layer])
            after.append(layer_carry)
        return tuple(after), x

    def gates(
        self, params: tuple[Params, ...], carry: tuple[Carry, ...], x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The gates of every layer, named ``0.f`` and so on by the layer that they are of."""
        found: dict[str, Array] = {}
        noises = self._noises(noise)
        for layer, cell in enumerate(self.cells):
            given = params[layer], carry[layer], x, noises[layer]
            found |= {f"{layer}.{name}": gate for name, gate in cell.gates(*given).items()}
            _, x = cell.step(*given)
        return found

    def step_bwd(
        self,
        params: tuple[Params, ...],
        carry_before: tuple[Carry, ...],
        residuals: Residuals,
        d_carry: tuple[Carry, ...],
        d_y: Array,
    ) -> tuple[tuple[Carry, ...], Deltas]:
        """From the top layer down: dL/dS_{t-1} and δ_t of every layer."""
        d_before: list[Any] = [None] * len(self.cells)
        deltas: list[Any] = [None] * len(self.cells)
        for layer, cell in reversed(list(enumerate(self.cells))):
            _, layer_residuals = residuals[layer]
            d_before[layer], deltas[layer] = cell.step_bwd(
                params[layer], carry_before[layer], layer_residuals, d_carry[layer], d_y
            )
            if layer > 0:
                d_y = cell.input_grads(params[layer], layer_residuals, deltas[layer])
        return tuple(d_before), tuple(deltas)

    def input_grads(self, params: tuple[Params, ...], residuals: Residuals, deltas: Deltas) -> Array:
        """The bottom layer's input gradient."""
        _, bottom = residuals[0]
        return self.cells[0].input_grads(params[0], bottom, deltas[0])

    def param_grads(
        self,
        params: tuple[Params, ...],
        xs: Array,
        carries_before: tuple[Carry, ...],
        residuals: Residuals,
        deltas: Deltas,
    ) -> tuple[Params, ...]:
        """The layers' own parameter gradients."""
        grads = []
        for layer, cell in enumerate(self.cells):
            layer_xs, layer_residuals = residuals[layer]
            grads.append(
                cell.param_grads(
                    params[layer], layer_xs, carries_before[layer], layer_residuals, deltas[layer]
                )
            )
        return tuple(grads)

    def _noises(self, noise: Noise) -> Any:
        """The noise of every layer."""
        if noise is None:
            return (None,) * len(self.cells)
        check_count("noise of a Stack", noise, len(self.cells), "layer")
        return noise
