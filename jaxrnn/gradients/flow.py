"""Gradient flow: vanishing and exploding gradients, by lag."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.gradients.problem import (
    MEMORY_LIMIT,
    Problem,
    as_sequences,
    carries_before,
    check_fits,
    make_problem,
    plain_step,
    size,
)
from jaxrnn.promotion import default_promotion
from jaxrnn.scan import Inputs, Starts, select


class Saturation(NamedTuple):
    """Fractions of a gate's values near 0 and near 1, over all real steps, sequences and units."""

    below: Float[Array, ""]  # fraction of values below 0.1
    above: Float[Array, ""]  # fraction of values above 0.9


class Flow(NamedTuple):
    """Gradients by lag: entry k of a leading lag axis is about dS_T/dS_{T-k}, k from 0 to T."""

    singular_values: Float[Array, "lag *batch carry_size"]  # of dS_T/dS_{T-k}, largest first
    gradient_norms: Float[Array, "lag *batch"]  # ‖dL/dS_{T-k}‖, the loss at later steps included
    saturation: dict[str, Saturation]  # by gate
    highway: Any  # (lag, *batch, n): Π f_j over the last k steps; None without f and c
    cell_state_norms: Any  # (lag, *batch): spectral norm of dc_T/dc_{T-k}; None without f and c
    bound: Any  # (lag, *batch): γλ to the power of real steps; None unless h = act(x W_ih + h W_hh + b)


def flow(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    d_ys: Inexact[ArrayLike, "time *batch out_features"] | None = None,
    d_carry: Carry | None = None,
    memory_limit: int = MEMORY_LIMIT,
    **options: Any,
) -> Flow:
    """Norms and spectra of dS_T/dS_k for every lag T − k, saturation of gates, and bounds.

    Products of Jacobians, exactly, not an estimate (Hochreiter 1991; Bengio, Simard & Frasconi 1994;
    Pascanu, Mikolov & Bengio 2013, eqs. 5-7)::

        dS_T/dS_k = Π_{j=k+1..T} ∂S_j/∂S_{j-1}
        ‖dS_T/dS_k‖ ≤ (γλ)^(T−k)     γ: largest slope of the activation, λ: largest singular value of W_hh

    and for the LSTM the highway Π_{j>k} f_j, the part of dc_T/dc_k that passes through no weight. A
    padded step counts as a lag and changes nothing, the bound included; a reset ends everything.

    Args:
      cell: any ``Cell``; ``gates`` adds the saturation, ``largest_slope`` the bound.
      params: its parameters.
      xs: inputs, as in ``unroll``.
      carry: carry before the first step.
      d_ys: dL/dy of every step; by default zero.
      d_carry: dL/dS_T; by default zero.
      memory_limit: bytes that the Jacobians may take.
      **options: ``lengths``, ``resets``, ``noise``, ``reverse``, as in ``unroll``.

    Returns:
      a ``Flow``; ``singular_values[:, ..., 0]`` are the norms.

    Raises:
      ValueError: as ``unroll``; if neither d_ys nor d_carry is given; if the Jacobians would not fit.

    >>> from jaxrnn import Elman, ElmanCarry
    >>> cell = Elman(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> measured = flow(cell, params, xs, d_carry=ElmanCarry(jnp.ones((2, 4))))
    >>> norms = measured.singular_values[..., 0]  # (lag, batch)
    >>> bool(jnp.all(norms <= measured.bound * 1.0001))
    True
    """
    cell = as_cell(cell)
    problem = make_problem(cell, params, xs, carry, d_ys, d_carry, **options)
    batch = math.prod(problem.inputs.xs.shape[1:-1])
    width = size(problem.carry) // max(batch, 1)
    check_fits(
        f"{len(problem.d_ys)} Jacobians of {batch} carries with {width} numbers",
        len(problem.d_ys) * batch * width**2,
        jnp.result_type(*jax.tree.leaves(problem.carry)),
        "use a shorter sequence, a smaller batch or a smaller hidden size",
        memory_limit,
    )
    return _flow(cell, params, problem)


@functools.partial(by_value, static_argnames=("cell",))
def _flow(cell: Cell, params: Params, problem: Problem) -> Flow:
    batched = problem
    problem, with_batch = as_sequences(problem)
    befores, _ = carries_before(cell, params, problem)
    highway, saturation = _gates(cell, params, batched)

    def of_sequence(starts: Starts, d_last: Carry, befores: Carry, inputs: Any, d_ys: Array) -> tuple:
        state, unravel = ravel_pytree(starts.initial)
        wide = _wide(state.dtype)
        in_c = _fields(unravel(jnp.arange(state.size, dtype=state.dtype))).get("c")

        def step(state: Array, inputs: Any) -> tuple[Array, Array]:
            after, y = plain_step(cell, params, starts, unravel(state), inputs)
            return ravel_pytree(after)[0], y

        def body(run: tuple[Array, Array], at_t: tuple) -> tuple[tuple[Array, Array], tuple]:
            product, gradient = run  # dS_T/dS_t (s, s), dL/dS_t (s,)
            before, inputs, d_y = at_t
            before = ravel_pytree(before)[0]
            through_carry, through_y = jax.jacrev(step)(before, inputs)
            gradient = gradient @ through_carry + jnp.tensordot(d_y, through_y, d_y.ndim)
            product = product @ through_carry
            return (product, gradient), measure(product, gradient)

        def measure(product: Array, gradient: Array) -> tuple[Array, Array, Array | None]:
            c = None if in_c is None else in_c.astype(int)
            block = None if c is None else jnp.linalg.norm(product[c][:, c], ord=2)
            return jnp.linalg.svd(product, compute_uv=False), jnp.linalg.norm(gradient), block

        start = (jnp.eye(state.size, dtype=wide), ravel_pytree(d_last)[0].astype(wide))
        _, measured = jax.lax.scan(body, start, (befores, inputs, d_ys), reverse=True)
        by_lag = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), measured)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), measure(*start), by_lag)

    arguments = (problem.starts, problem.d_carry, befores, problem.inputs, problem.d_ys)
    measured = jax.vmap(of_sequence, in_axes=(0, 0, 1, 1, 1))(*arguments)
    spectra, norms, cell_state = jax.tree.map(
        lambda leaf: jnp.moveaxis(with_batch(leaf), batched.inputs.xs.ndim - 2, 0), measured
    )
    bound = _bound(cell, params, batched.inputs)
    return Flow(spectra, norms, saturation, highway, None if highway is None else cell_state, bound)


def _bound(cell: Cell, params: Params, inputs: Inputs) -> Array | None:
    """γλ to the power of the real steps among the last k, for k from 0 to T, where it is known."""
    if cell.largest_slope is None:
        return None
    w_hh = params.w_hh.astype(_wide(params.w_hh.dtype))
    real = jnp.cumsum(jnp.flip(_valid(inputs), 0), axis=0)
    return (cell.largest_slope * jnp.linalg.norm(w_hh, ord=2)) ** _after_lag_0(real, 0)


@default_promotion()
def _gates(cell: Cell, params: Params, problem: Problem) -> tuple[Array | None, dict[str, Saturation]]:
    """Π f over the last k steps for k from 0 to T, where there is a cell state; and the saturation."""
    befores, _ = carries_before(cell, params, problem)
    inputs = problem.inputs
    if inputs.resets is not None:
        befores = jax.vmap(lambda mask, carry: select(mask, problem.starts.initial, carry))(
            inputs.resets, befores
        )
    gates = jax.vmap(cell.gates, in_axes=(None, 0, 0, 0))(params, befores, inputs.xs, inputs.noise)
    valid = _valid(inputs)
    saturation = {}
    for name, values in gates.items():
        counted = jnp.broadcast_to(valid[..., None], values.shape)
        fractions = [
            jnp.sum(beyond & counted) / jnp.sum(counted) for beyond in (values < 0.1, values > 0.9)
        ]
        saturation[name] = Saturation(*fractions)
    if "f" not in gates or "c" not in _fields(befores):
        return None, saturation
    factors = jnp.where(valid[..., None], gates["f"], 1)
    if inputs.resets is not None:
        factors = jnp.where(inputs.resets[..., None], 0, factors)
    return _after_lag_0(jnp.cumprod(jnp.flip(factors, 0), axis=0), 1), saturation


def _valid(inputs: Inputs) -> Array:
    return jnp.ones(inputs.xs.shape[:-1], bool) if inputs.valid is None else inputs.valid


def _after_lag_0(by_lag: Array, value: int) -> Array:
    """Lags 1 to T, with ``value`` before them for lag 0."""
    return jnp.concatenate([jnp.full_like(by_lag, value, shape=(1, *by_lag.shape[1:])), by_lag])


def _wide(dtype: Any) -> Any:
    """The dtype, or float32 where it is narrower: there are no singular values in bfloat16."""
    return jnp.promote_types(dtype, jnp.float32)


def _fields(carry: Carry) -> dict[str, Array]:
    return carry._asdict() if hasattr(carry, "_asdict") else {}
