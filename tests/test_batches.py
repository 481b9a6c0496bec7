"""Batches: every pair is there, little is padding, and a position always gives the same."""

import numpy as np
import pytest

from experiments.data import batches as of_examples
from experiments.data.tokens import END, PAD, START
from experiments.translation.batches import (
    EncodedPair,
    batches_in_order,
    collate,
    short_enough,
    training_batches,
    validation_batches,
)
from tests.commands import assert_parts_are_the_whole


@pytest.fixture(scope="module")
def pairs():
    """The first token of each source and target is the pair's number."""
    random = np.random.default_rng(0)
    sources = np.minimum(random.geometric(0.1, 500), 50)
    lengths = np.stack([sources, np.maximum(1, sources + random.integers(-4, 5, 500))], axis=1)
    return [
        EncodedPair(np.r_[10 + n, np.full(s, 5)], np.r_[10 + n, np.full(t, 6)])
        for n, (s, t) in enumerate(lengths)
    ]


def pairs_in(batch):
    """The pairs of a batch, from its arrays alone."""
    found = []
    for lane in np.flatnonzero(batch.target_lengths):
        source, target = batch.source_lengths[lane], batch.target_lengths[lane]
        assert batch.fed[0, lane] == START
        assert batch.targets[target - 1, lane] == END
        np.testing.assert_array_equal(batch.fed[1:target, lane], batch.targets[: target - 1, lane])
        assert (batch.source[source:, lane] == PAD).all()
        assert (batch.targets[target:, lane] == PAD).all()
        assert (batch.fed[target:, lane] == PAD).all()
        found.append(EncodedPair(batch.source[:source, lane], batch.targets[: target - 1, lane]))
    np.testing.assert_array_equal(batch.mask.sum(axis=0), batch.target_lengths)
    return found


def buckets_of(pairs, count):
    return of_examples.buckets_of([pair.size for pair in pairs], count)


def of_32(bucket):
    return 32


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_pair_comes_once(pairs):
    buckets, seen = buckets_of(pairs, 6), []
    for indices, batch in batches_in_order(pairs, buckets, of_32):
        found = pairs_in(batch)
        assert len(found) == len(indices) <= 32
        assert all(same(pairs[i], pair) for i, pair in zip(indices, found, strict=True))
        seen += indices
    assert sorted(seen) == list(range(500))
    longer = [*pairs, EncodedPair(np.ones(90, int), np.ones(10, int))]
    shapes = {batch.source.shape: indices for indices, batch in batches_in_order(longer, buckets, of_32)}
    assert shapes[96, 32] == [500]  # no bucket holds it, and it is not lost


def test_little_is_padding(pairs):
    def real(buckets):
        sizes = [batch for _, batch in batches_in_order(pairs, buckets, of_32)]
        return sum(b.target_lengths.sum() for b in sizes) / sum(b.targets.size for b in sizes)

    assert real(buckets_of(pairs, 8)) > 0.55 > 0.3 > real(buckets_of(pairs, 1))


def test_a_long_pair_does_not_make_a_whole_batch_long(pairs):
    """Validation needs about as much room as training, and what fits is batched as in training."""
    buckets = buckets_of(pairs, 6)
    room = 32 * 64 * 64
    assert room > 32 * max(source * target for source, target in buckets)
    longer = [*pairs, *[EncodedPair(np.ones(n, int), np.ones(n, int)) for n in (90, 100, 90, 700)]]
    batches = validation_batches(longer, buckets, 32)
    sizes = [b.source.shape[0] * b.targets.size for b in batches if b.source.shape[1] > 1]
    assert max(sizes) <= room
    assert sum(len(pairs_in(batch)) for batch in batches) == 504
    usual = [batch for _, batch in batches_in_order(pairs, buckets, of_32)]
    assert all(same(a, b) for a, b in zip(usual, batches[: len(usual)], strict=True))
    assert {b.source.shape[1] for b in batches[len(usual) :]} == {8, 1}


@pytest.mark.slow
def test_training_batches(pairs):
    """Seeded, random access, a pass over the bucket before a pair comes again, another order next time."""
    buckets = buckets_of(pairs, 4)
    batches = training_batches(pairs, buckets, 10, seed=1)
    again, other = (
        training_batches(pairs, buckets, 10, seed=1),
        training_batches(pairs, buckets, 10, seed=2),
    )
    assert same(batches(33), again(33))
    assert same(again(7), batches(7))
    assert not all(same(batches(n), other(n)) for n in range(5))
    whole = [training_batches(pairs, [(60, 60)], 500, seed) for seed in (0, 1)]
    passes = [[batches(n).source[0].tolist() for n in range(3)] for batches in whole]
    assert passes[1][0] not in passes[0]  # nor is one seed's pass another seed's later pass
    first, by_bucket = {}, {}
    for position in range(600):
        batch = batches(position)
        by_bucket.setdefault(batch.source.shape + batch.targets.shape, []).extend(batch.source[0].tolist())
    for shape, numbers in by_bucket.items():
        size = len(set(numbers))
        assert len(numbers) >= 2 * size
        first[shape] = numbers[:size]
        assert sorted(first[shape]) == sorted(set(numbers))
        assert numbers[size : 2 * size] != first[shape] or size == 1
    assert sum(map(len, first.values())) == 500


def test_small_buckets(pairs):
    batches = training_batches(pairs[:3], buckets_of(pairs[:3], 8), 16, seed=0)
    assert_parts_are_the_whole(batches, 16)
    assert all(len(pairs_in(batches(n))) == 16 for n in range(6))
    assert buckets_of(pairs[:1], 8) == buckets_of(pairs[:1], 1)
    empty = collate([], (4, 4), 2)
    assert not empty.mask.any()


def test_long_pairs_are_reported(pairs):
    told = []
    kept = short_enough(pairs, 20, told.append)
    assert max(max(map(len, pair)) for pair in kept) == 20
    assert told == [f"{500 - len(kept)} training pairs have more than 20 tokens on a side and are left out"]
    with pytest.raises(
        ValueError, match="none of 500 training pairs has at most --max-length 1 tokens a side"
    ):
        short_enough(pairs, 1, told.append)
