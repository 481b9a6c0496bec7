"""Beam search."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxrnn.checks import check_number, check_positive, on_device
from jaxrnn.decoding.lanes import Step, prepare
from jaxrnn.decoding.search import search

MOST_PENALTY = 10  # what a score is divided by would soon leave float32


class Beams(NamedTuple):
    """Hypotheses of every lane, best first."""

    tokens: Int[Array, "batch beam_size max_length"]  # without the start token; ``end`` after the end
    scores: Float[Array, "batch beam_size"]  # −inf in slots that no hypothesis uses
    lengths: Int[Array, "batch beam_size"]  # tokens that count, the end token included
    extras: Any = None  # auxiliary outputs (batch, beam_size, max_length, ...); zero after the end


def beam_search(
    step: Step,
    state: Any,
    *,
    start: Int[ArrayLike, "*batch"],
    end: int | None = None,
    max_length: int,
    beam_size: int,
    length_penalty: float = 0.0,
    context: Any = None,
) -> Beams:
    """The most probable sequences that a beam finds.

    Equations, with α the length penalty (Wu et al. 2016, "Google's neural machine translation system", eq.
    14); at α = 0 the score is the log-probability in nats, and above it longer sequences gain::

        score(w) = log p(w) / ((5 + |w|) / 6)^α        log p(w) = Σ_t log p(w_t | w_1 … w_{t-1})

    At every step the live hypotheses are extended by every token. Of the best ``beam_size`` extensions,
    those that end are put aside with their score; and the best ``beam_size`` that do not end live on, so
    that an ended hypothesis frees its slot. A lane is done when none of its live hypotheses can still get
    among the best; ``max_length`` ends all. With ``beam_size=1`` and no penalty this is ``greedy``.

    Args:
      step: ``step(state, tokens (lanes,)) → (state, logits (lanes, vocabulary))`` with lanes = batch ·
        beam_size, or with a third argument where there is a ``context``. It may return a third result,
        a pytree whose leaves lead with lanes (attention weights, say), which comes back in ``extras``.
      state: pytree whose leaves lead with batch; it is spread over the beam.
      start: the first token fed, one for all or one a lane.
      end: the token that ends a sequence, or None: all run to ``max_length``.
      max_length: most tokens of a sequence.
      beam_size: hypotheses kept, and returned.
      length_penalty: α, from 0 to 10.
      context: constant inputs of every step, leaves leading with batch; tiled once, never reordered.

    Returns:
      hypotheses, best first. A lane in which a hypothesis that is followed has logits that are NaN, +∞ or
      all −∞ has scores NaN and lengths 0; the others are as if it were not there.

    Raises:
      ValueError: for sizes, tokens or a penalty out of range, or a step whose state or logits have the
        wrong shape.

    >>> import jax, jax.numpy as jnp
    >>> table = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.9, 0.0, 0.1]]))  # p(next | token)
    >>> step = lambda state, tokens: (state, table[tokens])
    >>> found = beam_search(step, jnp.zeros(1), start=0, end=0, max_length=2, beam_size=2)
    >>> found.tokens[0, 0], round(float(jnp.exp(found.scores[0, 0])), 4)  # greedy takes 1, then 0: 0.24
    (Array([2, 0], dtype=int32), 0.36)
    """
    beam_size = check_positive("beam_size", beam_size)
    length_penalty = check_number("length_penalty", length_penalty)
    if not 0 <= length_penalty <= MOST_PENALTY:
        raise ValueError(f"length_penalty must lie in [0, {MOST_PENALTY}], got {length_penalty}")
    lanes = prepare(step, state, start, end, max_length, context)
    penalties = ((5 + np.arange(1, lanes.max_length + 1)) / 6) ** length_penalty
    leaves, tokens, extras = search(
        lanes.step,
        state,
        lanes.start,
        context,
        None,
        on_device(np.zeros(len(lanes.start))),
        on_device(penalties),
        end=lanes.end,
        beam_size=beam_size,
        children=_by_probability,
    )
    return Beams(tokens, leaves.scores, leaves.lengths, extras)


def _by_probability(log_p: Array, parents: Array, keys: None, time: Array) -> Array:
    return log_p
