"""Sentences of which only the order of the words tells the label, and what a bag of words can know of them.

A sentence names what it is about, then says of one thing after another what it is and what it is not::

    about the plot : the cast is not bad but good and the plot is good , not dull

The label is the sentiment of the thing that it is about: here "positive". Every clause holds one good and
one bad adjective, so that the clause asked for says as much of the one as of the other.

The ceiling of a bag of words: exchange the two adjectives of the clause that is asked for. The bag of words
stays the same, and the label turns around. Both sentences are always drawn together, into the same part of
the data, so that of the sentences with one bag half are positive in every part: whatever a rule that sees
bags alone says of them, it is right of half.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data.labelled import Labelled, LabelledText

THINGS = ("plot", "cast", "music", "food", "room", "price", "view", "staff", "light", "sound")
GOOD = ("good", "great", "fine", "lovely", "superb", "nice", "bright", "fresh")
BAD = ("bad", "poor", "dull", "awful", "weak", "dreary", "stale", "cheap")
CLAUSES = (
    "the {thing} is not {denied} but {said}",
    "the {thing} is {said} , not {denied}",
    "the {thing} is {said} and by no means {denied}",
    "far from {denied} , the {thing} is {said}",
)
LINKS = ("and", ";", ",")
MOST_CLAUSES = 6
LABELS = ("negative", "positive")
BAG_CEILING = 0.5


def order_sentences(counts: Sequence[int] = (12_000, 1_000, 3_000)) -> LabelledText:
    """Sentences of one to six clauses to train on, to validate on and to test on; no sentence comes twice.

    ``counts`` are even: sentences come in twos.

    >>> text = order_sentences((2, 2, 2))
    >>> text.train.labels, sorted(text.test.texts[0]) == sorted(text.test.texts[1])
    (['negative', 'positive'], True)
    """
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    found: dict[str, str] = {}
    while len(found) < sum(counts):
        texts = draw(random, clauses=random.integers(1, MOST_CLAUSES, endpoint=True))
        if texts[0] not in found:
            found.update(zip(texts, LABELS, strict=True))
    items, bounds = list(found.items()), np.cumsum([0, *counts])
    parts = [items[a:b] for a, b in itertools.pairwise(bounds)]
    return LabelledText(*(Labelled([t for t, _ in part], [label for _, label in part]) for part in parts))


def draw(random: np.random.Generator, clauses: Any) -> tuple[str, str]:
    """A negative and a positive sentence, with the same words."""
    things = random.permutation(THINGS)[:clauses]
    asked = random.integers(clauses)
    links = ["", *random.choice([f" {link} " for link in LINKS], clauses - 1)]
    texts = [f"about the {things[asked]} : "] * len(LABELS)
    for number, (thing, link) in enumerate(zip(things, links, strict=True)):
        pair, clause = (random.choice(BAD), random.choice(GOOD)), random.choice(CLAUSES)
        positive = random.integers(2)
        for label in range(len(LABELS)):
            says = label if number == asked else positive
            texts[label] += link + clause.format(thing=thing, said=pair[says], denied=pair[1 - says])
    return texts[0], texts[1]
