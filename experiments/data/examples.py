"""Examples with labels, one for a whole sequence or one at every step, and batches of them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.batches import (
    PAD,
    TrainingBatches,
    buckets_of,
    groups_in_order,
    lanes_within,
    side_by_side,
)

BUCKETS = 6
STEPS = 2**12  # of all sequences together that an evaluation reads side by side
MOST_LANES = 256
NO_LABEL = -1  # at padding, say: nothing is counted
UNKNOWN_LABEL = -2  # one that training does not have: counted, and always wrong
HELD_OUT_FRACTION = 0.1


class Examples(NamedTuple):
    """Sequences and their labels, as numbers.

    ``inputs`` are pytrees of arrays that lead with time: token ids, or feature vectors. A label is a
    number, or an array ``(time,)``. ``texts`` is what a person reads of an example, or of each of its
    steps.
    """

    inputs: Sequence[Any]
    labels: Sequence[Any] | np.ndarray
    texts: Sequence[Any]

    @property
    def lengths(self) -> list[int]:
        """The steps of each."""
        return [len(jax.tree.leaves(sequence)[0]) for sequence in self.inputs]


class Batch(NamedTuple):
    """Sequences side by side, padded at their ends; lanes left over have length 0."""

    inputs: Any  # (time, batch, ...) in every leaf
    lengths: np.ndarray  # (batch,) int32
    labels: np.ndarray  # (batch,) or (time, batch) int32; negative ones are no classes


def collate(examples: Examples, indices: Sequence[int], time: int, lanes: int) -> Batch:
    """Some examples as a batch."""
    inputs = [examples.inputs[i] for i in indices]
    labels = [np.asarray(examples.labels[i], np.int32) for i in indices]
    lengths = np.zeros(lanes, np.int32)
    lengths[: len(indices)] = [len(jax.tree.leaves(sequence)[0]) for sequence in inputs]
    if labels[0].ndim:
        beside = side_by_side(labels, time, lanes, NO_LABEL)
    else:
        beside = np.full(lanes, NO_LABEL, np.int32)
        beside[: len(indices)] = labels
    return Batch(
        jax.tree.map(lambda *leaves: side_by_side(leaves, time, lanes, PAD), *inputs), lengths, beside
    )


def training_batches(examples: Examples, batch_size: int, seed: int) -> TrainingBatches:
    """Endless shuffled batches, each of sequences of like length."""
    sizes = [(length,) for length in examples.lengths]
    return TrainingBatches(
        sizes,
        buckets_of(sizes, BUCKETS),
        batch_size,
        seed,
        lambda indices, bucket: collate(examples, indices, bucket[0], len(indices)),
    )


def batches_in_order(examples: Examples) -> Iterator[tuple[list[int], Batch]]:
    """Every example once: the indices of those in a batch, and the batch."""
    sizes = [(length,) for length in examples.lengths]
    groups = groups_in_order(
        sizes, buckets_of(sizes, BUCKETS), lambda size: lanes_within(STEPS, size[0], MOST_LANES)
    )
    for indices, (time,), lanes in groups:
        yield indices, collate(examples, indices, time, lanes)


def numbers_of(labels: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """Labels as numbers of classes.

    >>> numbers_of(["b", "c", "a"], ["a", "b"]).tolist() == [1, UNKNOWN_LABEL, 0]
    True
    """
    numbers = {label: number for number, label in enumerate(classes)}
    return np.array([numbers.get(label, UNKNOWN_LABEL) for label in labels], np.int32)


def check_known(
    labels: Iterable[str], classes: Sequence[str], where: str, report: Callable[[str], None]
) -> None:
    """Name the labels that training does not have.

    Raises:
      ValueError: if it has none of them.
    """
    counts = Counter(labels)
    unknown = {label: count for label, count in counts.items() if label not in classes}
    found = ", ".join(f"{label} ({count:,})" for label, count in unknown.items())
    if len(unknown) == len(counts):
        raise ValueError(f"no label of {where} comes in training: it has {found}")
    if unknown:
        report(f"labels of {where} that training lacks, all counted wrong: {found}")


def report_shared(
    train: Sequence[str], other: Sequence[str], where: str, report: Callable[[str], None]
) -> None:
    """Tell how many texts of another part are also in training."""
    if shared := len(set(train) & set(other)):
        report(f"{shared:,} texts of {where} are also in training; they stay")


def hold_out(texts: Sequence[str], parts: Sequence[str]) -> list[list[int]]:
    """Indices of what is left to train on, then of every part: a tenth of the different texts for each,
    chosen by their digests, the same ones on every machine; no text is in two parts.

    Raises:
      ValueError: if there are too few.
    """
    distinct = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())
    count = int(len(distinct) * HELD_OUT_FRACTION)
    if parts and not count:
        raise ValueError(
            f"at least {round(1 / HELD_OUT_FRACTION)} different texts are needed to hold some out, got "
            f"{len(distinct)}; or give files of their own: {', '.join('--' + part for part in parts)}"
        )
    part_of = {text: 1 + at // count for at, text in enumerate(distinct[: count * len(parts)])}
    chosen: list[list[int]] = [[] for _ in range(1 + len(parts))]
    for index, text in enumerate(texts):
        chosen[part_of.get(text, 0)].append(index)
    return chosen
