"""Checks of what users hand in: each raises a ValueError that says what was expected and what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_positive(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_positive_number(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_shapes(what: str, expected: Any, actual: Any) -> None:
    """Raise ValueError, naming the leaf, unless two pytrees have the same structure and shapes, and
    ``actual`` is floating-point where ``expected`` is.
    """
    expected_tree: Any = jax.tree.structure(expected)
    actual_tree: Any = jax.tree.structure(actual)
    if expected_tree != actual_tree:
        raise ValueError(f"{what}: expected the structure {expected_tree}, got {actual_tree}")
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), got in zip(leaves, jax.tree.leaves(actual), strict=True):
        name = jax.tree_util.keystr(path) or "itself"
        if tuple(want.shape) != tuple(jnp.shape(got)):
            raise ValueError(
                f"{what}: leaf {name} should have shape {tuple(want.shape)}, got {tuple(jnp.shape(got))}"
            )
        floating = jnp.issubdtype(jnp.result_type(got), jnp.inexact)
        if jnp.issubdtype(want.dtype, jnp.inexact) and not floating:
            raise ValueError(f"{what}: leaf {name} should be floating-point, got {jnp.result_type(got)}")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` lies in [0, 1)."""
    if not isinstance(value, float | int) or not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
