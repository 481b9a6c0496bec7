"""Plots that several experiments share; colours that colour-blind readers tell apart."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only, on machines without a screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.run import Metrics

# Okabe & Ito (2008), without yellow, which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"  # for readers who see no colours at all


def learning_curve(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    baseline: tuple[str, float] | None = None,
    y_scale: Literal["linear", "log"] = "linear",
) -> None:
    """Draw named curves (x, y) into a PNG, their last values in the legend, and a baseline (name, y)."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    above = len(curves)
    for (name, (x, y)), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
        above -= 1  # curves drawn over this one, which stays visible below them by being wider
        style: dict[str, Any] = {"linewidth": 1.5 + 0.6 * above, "markersize": 3.5 + 1.4 * above}
        every = math.ceil(len(y) / 40)  # markers few enough to tell apart
        if len(y):
            style |= {"color": colour, "marker": marker, "markevery": every}
            axes.plot(x, y, label=f"{name}: {y[-1]:.4g}", **style)
    if baseline is not None:
        name, height = baseline
        axes.axhline(height, color="black", linestyle="--", label=f"{name}: {height:.4g}")
    axes.set(xlabel=x_label, ylabel=y_label, title=title, yscale=y_scale)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def training_curves(
    folder: Path, curves: Mapping[str, str], *, per_step: float, x_label: str, y_label: str, title: str
) -> None:
    """Draw figures of a run's metrics, each under its name, into ``learning_curve.png``.

    ``per_step`` is what a step adds to x.
    """
    metrics = Metrics(folder / "metrics.jsonl")
    learning_curve(
        folder / "learning_curve.png",
        {name: metrics.curve(key, per_step) for name, key in curves.items()},
        x_label=x_label,
        y_label=y_label,
        title=title,
    )


def band(
    axes: Axes, x: Any, draws: Any, *, label: str, index: int, line: str = "-", shade: float = 0.15
) -> None:
    """The median of several draws ``(draws, x)``, between the least and the largest of them."""
    every = math.ceil(len(x) / 10)
    style: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4}
    axes.plot(x, np.median(draws, axis=0), line, label=label, markevery=(every // 2, every), **style)
    axes.fill_between(x, np.min(draws, axis=0), np.max(draws, axis=0), color=COLOURS[index], alpha=shade)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG that is never seen half written, and close it."""
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
