"""The text whose reading is recorded, as the model's numbers and with its labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.char_lm.training import Train
from experiments.data.corpora import STANDARD_LIBRARY, library_files, load_text, read_text
from experiments.hidden_units.labels import Labels, labels_of
from jaxrnn.data.text import Vocabulary, split_in_order


class Reading(NamedTuple):
    """A text that is read."""

    text: str
    ids: np.ndarray  # (characters,) int32; −1 where the vocabulary lacks one
    labels: Labels


def reading(
    documents: Sequence[str], vocabulary: Vocabulary, patterns: Mapping[str, str], most: int | None = None
) -> Reading:
    """Documents after each other, of which at most so many characters are kept. Each is labelled by itself;
    labels that one of them lacks are left out.

    Raises:
      ValueError: for fewer than two characters, or a pattern that is none.

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
    joined = {name: np.concatenate([labels[name] for labels in each]) for name in shared}
    return Reading(text[:most], ids[:most], {name: label[:most] for name, label in joined.items()})


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
