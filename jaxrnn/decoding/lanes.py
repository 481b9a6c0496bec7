"""Argument validation and per-lane setup shared by all decoders."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.caching import comparable, is_value
from jaxrnn.checks import as_array, as_integer, check_ids, check_like, check_positive
from jaxrnn.promotion import default_promotion
from jaxrnn.sharding import shard_batch

Step = Callable[..., tuple]

THREEFRY = "threefry2x32"


class Lanes(NamedTuple):
    """Validated arguments of a decoder."""

    step: Step
    start: Array  # (batch,)
    end: int | None
    max_length: int
    vocabulary: int


def prepare(
    step: Step, state: Any, start: Any, end: int | None, max_length: int, context: Any = None
) -> Lanes:
    """Validate the arguments of a decoder, and set up its lanes.

    Raises:
      ValueError: for a ``max_length`` below 1, a state or context without a common batch axis, a start or
        end that is no token of the vocabulary, or a step that returns another state than it got, or logits
        of a shape other than (batch, vocabulary).
    """
    max_length = check_positive("max_length", max_length)
    batch = _batch_of(state)
    for leaf in jax.tree.leaves(context):
        if (shape := jnp.shape(leaf))[:1] != (batch,):
            raise ValueError(
                f"every leaf of context must lead with the batch of state, {batch}; got shape {shape}"
            )
    start = as_array(start)
    if start.shape not in {(), (batch,)}:
        raise ValueError(f"start must be one token or one a lane ({batch}), got shape {start.shape}")
    step = as_partial(step)
    lanes = shard_batch(_spread(start, batch), jax.tree.leaves(state)[0], slice(1))
    vocabulary = _check_step(step, state, lanes, context)
    check_ids("start", start, vocabulary)
    if end is not None:
        if (number := as_integer(end)) is None:
            raise ValueError(f"end must be an integer, got {end!r}")
        if not 0 <= number < vocabulary:
            raise ValueError(f"end must lie in [0, {vocabulary}), the vocabulary, got {end}")
        end = number
    return Lanes(step, lanes, end, max_length, vocabulary)


def as_partial(step: Step) -> jax.tree_util.Partial:
    """The step as a pytree of what is bound to it, equal to another's where their functions are."""
    if not isinstance(step, jax.tree_util.Partial):
        step = jax.tree_util.Partial(step)
    return jax.tree_util.Partial(comparable(step.func), *step.args, **step.keywords)


def advance(step: Step, state: Any, tokens: Array, context: Any) -> tuple[Any, Array, Any]:
    """One step of every lane: the new state, logits, and auxiliary outputs, or None.

    Raises:
      ValueError: if the step returns something else than two or three results.
    """
    results = step(state, tokens, *(() if context is None else (context,)))
    if not isinstance(results, tuple) or len(results) not in (2, 3):
        what = f"{len(results)} results" if isinstance(results, tuple) else type(results).__name__
        raise ValueError(f"step must return (state, logits) or (state, logits, extras), got {what}")
    state, logits, extras = (*results, None)[:3]
    return state, logits, extras


@default_promotion()
def log_probabilities(logits: Array) -> tuple[Array, Array]:
    """Log-probabilities in nats, in float32 or wider; and which rows have none, for NaN, +∞ or only −∞."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    return log_p, jnp.any(jnp.isnan(log_p), axis=-1)


def lane_keys(key: Array, batch: int) -> Array:
    """A key a lane: the given ones, or one folded with each lane's index.

    Keys of "rbg" and "unsafe_rbg", whose draws under ``vmap`` depend on each other, are made into keys of
    JAX's default implementation.

    Raises:
      ValueError: for any other number of keys, or keys that are not typed.
    """
    if not jnp.issubdtype(kind := jnp.result_type(key), jax.dtypes.prng_key):
        raise ValueError(f"key must come from jax.random.key, got an array of {kind}")
    if key.shape not in {(), (batch,)}:
        raise ValueError(f"key must be one key or one a lane ({batch}), got shape {key.shape}")
    if key.dtype != jax.eval_shape(lambda: jax.random.key(0, impl=THREEFRY)).dtype:
        words = jax.lax.map(lambda key: jax.random.bits(key, (2,), jnp.uint32), key.reshape(-1))
        key = jax.random.wrap_key_data(words, impl=THREEFRY).reshape(key.shape)
    return key if key.shape else _folded(key, batch)


@functools.partial(jax.jit, static_argnums=1)
def _folded(key: Array, batch: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def _spread(start: Any, batch: int) -> Array:
    """The start token of every lane."""
    if not isinstance(start, jax.Array):
        inside = np.clip(start, -1, np.iinfo(np.int32).max)  # beyond int32 it would be another token
        return jax.device_put(np.broadcast_to(inside.astype(np.int32), (batch,)))
    return _repeated(start, batch)


@functools.partial(jax.jit, static_argnums=1)
def _repeated(start: Array, batch: int) -> Array:
    return jnp.broadcast_to(start.astype(jnp.int32), (batch,))


def _batch_of(state: Any) -> int:
    leaves = jax.tree.leaves(state)
    if not leaves or any(jnp.ndim(leaf) < 1 for leaf in leaves):
        raise ValueError("every leaf of state must lead with batch; got a leaf without axes, or none")
    sizes = sorted({jnp.shape(leaf)[0] for leaf in leaves})
    if len(sizes) > 1:
        raise ValueError(f"every leaf of state must lead with the same batch, got {sizes}")
    return sizes[0]


def result_of(step: Step, state: Any, tokens: Any, context: Any) -> tuple[Any, Any, Any]:
    """The shapes and dtypes of what a step returns; traced once where equal steps do the same."""
    if is_value(step):
        return _traced.eval_shape(step, state, tokens, context)
    return jax.eval_shape(lambda *arguments: advance(step, *arguments), state, tokens, context)


_traced = jax.jit(advance)  # for its cache


def _check_step(step: Step, state: Any, tokens: Array, context: Any) -> int:
    """The size of the vocabulary; ValueError unless the results of a step have the right shapes."""
    after, logits, extras = result_of(step, state, tokens, context)
    if logits.ndim != 2 or len(logits) != len(tokens) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"step must return floating-point logits ({len(tokens)}, vocabulary), "
            f"got {logits.dtype} of shape {logits.shape}"
        )
    check_like("step must return a state like the one it got: state", state, after, same_dtype=True)
    for leaf in jax.tree.leaves(extras):
        if leaf.shape[:1] != tokens.shape:
            raise ValueError(
                f"every leaf of a step's extras must lead with the lanes, {len(tokens)}; got {leaf.shape}"
            )
    return logits.shape[-1]
