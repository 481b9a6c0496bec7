"""Batches of examples with lengths, in buckets of like sizes, shuffled; a position determines its batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from experiments.data.tokens import END, PAD, START

LONGEST = 0.01  # of the examples
EVERY = slice(None)  # of the lanes of a batch
ROUND = 4  # sizes of buckets are multiples of it: fewer shapes to compile

Ids = Sequence[int] | np.ndarray
# How long each sequence of an example is: a label's sentence alone, or a source and its target.
Size = tuple[int, ...]


def pad(sequences: Iterable[Ids], time: int, lanes: int) -> np.ndarray:
    """Token ids ``(time, lanes)`` side by side, padded at their ends.

    >>> pad([[7, 8], [9]], time=3, lanes=2).T.tolist()
    [[7, 8, 0], [9, 0, 0]]
    """
    arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
    return side_by_side(arrays or [np.zeros(0, np.int32)], time, lanes, PAD)


def side_by_side(arrays: Sequence[np.ndarray], time: int, lanes: int, fill: float) -> np.ndarray:
    """Arrays ``(length, ...)`` of one kind as ``(time, lanes, ...)``, filled up at their ends.

    >>> side_by_side([np.ones((1, 2)), np.ones((2, 2))], time=2, lanes=3, fill=0)[:, :, 0].T.tolist()
    [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    beside = np.full((time, lanes, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for lane, array in enumerate(arrays):
        beside[: len(array), lane] = array
    return beside


def lengths_of(sequences: Sequence[Ids], lanes: int) -> np.ndarray:
    """The lengths ``(lanes,)``; lanes that are left over have 0."""
    lengths = np.zeros(lanes, np.int32)
    lengths[: len(sequences)] = [len(sequence) for sequence in sequences]
    return lengths


def teacher_forcing(targets: Iterable[Ids], time: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """What a decoder is fed, the start token first, and what it is to predict, the end token last.

    >>> fed, predicted = teacher_forcing([[7, 8]], time=3, lanes=1)
    >>> fed.T.tolist() == [[START, 7, 8]], predicted.T.tolist() == [[7, 8, END]]
    (True, True)
    """
    targets = list(targets)
    fed, predicted = ([[START, *ids] for ids in targets], [[*ids, END] for ids in targets])
    return pad(fed, time, lanes), pad(predicted, time, lanes)


def buckets_of(sizes: Sequence[Size], count: int) -> list[Size]:
    """At most ``count`` buckets, smallest first: one for the longest hundredth of the examples, the others
    for about as many each. A bucket is the size of the longest example that it holds.

    >>> buckets_of([(n, n + 2) for n in range(1, 101)], count=2)
    [(100, 104)]
    """
    array = np.array(sizes)
    order = np.argsort(array.sum(axis=1), kind="stable")
    # The longest hundredth by itself: one very long example would make room for itself in many batches.
    cuts = np.linspace(0, len(array) * (1 - LONGEST), count)[1:]
    parts = np.split(order, np.ceil(cuts).astype(int))
    tops = np.array([array[part].max(axis=0) for part in parts if len(part)])
    tops = -(-np.maximum.accumulate(tops) // ROUND) * ROUND
    return [tuple(map(int, top)) for top in dict.fromkeys(map(tuple, tops))]


class TrainingBatches:
    """Endless batches, each from one bucket; the batch at a position is always the same.

    Every bucket is shuffled anew at each pass, and comes as often as it holds examples.

    Args:
      sizes: of the examples.
      buckets: from ``buckets_of``.
      batch_size: examples of a batch.
      seed: of the order.
      collate: (indices of examples, bucket) → the batch of them.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        buckets: Sequence[Size],
        batch_size: int,
        seed: int,
        collate: Callable[[list[int], Size], Any],
    ) -> None:
        filled = [(bucket, found) for bucket, found in _by_bucket(sizes, buckets).items() if found]
        parts = [
            grain.MapDataset.source(found)
            # Not seed + number: each pass adds 1 of its own, and seeds would share their orders.
            .shuffle(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            .repeat()
            .batch(batch_size, batch_fn=lambda group, bucket=bucket: (list(group), bucket))
            for number, (bucket, found) in enumerate(filled)
        ]
        self._batches = grain.MapDataset.mix(parts, [len(found) for _, found in filled])
        self._collate = collate

    def __call__(self, position: int, lanes: slice = EVERY) -> Any:
        """Of the batch at a position, the examples in some lanes."""
        indices, bucket = self._batches[position]
        return self._collate(indices[lanes], bucket)


def lanes_within(budget: int, numbers: int, most: int) -> int:
    """How many examples lie side by side: ``most``, halved until their ``numbers`` of each fit the budget.

    Halved, so that there are few shapes to compile.

    >>> [lanes_within(1000, numbers, most=64) for numbers in (10, 16, 300, 5000)]
    [64, 32, 2, 1]
    """
    while most > 1 and most * numbers > budget:
        most //= 2
    return most


def groups_in_order(
    sizes: Sequence[Size], buckets: Sequence[Size], lanes: Callable[[Size], int]
) -> Iterator[tuple[list[int], Size, int]]:
    """Every example once, bucket by bucket: indices of those in a batch, their bucket, and its lanes.

    An example longer than every bucket gets a bucket of its own size. ``lanes`` says how many examples of a
    bucket lie side by side: fewer of the long ones, or a single long one would make all lanes as long as
    itself.
    """
    for bucket, found in _by_bucket(sizes, buckets).items():
        count = lanes(bucket)
        for start in range(0, len(found), count):
            yield found[start : start + count], bucket, count


def _by_bucket(sizes: Sequence[Size], buckets: Sequence[Size]) -> dict[Size, list[int]]:
    """Indices of the examples in the first bucket that holds each."""
    found: dict[Size, list[int]] = {bucket: [] for bucket in buckets}
    for index, size in enumerate(sizes):
        fits = (b for b in buckets if all(room >= length for room, length in zip(b, size, strict=True)))
        own = tuple(-(-length // (4 * ROUND)) * 4 * ROUND for length in size)
        found.setdefault(next(fits, own), []).append(index)
    return found
