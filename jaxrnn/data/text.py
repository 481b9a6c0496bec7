"""Text as numbers: a character vocabulary, and contiguous streams for truncated BPTT."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from jaxrnn.checks import check_positive


@dataclass(frozen=True)
class Vocabulary:
    """A fixed, ordered set of characters; a character's id is its place.

    Args:
      characters: the characters, each once.
      unknown: the character that stands for every one outside the vocabulary (it must be inside), or
        None, with which such characters are an error.

    Raises:
      ValueError: for an empty vocabulary, a repeated character, an entry that is not one character, or
        an ``unknown`` outside the vocabulary.

    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary.characters
    ('e', 'h', 'l', 'o')
    >>> vocabulary.encode("hole")
    array([1, 3, 2, 0], dtype=int32)
    >>> vocabulary.decode([1, 0])
    'he'
    """

    characters: tuple[str, ...]
    unknown: str | None = None

    def __post_init__(self) -> None:
        if not self.characters:
            raise ValueError("a vocabulary needs at least one character, got none")
        if any(len(character) != 1 for character in self.characters):
            raise ValueError("every entry of a vocabulary must be a single character")
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("a vocabulary holds each character once, got repetitions")
        if self.unknown is not None and self.unknown not in self.characters:
            raise ValueError(f"unknown character {self.unknown!r} must be in the vocabulary")

    @classmethod
    def of(cls, text: str, unknown: str | None = None) -> "Vocabulary":
        """The characters of a text (and ``unknown``, if given), sorted by code point."""
        return cls(tuple(sorted(set(text) | set(unknown or ""))), unknown)

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Ids ``(len(text),)`` int32.

        Raises:
          ValueError: for characters outside a vocabulary that has no unknown character, naming them.
        """
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.array([ord(character) for character in self.characters], np.uint32)
        order = np.argsort(known)
        found = order[np.searchsorted(known[order], points).clip(max=len(known) - 1)]
        missing = known[found] != points
        if missing.any():
            if self.unknown is None:
                strangers = "".join(sorted({chr(point) for point in points[missing]}))
                raise ValueError(
                    f"text holds {len(strangers)} character(s) outside the vocabulary of {len(self)}: "
                    f"{strangers[:40]!r}"
                )
            found[missing] = self.characters.index(self.unknown)
        return found.astype(np.int32)

    def decode(self, ids: Sequence[int] | Int[ArrayLike, " characters"]) -> str:
        """The text of ids.

        Raises:
          ValueError: for ids outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise ValueError(
                f"ids must lie in [0, {len(self)}), got values from {ids.min()} to {ids.max()}"
            )
        return "".join(self.characters[i] for i in ids)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON; a file half written is never seen under this name."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        # A list: in one string, JSON would read two neighbouring surrogates as one character.
        content = {"characters": self.characters, "unknown": self.unknown}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what ``save`` wrote.

        Raises:
          ValueError: for a file that is no vocabulary.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(content["characters"]), content["unknown"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no vocabulary: {error}") from error


class Chunk(NamedTuple):
    """One chunk of every stream; time leads."""

    inputs: np.ndarray  # (time, streams) int32
    targets: np.ndarray  # (time, streams) int32, the inputs one position later
    mask: np.ndarray  # (time, streams) bool, False past the end of the text
    first: np.ndarray  # () bool, True where every stream begins anew


@dataclass(frozen=True)
class Streams:
    """A text cut into equal contiguous streams, read chunk by chunk side by side, over and over.

    Truncated BPTT carries the hidden state from chunk ``position`` to ``position + 1``; at the first
    chunk of each pass every stream begins anew. Any position can be read at any time, so a position is
    all that a resumed run needs.

    Args:
      ids: the text, ``(characters,)`` integers.
      streams: number of streams (the batch size).
      time: steps in a chunk.
      drop_last: leave out what does not fill a whole chunk in every stream (training); otherwise the
        last chunk is padded and masked, and every character but the first is a target exactly once.

    Raises:
      ValueError: for sizes below 1, or a text too short for one chunk.

    >>> streams = Streams(np.arange(13), streams=2, time=3)
    >>> streams.chunks
    2
    >>> streams.chunk(0).inputs.T, streams.chunk(0).targets.T
    (array([[0, 1, 2],
           [6, 7, 8]]), array([[1, 2, 3],
           [7, 8, 9]]))
    """

    ids: np.ndarray
    streams: int
    time: int
    drop_last: bool = True

    def __post_init__(self) -> None:
        check_positive("streams", self.streams)
        check_positive("time", self.time)
        needed = self.streams * self.time + 1 if self.drop_last else 2
        if len(self.ids) < needed:
            raise ValueError(
                f"the text is too short: {self.streams} stream(s) of {self.time} step(s) need at least "
                f"{needed} characters, got {len(self.ids)}"
            )

    @property
    def chunks(self) -> int:
        """Chunks in one pass over the text."""
        return self._length // self.time if self.drop_last else -(-self._length // self.time)

    @property
    def _length(self) -> int:
        """Targets in the longest stream."""
        targets = len(self.ids) - 1
        return targets // self.streams if self.drop_last else -(-targets // self.streams)

    def chunk(self, position: int, streams: slice = slice(None)) -> Chunk:
        """Chunk ``position mod chunks`` of every stream, or of some."""
        index = position % self.chunks
        steps = np.arange(index * self.time, (index + 1) * self.time)[:, None]  # (time, 1)
        places = steps + self._length * np.arange(self.streams)[streams]  # (time, streams)
        mask = (steps < self._length) & (places < len(self.ids) - 1)
        places = np.where(mask, places, 0)
        return Chunk(
            inputs=np.where(mask, self.ids[places], 0),
            targets=np.where(mask, self.ids[places + 1], 0),
            mask=mask,
            first=np.asarray(index == 0),
        )


def split_in_order(
    ids: np.ndarray, valid_fraction: float, test_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test text: the first part, the next, the last.

    Raises:
      ValueError: for fractions below 0, or that leave nothing to train on.

    >>> [len(part) for part in split_in_order(np.arange(100), 0.05, 0.1)]
    [85, 5, 10]
    """
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            "valid_fraction and test_fraction must be 0 or more, and together below 1 to "
            f"leave something to train on, got {valid_fraction} and {test_fraction}"
        )
    valid, test = int(len(ids) * valid_fraction), int(len(ids) * test_fraction)
    train = len(ids) - valid - test
    return ids[:train], ids[train : train + valid], ids[train + valid :]
