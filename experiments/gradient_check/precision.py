"""Errors of gradients by precision and length of the computation, and by the step of a difference."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from experiments.gradient_check.agreement import LENGTHS, inner, problem, study_cell
from jaxrnn.cells.cell import Cell
from jaxrnn.cells.table import CELLS
from jaxrnn.gradients import complex_step, finite_difference, random_directions

STEPS = [10.0**-k for k in range(1, 16)]  # of the differences


def error_growth(name: str, lengths: tuple[int, ...], seed: int) -> dict[str, list[float]]:
    """Largest relative error of a gradient in float32 and with a bfloat16 step, against float64, by length.

    The parameters are those that training starts from; the loss is the mean over steps of ⟨w_t, y_t⟩.
    """
    batch, units = 4, 16
    cell: Any = CELLS[name](units)

    @functools.partial(jax.jit, static_argnames=("cell", "backward"))
    def gradient(cell: Cell, params: Any, xs: Any, weights: Any, backward: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            _, ys = jaxrnn.unroll(cell, params, xs, backward=backward)
            return jnp.sum(ys.astype(xs.dtype) * weights) / len(xs)

        return jax.grad(loss)(params)

    random = np.random.default_rng(seed)
    xs, weights = random.standard_normal((2, max(lengths), batch, units), np.float32)
    params = cell.init(jax.random.key(seed), units, "float32")
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    errors: dict[str, list[float]] = {"length": list(map(float, lengths))}
    for length in lengths:
        x, weight = xs[:length], weights[:length]
        expected = gradient(cell, exact, x.astype("float64"), weight.astype("float64"), "autodiff")
        for precision in ("float32", "bfloat16"):
            rounded: Any = replace(cell, dtype=None if precision == "float32" else precision)
            for backward in ("autodiff", "bptt"):
                actual = gradient(rounded, params, x, weight, backward)
                pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
                error = np.max([jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)) for a, b in pairs])
                errors.setdefault(f"{precision} {backward}", []).append(float(error))
    return errors


def step_sizes(name: str, steps: list[float], seed: int) -> dict[str, list[float]]:
    """Largest relative error of derivatives along random directions, by the length of the step."""
    cell = study_cell(name)
    arguments = problem(cell, seed)
    along = random_directions(jax.random.key(seed), arguments, 8)

    def value(arguments: Any) -> jax.Array:
        outputs = jaxrnn.unroll(cell, *arguments, lengths=LENGTHS)
        return sum((jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs)), jnp.zeros(()))

    gradient = jax.jit(jax.grad(value))(arguments)
    expected = jax.vmap(lambda direction: inner(gradient, direction))(along)
    errors = {}
    for method in (finite_difference, complex_step):
        found = jax.jit(
            lambda steps, method=method: jax.lax.map(
                lambda step: method(value, arguments, directions=along, step=step), steps
            )
        )(jnp.asarray(steps))
        errors[method.__name__] = (jnp.abs(found - expected).max(1) / jnp.abs(expected).max()).tolist()
    return errors
