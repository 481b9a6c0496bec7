"""Sentences of which only the order of the words tells the label, and what a bag of words can know of them.

A sentence names what it is about, then says of one thing after another what it is and what it is not::

    about the plot : the cast is not bad but good and the plot is good , not dull

The label is the sentiment of the thing that it is about: here "positive". Every clause holds one good and
one bad adjective, so that the clause asked for says as much of the one as of the other.

The ceiling of a bag of words: exchange the two adjectives of the clause that is asked for. The bag of words
stays the same, the label turns around, and both sentences are as probable. So given its bag every sentence
is positive with probability 1/2, and no rule that sees bags alone is expected to be right more often than
that.
"""

import itertools
from collections.abc import Sequence

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

    >>> text = order_sentences((2, 1, 1))
    >>> text.train.labels[0] in LABELS, len(text.test.texts)
    (True, 1)
    """
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    found: dict[str, str] = {}
    while len(found) < sum(counts):
        text, label = draw(random, clauses=1 + len(found) % MOST_CLAUSES)
        found.setdefault(text, label)
    items, bounds = list(found.items()), np.cumsum([0, *counts])
    parts = [items[a:b] for a, b in itertools.pairwise(bounds)]
    return LabelledText(*(Labelled([t for t, _ in part], [label for _, label in part]) for part in parts))


def draw(random: np.random.Generator, clauses: int) -> tuple[str, str]:
    """A sentence and its label."""
    things = random.permutation(THINGS)[:clauses]
    asked = random.integers(clauses)
    words = [f"about the {things[asked]} :"]
    for number, thing in enumerate(things):
        pair = random.choice(GOOD), random.choice(BAD)
        positive = bool(random.integers(2))
        said, denied = pair if positive else pair[::-1]
        if number == asked:
            label = LABELS[positive]
        if number:
            words.append(random.choice(LINKS))
        words.append(random.choice(CLAUSES).format(thing=thing, said=said, denied=denied))
    return " ".join(words), label


def clauses_of(text: str) -> int:
    """How many clauses a sentence has.

    >>> clauses_of("about the plot : the plot is good , not bad")
    1
    """
    return sum(text.count(f" {word}") for word in GOOD)
