"""Compiled functions of users' code, which never answer with what it held at an earlier call."""

import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, enum.Enum, np.dtype, np.generic)


def is_value(thing: Any) -> bool:
    """Whether two things that are equal do the same, now and later.

    So it is with frozen dataclasses of numbers, strings and their like, without an array anywhere; with
    their bound methods; and with a ``Partial`` of one over any arrays.

    >>> from jaxrnn import LSTM, Stack
    >>> is_value(Stack([LSTM(4), LSTM(5)])), is_value(lambda state, tokens: state)
    (True, False)
    """
    if _is_partial(thing):
        bound = jax.tree.leaves((thing.args, thing.keywords), is_leaf=_is_partial)
        return is_value(thing.func) and all(map(is_value, filter(_is_partial, bound)))
    if inspect.ismethod(thing):
        return is_value(thing.__self__)
    if isinstance(thing, tuple | frozenset):
        return all(map(is_value, thing))
    if isinstance(thing, _PLAIN):
        return True
    return _is_frozen(thing) and all(is_value(getattr(thing, name)) for name in _compared(thing))


def by_value(function: Callable[..., Any], *, static_argnames: tuple[str, ...] = ()) -> Callable[..., Any]:
    """``jax.jit`` of a function whose first argument is users' code: a cell or a model, which are static,
    or a step, which is a ``Partial``. Static arguments but the first are given by name.

    Equal values compile once. Other code, a closure or an object that compares by identity, may read what
    has changed since the last call: it is traced at every call, what it reads becomes an argument, and it
    compiles again where the trace differs.

    >>> double = by_value(lambda step, x: step(x))
    >>> factor = jnp.float32(2)
    >>> step = jax.tree_util.Partial(lambda x: factor * x)
    >>> first, factor = double(step, 1.0), jnp.float32(3)
    >>> float(first), float(double(step, 1.0))
    (2.0, 3.0)
    """
    jitted = jax.jit(function, static_argnames=static_argnames)

    @functools.wraps(function)
    def call(code: Any, *arrays: Any, **static: Any) -> Any:
        if is_value(code):
            return jitted(code, *arrays, **static)
        traced, read = _trace(functools.partial(function, code, **static), arrays)
        return _evaluate(traced, read, jax.tree.leaves(arrays))

    call.jitted = jitted  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class _Traced:
    """A function as it was traced: equal to another that was traced alike, whatever arrays the two read."""

    text: str
    rules: object  # a derivative of the user's own does not show in the text: then it equals no other
    jaxpr: Any = field(compare=False)
    out_structure: Any = field(compare=False)


def _trace(function: Callable[..., Any], arrays: Any) -> tuple[_Traced, list[Any]]:
    """The trace of a function, and the arrays that it reads beside its arguments."""
    leaves, structure = jax.tree.flatten(arrays)

    # A function of its own for every call: JAX remembers traces by the function's identity.
    def flat(*leaves: Any) -> Any:
        return function(*jax.tree.unflatten(structure, leaves))

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    text = str(closed.jaxpr)
    rules = object() if "custom_jvp_call" in text or "custom_vjp_call" in text else None
    return _Traced(text, rules, closed.jaxpr, jax.tree.structure(shapes)), closed.consts


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(traced: _Traced, read: list[Any], leaves: list[Any]) -> Any:
    results = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, read))(*leaves)
    return jax.tree.unflatten(traced.out_structure, results)


def _is_partial(thing: Any) -> bool:
    return isinstance(thing, jax.tree_util.Partial)


def _is_frozen(thing: Any) -> bool:
    """Whether it is a frozen dataclass that compares by all that it, or its class, holds."""
    how = getattr(type(thing), "__dataclass_params__", None)
    if how is None or not (how.frozen and how.eq) or vars(thing).keys() - _compared(thing):
        return False
    held = (value for kind in type(thing).__mro__ for value in vars(kind).values())
    return not any(isinstance(value, jax.Array | np.ndarray) for value in held)


def _compared(thing: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(thing) if field.compare}
