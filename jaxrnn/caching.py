"""Compiled functions of users' code, which never use stale values of what it reads."""

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

_PLAIN = bool | int | float | complex | str | bytes | None | type | enum.Enum | np.dtype | np.generic


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
    if isinstance(thing, Method):
        return True
    if inspect.ismethod(thing):
        return not inspect.isclass(thing.__self__) and is_value(thing.__self__)
    if type(thing) in (tuple, frozenset):
        return all(map(is_value, thing))
    if isinstance(thing, _PLAIN):
        return True
    kind: Any = type(thing)
    return _is_frozen(thing) and all(is_value(getattr(thing, name)) for name in _compared(kind))


@dataclass(frozen=True)
class Method:
    """A method of a value, equal to that of an equal value; Python's own go by their owner's identity."""

    owner: Any
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.owner, self.name)(*args, **kwargs)


def comparable(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, as a ``Method`` if it is a method of a value."""
    if not (inspect.ismethod(function) and is_value(function)):
        return function
    method = Method(function.__self__, function.__name__)
    return method if getattr(method.owner, method.name, None) == function else function


def by_value(function: Callable[..., Any], *, static_argnames: tuple[str, ...] = ()) -> Callable[..., Any]:
    """``jax.jit`` of a function whose first argument is users' code: a cell or a model, which are static,
    or a step, which is a ``Partial``. Static arguments but the first are given by name.

    Equal values compile once. Other code, a closure or an object that compares by identity, may read what
    has changed since the last call: it is traced at every call, what it reads becomes an argument, and it
    compiles again where the trace differs.

    >>> import jax.numpy as jnp
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
    hidden: object  # for what does not show in the text: then it equals no other
    out_structure: Any
    jaxpr: Any = field(compare=False)


def _trace(function: Callable[..., Any], arrays: Any) -> tuple[_Traced, list[Any]]:
    """The trace of a function, and the arrays that it reads beside its arguments."""
    leaves, structure = jax.tree.flatten(arrays)

    # A function of its own for every call: JAX remembers traces by the function's identity.
    def flat(*leaves: Any) -> Any:
        return function(*jax.tree.unflatten(structure, leaves))

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    text = str(closed.jaxpr)
    hidden = object() if any(word in text for word in _HIDING) or _holds_arrays(closed.jaxpr) else None
    return _Traced(text, hidden, jax.tree.structure(shapes), closed.jaxpr), closed.consts


# Derivatives and callbacks of the user's own: the text shows their names alone.
_HIDING = ("custom_jvp_call", "custom_vjp_call", "callback")


def _holds_arrays(jaxpr: Any) -> bool:
    """Whether a function within, compiled by the user, brings arrays of its own."""
    params = [value for equation in jaxpr.eqns for value in equation.params.values()]
    inner = [x for x in jax.tree.leaves(params, is_leaf=_is_closed) if _is_closed(x)]
    return any(x.consts or _holds_arrays(x.jaxpr) for x in inner)


def _is_closed(thing: Any) -> bool:
    return isinstance(thing, ClosedJaxpr)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(traced: _Traced, read: list[Any], leaves: list[Any]) -> Any:
    results = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, read))(*leaves)
    return jax.tree.unflatten(traced.out_structure, results)


def _is_partial(thing: Any) -> bool:
    return isinstance(thing, jax.tree_util.Partial)


def _is_frozen(thing: Any) -> bool:
    """Whether it is a frozen dataclass that compares by all it holds, with no array in its class."""
    kind: Any = type(thing)
    how = getattr(kind, "__dataclass_params__", None)
    if how is None or not (how.frozen and how.eq):
        return False
    if getattr(thing, "__dict__", {}).keys() - _compared(kind):
        return False
    return not any(map(_is_array, jax.tree.leaves([vars(c).get(n) for c, n in _attributes(kind)])))


def _is_array(thing: Any) -> bool:
    return isinstance(thing, jax.Array | np.ndarray)


@functools.cache
def _compared(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind) if field.compare)


@functools.cache
def _attributes(kind: type) -> tuple[tuple[type, str], ...]:
    """Where a class, or one that it inherits from, has an attribute that is neither code nor plain."""
    return tuple(
        (c, name)
        for c in kind.__mro__
        for name, value in vars(c).items()
        if not (name.startswith("__") or callable(value) or isinstance(value, property | _PLAIN))
    )
