"""The plots of a study."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from experiments.gradient_check import mutations
from experiments.gradient_check.agreement import METHODS
from experiments.gradient_check.precision import STEPS
from experiments.harness.plots import COLOURS, MARKERS, save


def draw_agreement(path: Path, errors: dict[str, dict[str, float]]) -> None:
    """A square for each cell and method."""
    values = np.array([[by_method[method] for method in METHODS] for by_method in errors.values()])
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.3 * len(errors)), dpi=130, layout="constrained")
    image = axes.imshow(
        np.maximum(values, 1e-17), norm=LogNorm(1e-17, 1e-7), cmap="cividis_r", aspect="auto"
    )
    axes.set_xticks(range(len(METHODS)), [method.replace("_", "\n") for method in METHODS], fontsize=9)
    axes.set_yticks(range(len(errors)), errors, fontsize=9)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 1e-11 else "black"
        axes.text(column, row, f"{value:.0e}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="largest relative error, float64")
    axes.set_title("Every method against the others' median, worst of all options")
    save(figure, path)


def draw_growth(path: Path, growth: dict[str, dict[str, Any]]) -> None:
    """Error against length, a panel for each precision."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), dpi=130, layout="constrained", sharey=True)
    for axes, precision in zip(panels, ("float32", "bfloat16"), strict=True):
        for (cell, errors), colour, marker in zip(growth.items(), COLOURS, MARKERS, strict=False):
            for mode, line in (("autodiff", "-"), ("bptt", "--")):
                y = errors[f"{precision} {mode}"]
                axes.loglog(errors["length"], y, line, color=colour, marker=marker, markersize=4,
                            label=f"{cell}, {mode}")  # fmt: skip
        what = "step in bfloat16, parameters in float32" if precision == "bfloat16" else "float32"
        axes.set(title=what, xlabel="length of the sequence (steps)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("largest relative error of a gradient")
    panels[1].legend(fontsize=8)
    save(figure, path)


def draw_step_sizes(path: Path, errors: dict[str, list[float]]) -> None:
    """The V of the finite difference, and the floor of the complex step."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    names = {"finite_difference": "central finite difference", "complex_step": "complex step"}
    for (key, name), colour, marker in zip(names.items(), COLOURS, MARKERS, strict=False):
        axes.loglog(STEPS, np.maximum(errors[key], 1e-17), color=colour, marker=marker, label=name)
    epsilon = float(np.finfo(np.float64).eps)
    axes.axvline(np.cbrt(epsilon), color="black", linestyle=":", label="∛ε, best by theory")
    axes.axhline(epsilon, color="black", linestyle="--", label="ε, float64")
    axes.invert_xaxis()
    axes.set(xlabel="length of the step", ylabel="largest relative error of a derivative")
    axes.set_title("Derivatives of an LSTM from values alone")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_mutations(path: Path, studies: list[mutations.Study]) -> None:
    """Missed mistakes of each derivative: by the comparison, and by JAX's own check."""
    studies = [study for study in studies if study.found]
    series = {"missed by this comparison": [len(study.unexplained) for study in studies]}
    for dtype in mutations.DTYPES:
        series[f"missed by check_grads, {dtype}"] = [len(study.missed[dtype]) for study in studies]
        if any(alarms := [study.false_alarms[dtype] for study in studies]):
            series[f"not decided by it, {dtype}: it rejects the right derivative too"] = alarms
    figure, axes = plt.subplots(figsize=(8, 1.8 + 0.36 * len(studies)), dpi=130, layout="constrained")
    rows, height = np.arange(len(studies)), 0.84 / len(series)
    for index, ((label, counts), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        place = rows + height * (index - (len(series) - 1) / 2)
        bars = axes.barh(place, counts, height, color=colour, label=label)
        axes.bar_label(bars, [str(count) if count else "" for count in counts], padding=2, fontsize=7)
    axes.set_yticks(rows, [f"{study.name} ({study.in_values})" for study in studies], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="mistakes", title="Mistakes that change values (their number), and who misses how many")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", fontsize=9)
    save(figure, path)
