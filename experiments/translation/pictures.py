"""Pictures of attention: where a model looked."""

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axis import Axis

from experiments.harness.plots import save, visible
from experiments.translation.translating import PICTURES, Hypothesis

LABELS = 60  # tokens of a panel's side that are named
PER_TOKEN = 0.17  # inches of a panel for each of them


def attention_picture(path: Path, hypotheses: Sequence[Hypothesis]) -> None:
    """Draw where a model with attention looked, a panel for each of the first translations.

    Raises:
      ValueError: if there is none with a source that has tokens.
    """
    shown = [h for h in hypotheses if h.weights is not None and h.weights.size][:PICTURES]
    if not shown:
        raise ValueError("there is no sentence whose attention could be drawn")
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    width, height = (
        max(least, 2 + PER_TOKEN * min(LABELS, max(len(getattr(h, side)) for h in shown)))
        for least, side in ((5.6, "source_pieces"), (4.8, "pieces"))
    )
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        dpi=110,
        layout="constrained",
        squeeze=False,
    )
    for panel in axes.flat[len(shown) :]:
        panel.remove()
    for panel, hypothesis in zip(axes.flat, shown, strict=False):
        image = panel.imshow(hypothesis.weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for axis, pieces in ((panel.xaxis, hypothesis.source_pieces), (panel.yaxis, hypothesis.pieces)):
            label_every(
                axis, [str(piece).replace("▁", "").strip(" ") or "␣" for piece in pieces], most=LABELS
            )
        panel.tick_params(axis="x", rotation=90)
        panel.set(xlabel="source", ylabel="translation")
    figure.colorbar(image, ax=figure.axes, label="attention weight", shrink=0.6)
    save(figure, path)


def label_every(axis: Axis, names: Sequence[str], *, most: int) -> None:
    """Name the places 0, 1, … along an axis: at most so many, evenly spaced, and none at length."""
    places = range(0, len(names), math.ceil(len(names) / most))
    axis.set_ticks(places, [visible(shortened(names[place])) for place in places], fontsize=9)


def shortened(name: str, width: int = 14) -> str:
    """The start of a name that is wider than so many letters, Chinese ones counted twice.

    >>> shortened("a_name_of_any_length"), shortened("short")
    ('a_name_of_any…', 'short')
    """
    widths = np.cumsum([2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name])
    if not len(widths) or widths[-1] <= width:
        return name
    return name[: np.searchsorted(widths, width - 1, side="right")] + "…"
