"""How well single units tell what a label says, and how sure that is."""

from typing import NamedTuple

import numpy as np
import scipy.fft

from experiments.hidden_units.recording import LEVELS

BLOCK = 64  # signals that are looked at at once, for the sake of memory
MOST_SHIFTED = 100_000  # steps of a test by shifts; of a longer text every second, third, or so


class Scores(NamedTuple):
    """Of every signal and label."""

    auc: np.ndarray  # (signals, labels) chance that a positive step has a higher value than another
    r: np.ndarray  # (signals, labels) correlation of value and label


def score(values: np.ndarray, labels: np.ndarray) -> Scores:
    """Area under the curve (Mann & Whitney 1947) and correlation, which is point-biserial for a truth.

    Args:
      values: ``(steps, signals)`` uint8.
      labels: ``(steps, labels)``, truths or numbers. The area is NaN for those that are not 0 and 1, and
        both are NaN where there is nothing to tell apart.

    >>> found = score(np.array([[0], [9], [5], [5]], np.uint8), np.array([[0], [1], [1], [0]]))
    >>> found.auc.tolist(), found.r.round(3).tolist()
    ([[0.875]], [[0.705]])
    """
    starts = range(0, values.shape[1], BLOCK)
    each = [_score(values[:, start : start + BLOCK], labels.astype(np.float64)) for start in starts]
    return Scores(*map(np.concatenate, zip(*each, strict=True)))


def _score(values: np.ndarray, labels: np.ndarray) -> Scores:
    values = np.asfortranarray(values)  # column by column from here on
    truths = np.all((labels == 0) | (labels == 1), axis=0)
    positive = labels.sum(0)
    negative = len(labels) - positive
    ranks = centred_ranks(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = 0.5 + (ranks.T @ labels.astype(np.float32)) / (positive * negative) * len(labels)
        auc[:, ~truths | (positive == 0) | (negative == 0)] = np.nan
        columns = values.astype(np.float32)
        columns -= columns.mean(0)
        centred = labels - labels.mean(0)
        scale = np.sqrt((columns**2).sum(0))[:, None] * np.sqrt((centred**2).sum(0))
        r = np.where(scale > 0, columns.T @ centred.astype(np.float32) / scale, np.nan)
    return Scores(auc, r)


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """The place of every step in the order of a signal's values, from −½ to ½; equal ones share theirs.

    >>> centred_ranks(np.array([[3], [9], [3], [4]], np.uint8))[:, 0].tolist()
    [-0.25, 0.375, -0.25, 0.125]
    """
    ranks = np.empty(values.shape, np.float32, order="F")
    for column in range(values.shape[1]):
        counts = np.bincount(values[:, column], minlength=LEVELS + 1)
        below = np.cumsum(counts) - counts
        places = (below + (counts - 1) / 2 + 0.5) / len(values) - 0.5
        ranks[:, column] = places[values[:, column]]
    return ranks


def permutation_p(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often a label that is shifted along the text, by any number of steps and around its end, goes
    with a signal's order as closely as it does at its own place; 1 / steps at least.

    Neighbouring steps are alike in signals and labels: shifts keep that, as shuffled steps would not.

    Args:
      values: ``(steps, signals)`` uint8.
      labels: ``(steps, labels)``; of more steps than ``MOST_SHIFTED`` some are left out, evenly.

    Returns:
      ``(signals, labels)``, two-sided.
    """
    apart = -(-len(values) // MOST_SHIFTED)
    values, labels = values[::apart], labels[::apart]
    steps, signals = values.shape
    centred = labels.astype(np.float32) - labels.mean(0, dtype=np.float32)
    of_labels = scipy.fft.rfft(centred, axis=0)  # (frequencies, labels)
    found = np.empty((signals, labels.shape[1]))
    for start in range(0, signals, BLOCK):
        ranks = centred_ranks(np.asfortranarray(values[:, start : start + BLOCK]))
        of_ranks = np.conj(scipy.fft.rfft(ranks, axis=0))
        for label in range(labels.shape[1]):
            shifted = scipy.fft.irfft(of_ranks * of_labels[:, label, None], steps, axis=0)
            size = np.abs(shifted)
            # A label as close as at its own place, but for rounding.
            found[start : start + BLOCK, label] = np.mean(size >= size[0] * (1 - 1e-5), axis=0)
    return found
