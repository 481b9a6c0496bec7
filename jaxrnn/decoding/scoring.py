"""The log-probability of given sequences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxrnn.decoding.lanes import Step, advance, log_probabilities, prepare


def forced_score(
    step: Step,
    state: Any,
    tokens: Int[ArrayLike, "batch time"],
    *,
    start: Int[ArrayLike, "*batch"],
    lengths: Int[ArrayLike, " batch"] | None = None,
    context: Any = None,
) -> Float[Array, " batch"]:
    """The log-probability of given sequences under the model, in nats.

    Equation::

        log p(w) = Σ_t log p(w_t | w_1 … w_{t-1})

    Args:
      step: as in ``greedy``.
      state: pytree whose leaves lead with batch.
      tokens: the sequences, without the start token; with their end token, if that is to count.
      start: the first token fed, one for all or one a lane.
      lengths: tokens that count, 0 to time; what lies beyond is never looked at. None counts all.
      context: what never changes along a sequence, handed to every step.

    Returns:
      scores (batch,); NaN in a lane whose logits are undefined at a step that counts.

    Raises:
      ValueError: for tokens that count and lie outside the vocabulary, lengths outside [0, time], shapes
        that do not fit the state's batch, or a step whose state or logits have the wrong shape.

    >>> table = jnp.log(jnp.array([[0.1, 0.9], [0.8, 0.2]]))  # p(next | token)
    >>> step = lambda state, tokens: (state, table[tokens])
    >>> jnp.exp(forced_score(step, jnp.zeros(1), jnp.array([[1, 0, 0]]), start=0)).round(3)
    Array([0.072], dtype=float32)
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (batch, time), got shape {tokens.shape}")
    batch, time = tokens.shape
    lanes = prepare(step, state, start, None, max(time, 1), context)
    lengths = jnp.full(batch, time) if lengths is None else jnp.asarray(lengths)
    if not len(lanes.start) == batch == lengths.size or lengths.ndim != 1:
        raise ValueError(
            f"tokens, lengths and state must have one batch, got {batch}, {lengths.shape} and "
            f"{len(lanes.start)}"
        )
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in (tokens, lengths)):
        _check(np.asarray(tokens), np.asarray(lengths), lanes.vocabulary)
    return _score(lanes.step, state, tokens, lanes.start, lengths, context)


def _check(tokens: np.ndarray, lengths: np.ndarray, vocabulary: int) -> None:
    time = tokens.shape[1]
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        raise ValueError(f"lengths must lie in [0, {time}], got {lengths.min()} to {lengths.max()}")
    counted = tokens[np.arange(time) < lengths[:, None]]
    if (wrong := counted[(counted < 0) | (counted >= vocabulary)]).size:
        raise ValueError(f"tokens must lie in [0, {vocabulary}), the vocabulary, got {wrong[0]}")


@jax.jit
def _score(
    step: Step, state: Any, tokens: Array, start: Array, lengths: Array, context: Any
) -> Float[Array, " batch"]:
    counted = jnp.arange(tokens.shape[1]) < lengths[:, None]
    tokens = jnp.where(counted, tokens, 0)
    fed = jnp.concatenate([start[:, None], tokens], axis=1)[:, :-1]

    def body(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        fed, token = inputs
        state, logits, _ = advance(step, state, fed, context)
        log_p, undefined = log_probabilities(logits)
        score = jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
        return state, jnp.where(undefined, jnp.nan, score)

    _, scores = jax.lax.scan(body, state, (fed.T, tokens.T))
    return jnp.sum(jnp.where(counted.T, scores, 0), axis=0)
