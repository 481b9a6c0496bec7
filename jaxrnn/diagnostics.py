"""What goes on inside recurrent layers: h, c and every gate at every step; which inputs moved an output."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.checks import check_positive
from jaxrnn.recurrence import checked_arguments
from jaxrnn.scan import prepare, scan_steps


class Signals(NamedTuple):
    """What a cell held at every step; zero at padding."""

    carry: Carry  # after the step, h and c of an LSTM: every leaf (time, *batch, ...)
    gates: dict[str, Array]  # of the step, by name, each (time, *batch, units); empty without gates


def record(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    lengths: Int[ArrayLike, "*batch"] | None = None,
    resets: Bool[ArrayLike, "time *batch"] | None = None,
    noise: Noise = None,
    reverse: bool = False,
) -> tuple[Carry, Inexact[Array, "time *batch out_features"], Signals]:
    """``unroll``, and what the cell held at every step.

    A long sequence is recorded in chunks, each with the carry of the one before.

    Args:
      cell: any ``Cell``; ``gates`` gives the values of its gates.
      params: its parameters.
      xs: inputs, as in ``unroll``; so are all others.
      carry: carry before the first step.
      lengths: steps of each sequence.
      resets: True at the first position of a segment.
      noise: of the cell.
      reverse: run from the last step to the first; everything stays at its position.

    Returns:
      the carry after the last step, ys, and the signals.

    Raises:
      ValueError: as ``unroll``.

    >>> from jaxrnn import LSTM
    >>> cell = LSTM(4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, ys, signals = record(cell, params, jnp.ones((5, 2, 3)))
    >>> signals.carry.c.shape, {name: gate.shape for name, gate in signals.gates.items()}
    ((5, 2, 4), {'f': (5, 2, 4), 'i': (5, 2, 4), 'o': (5, 2, 4)})
    """
    cell = as_cell(cell)
    xs, lengths, resets = checked_arguments(cell, params, xs, carry, lengths, resets, noise)
    return _record(cell, params, xs, carry, lengths, resets, noise, reverse=reverse)


@functools.partial(by_value, static_argnames=("cell", "reverse"))
def _record(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    noise: Noise,
    *,
    reverse: bool,
) -> tuple[Carry, Array, Signals]:
    params, starts, carry, inputs = prepare(
        cell, params, xs, carry, lengths, resets, noise, reverse=reverse
    )

    def step(params: Params, carry: Carry, x: Array, noise: Noise) -> tuple[Carry, Any]:
        after, y = cell.step(params, carry, x, noise)
        return after, (y, Signals(after, cell.gates(params, carry, x, noise)))

    carry, (ys, signals) = scan_steps(step, params, starts, carry, inputs, reverse=reverse)
    return carry, ys, signals


def by_layer(signals: Signals) -> tuple[Signals, ...]:
    """The signals of a ``Stack`` as those of its layers, bottom first.

    >>> from jaxrnn import GRU, Stack
    >>> stack = Stack([GRU(4), GRU(5)])
    >>> _, _, signals = record(stack, stack.init(jax.random.key(0), in_features=3), jnp.ones((6, 3)))
    >>> [layer.gates["z"].shape for layer in by_layer(signals)]
    [(6, 4), (6, 5)]
    """
    gates: list[dict[str, Array]] = [{} for _ in signals.carry]
    for name, gate in signals.gates.items():
        layer, _, own = name.partition(".")
        gates[int(layer)][own] = gate
    return tuple(map(Signals, signals.carry, gates))


def integrated_gradients(
    output: Callable[[Array], Array],
    xs: Inexact[Array, "*shape"],
    start: Inexact[Array, "*shape"],
    *,
    points: int = 64,
) -> Inexact[Array, "*shape"]:
    """How much every input moved an output, on the straight way from inputs that say nothing.

    Equation, with the integral by Gauss–Legendre quadrature::

        a = (x − x′) ⊙ ∫₀¹ ∇F(x′ + α (x − x′)) dα          Σ a = F(x) − F(x′)

    Source: Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks" (eq. 1).

    Args:
      output: F, from inputs to a number.
      xs: x.
      start: x′, zeros say.
      points: of the quadrature, each of which costs a gradient; exact where F is a polynomial of degree
        2 · points.

    Returns:
      a, one number an input.

    Raises:
      ValueError: for fewer points than one.

    >>> xs = jnp.array([1.0, 2.0])
    >>> integrated_gradients(lambda x: x[0] * x[1], xs, jnp.zeros(2)).round(4).tolist()
    [1.0, 1.0]
    """
    check_positive("points", points)
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [−1, 1]
    gradient = jax.grad(output)

    def at(place: tuple[Array, Array]) -> Array:
        alpha, weight = place
        return weight * gradient(start + alpha * (xs - start))

    places = (jnp.asarray((nodes + 1) / 2, xs.dtype), jnp.asarray(weights / 2, xs.dtype))
    return (xs - start) * jnp.sum(jax.lax.map(at, places), axis=0)
