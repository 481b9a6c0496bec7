"""Beam search over a tree of hypotheses, shared by both kinds of beam."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.caching import by_value
from jaxrnn.decoding.lanes import Step, advance, log_probabilities, result_of
from jaxrnn.sharding import auto_sharded, match_varying

# The priorities of all children (batch, beam, vocabulary), by which they are kept, from their
# log-probabilities, their parents' priorities (batch, beam), a key a lane or None, and the time. No child's
# may exceed its parent's.
Children = Callable[[Array, Array, Array | None, Array], Array]

BLOCK = 64  # values


class Live(NamedTuple):
    """Hypotheses that go on; a slot that none uses has priority −inf."""

    state: Any  # every leaf (batch·beam, ...)
    tokens: Array  # (batch, beam) the last
    log_p: Array  # (batch, beam)
    priorities: Array  # (batch, beam)


class Leaves(NamedTuple):
    """Hypotheses that have ended, best first; each (batch, n). A slot that none uses has score −inf."""

    scores: Array
    log_p: Array
    lengths: Array
    parents: Array  # the slot in which the last step found it
    tokens: Array  # the last


class Tree(NamedTuple):
    """Token and parent of every slot at every step; hypotheses are read off backwards, never copied."""

    tokens: Array  # (max_length, batch, beam) what a slot got
    parents: Array  # (max_length, batch, beam) the slot that it grew from
    extras: Any  # every leaf (max_length, batch, beam, ...), by the slot before the step


class Search(NamedTuple):
    """State of a search."""

    time: Array
    live: Live
    leaves: Leaves
    tree: Tree
    broken: Array  # (batch,) logits were undefined


@auto_sharded
@functools.partial(by_value, static_argnames=("end", "beam_size", "children"))
def search(
    step: Step,
    state: Any,
    start: Array,
    context: Any,
    keys: Array | None,
    root: Array,
    penalties: Array,
    *,
    end: int | None,
    beam_size: int,
    children: Children,
) -> tuple[Leaves, Array, Any]:
    """The best leaves of every lane, best first.

    A leaf is a hypothesis that ends with ``end``, or has as many tokens as there are ``penalties``. Of all
    children of a level, the first ``beam_size`` by priority are kept if they end, and as many of the others
    go on; so an ended one frees its slot. ``root`` (batch,) are the first priorities, and a leaf of length
    L has the score priority / penalties[L−1].

    Returns:
      the leaves, their tokens (batch, beam, max_length), and the extras of their steps with leaves
      (batch, beam, max_length, ...). A lane in which a live hypothesis met undefined logits has NaN for
      scores.
    """
    state, context = (_spread(tree, beam_size) for tree in (state, context))
    first = _begin(step, state, start, context, root, beam_size, len(penalties))
    penalties = penalties.astype(first.live.priorities.dtype)
    first, step, context, keys, penalties = match_varying((first, step, context, keys, penalties))

    def go_on(now: Search) -> Array:
        return (now.time < len(penalties)) & jnp.any(_running(now, penalties))

    def grow(now: Search) -> Search:
        return _grow(now, step, context, keys, penalties, end, children)

    return _read(jax.lax.while_loop(go_on, grow, first), end)


def _running(now: Search, penalties: Array) -> Array:
    """The lanes (batch,) whose leaves can still change.

    No descendant of a live hypothesis has a higher priority than it, and none is divided by more than the
    last penalty, the largest. Priorities are at most 0, or else all penalties are 1; so the score of a
    descendant is at most priority / penalties[−1], rounding included, as division is monotone. Where the
    best of the live ones does not pass the worst of a full set of leaves by this bound, none ever will.
    """
    bound = jnp.max(now.live.priorities, axis=-1) / penalties[-1]
    return (bound > now.leaves.scores[:, -1]) & ~now.broken


def _grow(
    now: Search,
    step: Step,
    context: Any,
    keys: Array | None,
    penalties: Array,
    end: int | None,
    children: Children,
) -> Search:
    """The next level."""
    time, live = now.time, now.live
    state, logits, extras = advance(step, live.state, live.tokens.reshape(-1), context)
    log_p, undefined = log_probabilities(logits)
    used, beam_size = live.priorities > -jnp.inf, live.tokens.shape[1]
    broken = _running(now, penalties) & jnp.any(undefined.reshape(used.shape) & used, axis=-1)
    log_p = jnp.where(undefined[:, None], -jnp.inf, log_p).reshape(*used.shape, logits.shape[-1])
    log_p = jnp.where(used, live.log_p, -jnp.inf)[..., None] + log_p  # what ended has no children
    best = _best_children(children(log_p, live.priorities, keys, time), log_p, beam_size)

    ends = jnp.zeros_like(best.tokens, bool) if end is None else best.tokens == end
    leaf = (ends | (time == len(penalties) - 1)) & (jnp.arange(ends.shape[-1]) < beam_size)[None]
    new = best._replace(
        scores=jnp.where(leaf, best.scores / penalties[time], -jnp.inf),
        lengths=jnp.full_like(best.lengths, time + 1),
    )
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=-1), now.leaves, new)
    onward = _first(best._replace(scores=jnp.where(ends, -jnp.inf, best.scores)), beam_size)
    return Search(
        time + 1,
        Live(_reorder(state, onward.parents), onward.tokens, onward.log_p, onward.scores),
        _first(both, beam_size),
        _record(now.tree, time, Tree(onward.tokens, onward.parents, extras)),
        now.broken | broken,
    )


def _begin(
    step: Step, state: Any, start: Array, context: Any, root: Array, beam_size: int, max_length: int
) -> Search:
    shape = (len(start), beam_size)
    tokens = jnp.broadcast_to(start[:, None], shape)
    _, logits, extras = result_of(step, state, tokens.reshape(-1), context)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    none = jnp.full(shape, -jnp.inf, dtype)
    zero, zeros = jnp.zeros(shape, jnp.int32), jnp.zeros((max_length, *shape), jnp.int32)
    extras = jax.tree.map(lambda leaf: jnp.zeros((*zeros.shape, *leaf.shape[1:]), leaf.dtype), extras)
    live = Live(state, tokens, none.at[:, 0].set(0), none.at[:, 0].set(root.astype(dtype)))
    leaves = Leaves(none, none, zero, zero, zero)
    return Search(jnp.int32(0), live, leaves, Tree(zeros, zeros, extras), jnp.zeros(len(start), bool))


def _best_children(priorities: Array, log_p: Array, beam_size: int) -> Leaves:
    """The best 2·beam_size children, best first; enough, as at most one child of each parent ends."""
    batch, beam, vocabulary = priorities.shape
    count = min(2 * beam_size, beam * vocabulary)
    best, index = top_k(priorities.reshape(batch, beam * vocabulary), count)
    log_p = jnp.take_along_axis(log_p.reshape(batch, beam * vocabulary), index, axis=-1)
    return Leaves(best, log_p, jnp.zeros_like(index), index // vocabulary, index % vocabulary)


def top_k(values: Array, count: int) -> tuple[Array, Array]:
    """``jax.lax.top_k`` of long rows ``(batch, n)``, of equals the first too, in less time on a CPU.

    The largest values lie in the blocks with the largest maxima, and maxima are all that reads every value.
    What fills the last block up stands for the last value.

    >>> [part.tolist() for part in top_k(jnp.arange(1000.0)[None] % 700, 2)]
    [[[699.0, 698.0]], [[699, 698]]]
    """
    batch, size = values.shape
    if size <= 2 * count * BLOCK:
        best, index = jax.lax.top_k(values, count)
        return best, index
    blocks = -(-size // BLOCK)
    filled = jnp.pad(values, ((0, 0), (0, blocks * BLOCK - size)), constant_values=-jnp.inf)
    filled = filled.reshape(batch, blocks, BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(filled, axis=-1), count)
    chosen = jnp.sort(chosen, axis=-1)  # of equals the first
    best, index = jax.lax.top_k(_at(filled, chosen).reshape(batch, count * BLOCK), count)
    index = _at(chosen, index // BLOCK) * BLOCK + index % BLOCK
    return best, jnp.minimum(index, size - 1)


def _first(leaves: Leaves, count: int) -> Leaves:
    _, kept = jax.lax.top_k(leaves.scores, count)  # of equals the first, so those that were there stay
    return jax.tree.map(lambda leaf: _at(leaf, kept), leaves)


def _record(tree: Tree, time: Array, level: Tree) -> Tree:
    return jax.tree.map(lambda stack, new: stack.at[time].set(new.reshape(stack.shape[1:])), tree, level)


def _read(last: Search, end: int | None) -> tuple[Leaves, Array, Any]:
    leaves, tree = last.leaves, last.tree
    lengths = jnp.where(leaves.scores > -jnp.inf, leaves.lengths, 0)
    lengths = jnp.where(last.broken[:, None], 0, lengths)

    def back(slots: Array, step: tuple[Array, Tree]) -> tuple[Array, tuple[Array, Any]]:
        time, at = step
        ends, on = time == lengths - 1, time < lengths
        tokens = jnp.where(ends, leaves.tokens, _at(at.tokens, slots))
        before = jnp.where(ends, leaves.parents, _at(at.parents, slots))

        def extra(leaf: Array) -> Array:
            return jnp.where(
                on.reshape(on.shape + (1,) * (leaf.ndim - 2)), _at(leaf, before), jnp.zeros((), leaf.dtype)
            )

        return before, (jnp.where(on, tokens, end or 0), jax.tree.map(extra, at.extras))

    times = jnp.arange(len(tree.tokens))
    _, found = jax.lax.scan(back, leaves.parents, (times, tree), reverse=True)
    tokens, extras = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), found)
    scores, log_p = (jnp.where(last.broken[:, None], jnp.nan, leaf) for leaf in leaves[:2])
    return leaves._replace(scores=scores, log_p=log_p, lengths=lengths), tokens, extras


def _at(leaf: Array, slots: Array) -> Array:
    """``leaf (batch, beam, ...)`` at ``slots (batch, n)``."""
    return jnp.take_along_axis(leaf, slots.reshape(slots.shape + (1,) * (leaf.ndim - 2)), axis=1)


def _spread(tree: Any, slots: int) -> Any:
    """Every lane ``slots`` times, one after the other."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, slots, axis=0), tree)


def _reorder(state: Any, parents: Array) -> Any:
    """For every slot the state of its parent."""

    def take(leaf: Array) -> Array:
        return _at(leaf.reshape(*parents.shape, *leaf.shape[1:]), parents).reshape(leaf.shape)

    return jax.tree.map(take, state)
