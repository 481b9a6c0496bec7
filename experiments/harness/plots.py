"""Plots that several experiments share; colours that colour-blind readers tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only, on machines without a screen

import matplotlib.pyplot as plt

# Okabe & Ito (2008), without yellow, which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def learning_curve(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
) -> None:
    """Draw each named curve (x, y) into a PNG, its last value in the legend."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for (name, (x, y)), colour in zip(curves.items(), COLOURS, strict=False):
        if len(y):
            marker = "o" if len(y) <= 40 else None
            axes.plot(x, y, color=colour, label=f"{name}: {y[-1]:.3f}", marker=marker, markersize=3.5)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
