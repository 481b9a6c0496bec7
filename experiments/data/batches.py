"""Batches of sentence pairs in buckets of like lengths, shuffled and resumable."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from experiments.data.pairs import Pairs
from experiments.data.tokens import END, PAD, START, Vocabularies, encode

LONGEST = 0.01  # of the pairs
ORDINARY = 64 * 64  # tokens of a source times those of a target, of which every batch has room
ROUND = 4  # lengths of buckets are multiples of it: fewer shapes to compile


class EncodedPair(NamedTuple):
    """The ids of a pair, without start and end."""

    source: np.ndarray
    target: np.ndarray


def encode_pairs(vocabularies: Vocabularies, pairs: Pairs) -> list[EncodedPair]:
    """The ids of all pairs."""
    sides = encode(vocabularies.source, pairs.source), encode(vocabularies.target, pairs.target)
    return [EncodedPair(source, target) for source, target in zip(*sides, strict=True)]


def short_enough(pairs: list[EncodedPair], most: int, report: Callable[[str], None]) -> list[EncodedPair]:
    """The pairs with at most so many tokens on either side; how many are not is reported.

    Raises:
      ValueError: if none is left.
    """
    kept = [pair for pair in pairs if max(map(len, pair)) <= most]
    if not kept:
        raise ValueError(
            f"none of {len(pairs):,} training pairs has at most --max-length {most} tokens a side"
        )
    if left_out := len(pairs) - len(kept):
        report(f"{left_out:,} training pairs have more than {most} tokens on a side and are left out")
    return kept


class Batch(NamedTuple):
    """Padded pairs; time leads. A lane of length 0 is nobody's."""

    source: np.ndarray  # (source_time, batch) int32
    source_lengths: np.ndarray  # (batch,)
    fed: np.ndarray  # (target_time, batch): the start token, then the target
    targets: np.ndarray  # (target_time, batch): the target, then the end token
    target_lengths: np.ndarray  # (batch,), the end token included

    @property
    def mask(self) -> np.ndarray:
        """True where a target token counts, (target_time, batch)."""
        return np.arange(len(self.targets))[:, None] < self.target_lengths


class Bucket(NamedTuple):
    """The longest pair that a batch holds."""

    source: int
    target: int  # the end token included


def buckets_of(pairs: Sequence[EncodedPair], count: int) -> list[Bucket]:
    """At most ``count`` buckets, shortest first: one for the longest hundredth of the pairs, the others for
    about as many each.

    >>> buckets_of([EncodedPair(np.arange(n), np.arange(n + 1)) for n in range(1, 101)], count=2)
    [Bucket(source=100, target=104)]
    """
    sizes = np.array([(len(pair.source), len(pair.target) + 1) for pair in pairs])
    order = np.argsort(sizes.sum(axis=1), kind="stable")
    # The longest hundredth by itself: one very long pair would make room for itself in many batches.
    cuts = np.linspace(0, len(pairs) * (1 - LONGEST), count)[1:]
    parts = np.split(order, np.ceil(cuts).astype(int))
    tops = np.array([sizes[part].max(axis=0) for part in parts if len(part)])
    tops = -(-np.maximum.accumulate(tops) // ROUND) * ROUND
    return [Bucket(*map(int, top)) for top in dict.fromkeys(map(tuple, tops))]


def collate(pairs: Sequence[EncodedPair], bucket: Bucket, batch_size: int) -> Batch:
    """Pairs side by side, padded to a bucket; lanes that are left over have length 0."""
    source = np.full((bucket.source, batch_size), PAD, np.int32)
    fed, targets = (np.full((bucket.target, batch_size), PAD, np.int32) for _ in range(2))
    lengths = np.zeros((2, batch_size), np.int32)
    for lane, pair in enumerate(pairs):
        lengths[:, lane] = len(pair.source), len(pair.target) + 1
        source[: len(pair.source), lane] = pair.source
        fed[: len(pair.target) + 1, lane] = [START, *pair.target]
        targets[: len(pair.target) + 1, lane] = [*pair.target, END]
    return Batch(source, lengths[0], fed, targets, lengths[1])


class TrainingBatches:
    """Endless batches, each from one bucket; the batch at a position is always the same.

    Every bucket is shuffled anew at each pass, and comes as often as it holds pairs.
    """

    def __init__(
        self, pairs: Sequence[EncodedPair], buckets: Sequence[Bucket], batch_size: int, seed: int
    ) -> None:
        filled = [(bucket, found) for bucket, found in _by_bucket(pairs, buckets).items() if found]
        parts = [
            grain.MapDataset.source([pairs[i] for i in found])
            # Not seed + number: each pass adds 1 of its own, and seeds would share their orders.
            .shuffle(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            .repeat()
            .batch(batch_size, batch_fn=lambda group, bucket=bucket: collate(group, bucket, batch_size))
            for number, (bucket, found) in enumerate(filled)
        ]
        self._batches = grain.MapDataset.mix(parts, [len(found) for _, found in filled])

    def __call__(self, position: int) -> Batch:
        """The batch at a position."""
        return self._batches[position]


def lanes_within(budget: int, numbers: int, most: int) -> int:
    """How many pairs lie side by side: ``most``, halved until their ``numbers`` of each fit the budget.

    Halved, so that there are few shapes to compile.

    >>> [lanes_within(1000, numbers, most=64) for numbers in (10, 16, 300, 5000)]
    [64, 32, 2, 1]
    """
    while most > 1 and most * numbers > budget:
        most //= 2
    return most


def batches_in_order(
    pairs: Sequence[EncodedPair], buckets: Sequence[Bucket], lanes: Callable[[Bucket], int]
) -> Iterator[tuple[list[int], Batch]]:
    """Every pair once, bucket by bucket, with the indices of the pairs in each batch's lanes.

    A pair longer than every bucket gets a bucket of its own size. ``lanes`` says how many pairs of a bucket
    lie side by side: fewer of the long ones, or a single long one would make all lanes as long as itself.
    """
    for bucket, found in _by_bucket(pairs, buckets).items():
        count = lanes(bucket)
        for start in range(0, len(found), count):
            indices = found[start : start + count]
            yield indices, collate([pairs[i] for i in indices], bucket, count)


def validation_batches(
    pairs: Sequence[EncodedPair], buckets: Sequence[Bucket], batch_size: int
) -> list[Batch]:
    """Every pair once, in batches that need about as much memory as those of training, whose buckets are
    given: of pairs that no bucket holds fewer lie side by side.
    """
    budget = batch_size * max(ORDINARY, *(bucket.source * bucket.target for bucket in buckets))

    def lanes(bucket: Bucket) -> int:
        return lanes_within(budget, bucket.source * bucket.target, batch_size)

    return [batch for _, batch in batches_in_order(pairs, buckets, lanes)]


def _by_bucket(pairs: Sequence[EncodedPair], buckets: Sequence[Bucket]) -> dict[Bucket, list[int]]:
    """Indices of the pairs in the first bucket that holds each."""
    found: dict[Bucket, list[int]] = {bucket: [] for bucket in buckets}
    for index, pair in enumerate(pairs):
        size = Bucket(len(pair.source), len(pair.target) + 1)
        fits = (b for b in buckets if b.source >= size.source and b.target >= size.target)
        own = Bucket(*(-(-length // (4 * ROUND)) * 4 * ROUND for length in size))
        found.setdefault(next(fits, own), []).append(index)
    return found
