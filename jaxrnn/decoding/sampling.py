"""Greedy decoding and ancestral sampling, as jitted scans over ``step(state, tokens)``."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.caching import by_value
from jaxrnn.checks import as_integer, check_number, on_device
from jaxrnn.decoding.lanes import Step, advance, lane_keys, log_probabilities, prepare, result_of
from jaxrnn.sharding import auto_sharded, match_varying

Feedback = Literal["token", "softmax"]


class Decoded(NamedTuple):
    """Decoded sequences."""

    tokens: Int[Array, "batch max_length"]  # without the start token; ``end`` after the end
    scores: Float[Array, " batch"]  # log-probability of the tokens under the model, in nats
    lengths: Int[Array, " batch"]  # tokens that count, the end token included
    extras: Any = None  # auxiliary outputs (batch, max_length, ...); zero after the end


def greedy(
    step: Step,
    state: Any,
    *,
    start: Int[ArrayLike, "*batch"],
    end: int | None = None,
    max_length: int,
    context: Any = None,
) -> Decoded:
    """The most probable token at every step.

    Equation::

        w_t = argmax_w p(w | w_1 … w_{t-1})

    Args:
      step: ``step(state, tokens (batch,)) → (state, logits (batch, vocabulary))``, or with a third
        argument where there is a ``context``. Parameters are best bound by
        ``jax.tree_util.Partial(model.step, params)``: then equal models compile once. It may return a
        third result, a pytree whose leaves lead with batch, which comes back in ``extras``.
      state: pytree whose leaves lead with batch.
      start: the first token fed, one for all or one a lane.
      end: the token that ends a sequence, or None: all run to ``max_length``.
      max_length: tokens to decode.
      context: constant inputs of every step, leaves leading with batch.

    Returns:
      tokens, scores, lengths. A lane whose logits are NaN, +∞ or all −∞ has score NaN; the others are as if
      it were not there.

    Raises:
      ValueError: for a ``max_length`` below 1, a state without a batch axis, a start or end outside the
        vocabulary, or a step whose state or logits have the wrong shape.

    >>> table = jnp.log(jnp.array([[0.1, 0.9], [0.8, 0.2]]))  # p(next | token)
    >>> step = lambda state, tokens: (state, table[tokens])
    >>> greedy(step, jnp.zeros(1), start=0, max_length=4).tokens
    Array([[1, 0, 1, 0]], dtype=int32)
    """
    return _decode(step, state, start, end, max_length, context, None, _Choice())


def sample(
    step: Step,
    state: Any,
    *,
    key: Key[Array, "*lanes"],
    start: Int[ArrayLike, "*batch"],
    end: int | None = None,
    max_length: int,
    temperature: Float[ArrayLike, ""] | float = 1.0,
    top_k: int | None = None,
    top_p: Float[ArrayLike, ""] | float | None = None,
    feedback: Feedback = "token",
    context: Any = None,
) -> Decoded:
    """Tokens drawn from the model, one after the other.

    Equation, with τ the temperature and the support cut by ``top_k`` and then ``top_p``::

        w_t ~ softmax(logits_t / τ), restricted to its support and renormalised

    top_k keeps the k most probable tokens (Fan et al. 2018); top_p the fewest whose probability
    together reaches p, of those that top_k left (nucleus sampling, Holtzman et al. 2020, eq. 2-3).

    Args:
      step: as in ``greedy``; with ``feedback="softmax"`` its tokens are ``(batch, vocabulary)`` float32
        (it is traced once with token ids too, for the size of the vocabulary).
      state: pytree whose leaves lead with batch.
      key: one key, folded with each lane's index, or one key a lane; the second makes a draw
        independent of the rest of the batch.
      start: the first token fed, one for all or one a lane.
      end: the token that ends a sequence, or None.
      max_length: tokens to draw.
      temperature: sampling temperature, above 0, may be traced; lower is more conservative.
      top_k: sample from the k most probable tokens; None for all.
      top_p: nucleus sampling: sample from the smallest set of tokens whose probability reaches p, in
        (0, 1]; None for all; may be traced.
      feedback: "token" feeds the drawn token back. "softmax" feeds back the distribution it was drawn
        from, so that later steps never learn which token came: every output is then a blur of all
        continuations, which is why it is not done; it is here to be seen.
      context: constant inputs of every step, leaves leading with batch.

    Returns:
      tokens, lengths, and scores: log-probabilities under softmax(logits), whatever the temperature. A lane
      whose logits are NaN, +∞ or all −∞ has score NaN; the others are as if it were not there.

    Raises:
      ValueError: for a temperature, top_k, top_p or max_length out of range, a wrong number of keys, or
        what ``greedy`` refuses.

    >>> table = jnp.log(jnp.array([[0.1, 0.9], [0.8, 0.2]]))
    >>> step = lambda state, tokens: (state, table[tokens])
    >>> sample(step, jnp.zeros(2), key=jax.random.key(0), start=0, max_length=5).tokens.shape
    (2, 5)
    """
    if top_k is not None and ((kept := as_integer(top_k)) is None or kept < 1):
        raise ValueError(f"top_k must be 1 or more, got {top_k}")
    for name, limit in (("temperature", temperature), ("top_p", top_p)):
        if limit is not None and jnp.shape(limit) != ():
            raise ValueError(f"{name} must be one number, got shape {jnp.shape(limit)}")
    if _is_known(temperature) and not check_number("temperature", temperature) > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; for its limit use greedy")
    if _is_known(top_p) and not 0 < check_number("top_p", top_p) <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if feedback not in get_args(Feedback):
        raise ValueError(f'feedback must be "token" or "softmax", got {feedback!r}')
    if _is_known(top_p) and top_p == 1:
        top_p = None  # all of it: the running sum would lose the tail to rounding
    choice = _Choice(True, None if top_k is None else kept, top_p is not None, feedback)
    limits = (_as_float(temperature), _as_float(1.0 if top_p is None else top_p))
    return _decode(step, state, start, end, max_length, context, (key, limits), choice)


def _is_known(limit: Any) -> bool:
    """Whether a limit is given and has a concrete value."""
    return limit is not None and not isinstance(limit, jax.core.Tracer)


def _as_float(limit: Any) -> Array:
    """The limit on the device; ∞ or 0 beyond the range of JAX's floats."""
    if isinstance(limit, jax.Array):
        return limit
    with np.errstate(over="ignore", under="ignore"):
        return on_device(np.asarray(limit, jax.dtypes.canonicalize_dtype(np.float64)))


class _Choice(NamedTuple):
    """How the next token is chosen; static."""

    random: bool = False
    top_k: int | None = None
    top_p: bool = False
    feedback: Feedback = "token"


def _decode(
    step: Step,
    state: Any,
    start: Any,
    end: int | None,
    max_length: int,
    context: Any,
    random: tuple[Array, tuple[Array, Array]] | None,
    choice: _Choice,
) -> Decoded:
    """Validate the arguments, and run the jitted scan."""
    lanes = prepare(step, state, start, end, max_length, context)
    keys = limits = None
    if random is not None:
        key, limits = random
        keys = lane_keys(key, len(lanes.start))
    return _scan(
        lanes.step,
        state,
        lanes.start,
        context,
        keys,
        limits,
        end=lanes.end,
        max_length=lanes.max_length,
        choice=choice,
    )


@auto_sharded
@functools.partial(by_value, static_argnames=("end", "max_length", "choice"))
def _scan(
    step: Step,
    state: Any,
    start: Array,
    context: Any,
    keys: Array | None,
    limits: tuple[Array, Array] | None,
    *,
    end: int | None,
    max_length: int,
    choice: _Choice,
) -> Decoded:
    def body(carry: tuple, time: Array) -> tuple[tuple, tuple]:
        state, fed, done = carry
        state, logits, extras = advance(step, state, fed, context)
        chosen_from = _restrict(logits, limits, choice)
        if choice.random:
            draw = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, time), row))
            token = draw(keys, chosen_from).astype(jnp.int32)
        else:
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        log_p, undefined = log_probabilities(logits)
        score = jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
        if end is not None:
            token = jnp.where(done, end, token)
        score = jnp.where(done, 0, jnp.where(undefined, jnp.nan, score))
        counted = ~done
        extras = jax.tree.map(lambda leaf: jax.vmap(jnp.where)(done, jnp.zeros_like(leaf), leaf), extras)
        done = done | (token == end) if end is not None else done
        fed = jax.nn.softmax(chosen_from).astype(jnp.float32) if choice.feedback == "softmax" else token
        return (state, fed, done), (token, score, counted, extras)

    fed, done = start, jnp.zeros(start.shape, bool)
    if choice.feedback == "softmax":  # the start token as the distribution that is sure of it
        _, logits, _ = result_of(step, state, start, context)
        fed = jax.nn.one_hot(start, logits.shape[-1], dtype=jnp.float32)
    before, step, context, keys, limits = match_varying(((state, fed, done), step, context, keys, limits))
    _, (tokens, scores, counted, extras) = jax.lax.scan(body, before, jnp.arange(max_length))
    lengths = jnp.sum(counted, axis=0, dtype=jnp.int32)
    extras = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), extras)
    return Decoded(tokens.T, jnp.sum(scores, axis=0), lengths, extras)


def _restrict(logits: Array, limits: tuple[Array, Array] | None, choice: _Choice) -> Array:
    """Logits over the temperature, −inf outside the support."""
    if limits is None:
        return logits
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    temperature, mass = (limit.astype(logits.dtype) for limit in limits)
    # What is impossible stays so at any temperature, and only that is −∞ before it is divided: −∞ / ∞ is no
    # number, and nor is −∞ / 1e38, for which compilers multiply by a reciprocal that is flushed to 0.
    below = jnp.maximum(logits - jnp.max(logits, axis=-1, keepdims=True), jnp.finfo(logits.dtype).min)
    logits = jnp.where(logits == -jnp.inf, -jnp.inf, below / _at_least_tiny(temperature))
    if choice.top_k is not None and choice.top_k < logits.shape[-1]:
        _, kept = jax.lax.top_k(logits, choice.top_k)  # exactly k, also where logits are equal
        keep = jnp.any(jax.nn.one_hot(kept, logits.shape[-1], dtype=bool), axis=-2)
        logits = jnp.where(keep, logits, -jnp.inf)
    if choice.top_p:
        order = jnp.argsort(logits, axis=-1, descending=True)
        probabilities = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
        # A token is kept while those before it have not reached the mass; the first always.
        keep_sorted = jnp.cumsum(probabilities, axis=-1) - probabilities < mass
        keep_sorted = keep_sorted.at[..., 0].set(True)
        keep = jnp.take_along_axis(keep_sorted, jnp.argsort(order, axis=-1), axis=-1)
        logits = jnp.where(keep, logits, -jnp.inf)
    return logits


def _at_least_tiny(temperature: Array) -> Array:
    """The temperature, not below the smallest normal float: 0 / 0 is NaN."""
    return jnp.maximum(temperature, jnp.finfo(temperature.dtype).tiny)
