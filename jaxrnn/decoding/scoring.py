"""The log-probability of given sequences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxrnn.caching import by_value
from jaxrnn.checks import as_array, as_ids, check_ids, on_device
from jaxrnn.decoding.lanes import Step, advance, log_probabilities, prepare
from jaxrnn.sharding import auto_sharded, match_varying


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
      lengths: tokens that count, 0 to time; the rest is ignored. None counts all.
      context: constant inputs of every step, leaves leading with batch.

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
    tokens, lengths = as_array(tokens), as_array(lengths)
    if jnp.ndim(tokens) != 2:
        raise ValueError(f"tokens must be (batch, time), got shape {jnp.shape(tokens)}")
    batch, time = jnp.shape(tokens)
    lanes = prepare(step, state, start, None, max(time, 1), context)
    lengths = np.full(batch, time) if lengths is None else lengths
    if not len(lanes.start) == batch or jnp.shape(lengths) != (batch,):
        raise ValueError(
            f"tokens, lengths and state must have one batch, got {batch}, {jnp.shape(lengths)} and "
            f"{len(lanes.start)}"
        )
    if not jnp.issubdtype(jnp.result_type(lengths), jnp.integer):
        raise ValueError(f"lengths must be integers, got {jnp.result_type(lengths)}")
    counted = lengths  # traced, or which of the tokens count
    if not isinstance(lengths, jax.core.Tracer):
        known = np.asarray(jax.device_get(lengths))
        if known.size and not 0 <= known.min() <= known.max() <= time:
            raise ValueError(f"lengths must lie in [0, {time}], got {known.min()} to {known.max()}")
        counted = np.arange(time) < known[:, None]
    check_ids("tokens", tokens, lanes.vocabulary, where=counted)
    return _score(lanes.step, state, as_ids(tokens), lanes.start, on_device(lengths), context)


@auto_sharded
@by_value
def _score(
    step: Step, state: Any, tokens: Array, start: Array, lengths: Array, context: Any
) -> Float[Array, " batch"]:
    if not tokens.size:
        return jnp.zeros(len(start))
    step, state, tokens, start, lengths, context = match_varying(
        (step, state, tokens, start, lengths, context)
    )
    counted = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
    tokens = jnp.where(counted, tokens, 0)
    tokens = jnp.where(tokens < 0, jnp.iinfo(tokens.dtype).max, tokens)  # where no id wraps around: NaN
    fed = jnp.concatenate([start[:, None], tokens], axis=1)[:, :-1]
    # Where nothing counts, the first step of a longest sequence is taken once more: it is finite if any is.
    longest = jnp.argmax(lengths)
    at_first = jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(jnp.broadcast_to(leaf[longest], leaf.shape)), (state, start)
    )

    def body(state: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        fed, token, counts = inputs
        state, fed = jax.tree.map(
            lambda now, first: jax.vmap(jnp.where)(counts, now, first), (state, fed), at_first
        )
        state, logits, _ = advance(step, state, fed, context)
        log_p, undefined = log_probabilities(logits)
        score = jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
        return state, jnp.where(undefined, jnp.nan, score)

    _, scores = jax.lax.scan(body, state, (fed.T, tokens.T, counted.T))
    return jnp.sum(jnp.where(counted.T, scores, 0), axis=0)
