"""Stochastic beam search: sequences drawn without replacement."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.checks import check_positive, on_device
from jaxrnn.decoding.lanes import Step, lane_keys, prepare
from jaxrnn.decoding.search import Leaves, search


class StochasticBeams(NamedTuple):
    """Sequences of every lane, in the order of their draws."""

    tokens: Int[Array, "batch beam_size max_length"]  # without the start token; ``end`` after the end
    scores: Float[Array, "batch beam_size"]  # log-probabilities, in nats; −inf in slots that none uses
    lengths: Int[Array, "batch beam_size"]  # tokens that count, the end token included
    perturbed_scores: Float[Array, "batch beam_size"]  # falling
    weights: Float[Array, "batch beam_size"]  # Σ weights · f(sequence) is unbiased for E[f]
    extras: Any = None  # auxiliary outputs (batch, beam_size, max_length, ...); zero after the end


def stochastic_beam_search(
    step: Step,
    state: Any,
    *,
    key: Key[Array, "*lanes"],
    start: Int[ArrayLike, "*batch"],
    end: int | None = None,
    max_length: int,
    beam_size: int,
    context: Any = None,
) -> StochasticBeams:
    """Different sequences, drawn from the model without replacement.

    Equations (Kool, van Hoof & Welling 2019, "Stochastic beams and where to find them", algorithm 1), with
    φ the log-probability of a partial sequence, S a child of the node N, and G the largest perturbed
    log-probability below a node::

        G_root ~ Gumbel(0)        G̃_S ~ Gumbel(φ_S)        Z = max_S G̃_S
        G_S = −log(exp(−G_N) − exp(−Z) + exp(−G̃_S))        so that max_S G_S = G_N

    The leaves with the highest G are kept. They are a sample without replacement: the first is a draw from
    the model, the second one from what is left, renormalised, and so on. With κ the G that comes next,

        weight(w) = p(w) / q(w)        q(w) = P(G_w > κ) = 1 − exp(−exp(φ_w − κ))

    makes Σ weight(w)·f(w) over the sample an unbiased estimate of E f(w). A search stops early only where
    no live node can still get among the leaves kept, which changes nothing.

    Args:
      step: as in ``beam_search``, with lanes = batch · (beam_size + 1), as κ needs one node more.
      state: pytree whose leaves lead with batch.
      key: one key, folded with each lane's index, or one key a lane; the second makes a lane independent
        of the rest of the batch.
      start: the first token fed, one for all or one a lane.
      end: the token that ends a sequence, or None: all run to ``max_length``.
      max_length: most tokens of a sequence.
      beam_size: sequences to draw. Where fewer have a probability above 0, all of them are returned, with
        weights that are their probabilities, and score −inf, weight 0 and length 0 in the slots left.
      context: constant inputs of every step, leaves leading with batch.

    Returns:
      the sequences. A lane in which a node that is followed has logits that are NaN, +∞ or all −∞ has NaN
      for scores and weights, and lengths 0; the others are as if it were not there.

    Raises:
      ValueError: for sizes or tokens out of range, a wrong number of keys, or a step whose state or logits
        have the wrong shape.

    >>> table = jnp.log(jnp.array([[0.1, 0.9], [0.8, 0.2]]))  # p(next | token)
    >>> step = lambda state, tokens: (state, table[tokens])
    >>> drawn = stochastic_beam_search(
    ...     step, jnp.zeros(1), key=jax.random.key(0), start=0, max_length=2, beam_size=4
    ... )
    >>> sorted(drawn.tokens[0].tolist()), drawn.weights.sum().round(4)
    ([[0, 0], [0, 1], [1, 0], [1, 1]], Array(1., dtype=float32))
    """
    beam_size = check_positive("beam_size", beam_size)
    lanes = prepare(step, state, start, end, max_length, context)
    keys = lane_keys(key, len(lanes.start))
    leaves, tokens, extras = search(
        lanes.step,
        state,
        lanes.start,
        context,
        keys,
        _roots(keys),
        on_device(np.ones(lanes.max_length)),
        end=lanes.end,
        beam_size=beam_size + 1,
        children=_perturbed,
    )
    return _sample(leaves, tokens, extras)


@jax.jit
def _roots(keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 0)))(keys)


@jax.jit
def _sample(leaves: Leaves, tokens: Array, extras: Any) -> StochasticBeams:
    """All leaves but the last, which gives κ."""
    kept, next_score = leaves.scores[:, :-1], leaves.scores[:, -1:]
    tokens, extras = jax.tree.map(lambda leaf: leaf[:, :-1], (tokens, extras))
    log_p = jnp.where(kept == -jnp.inf, -jnp.inf, leaves.log_p[:, :-1])
    weights = jnp.where(kept == -jnp.inf, 0, jnp.exp(log_p - _log_inclusion(log_p - next_score)))
    return StochasticBeams(tokens, log_p, leaves.lengths[:, :-1], kept, weights, extras)


def _perturbed(log_p: Array, parents: Array, keys: Array, time: Array) -> Array:
    """G of all children."""

    def draw(key: Array) -> Array:
        return jax.random.gumbel(
            jax.random.fold_in(key, time + 1), log_p.shape[1:], log_p.dtype, mode="high"
        )

    return truncated(log_p + jax.vmap(draw)(keys), parents[..., None])


def truncated(free: Array, highest: Array) -> Array:
    """Gumbels moved so that along the last axis their maximum is ``highest``, exactly.

    Equations (Kool et al. 2019, appendix B.3), in which nothing overflows::

        v = G_N − G̃ + log1mexp(Z − G̃)        G = G_N − max(0, v) − log1p(exp(−|v|))

    where log1mexp(a) = log(1 − exp(−a)).

    >>> truncated(jnp.array([-1e4, 2.0, -jnp.inf]), jnp.array([5.0])).tolist()
    [-10000.0, 5.0, -inf]
    """
    possible = (free > -jnp.inf) & (highest > -jnp.inf)
    gap = jnp.where(possible, jnp.max(free, axis=-1, keepdims=True) - free, 0)
    v = jnp.where(possible, highest - free, 0) + _log1mexp(gap)
    moved = highest - jnp.maximum(v, 0) - jnp.log1p(jnp.exp(-jnp.abs(v)))
    return jnp.where(possible, moved, -jnp.inf)


def _log1mexp(a: Array) -> Array:
    """log(1 − exp(−a)) for a ≥ 0 (Mächler 2012, "Accurately computing log(1 − exp(−|a|))")."""
    return jnp.where(a < 0.6931472, jnp.log(-jnp.expm1(-a)), jnp.log1p(-jnp.exp(-a)))


def _log_inclusion(above: Array) -> Array:
    """log(1 − exp(−exp(φ − κ))); where float32 could not hold exp(φ − κ), it is φ − κ but for rounding."""
    return jnp.where(above < -80, above, _log1mexp(jnp.exp(jnp.maximum(above, -80))))
