"""Real-time recurrent learning: the exact gradient, forward in time."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.gradients.problem import (
    MEMORY_LIMIT,
    Problem,
    as_sequences,
    check_fits,
    make_problem,
    plain_step,
    size,
)
from jaxrnn.scan import Starts


def rtrl(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    d_ys: Inexact[ArrayLike, "time *batch out_features"] | None = None,
    d_carry: Carry | None = None,
    memory_limit: int = MEMORY_LIMIT,
    **options: Any,
) -> tuple[Params, Carry]:
    """The gradient of L = Σ⟨d_ys, ys⟩ + Σ⟨d_carry, S_T⟩ by real-time recurrent learning.

    Williams & Zipser (1989), "A learning algorithm for continually running fully recurrent neural
    networks", for any cell. With θ the parameters and the initial carry, the influence M_t = ∂S_t/∂θ is
    carried forward, and nothing is kept of the past::

        M_t   = ∂S_t/∂S_{t-1} · M_{t-1} + ∂†S_t/∂θ            M_0 = [0 1]
        dL/dθ = Σ_t d_y_t · (∂y_t/∂S_{t-1} · M_{t-1} + ∂†y_t/∂θ) + d_S_T · M_T

    With s numbers in the carry and p parameters, each step of each sequence costs s·(s·p) operations
    and the memory is s·(p + s) numbers a sequence, however long it is. Gradients of the inputs are not
    given: their influence would grow with time.

    Args:
      cell: any ``Cell``; a hand-derived derivative is not needed.
      params: its parameters.
      xs: inputs, as in ``unroll``.
      carry: carry before the first step.
      d_ys: dL/dy of every step; by default zero.
      d_carry: dL/dS_T; by default zero.
      memory_limit: bytes that the influence may take.
      **options: ``lengths``, ``resets``, ``noise`` (every leaf ``(time, *batch, ...)``), ``reverse``, as
        in ``unroll``.

    Returns:
      the gradients of params and of the carry before the first step.

    Raises:
      ValueError: as ``unroll``; if neither d_ys nor d_carry is given; or if the influence would not fit.

    >>> from jaxrnn import GRU, unroll
    >>> cell = GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> d_params, _ = rtrl(cell, params, xs, d_ys=jnp.ones((6, 2, 4)))
    >>> expected = jax.grad(lambda params: unroll(cell, params, xs)[1].sum())(params)
    >>> bool(jnp.allclose(d_params.w_hh, expected.w_hh, atol=1e-5))
    True
    """
    cell = as_cell(cell)
    problem = make_problem(cell, params, xs, carry, d_ys, d_carry, **options)
    width = size(problem.carry) // max(math.prod(problem.inputs.xs.shape[1:-1]), 1)
    entries = size(problem.carry) * (size(params) + width)
    check_fits(
        "the influence matrix of RTRL",
        entries,
        jnp.result_type(*jax.tree.leaves((params, problem.carry))),
        "use a smaller hidden size or batch, or reverse mode (jax.grad of unroll)",
        memory_limit,
    )
    return _rtrl(cell, params, problem)


@functools.partial(by_value, static_argnames=("cell",))
def _rtrl(cell: Cell, params: Params, problem: Problem) -> tuple[Params, Carry]:
    problem, with_batch = as_sequences(problem)
    theta, unravel_theta = ravel_pytree(params)

    def of_sequence(starts: Starts, carry: Carry, inputs: Any, d_ys: Array, d_last: Carry) -> Any:
        state, unravel_state = ravel_pytree(carry)
        dtype = jnp.result_type(theta, state)

        def step(theta: Array, state: Array, at_t: tuple) -> tuple[Array, Array]:
            """(S_t, ⟨d_y_t, y_t⟩) as one vector, and S_t."""
            inputs, d_y = at_t
            after, y = plain_step(cell, unravel_theta(theta), starts, unravel_state(state), inputs)
            after = ravel_pytree(after)[0]
            return jnp.append(after, jnp.vdot(d_y, y)), after

        def body(run: tuple[Array, Array, Array], at_t: tuple) -> tuple[tuple[Array, Array, Array], None]:
            state, influence, gradient = run  # (s,), (s, p + s), (p + s,)
            jacobians, after = jax.jacrev(step, argnums=(0, 1), has_aux=True)(theta, state, at_t)
            explicit, implicit = jacobians  # (s + 1, p), (s + 1, s)
            rows = implicit @ influence + jnp.pad(explicit, ((0, 0), (0, state.size)))
            return (after, rows[:-1], gradient + rows[-1]), None

        influence = jnp.eye(state.size, theta.size + state.size, theta.size, dtype=dtype)
        start = (state, influence, jnp.zeros(theta.size + state.size, dtype))
        (_, influence, gradient), _ = jax.lax.scan(body, start, (inputs, d_ys))
        gradient = gradient + ravel_pytree(d_last)[0] @ influence
        return gradient[: theta.size], unravel_state(gradient[theta.size :].astype(state.dtype))

    d_theta, d_carry = jax.vmap(of_sequence, in_axes=(0, 0, 1, 1, 0))(*problem)
    return unravel_theta(d_theta.sum(0).astype(theta.dtype)), with_batch(d_carry)
