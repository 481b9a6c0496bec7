"""Contribution of every step to the gradient, and the error of truncation."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.checks import check_positive
from jaxrnn.gradients.problem import (
    MEMORY_LIMIT,
    Problem,
    carries_before,
    check_fits,
    loss,
    make_problem,
    plain_step,
    size,
)
from jaxrnn.scan import Inputs, select, zeros


def explicit_terms(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    d_ys: Inexact[ArrayLike, "time *batch out_features"] | None = None,
    d_carry: Carry | None = None,
    memory_limit: int = MEMORY_LIMIT,
    **options: Any,
) -> Params:
    """The textbook sum over steps, each term by itself: what step k contributes to dL/dW.

    For L = Σ⟨d_carry, S_T⟩ + Σ⟨d_ys, ys⟩, with d† the derivative that holds S_{k-1} constant (Pascanu,
    Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", eqs. 3-5)::

        dS_T/dW = Σ_k dS_T/dS_k · d†S_k/dW        dS_T/dS_k = Π_{j=k+1..T} ∂S_j/∂S_{j-1}

    The factor dL/dS_k goes backward through the steps, so that all terms take one pass: time ∝ T, memory
    T times the parameters. Their sum is the gradient of back-propagation through time.

    Args:
      cell: any ``Cell``; a hand-derived derivative is not needed.
      params: its parameters.
      xs: inputs, as in ``unroll``.
      carry: carry before the first step.
      d_ys: dL/dy of every step; by default zero.
      d_carry: dL/dS_T; by default zero.
      memory_limit: bytes that the terms may take.
      **options: ``lengths``, ``resets``, ``noise``, ``reverse``, as in ``unroll``.

    Returns:
      a pytree like params, every leaf ``(time, *shape)``: entry k is the term of the step at position k,
      summed over the batch.

    Raises:
      ValueError: as ``unroll``; if neither d_ys nor d_carry is given; or if the terms would not fit.

    >>> from jaxrnn import LSTM, LSTMCarry
    >>> cell = LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> one = jnp.ones((2, 4))
    >>> explicit_terms(cell, params, xs, d_carry=LSTMCarry(one, one)).w_hh.shape
    (6, 4, 16)
    """
    cell = as_cell(cell)
    problem = make_problem(cell, params, xs, carry, d_ys, d_carry, **options)
    check_fits(
        f"the terms of {len(problem.d_ys)} steps",
        len(problem.d_ys) * size(params),
        jnp.result_type(*jax.tree.leaves(params)),
        "use a shorter sequence, or jax.grad of unroll for their sum",
        memory_limit,
    )
    terms = _explicit_terms(cell, params, problem)
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), terms) if options.get("reverse") else terms


@functools.partial(by_value, static_argnames=("cell",))
def _explicit_terms(cell: Cell, params: Params, problem: Problem) -> Params:
    befores, _ = carries_before(cell, params, problem)

    def body(d_after: Carry, at_t: tuple[Carry, Inputs, Array]) -> tuple[Carry, Params]:
        before, inputs, d_y = at_t
        _, vjp = jax.vjp(lambda p, s: plain_step(cell, p, problem.starts, s, inputs), params, before)
        term, d_before = vjp((d_after, d_y))
        return d_before, term

    at_steps = (befores, problem.inputs, problem.d_ys)
    return jax.lax.scan(body, problem.d_carry, at_steps, reverse=True)[1]


class Truncated(NamedTuple):
    """A truncated gradient beside the full one."""

    gradient: Params
    angle: Float[Array, ""]  # between the two, in degrees; all parameters as one vector
    norm_ratio: Float[Array, ""]  # ‖truncated‖ / ‖full‖


def truncated(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    steps: int,
    d_ys: Inexact[ArrayLike, "time *batch out_features"] | None = None,
    d_carry: Carry | None = None,
    memory_limit: int = MEMORY_LIMIT,
    **options: Any,
) -> Truncated:
    """The gradient when every loss is followed back through ``steps`` steps only: BPTT(h).

    Williams & Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories". For L = Σ_t ℓ_t, where ℓ_t = ⟨d_ys_t, y_t⟩ and ⟨d_carry, S_T⟩ counts as a loss
    of the last step::

        Σ_t Σ_{k=t-h+1..t} dℓ_t/dS_k · d†S_k/dW

    With h = 1 nothing passes through the recurrence; with h = T the gradient is the full one. Padding
    does not count as a step. Time is h·T, memory h carries.

    Args:
      cell: any ``Cell``.
      params: its parameters.
      xs: inputs, as in ``unroll``.
      carry: carry before the first step.
      steps: h, the number of steps that each loss reaches back through, its own included.
      d_ys: dL/dy of every step; by default zero.
      d_carry: dL/dS_T; by default zero.
      memory_limit: bytes that the carries may take.
      **options: ``lengths``, ``resets``, ``noise``, ``reverse``, as in ``unroll``.

    Returns:
      the gradient, its angle to the full one in degrees (nan if one of them is zero), and the ratio of
      their norms.

    Raises:
      ValueError: as ``explicit_terms``, and for fewer than one step.

    >>> from jaxrnn import Elman
    >>> cell = Elman(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> short, full = (truncated(cell, params, xs, steps=h, d_ys=jnp.ones((6, 2, 4))) for h in (1, 6))
    >>> bool(short.angle > 5), bool(full.angle < 0.1)
    (True, True)
    """
    check_positive("steps", steps)
    cell = as_cell(cell)
    problem = make_problem(cell, params, xs, carry, d_ys, d_carry, **options)
    steps = min(steps, len(problem.d_ys))
    check_fits(
        f"{steps} gradients of the carry",
        steps * size(problem.carry),
        jnp.result_type(*jax.tree.leaves(problem.carry)),
        "use fewer steps or a smaller batch",
        memory_limit,
    )
    return _truncated(cell, params, problem, steps=max(steps, 1))


@functools.partial(by_value, static_argnames=("cell", "steps"))
def _truncated(cell: Cell, params: Params, problem: Problem, *, steps: int) -> Truncated:
    full = jax.grad(loss, argnums=1)(cell, params, problem)
    gradient = _run_back(cell, params, problem, steps)
    return Truncated(gradient, *_angle_and_ratio(gradient, full))


def _run_back(cell: Cell, params: Params, problem: Problem, ages: int) -> Params:
    """The reverse recursion with dL/dS_t kept apart by how many steps ahead its losses lie."""
    befores, _ = carries_before(cell, params, problem)

    def newest(leaf: Array) -> Array:
        return jnp.zeros((ages, *leaf.shape), leaf.dtype).at[0].set(leaf)

    def body(run: tuple[Carry, Params], at_t: tuple) -> tuple[tuple[Carry, Params], None]:
        d_after, gradient = run  # leaves (ages, *batch, ...)
        before, inputs, d_y = at_t
        _, vjp = jax.vjp(lambda p, s: plain_step(cell, p, problem.starts, s, inputs), params, before)
        term, _ = vjp((jax.tree.map(lambda leaf: leaf.sum(0), d_after), d_y))
        d_before = jax.vmap(lambda *cotangents: vjp(cotangents)[1])(d_after, newest(d_y))
        older = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0).at[0].set(0), d_before)
        if inputs.valid is not None:
            older = jax.vmap(lambda a, b: select(inputs.valid, a, b))(older, d_before)
        return (older, jax.tree.map(jnp.add, gradient, term)), None

    start = (jax.tree.map(newest, problem.d_carry), zeros(params))
    at_steps = (befores, problem.inputs, problem.d_ys)
    return jax.lax.scan(body, start, at_steps, reverse=True)[0][1]


def _angle_and_ratio(a: Params, b: Params) -> tuple[Array, Array]:
    """The angle between two pytrees in degrees, and ‖a‖ / ‖b‖."""
    a, b = ravel_pytree(a)[0], ravel_pytree(b)[0]
    norm_a, norm_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    unit_a, unit_b = a / norm_a, b / norm_b
    # Kahan's formula: an arc cosine would lose half the digits of small angles.
    half = jnp.arctan2(jnp.linalg.norm(unit_a - unit_b), jnp.linalg.norm(unit_a + unit_b))
    return jnp.rad2deg(2 * half), norm_a / norm_b
