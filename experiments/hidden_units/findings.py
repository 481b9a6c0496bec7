"""Which units follow which labels, and what the model loses without them."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.hidden_units.ablation import added, can_be_held, nats_held
from experiments.hidden_units.recording import Recording
from experiments.hidden_units.scores import Scores, permutation_p, score
from experiments.hidden_units.texts import Reading

FIGURES = ("auc", "r", "auc_held_out", "p", "loss_inside", "loss_outside")
COLUMNS = ("layer", "signal", "unit", "label", *FIGURES)
LEVEL = 0.001  # of the test by shifts
ABLATION_TEXT = 20_000  # characters over which a held unit's loss is measured


class Found(NamedTuple):
    """Every signal with every label: ``(signals, labels)`` each."""

    first: Scores  # on the first half of the text, by which units are chosen
    held_out: Scores  # on the second
    p: np.ndarray  # on the second
    inside: np.ndarray  # nats that holding the unit adds to a character; NaN where it was not held
    outside: np.ndarray

    @property
    def figures(self) -> dict[str, np.ndarray]:
        """By the names of ``FIGURES``."""
        of = (self.first.auc, self.first.r, self.held_out.auc, self.p, self.inside, self.outside)
        return dict(zip(FIGURES, of, strict=True))

    @property
    def strength(self) -> np.ndarray:
        """How closely a signal follows a label on the first half: by its area, a number by correlation."""
        by_area = 2 * np.abs(self.first.auc - 0.5)
        return np.nan_to_num(np.where(np.isnan(by_area), np.abs(self.first.r), by_area))


def score_units(recording: Recording, text: Reading) -> Found:
    """Scores on both halves, and how often a shifted label would do as well on the second."""
    labels = np.stack(list(text.labels.values()), axis=1)
    half = len(labels) // 2
    first = score(recording.values[:half], labels[:half])
    second = score(recording.values[half:], labels[half:])
    p = permutation_p(recording.values[half:], labels[half:])
    p[np.isnan(second.r)] = np.nan
    return Found(first, second, p, np.full(p.shape, np.nan), np.full(p.shape, np.nan))


def hold_units(
    model: Any,
    params: Any,
    recording: Recording,
    text: Reading,
    found: Found,
    most: int,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """What each label's best units are worth, at most so many of them, on the second half of the text."""
    half = len(text.ids) // 2
    ids = np.maximum(text.ids[half : half + ABLATION_TEXT], 0)
    able = np.array([can_be_held(model, signal) for signal in recording.signals])
    best = np.argsort(-np.where(able[:, None], found.strength, -1), axis=0)[:most]
    columns = sorted({int(column) for column in best.ravel() if able[column]})
    means = [float(recording.exact(column)[:half].mean()) for column in columns]
    nats = nats_held(model, params, ids, [recording.signals[c] for c in columns], means, on_chunk)
    inside, outside = found.inside.copy(), found.outside.copy()
    for number, label in enumerate(text.labels.values()):
        if label.dtype == bool:
            mores = added(nats, label[half + 1 : half + len(ids)])
            of_label = [place for place, column in enumerate(columns) if column in best[:, number]]
            for into, more in zip((inside, outside), mores, strict=True):
                into[np.array(columns, int)[of_label], number] = more[of_label]
    return found._replace(inside=inside, outside=outside)


def best_units(recording: Recording, names: Sequence[str], found: Found) -> dict[str, dict[str, Any]]:
    """Of every label the h or c that follows it most closely on the first half, and its "area" on the
    second, above one half if it follows the label there as it did before.
    """
    able = np.array([signal.is_state for signal in recording.signals])
    best = {}
    for number, name in enumerate(names):
        column = int(np.argmax(np.where(able, found.strength[:, number], -1)))
        signal = recording.signals[column]
        figures = {key: of[column, number] for key, of in found.figures.items()}
        figures["r_held_out"] = found.held_out.r[column, number]
        # A unit that falls where the label holds tells it as well; which way, the first half says.
        falls = figures["auc"] < 0.5
        figures["area"] = 1 - figures["auc_held_out"] if falls else figures["auc_held_out"]
        best[name] = {
            "layer": signal.layer,
            "signal": signal.name,
            "unit": signal.unit,
            "column": column,
            **{key: None if np.isnan(value) else float(value) for key, value in figures.items()},
        }
    return best


def table(recording: Recording, names: Sequence[str], found: Found) -> str:
    """All signals and labels as CSV; empty where there is nothing to say."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(COLUMNS)
    figures = np.stack(list(found.figures.values()), axis=-1)
    for signal, of_signal in zip(recording.signals, figures, strict=True):
        for name, of in zip(names, of_signal, strict=True):
            rows.writerow([*signal, name, *("" if np.isnan(value) else f"{value:.6g}" for value in of)])
    return written.getvalue()


def chance(p: np.ndarray) -> dict[str, Any]:
    """How many pairs of signal and label would pass a test by chance, and how many do."""
    pairs = int(np.sum(~np.isnan(p)))
    return {"pairs": pairs, "level": LEVEL, "expected": pairs * LEVEL, "found": int(np.sum(p < LEVEL))}
