"""Word vectors that were trained elsewhere, in the text format of GloVe and word2vec."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Vectors(NamedTuple):
    """Vectors of some words of a vocabulary."""

    rows: np.ndarray  # (words found,) int32, their ids
    values: np.ndarray  # (words found, size) float32


def read_vectors(path: Path, ids: Mapping[str, int]) -> Vectors:
    """The vectors of those words in a file that a vocabulary has; of two vectors for a word, the first.

    Args:
      path: lines of a word and its numbers, with spaces between them; the first line may hold the count of
        words and the size, as word2vec writes it.
      ids: of the words of the vocabulary.

    Raises:
      ValueError: for what cannot be read, vectors of different sizes, or none of the vocabulary's words.
    """
    found: dict[int, np.ndarray] = {}
    size = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                parts = line.split()
                if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                    continue
                size = size or _numbers(parts)
                # A word may hold spaces.
                if not size or (len(parts) != size + 1 and _numbers(parts) != size):
                    expected = f"a word and {size or 'its'} numbers"
                    raise ValueError(f"{path}, line {number}: expected {expected}, got {_numbers(parts)}")
                if (word := " ".join(parts[:-size])) in ids:
                    found.setdefault(ids[word], np.array(parts[-size:], np.float32))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if not found:
        raise ValueError(f"{path} has a vector for none of the {len(ids):,} words of the training text")
    return Vectors(np.array(list(found), np.int32), np.stack(list(found.values())))


def _numbers(parts: Sequence[str]) -> int:
    """How many numbers a line ends with; its first part is a word, whatever it is."""
    count = 0
    for part in reversed(parts[1:]):
        try:
            float(part)
        except ValueError:
            break
        count += 1
    return count
