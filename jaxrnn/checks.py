"""Argument checks: each raises an error that says what was expected and what came."""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def check_positive(name: str, value: Any) -> int:
    """``value`` as a plain integer; ValueError unless it is one of at least 1.

    >>> check_positive("hidden_size", np.int64(3))
    3
    """
    number = as_integer(value)
    if number is None or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def check_number(name: str, value: Any) -> float:
    """``value`` as a plain float; ValueError unless it is one number, Python's, NumPy's or JAX's."""
    if (number := as_number(value)) is None:
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def check_positive_number(name: str, value: Any) -> float:
    """``value`` as a plain float; ValueError unless it is finite and above 0."""
    if (number := as_number(value)) is None or not 0 < number < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number


def check_fraction(name: str, value: Any) -> float:
    """``value`` as a plain float; ValueError unless it lies in [0, 1)."""
    if (number := as_number(value)) is None or not 0 <= number < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return number


def settle(owner: Any, check: Callable[[str, Any], Any], *names: str) -> None:
    """Check fields of a frozen dataclass, and replace them by the check's result: scalars of NumPy and JAX
    become Python's, so that equal values compare and hash alike.
    """
    for name in names:
        object.__setattr__(owner, name, check(name, getattr(owner, name)))


def check_by_name(kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise TypeError, with the correct call, if options of a class are passed by position."""
    name, (positional, by_name) = kind.__name__, _parameters(kind)
    if kind.__init__ is object.__init__ and options:  # beside a __new__, it takes anything
        raise TypeError(f"{name} has no option {next(iter(options))}")
    if positional is None or len(args) <= len(positional):
        return
    first, rest = args[: len(positional)], args[len(positional) :]
    are_sizes = positional == ["hidden_size"] and all(as_integer(size) is not None for size in args)
    if are_sizes and inspect.Parameter.empty not in by_name.values():
        right = f"{name}({args[1]!r}), and in_features={args[0]!r} to init"
    else:
        meant = [f"{option}={arg!r}" for option, arg in zip(by_name, rest, strict=False)]
        right = f"{name}({', '.join([*(map(repr, first) if by_name else positional), *meant])})"
        right += ", and in_features to init" if are_sizes else ""
    raise TypeError(
        f"{name} takes {' and '.join(positional) or 'nothing'} alone by position, "
        f"got {name}({', '.join(map(repr, args))}): write {right}"
    )


@functools.cache
def _parameters(kind: Any) -> tuple[list[str] | None, dict[str, Any]]:
    """Names of a class's positional arguments (None for any number), and its options with their defaults:
    first those without a default, last the dtype.
    """
    if kind.__init__ is object.__init__:
        return [], {}
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    by_name.sort(key=lambda p: (p.default is not p.empty, p.name == "dtype"))
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return None if any_number else positional, {p.name: p.default for p in by_name}


def as_number(value: Any) -> float | None:
    """A real number of Python, NumPy or JAX as Python's; None for anything else, True too."""
    kind = _kind(value)
    is_real = jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    return float(value) if is_real else None


def as_integer(value: Any) -> int | None:
    """An integer of Python, NumPy or JAX as Python's; None for anything else, True and 1.0 too."""
    return operator.index(value) if jnp.issubdtype(_kind(value), jnp.integer) else None


def check_count(what: str, parts: Any, expected: int, each: str) -> None:
    """Raise ValueError unless ``parts`` is a tuple or list with one entry a layer, say: ``each``."""
    if not isinstance(parts, tuple | list) or len(parts) != expected:
        came = f"{len(parts)} of them" if isinstance(parts, tuple | list) else type(parts).__name__
        raise ValueError(f"{what} must be a tuple of {expected}, one a {each}; got {came}")


def as_array(values: Any) -> Any:
    """JAX's arrays as they are, all else, lists too, as NumPy's; None stays None."""
    return values if values is None or isinstance(values, jax.Array) else np.asarray(values)


def on_device(array: Any) -> Array:
    """``array`` as one of JAX's, by the explicit transfer that ``jax.transfer_guard`` allows."""
    # A view of its own: JAX remembers a constant of a trace by the identity of its array, and would take an
    # int64 array for what it was where float64 has been switched off since.
    return array if isinstance(array, jax.Array) else jax.device_put(np.asarray(array)[...])


def check_ids(name: str, ids: Any, size: int, where: Any = None) -> None:
    """Raise ValueError unless ids are integers and, where they are known and count, lie in [0, size)."""
    ids = as_array(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if not any(isinstance(array, jax.core.Tracer) for array in (ids, where)):
        known = np.asarray(jax.device_get(ids))
        outside = (known < 0) | (known >= size)
        if where is not None:
            outside = outside & np.asarray(jax.device_get(where))
        if outside.any():
            raise ValueError(f"{name} must lie in [0, {size}), the vocabulary, got {known[outside][0]}")


def as_ids(ids: Any) -> Array:
    """Ids on the device, in a type that can hold the size of any vocabulary.

    >>> as_ids(np.array([255], np.uint8)).dtype
    dtype('int32')
    """
    ids = on_device(ids)
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids


def _kind(value: Any) -> Any:
    """The dtype of one known number; that of objects for anything else."""
    kind = getattr(value, "dtype", type(value))
    is_dtype = isinstance(kind, np.dtype) or kind in (bool, int, float, complex)
    known = is_dtype and jnp.ndim(value) == 0 and not isinstance(value, jax.core.Tracer)
    return kind if known else np.dtype(object)


def check_like(what: str, expected: Any, got: Any, *, because: str = "", same_dtype: bool = False) -> None:
    """Raise ValueError, naming the field, unless two pytrees have the same structure and shapes, and the
    same dtypes (without ``same_dtype``: ``got`` is floating-point where ``expected`` is).

    >>> from jaxrnn import LSTMCarry
    >>> check_like("carry", LSTMCarry(jnp.ones(2), jnp.ones(2)), LSTMCarry(jnp.ones(2), jnp.ones(3)))
    Traceback (most recent call last):
    ValueError: carry.c should have shape (2,), got (3,)
    """
    reason = f"; {because}" if because else ""
    wanted_tree: Any = jax.tree.structure(expected)
    got_tree: Any = jax.tree.structure(got)
    if wanted_tree != got_tree:
        difference = _difference(what, expected, got) or f"{what} should be {wanted_tree}, got {got_tree}"
        raise ValueError(difference + reason)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), leaf in zip(leaves, jax.tree.leaves(got), strict=True):
        if _spec(leaf) == _spec(want):
            continue
        shape, wanted_shape = tuple(np.shape(leaf)), tuple(np.shape(want))
        dtype, wanted_dtype = jnp.result_type(leaf), jnp.result_type(want)  # as JAX will take them
        name = what + jax.tree_util.keystr(path)
        if shape != wanted_shape:
            raise ValueError(f"{name} should have shape {wanted_shape}, got {shape}{reason}")
        if same_dtype and dtype != wanted_dtype:
            raise ValueError(f"{name} should be {wanted_dtype}, got {dtype}{reason}")
        if jnp.issubdtype(wanted_dtype, jnp.inexact) and not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(f"{name} should be floating-point, got {dtype}{reason}")


def _spec(leaf: Any) -> Any:
    """Shape and dtype of an array, which is quick to ask; anything else is itself."""
    return (leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf


def describe(tree: Any) -> str:
    """The outermost level of a pytree in words.

    >>> from jaxrnn import LSTMCarry
    >>> describe(LSTMCarry(1, 2)), describe({"w": 1}), describe([1, 2]), describe(jnp.ones(3))
    ('LSTMCarry(h, c)', "a dict with the keys 'w'", 'a list of 2', 'an array')
    """
    kind, names = type(tree).__name__, getattr(tree, "_fields", None)
    if dataclasses.is_dataclass(tree) and _children(tree):
        names = [field.name for field in dataclasses.fields(tree)]
    if names is not None:
        return f"{kind}({', '.join(names)})"
    if isinstance(tree, dict):
        return f"a {kind} with the keys {', '.join(map(repr, tree))}" if tree else f"an empty {kind}"
    if isinstance(tree, tuple | list):
        return f"a {kind} of {len(tree)}"
    return "an array" if hasattr(tree, "shape") else "None" if tree is None else kind


def _difference(name: str, expected: Any, got: Any) -> str | None:
    """Where the structures of two pytrees first differ, in words."""
    wanted, came = _children(expected), _children(got)
    is_one_kind = type(expected) is type(got) or wanted is came is None
    if not is_one_kind or (wanted is not None and wanted.keys() != came.keys()):  # type: ignore[union-attr]
        return f"{name} should be {describe(expected)}, got {describe(got)}"
    differences = (_difference(name + key, wanted[key], came[key]) for key in wanted or ())  # type: ignore[index]
    return next(filter(None, differences), None)


def _children(tree: Any) -> dict[str, Any] | None:
    """The parts of a pytree one level down, by their place; None for a leaf."""
    if jax.tree_util.all_leaves([tree]):
        return None
    parts = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    return {jax.tree_util.keystr(path): part for path, part in parts}


def checked_lengths(
    lengths: Any, time: int, batch_shape: tuple[int, ...], of: str = "xs", axes: str | None = None
) -> Array:
    """Lengths as an array; ValueError unless they are integers in [0, time], one per sequence.

    ``of`` names the array with the time axis, and ``axes`` says how it lies.
    """
    shape, dtype = np.shape(lengths), getattr(lengths, "dtype", None) or np.asarray(lengths).dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {dtype}")
    if shape != batch_shape:
        raise ValueError(misfit(of, axes or time_major(len(batch_shape)), batch_shape, "lengths", shape))
    if not isinstance(lengths, jax.core.Tracer) and (concrete := np.asarray(lengths)).size:
        low, high = int(concrete.min()), int(concrete.max())
        if low < 0 or high > time:
            raise ValueError(
                f"lengths must lie in [0, {time}] (the time axis of {of}), got values from {low} to {high}"
            )
    lengths = on_device(lengths)
    # Clipped in their own type, which may be wider; a narrower one need not reach the time.
    return _clipped(lengths, min(time, jnp.iinfo(lengths.dtype).max))


def time_major(batch_axes: int) -> str:
    """The axes of xs in words.

    >>> time_major(1)
    'time-major (time, batch, features)'
    """
    return f"time-major (time, {'batch' if batch_axes == 1 else '*batch'}, features)"


def misfit(of: str, axes: str, batch_shape: tuple[int, ...], what: str, shape: tuple[int, ...]) -> str:
    """The message for an array whose batch is another than that of ``of``.

    >>> misfit("xs", time_major(1), (2,), "lengths", (5,))
    'xs is time-major (time, batch, features); lengths has 5 entries but xs has batch 2'
    """
    got = f"{shape[0]} entr{'y' if shape[0] == 1 else 'ies'}" if len(shape) == 1 else f"shape {shape}"
    batch = f"batch {batch_shape[0]}" if len(batch_shape) == 1 else f"batch shape {batch_shape}"
    return f"{of} is {axes}; {what} has {got} but {of} has {batch}"


@functools.partial(jax.jit, static_argnums=1)
def _clipped(lengths: Array, most: int) -> Array:
    return jnp.clip(lengths, 0, most).astype(jnp.int32)
