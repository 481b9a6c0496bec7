"""Passages of a text, coloured by a unit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from experiments.harness.plots import save, visible
from experiments.hidden_units.attribution import BACK
from experiments.hidden_units.recording import LEVELS, Recording
from experiments.hidden_units.texts import Reading

WIDTH, ROWS = 76, 4  # characters of a passage
MOST = 5  # labels
SHOWN = (
    "in string",
    "in comment",
    "position in line",
    "indentation ≥ 2",
    "in if-condition",
    "inside quotes",
)


def draw_passages(
    path: Path, recording: Recording, text: Reading, best: Mapping[str, Mapping[str, Any]]
) -> None:
    """For some labels the best unit, on a passage where the label begins and ends."""
    told = [name for name in best if len(np.unique(text.labels[name])) > 1]
    names = ([name for name in SHOWN if name in told] or told)[:MOST]
    figure, axes = plt.subplots(
        len(names), 1, figsize=(9, 1.05 * len(names) + 0.2), dpi=150, layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        _passage(axis, recording, text, name, best[name])
    save(figure, path)


def _passage(axes: Axes, recording: Recording, text: Reading, name: str, of: Mapping[str, Any]) -> None:
    start = _where_it_changes(text, name)
    values = recording.values[:, of["column"]].astype(float) / LEVELS
    low, high = np.quantile(values, [0.01, 0.99])
    row = column = 0
    for index in range(start, len(text.text)):
        if row == ROWS:
            break
        level = np.clip((values[index] - low) / max(high - low, 1e-9), 0, 1)
        sign = text.text[index]
        axes.add_patch(Rectangle((column, row), len(sign), 1, facecolor=plt.get_cmap("PuOr")(level)))
        shown = visible(sign.replace("\n", "↵" if sign == "\n" else " "))
        style: dict[str, Any] = {
            "size": 6,
            "family": "monospace",
            "color": "white" if abs(level - 0.5) > 0.38 else "black",
        }
        axes.text(column + len(sign) / 2, row + 0.55, shown, ha="center", va="center", **style)
        column += len(sign)
        if sign.endswith("\n") or column >= WIDTH:
            row, column = row + 1, 0
    axes.set(xlim=(0, WIDTH), ylim=(ROWS, 0), xticks=[], yticks=[])
    area = of["area"]
    judged = f"r {of['r_held_out']:.2f}" if area is None else f"area {area:.3f}"
    where = f"layer {of['layer']}, {of['signal']} of unit {of['unit']}"
    axes.set_title(f"{name}: {where}, {judged}", size=7, loc="left")
    axes.spines[:].set_visible(False)


def _where_it_changes(text: Reading, name: str) -> int:
    """The line in the second half of the text from which on a truth holds for half of what is shown, or a
    number changes most.
    """
    half = len(text.text) // 2
    ends = [at + 1 for at in range(half, len(text.text)) if text.text[at].endswith("\n")]
    if len(ends) <= ROWS:
        return 0
    starts, stops = np.array(ends[:-ROWS]), np.array(ends[ROWS:])  # lines that are broken are shown in part
    label = text.labels[name]
    truth = label.dtype == bool
    counted = label if truth else np.diff(label.astype(float), append=0) != 0
    sums = np.concatenate([[0], np.cumsum(counted)])
    shown = np.minimum(stops - starts, ROWS * WIDTH)
    within = np.minimum(sums[stops] - sums[starts], shown)
    return int(starts[np.argmax(np.minimum(within, shown - within) if truth else within)])


def draw_reach(path: Path, reach: Mapping[str, np.ndarray]) -> None:
    """By the name of a run, the share of each earlier character in what moved the logits."""
    figure, axes = plt.subplots(figsize=(6, 3.4), dpi=150, layout="constrained")
    for name, shares in reach.items():
        axes.loglog(np.arange(1, BACK + 1), shares, label=name)
    ticks = 2 ** np.arange(int(np.log2(BACK)) + 1)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.set(xlabel="characters back", ylabel="share in what moved the logit")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    save(figure, path)
