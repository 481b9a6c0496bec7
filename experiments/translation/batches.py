"""Batches of sentence pairs, as a sequence-to-sequence model is given them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.data.batches import (
    Size,
    TrainingBatches,
    groups_in_order,
    lanes_within,
    lengths_of,
    pad,
    teacher_forcing,
)
from experiments.data.pairs import Pairs
from experiments.data.tokens import Vocabularies, encode

ORDINARY = 64 * 64  # tokens of a source times those of a target, of which every batch has room


class EncodedPair(NamedTuple):
    """The ids of a pair, without start and end."""

    source: np.ndarray
    target: np.ndarray

    @property
    def size(self) -> Size:
        """The tokens of source and target, its end included."""
        return len(self.source), len(self.target) + 1


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


def collate(pairs: Sequence[EncodedPair], bucket: Size, lanes: int) -> Batch:
    """Pairs side by side, padded to a bucket; lanes that are left over have length 0."""
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    source_time, target_time = bucket
    fed, predicted = teacher_forcing(targets, target_time, lanes)
    target_lengths = lengths_of(targets, lanes)
    target_lengths[: len(pairs)] += 1
    return Batch(
        pad(sources, source_time, lanes), lengths_of(sources, lanes), fed, predicted, target_lengths
    )


def training_batches(
    pairs: Sequence[EncodedPair], buckets: Sequence[Size], batch_size: int, seed: int
) -> TrainingBatches:
    """Endless batches by their position."""

    def of(indices: list[int], bucket: Size) -> Batch:
        return collate([pairs[i] for i in indices], bucket, len(indices))

    return TrainingBatches([pair.size for pair in pairs], buckets, batch_size, seed, of)


def batches_in_order(
    pairs: Sequence[EncodedPair], buckets: Sequence[Size], lanes: Callable[[Size], int]
) -> Iterator[tuple[list[int], Batch]]:
    """Every pair once, with the indices of the pairs in each batch's lanes; see ``groups_in_order``."""
    for indices, bucket, count in groups_in_order([pair.size for pair in pairs], buckets, lanes):
        yield indices, collate([pairs[i] for i in indices], bucket, count)


def validation_batches(
    pairs: Sequence[EncodedPair], buckets: Sequence[Size], batch_size: int
) -> list[Batch]:
    """Every pair once, in batches that need about as much memory as those of training, whose buckets are
    given: of pairs that no bucket holds fewer lie side by side.
    """
    budget = batch_size * max(ORDINARY, *(source * target for source, target in buckets))

    def lanes(bucket: Size) -> int:
        source, target = bucket
        return lanes_within(budget, source * target, batch_size)

    return [batch for _, batch in batches_in_order(pairs, buckets, lanes)]
