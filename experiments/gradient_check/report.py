"""Summary, tables and plots of a study, and its verdict."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.gradient_check import mutations, plots
from experiments.gradient_check.agreement import METHODS
from experiments.gradient_check.precision import STEPS
from experiments.harness import run as runs
from experiments.harness.reports import part

HIGHER_ORDER = {"jvp_vjp", "second_order"}
TOLERANCE = 1e-12  # of the exact methods


def finish(out: Path, results: dict[str, dict[str, Any]]) -> list[str]:
    """Write the summary and the plots, print the tables; returns the faults found, a line each."""
    of: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        kind, _, subject = name.partition(" ")
        of.setdefault(kind, {})[subject] = result
    errors = {
        cell: {
            method: float(
                np.max([o["errors"][method] for o in result["options"].values() if method in o["errors"]])
            )
            for method in METHODS
        }
        for cell, result in of["agreement"].items()
    }
    studies = [mutations.Study(**result) for result in of["mutations"].values()]
    summary = {
        "max_relative_error": errors,
        "options": {cell: list(result["options"]) for cell, result in of["agreement"].items()},
        **{
            name: {cell: result[name] for cell, result in of["agreement"].items() if name in result}
            for name in sorted(HIGHER_ORDER)
        },
        **mutations.totals(studies),
        "mutations": {study.name: vars(study) for study in studies},
        "error_growth": of["growth"],
        "error_by_step_size": {"step": STEPS, **of["steps"]["lstm"]},
        **runs.environment(),
    }
    runs.write_json(out / "summary.json", summary)
    reports = [o["report"] for result in of["agreement"].values() for o in result["options"].values()]
    runs.write_text(out / "reports.txt", "\n\n".join(reports) + "\n")
    print_tables(errors, mutations.totals(studies))
    print(f"all in {out}")
    drawings: dict[str, tuple[Callable[[Path, Any], None], Any]] = {
        "agreement.png": (plots.draw_agreement, errors),
        "error_growth.png": (plots.draw_growth, of["growth"]),
        "step_size.png": (plots.draw_step_sizes, of["steps"]["lstm"]),
        "mutations.png": (plots.draw_mutations, studies),
    }
    for name, (draw, shown) in drawings.items():
        with part(name):
            draw(out / name, shown)
    return [*disagreements(of["agreement"]), *complaints(studies)]


def disagreements(by_cell: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Cells of which the methods disagree."""
    for cell, result in by_cell.items():
        for option, o in result["options"].items():
            if not o["agrees"]:
                yield f"{cell}, {option}: the methods disagree\n{o['report']}"
        for name in sorted(HIGHER_ORDER & result.keys()):
            if not result[name] < TOLERANCE:
                yield f"{cell}: {name} is off by {result[name]:.1e}, more than {TOLERANCE:g}"


def complaints(studies: list[mutations.Study]) -> Iterator[str]:
    """Derivatives that are wrong as they stand, and mistakes that nobody found."""
    for study in studies:
        if study.wrong:
            yield f"{study.name}: {study.wrong}"
        for mistake in study.unexplained:
            yield f"not found, and not known to change nothing: {mistake}"


def print_tables(errors: dict[str, dict[str, float]], total: dict[str, Any]) -> None:
    """Errors by cell and method, and the mutations."""
    width = max(map(len, errors))
    print(f"\n{'largest relative error':<{width}}  " + "  ".join(f"{m:>14}" for m in METHODS))
    for cell, by_method in errors.items():
        print(f"{cell:<{max(width, 22)}}  " + "  ".join(f"{by_method[m]:>14.1e}" for m in METHODS))
    print()
    for name, count in total.items():
        print(f"{name:<34} {count:>6}")
