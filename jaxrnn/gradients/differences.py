"""Derivatives from values of the function alone: by complex step, by finite differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxrnn.checks import check_like
from jaxrnn.gradients.problem import MEMORY_LIMIT, check_fits, size

AT_ONCE = 64  # directions in flight


def complex_step(
    function: Callable[[Any], Any],
    x: Any,
    *,
    directions: Any = None,
    step: Any = 1e-20,
    memory_limit: int = MEMORY_LIMIT,
) -> Any:
    """Derivatives by complex step: exact to rounding, and independent of automatic differentiation.

    Squire & Trapp (1998), "Using complex variables to estimate derivatives of real functions", eq. 8,
    for a function that is analytic around x. Nothing is subtracted, so that the step can be tiny::

        Df(x)·v = Im f(x + i·step·v) / step + O(step²)

    Every cell of this library computes on complex numbers; where relu has its kink, the real part
    decides, and the slope at 0 is 0.

    Args:
      function: from a pytree of real floating-point arrays to one, and from complex to complex.
      x: where to differentiate.
      directions: None for the full Jacobian; or a pytree like x whose leaves lead with an axis of
        directions v, as ``random_directions`` draws them.
      step: length of the imaginary step.
      memory_limit: bytes that the full Jacobian may take.

    Returns:
      without directions, the Jacobian as ``jax.jacobian`` gives it: per leaf of the result a pytree like
      x, with leaves ``(*result, *leaf of x)``. With directions, the derivatives along them: a pytree like
      the result, with leaves ``(directions, *result)``.

    Raises:
      ValueError: for an x that is not real floating-point; for a function that drops the imaginary part
        (through ``abs``, a comparison, a cast to a real type); for a step that is not positive; for
        directions that are not like x; for a Jacobian that would not fit.

    >>> with jax.enable_x64(True):
    ...     print(complex_step(lambda x: jnp.exp(x["a"]) * x["b"], {"a": jnp.zeros(()), "b": jnp.ones(())}))
    {'a': Array(1., dtype=float64), 'b': Array(1., dtype=float64)}
    """
    x = jax.tree.map(jnp.asarray, x)
    widest = jnp.result_type(jnp.float32, *jax.tree.leaves(x))
    _check_step(step, least=float(jnp.finfo(widest).tiny))

    def moved(a: Array, d: Array) -> Array:
        part = jnp.promote_types(a.dtype, jnp.float32)  # float16 could not hold the step
        return jax.lax.complex(a.astype(part), step * d.astype(part))

    def along(direction: Any) -> Any:
        return jax.tree.map(_imaginary_part, function(jax.tree.map(moved, x, direction)))

    def _imaginary_part(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"complex_step needs a function that keeps complex numbers, and a result of shape "
                f"{leaf.shape} came back as {leaf.dtype}: abs, sign, var or a cast to a real type drops "
                f"the imaginary part"
            )
        return leaf.imag / step

    return _derivatives(along, function, x, directions, memory_limit)


def finite_difference(
    function: Callable[[Any], Any],
    x: Any,
    *,
    directions: Any = None,
    step: Any = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Any:
    """Derivatives by central finite differences, from values of the function alone.

    The error has a part that falls and a part that rises with the step (Nocedal & Wright 2006, section
    8.1), so that about a third of the digits are lost even at the best step, ∛ε::

        Df(x)·v = (f(x + step·v) − f(x − step·v)) / (2·step) + O(step²) + O(ε/step)

    Args:
      function: from a pytree of floating-point arrays to one.
      x: where to differentiate; entries of size about 1 suit the default step.
      directions: as in ``complex_step``.
      step: half the distance between the two points; by default ∛ε of x's dtype, 6.1e-6 in float64.
      memory_limit: bytes that the full Jacobian may take.

    Returns:
      as ``complex_step``.

    Raises:
      ValueError: for an x that is not real floating-point; for a step that is not positive; for
        directions that are not like x; for a Jacobian that would not fit.

    >>> with jax.enable_x64(True):
    ...     print(f"{finite_difference(jnp.exp, jnp.zeros(())):.8f}")
    1.00000000
    """
    x = jax.tree.map(jnp.asarray, x)
    if step is None:
        step = float(np.cbrt(jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).eps))
    _check_step(step)

    def along(direction: Any) -> Any:
        ahead, behind = (
            function(jax.tree.map(lambda a, d, s=sign: a + (s * step * d).astype(a.dtype), x, direction))
            for sign in (1, -1)
        )
        return jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)

    return _derivatives(along, function, x, directions, memory_limit)


def random_directions(key: Key[Array, ""], x: Any, count: int) -> Any:
    """Normal draws like x, every leaf ``(count, *shape)``, for derivatives along random directions.

    >>> random_directions(jax.random.key(0), {"w": jnp.ones((2, 3))}, 5)["w"].shape
    (5, 2, 3)
    """
    leaves = jax.tree.leaves(x)
    structure: Any = jax.tree.structure(x)
    keys = jax.random.split(key, max(len(leaves), 1))
    draws = [jax.random.normal(k, (count, *a.shape), a.dtype) for k, a in zip(keys, leaves, strict=False)]
    return structure.unflatten(draws)


def _derivatives(
    along: Callable[[Any], Any], function: Callable[[Any], Any], x: Any, directions: Any, limit: int
) -> Any:
    """``along`` for every given direction, or for every entry of x."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = jax.tree_util.keystr(path) or "x"
            raise ValueError(f"{name} should be real floating-point, got {jnp.result_type(leaf)}")
    if directions is not None:
        _check_directions(directions, x)
        return _for_each(along, directions)
    results = jax.eval_shape(function, x)
    check_fits(
        f"the Jacobian of {size(results):,} results by {size(x):,} arguments",
        size(results) * size(x),
        jnp.result_type(*jax.tree.leaves(x)),
        "give directions=random_directions(key, x, count) instead",
        limit,
    )
    columns = _for_each(lambda i: along(_unit(x, i)), jnp.arange(size(x)))
    return jax.tree.map(lambda leaf: _split(x, jnp.moveaxis(leaf, 0, -1)), columns)


def _check_step(step: Any, *, least: float = 0.0) -> None:
    if isinstance(step, jax.core.Tracer):
        return
    if not step > 0:
        raise ValueError(f"step must be above 0, got {step}")
    if step < least:
        raise ValueError(f"step must be {least:.1e} or more, which the dtype of x can hold, got {step}")


def _check_directions(directions: Any, x: Any) -> None:
    """Raise ValueError, naming the leaf, unless every leaf is ``(count, *shape)`` of the one in x."""
    counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(directions)}
    count = max(counts, default=0)
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), x)
    check_like("directions", expected, directions)


def _for_each(along: Callable[[Any], Any], items: Any) -> Any:
    """``along`` of each item, in chunks; the last is padded, so that one compilation suffices."""
    count = len(jax.tree.leaves(items)[0])
    lots = -(-count // AT_ONCE)
    if lots <= 1:
        return jax.vmap(along)(items)

    def split(leaf: Array) -> Array:
        missing = jnp.zeros((lots * AT_ONCE - count, *leaf.shape[1:]), leaf.dtype)
        return jnp.concatenate([leaf, missing]).reshape(lots, AT_ONCE, *leaf.shape[1:])

    results = jax.lax.map(jax.vmap(along), jax.tree.map(split, items))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def _unit(x: Any, index: Array) -> Any:
    """The direction of one entry of x."""
    return _split(x, jax.nn.one_hot(index, size(x), dtype=jnp.result_type(*jax.tree.leaves(x))))


def _split(x: Any, flat: Array) -> Any:
    """``(..., all entries of x)`` as a pytree like x, with leaves ``(..., *shape)``."""
    leaves = jax.tree.leaves(x)
    structure: Any = jax.tree.structure(x)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(flat, ends, axis=-1)
    return structure.unflatten(
        [p.reshape(*flat.shape[:-1], *leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
    )
