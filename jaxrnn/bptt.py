"""Back-propagation through time from the cells' hand-derived derivatives."""

import functools
from typing import Any

import jax
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.promotion import default_promotion
from jaxrnn.scan import Inputs, Starts, masked_step, masked_step_bwd, scan_steps


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_bptt(
    cell: Cell,
    reverse: bool,
    scan_unroll: int,
    params: Params,
    starts: Starts,
    carry: Carry,
    inputs: Inputs,
) -> tuple[Carry, Array]:
    """``scan_steps`` with the analytic gradient (Werbos 1990).

    Backward in time, the implicit chain gives δ_t at every step; the explicit derivatives follow for all
    steps at once::

        ∂L/∂S_{t-1}, δ_t = step_bwd(∂L/∂S_t, ∂L/∂y_t)        t = T..1
        ∂L/∂W = param_grads(δ_1..δ_T)     ∂L/∂x = input_grads(δ_1..δ_T)

    ``starts`` and the noise are constants: their gradients are zero.
    """
    return scan_steps(cell.step, params, starts, carry, inputs, reverse=reverse, scan_unroll=scan_unroll)


def _forward(
    cell: Cell,
    reverse: bool,
    scan_unroll: int,
    params: Params,
    starts: Starts,
    carry: Carry,
    inputs: Inputs,
) -> tuple[tuple[Carry, Array], tuple[Any, ...]]:
    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, tuple]:
        carry, (y, before, (residuals,)) = masked_step(cell.step_fwd, params, starts, carry, inputs)
        return carry, (y, before, residuals)

    carry, (ys, befores, residuals) = jax.lax.scan(body, carry, inputs, reverse=reverse, unroll=scan_unroll)
    return (carry, ys), (params, inputs, befores, residuals)


def transpose(params: Params) -> Params:
    """The matrices of the parameters transposed, and all else as it is."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, params)


@default_promotion()
def _backward(
    cell: Cell,
    reverse: bool,
    scan_unroll: int,
    saved: tuple[Any, ...],
    cotangents: tuple[Carry, Array],
) -> tuple[Params, None, Carry, Inputs]:
    params, inputs, befores, residuals = saved
    d_carry, d_ys = cotangents
    # A step multiplies by transposed weights. Transposed out here, once, they lie in memory in the order in
    # which it reads them; its own transposition and the one that undoes ours cancel in the compiler.
    transposed = transpose(params)

    def body(d_carry: Carry, step: tuple) -> tuple[Carry, Any]:
        before, step_residuals, step_inputs, d_y = step
        params = transpose(transposed)
        return masked_step_bwd(cell, params, before, step_residuals, step_inputs, d_carry, d_y)

    d_carry, deltas = jax.lax.scan(
        body,
        d_carry,
        (befores, residuals, inputs, d_ys),
        reverse=not reverse,
        unroll=scan_unroll,
    )
    d_params = cell.param_grads(params, inputs.xs, befores, residuals, deltas)
    d_xs = cell.input_grads(params, residuals, deltas).astype(inputs.xs.dtype)
    return d_params, None, d_carry, Inputs(xs=d_xs, noise=None, valid=None, resets=None)


scan_bptt.defvjp(_forward, _backward)
