"""Layers on top of each other, each run through the whole sequence, and dropout between them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import Carry


def run_layers(
    run: Callable[[int, Array, Any], tuple[Carry, Array]],
    count: int,
    xs: Array,
    carry: Sequence[Carry] | None = None,
) -> tuple[tuple[Carry, ...], Array]:
    """Layer after layer over a sequence, each fed with all outputs of the one below.

    Args:
      run: runs a layer: from its index, bottom first, its inputs and its carry before the first step, or
        None for the initial one, to the carry after the last step and the outputs.
      count: number of layers.
      xs: inputs of the bottom layer.
      carry: carries before the first step, one a layer.

    Returns:
      the last carries, one a layer, and the outputs of the top layer.

    >>> from jaxrnn import GRU, unroll
    >>> cells = [GRU(4), GRU(5)]
    >>> params = [cells[0].init(jax.random.key(0), 3), cells[1].init(jax.random.key(1), 4)]
    >>> run = lambda layer, xs, carry: unroll(cells[layer], params[layer], xs, carry)
    >>> carry, ys = run_layers(run, 2, jnp.ones((6, 2, 3)))
    >>> [layer.h.shape for layer in carry], ys.shape
    ([(2, 4), (2, 5)], (6, 2, 5))
    """
    after, ys = [], xs
    for layer in range(count):
        layer_carry, ys = run(layer, ys, None if carry is None else carry[layer])
        after.append(layer_carry)
    return tuple(after), ys


def dropout(key: Key[Array, ""], ys: Array, rate: float, *, variational: bool = False) -> Array:
    """Inverted dropout: features kept with probability 1 − rate, and scaled by its inverse.

    Args:
      key: of the draws.
      ys: ``(time, *batch, features)``.
      rate: probability that a feature is dropped.
      variational: one draw for all steps of a sequence (Gal & Ghahramani 2016), not one a step.

    >>> ys = dropout(jax.random.key(0), jnp.ones((3, 2, 100)), 0.5, variational=True)
    >>> bool(jnp.all(ys == ys[0])), sorted(set(ys.ravel().tolist()))
    (True, [0.0, 2.0])
    """
    if rate == 0:
        return ys
    kept = jax.random.bernoulli(key, 1 - rate, (1, *ys.shape[1:]) if variational else ys.shape)
    return jnp.where(kept, ys / (1 - rate), 0)
