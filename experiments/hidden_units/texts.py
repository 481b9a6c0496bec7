"""The text whose reading is recorded, as the model's numbers and with its labels."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.char_lm.training import Train
from experiments.data.corpora import STANDARD_LIBRARY, library_files, load_text, read_text
from experiments.hidden_units.labels import Labels, labels_of, of_pattern
from jaxrnn.data.text import Vocabulary, split_in_order

PIECES = 10  # of a text that is too long to be read


class Reading(NamedTuple):
    """What is read, step by step."""

    text: Sequence[str]  # of every step: a character, a word, a row of an image
    ids: np.ndarray  # (steps,) int32; −1 where the vocabulary lacks one
    labels: Labels


def reading(
    documents: Sequence[str],
    vocabulary: Vocabulary,
    patterns: Mapping[str, str],
    *,
    own: Labels | None = None,
    most: int | None = None,
) -> Reading:
    """Documents after each other, each labelled by itself; labels that one of them lacks are left out.

    Args:
      documents: texts.
      vocabulary: of the model.
      patterns: by the name of a label, its regular expression.
      own: labels of the user's, of all documents together.
      most: characters that are kept.

    Raises:
      ValueError: for fewer than two characters, a pattern that is none, or a label of another length.

    >>> found = reading(["x = 1", "é"], Vocabulary.of("x = 1"), {})
    >>> found.ids.tolist(), sorted(found.labels)[:2]
    ([3, 0, 2, 0, 1, -1], ['brackets', 'capital'])
    """
    text = "".join(documents)
    if len(text) < 2:
        raise ValueError(f"expected a text of at least 2 characters, got {len(text)}")
    numbers = {character: number for number, character in enumerate(vocabulary.characters)}
    ids = np.array([numbers.get(character, -1) for character in text], np.int32)
    each = [labels_of(document, patterns) for document in documents if document]
    shared = [name for name in each[0] if all(name in labels for labels in each)]
    for name, label in (own or {}).items():
        if len(label) != len(text):
            raise ValueError(
                f"label {name!r}: expected {len(text):,} rows, one for every character of the text, "
                f"got {len(label):,}"
            )
    joined = (own or {}) | {name: np.concatenate([labels[name] for labels in each]) for name in shared}
    return Reading(text[:most], ids[:most], {name: label[:most] for name, label in joined.items()})


def in_sequence(sequences: Sequence[Sequence[str]], labels: Labels, patterns: Mapping[str, str]) -> Reading:
    r"""Sequences after each other, of each what is read at every step.

    Args:
      sequences: the text of every step of each.
      labels: of the steps of all together; those that say the same of all are left out.
      patterns: by the name of a label, its regular expression over the text.

    >>> found = in_sequence([["a ", "cat\n"], ["a\n"]], {}, {"cat": "c.t"})
    >>> {name: label.tolist() for name, label in found.labels.items()}
    {'cat': [False, True, False], 'position': [0, 1, 0]}
    """
    text = tuple(itertools.chain.from_iterable(sequences))
    begins = np.cumsum([0, *map(len, text)])[:-1]
    own = {
        name: np.logical_or.reduceat(of_pattern("".join(text), name, pattern), begins)
        for name, pattern in patterns.items()
    }
    position = np.concatenate([np.arange(len(of)) for of in sequences])
    kept = {name: label for name, label in labels.items() if len(np.unique(label)) > 1}
    return Reading(text, np.zeros(len(text), np.int32), own | kept | {"position": position})


def sampled(text: str, most: int) -> list[str]:
    """Pieces spread evenly over a text, together of at most so many characters; all of a shorter one.

    >>> sampled("0123456789" * 10, most=20)[:3], sampled("abc", most=20)
    (['01', '01', '12'], ['abc'])
    """
    if len(text) <= most:
        return [text]
    size = max(1, most // PIECES)
    starts = np.linspace(0, len(text) - size, PIECES).astype(int)
    return [text[start : start + size] for start in starts[:most]]


def held_out(config: Train, most: int) -> list[str]:
    """Documents that a run has not trained on, of at most so many characters together, one at least: of the
    standard library whole files, of another corpus, or a text of its own, the beginning.
    """
    if config.test is not None:
        return [read_text(Path(config.test))[:most]]
    text = load_text(config.corpus)
    # Only the lengths of the parts matter.
    _, _, test = split_in_order(np.arange(len(text)), config.valid_fraction, config.test_fraction)
    if not len(test):
        raise ValueError(f"the run leaves no test text of {config.corpus}; give --text FILE")
    if config.corpus != STANDARD_LIBRARY:
        return [text[test[0] :][:most]]
    found, begin, taken = list[str](), 0, 0
    for source in library_files().values():
        if begin >= test[0] and source and (not found or taken + len(source) < most):
            found.append(source + "\n")
            taken += len(found[-1])
        begin += len(source) + 1
    return found
