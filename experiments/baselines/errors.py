"""Which errors of a network n-grams, or a memory of the recent text, would have avoided."""

import re
from collections import Counter
from typing import Any

import numpy as np

MEMORIES = (100, 500, 1000, 5000)  # characters back
RARE = 5  # times or fewer in the training text
_WORD = re.compile(r"\w+")


def explain(network: np.ndarray, ngrams: np.ndarray, text: str, train: str) -> dict[str, Any]:
    """Errors by what would have avoided them, each counted once, in this order.

    As Karpathy et al. 2015, "Visualizing and understanding recurrent networks" (section 4.4), peel them: an
    error is a character that gets no more than half of the probability. First come those to which some
    n-gram model gives more than half; then those that a memory of the last 100, 500 ... characters would
    have known, which continues a word as it went on when it was last seen; then characters of words that
    are rare in training; then all others.

    Args:
      network: the probability of every character of ``text`` but the first.
      ngrams: likewise, the highest that an n-gram model gives.
      text: that of the test.
      train: that of the training.

    Returns:
      how many errors there are, and how many of each kind.
    """
    left = network <= 0.5
    found: dict[str, Any] = {"characters": len(network), "errors": int(left.sum())}
    back = last_seen(text)[1:]
    counts = Counter(_WORD.findall(train))
    rare = np.zeros(len(text), bool)
    for word in _WORD.finditer(text):
        rare[word.start() : word.end() + 1] = counts[word.group()] <= RARE
    avoided = {"n-grams": ngrams > 0.5}
    avoided |= {f"memory of {span:,} characters": back <= span for span in MEMORIES}
    avoided["word rare in training"] = rare[1:]
    found["avoided"] = {}
    for name, which in avoided.items():
        found["avoided"][name] = int((left & which).sum())
        left = left & ~which
    found["others"] = int(left.sum())
    return found


def last_seen(text: str) -> np.ndarray:
    """How many characters back a word last began as the one here does, if it then went on with the same
    character: ``(characters,)``, infinity where it did not, at a word's first letter and outside words. A
    word's end counts as its last character.

    >>> last_seen("to be too").tolist()
    [inf, inf, inf, inf, inf, inf, inf, 6.0, inf]
    """
    back = np.full(len(text), np.inf)
    latest: dict[str, tuple[int, str]] = {}  # beginning of a word → where it was seen, what came next
    for word in _WORD.finditer(text):
        for at in range(word.start() + 1, min(word.end() + 1, len(text))):
            beginning, character = text[word.start() : at], text[at]
            where, following = latest.get(beginning, (0, ""))
            if following == character:
                back[at] = at - where
            latest[beginning] = at, character
    return back


def print_explained(errors: dict[str, Any]) -> None:
    """Print a line for every kind of error."""
    total = max(1, errors["errors"])
    share = errors["errors"] / errors["characters"]
    print(f"\nerrors of {errors['model']}: {errors['errors']:,}, {share:.1%} of the characters; avoided by")
    for name, number in [*errors["avoided"].items(), ("nothing of these", errors["others"])]:
        print(f"{name:<28}{number:>9,}{number / total:>8.1%}")
