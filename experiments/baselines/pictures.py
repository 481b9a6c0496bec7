"""Loss against the length of the context, and memory against the length of the text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, NullFormatter

from experiments.harness.plots import COLOURS, MARKERS, save


def draw(
    path: Path, models: Mapping[str, Mapping[str, Any]], growth: Mapping[str, list[int]], unit: str
) -> None:
    """Bits by context; bytes by what was read, of n-grams and of the largest of the networks."""
    plot, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), dpi=110, layout="constrained")
    kinds = {"Kneser–Ney": "-gram", "window network": "window_"}
    for place, (kind, mark) in enumerate(kinds.items()):
        points = [(of["context"], of["test_bits"]) for name, of in models.items() if mark in name]
        if points:
            left.plot(*zip(*points, strict=True), MARKERS[place] + "-", color=COLOURS[place], label=kind)
    others = {name: of for name, of in models.items() if not any(mark in name for mark in kinds.values())}
    for place, (name, of) in enumerate(others.items(), start=len(kinds)):
        left.axhline(of["test_bits"], color=COLOURS[place], linestyle=("-", "--", ":", "-.")[place % 4])
        left.annotate(
            f"{name} {of['test_bits']:.3f}",
            (1, of["test_bits"]),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 2),
            textcoords="offset points",
            ha="right",
            color=COLOURS[place],
        )
    left.set(xlabel=f"context ({unit}s)", ylabel=f"bits per {unit}, test", title="what context brings")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    left.legend(loc="upper center")
    right.plot(
        growth["tokens"],
        [size / 1e6 for size in growth["bytes_in_memory"]],
        MARKERS[0] + "-",
        color=COLOURS[0],
        label="n-grams",
    )
    networks = [of["bytes_in_memory"] / 1e6 for name, of in models.items() if "-gram" not in name]
    if networks:
        right.axhline(max(networks), color=COLOURS[1], label="a network")
    right.set(
        xlabel=f"{unit}s read",
        ylabel="memory (MB)",
        title="what it costs",
        xscale="log",
        yscale="log",
    )
    right.set_xticks(growth["tokens"], [f"{tokens:,}" for tokens in growth["tokens"]])
    right.xaxis.set_minor_formatter(NullFormatter())
    right.grid(alpha=0.3)
    right.legend()
    save(plot, path)
