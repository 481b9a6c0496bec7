"""Reference implementation by Python loops over sequences and steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.caching import by_value
from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.scan import zeros


def loop(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry,
    initial: Carry,
    d_ys: Array,
    d_carry: Carry,
    *,
    lengths: Any = None,
    resets: Any = None,
    noise: Noise = None,
    reverse: bool = False,
) -> tuple[tuple[Carry, np.ndarray], tuple[Params, np.ndarray, Carry]]:
    """Outputs and gradients by Python loops over the steps that a sequence really has.

    No mask, no scan, no batch: what padding, resets and reverse mean is written out here a second time,
    for the unroll to be held against. Only ``jax.vjp`` of a single ``cell.step`` is JAX's.
    """
    time, batch_shape = len(xs), xs.shape[1:-1]
    ys, d_xs = np.zeros((time, *batch_shape, cell.out_features)), np.zeros(xs.shape)
    last, d_first = (jax.tree.map(lambda leaf: np.array(leaf), tree) for tree in (carry, d_carry))
    d_params = zeros(params)
    for index in np.ndindex(batch_shape):
        length = time if lengths is None else int(lengths[index])
        order = list(range(length))[:: -1 if reverse else 1]
        state, before, begins = _at(carry, index), {}, {}
        for t in order:
            edge = t + 1 if reverse else t  # a segment's first position, just crossed on the way to t
            begins[t] = resets is not None and edge < length and bool(resets[(edge, *index)])
            before[t] = _at(initial, index) if begins[t] else state
            state, ys[(t, *index)] = _step(cell, params, before[t], *_inputs(xs, noise, t, index))
        _put(last, index, state)
        d_state = _at(d_carry, index)
        for t in reversed(order):
            arguments = (params, before[t], *_inputs(xs, noise, t, index))
            grads, d_state, d_xs[(t, *index)] = _vjp(cell, *arguments, d_state, d_ys[(t, *index)])
            d_params = jax.tree.map(jnp.add, d_params, grads)
            if begins[t]:
                d_state = zeros(d_state)
        _put(d_first, index, d_state)
    return (last, ys), (d_params, d_xs, d_first)


@functools.partial(by_value, static_argnames=("cell",))
def _step(cell: Cell, params: Params, carry: Carry, x: Array, noise: Noise) -> tuple[Carry, Array]:
    return cell.step(params, carry, x, noise)


@functools.partial(by_value, static_argnames=("cell",))
def _vjp(
    cell: Cell, params: Params, carry: Carry, x: Array, noise: Noise, d_carry: Carry, d_y: Array
) -> tuple[Params, Carry, Array]:
    _, vjp = jax.vjp(lambda params, carry, x: cell.step(params, carry, x, noise), params, carry, x)
    return vjp((d_carry, d_y))


def _at(tree: Any, index: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _put(tree: Any, index: tuple[int, ...], values: Any) -> None:
    for leaf, value in zip(jax.tree.leaves(tree), jax.tree.leaves(values), strict=True):
        leaf[index] = value


def _inputs(xs: Array, noise: Noise, t: int, index: tuple[int, ...]) -> tuple[Array, Noise]:
    return xs[(t, *index)], _at(noise, (t, *index))
