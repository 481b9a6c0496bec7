"""Checks that a cell keeps the contract, from structures, shapes and dtypes alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.checks import check_like


def check_contract(cell: Cell, params: Params, carry: Carry, x: Array, noise: Noise) -> None:
    """Raise ValueError, naming the method and the leaf, unless the results of all methods of a cell keep
    the contract; ``x`` and ``noise`` are those of one step.
    """
    after, y = _shapes(cell, "step", params, carry, x, noise)
    check_like(f"{cell}.step: carry", carry, after, same_dtype=True)
    expected_y = jax.ShapeDtypeStruct((*x.shape[:-1], cell.out_features), y.dtype)
    check_like(f"{cell}.step: y", expected_y, y)
    if not cell.has_derivative:
        return
    after, y, residuals = _shapes(cell, "step_fwd", params, carry, x, noise)
    check_like(f"{cell}.step_fwd: carry", carry, after, same_dtype=True)
    check_like(f"{cell}.step_fwd: y", expected_y, y)
    d_carry, delta = _shapes(cell, "step_bwd", params, carry, residuals, carry, y)
    check_like(f"{cell}.step_bwd: d_carry", carry, d_carry, same_dtype=True)
    d_x = _shapes(cell, "input_grads", params, residuals, delta)
    check_like(f"{cell}.input_grads: d_xs", x, d_x)
    d_params = _shapes(cell, "param_grads", params, x, carry, residuals, delta)
    check_like(f"{cell}.param_grads: d_params", params, d_params, same_dtype=True)


def check_real(cell: Cell, params: Params) -> None:
    """Raise ValueError, naming it, for a parameter that is not real floating-point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = "params" + jax.tree_util.keystr(path)
            raise ValueError(
                f"{cell}: {name} is {jnp.result_type(leaf)}, and no method differentiates what is not "
                f"real floating-point; keep it in the cell's configuration"
            )


def check_float64(**trees: Any) -> None:
    """Raise ValueError, naming the leaf, unless everything is float64."""
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.result_type(leaf) != jnp.float64:
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}, and gradients are "
                    f"held against each other in float64: call "
                    f'jax.config.update("jax_enable_x64", True) first, and make params with '
                    f'cell.init(key, in_features, "float64")'
                )


def _shapes(cell: Cell, method: str, *arguments: Any) -> Any:
    """Shapes of a method's results; ValueError for a wrong number of them."""
    counts = {"step": 2, "step_fwd": 3, "step_bwd": 2}
    function: Callable[..., Any] = getattr(cell, method)
    try:
        results = jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ValueError(f"{cell}.{method} fails: {error}") from error
    expected = counts.get(method)
    if expected is not None and (not isinstance(results, tuple) or len(results) != expected):
        raise ValueError(f"{cell}.{method} should return {expected} results, got {results}")
    return results
