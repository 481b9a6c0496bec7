"""Kneser–Ney smoothing: the strongest of the n-gram models, as sorted arrays of the n-grams of a text."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Discounts = Literal["single", "modified"]


class Grams(NamedTuple):
    """All n-grams of one length; a gram's id is its place.

    The key of a gram w_1 … w_n is id(w_2 … w_n) · vocabulary + w_1: keys are sorted.
    """

    keys: np.ndarray  # (grams,) int64
    counts: np.ndarray  # (grams,): how often each occurs
    contexts: np.ndarray  # (grams,): id of w_1 … w_{n−1} among the grams one shorter
    preceded: np.ndarray  # (grams,): how many different tokens come before it


class KneserNey(NamedTuple):
    """Interpolated Kneser–Ney models of every order up to one.

    Equations, for a gram g = c w, its context c, and c′ the context without its first token::

        p_n(w | c) = (max(a(g) − D(a(g)), 0) + Σ_v min(D(a(c v)), a(c v)) · p_{n−1}(w | c′)) / Σ_v a(c v)
        p_0(w)     = 1 / vocabulary;   p_n(w | c) = p_{n−1}(w | c′) where c was never seen
        a(g)       = how often g occurs, in the highest order; below, how many tokens come before it
        single:     D = n₁ / (n₁ + 2 n₂), n_k grams of their order having a = k
        modified:   D(k) = k − (k + 1) · n₁ / (n₁ + 2 n₂) · n_{k+1} / n_k for k = 1, 2 and from 3 on

    Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling"
    (section 3; Kneser & Ney 1995 for a).
    """

    vocabulary_size: int
    orders: tuple[Grams, ...]  # of 1, 2, … tokens
    discounts: Discounts

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in memory."""
        return sum(array.nbytes for order in self.orders for array in order)


def fit(
    tokens: np.ndarray,
    vocabulary_size: int,
    order: int,
    discounts: Discounts = "modified",
    on_order: Callable[[int, int], None] | None = None,
) -> KneserNey:
    """The n-grams of ``tokens (time,)``, of 1 to ``order`` tokens.

    Args:
      tokens: a text.
      vocabulary_size: number of distinct tokens.
      order: length of the longest n-grams.
      discounts: "single", one of each order, or "modified", three.
      on_order: called with the orders that are counted and their number.

    Raises:
      ValueError: for an order below 1, or above the number of tokens.

    >>> model = fit(np.array([0, 1, 0, 1, 1]), vocabulary_size=3, order=2)
    >>> model.orders[0].counts.tolist(), model.orders[1].counts.tolist()
    ([2, 3], [1, 2, 1])
    """
    if not 1 <= order <= len(tokens):
        raise ValueError(f"order must be from 1 to the {len(tokens):,} tokens of the text, got {order}")
    ids, orders = np.zeros(len(tokens) + 1, np.int64), []
    for length in range(1, order + 1):
        before = ids[:-1]  # of grams one shorter, by where they end
        keys = ids[1:] * vocabulary_size + tokens[: len(tokens) - length + 1]
        keys, first, ids, counts = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        small = np.min_scalar_type(len(tokens))
        preceded = np.zeros(len(keys), small)  # known once the grams one longer are
        orders.append(Grams(keys, counts.astype(small), before[first].astype(small), preceded))
        if length > 1:
            shorter = orders[-2]
            found = np.bincount(keys // vocabulary_size, minlength=len(shorter.keys))
            orders[-2] = shorter._replace(preceded=found.astype(small))
        if on_order is not None:
            on_order(length, order)
    return KneserNey(vocabulary_size, tuple(orders), discounts)


def probabilities(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """Of every token, given those before it, by the model of each order: ``(orders, time)``.

    >>> model = fit(np.array([0, 1, 0, 1, 1]), vocabulary_size=3, order=2, discounts="single")
    >>> each = [probabilities(model, np.array([0, token]))[:, 1] for token in range(3)]
    >>> np.sum(each, axis=0).round(12).tolist()
    [1.0, 1.0]
    """
    lower = np.full(len(tokens), 1 / model.vocabulary_size)
    context = np.zeros(len(tokens), np.int64)  # id of what is before each token; −1 if never seen
    ids, found = np.zeros(len(tokens), np.int64), []
    for length, grams in enumerate(model.orders, start=1):
        key = ids * model.vocabulary_size + np.concatenate(
            [np.full(length - 1, -1, np.int64), tokens[: len(tokens) - length + 1]]
        )
        known = (ids >= 0) & (np.arange(len(tokens)) >= length - 1)
        place = np.minimum(np.searchsorted(grams.keys, key), len(grams.keys) - 1)
        ids = np.where(known & (grams.keys[place] == key), place, -1)
        found.append(_interpolated(grams, grams.counts, ids, context, lower, model.discounts))
        lower = _interpolated(grams, grams.preceded, ids, context, lower, model.discounts)
        context = np.concatenate([[-1], ids[:-1]])
    return np.stack(found)


def _interpolated(
    grams: Grams,
    amounts: np.ndarray,
    ids: np.ndarray,
    context: np.ndarray,
    lower: np.ndarray,
    discounts: Discounts,
) -> np.ndarray:
    """p_n of some tokens, given p_{n−1}, and the ids of their grams and contexts."""
    cut = np.minimum(discounts_of(amounts, discounts)[np.minimum(amounts, 3)], amounts)
    totals, held_back = (np.bincount(grams.contexts, weights=of) for of in (amounts, cut))
    known = (context >= 0) & (context < len(totals))
    total = np.where(known, totals[np.where(known, context, 0)], 0)
    own = np.where(ids >= 0, (amounts - cut)[ids], 0)
    mixed = (own + held_back[np.where(known, context, 0)] * lower) / np.maximum(total, 1)
    return np.where(total > 0, mixed, lower)


def discounts_of(amounts: np.ndarray, kind: Discounts) -> np.ndarray:
    """D of 0, 1, 2, and 3 or more: ``(4,)``; where too few grams have an amount, that of one discount."""
    n1, n2, n3, n4 = np.bincount(np.minimum(amounts, 5).astype(np.int64), minlength=6)[1:5].tolist()
    one = n1 / (n1 + 2 * n2) if n1 else 0.5
    found = np.array([0.0, one, one, one])
    if kind == "modified":
        for at, (of, above) in enumerate(((n1, n2), (n2, n3), (n3, n4)), start=1):
            if of:
                found[at] = np.clip(at - (at + 1) * one * above / of, 0, at)
    return found
