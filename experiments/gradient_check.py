"""Are the gradients right? Every cell, every option, every method; and would a mistake be found?

    python -m experiments.gradient_check            the whole study
    python -m experiments.gradient_check --quick    two cells, in under a minute

The first command takes under ten minutes on two CPU cores and needs no network. It ends with a table: the
largest relative error of each method (autodiff, hand-derived BPTT, loop, explicit terms, RTRL, complex
step) for each cell over all options, in float64: all below 1e-13, finite differences below 1e-6.

- Options: plain; ragged lengths with a zero; resets; saturated gates; remat; reverse; two layers stacked;
  bidirectional. Cells with noise have it under all of these, and once do without. Also forward against
  reverse mode (⟨Jv, w⟩ = ⟨v, Jᵀw⟩), and second order.
- Mutations: mistakes made mechanically, one at a time, in every hand-derived derivative and in the masked
  step. The comparison must find each, unless it changes nothing; beside it, what JAX's own
  ``jax.test_util.check_grads`` finds in reverse mode with its default tolerances.
- How the error of float32 and bfloat16 gradients grows with the length of the sequence, and how the error
  of a finite difference depends on its step where that of a complex step does not.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from experiments.harness import mutation_targets, mutations
from experiments.harness import run as runs
from experiments.harness.agreement import CELLS, agreement, error_growth, step_sizes
from experiments.harness.command_line import main
from experiments.harness.devices import cores
from experiments.harness.plots import COLOURS, MARKERS, save
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.signals import stop_on_signal

METHODS = ["autodiff", "bptt", "loop", "explicit_terms", "rtrl", "complex_step", "finite_difference"]
HIGHER_ORDER = {"jvp_vjp", "second_order"}
TOLERANCE = 1e-12  # of the exact methods
QUICK_CELLS = ("LSTM", "GRU after")
GROWTH_CELLS = ("Elman tanh", "LSTM")
STEPS = [10.0**-k for k in range(1, 16)]


@dataclass(frozen=True)
class Config:
    """Compute every gradient in every way, and see what mistakes would be found."""

    quick: bool = False
    """Two cells, two options, every tenth mutation."""
    cells: tuple[str, ...] = ()
    """Names of the cells to study, as the table shows them; none for all."""
    seed: int = 0
    """Seed of parameters, inputs and directions."""
    out: Path | None = None
    """Folder of the study; by default out/gradient_check/<date-time>."""
    resume: bool = False
    """Continue the study in --out; parts that are done are not done again."""


Part = tuple[Callable[..., dict[str, Any]], tuple[Any, ...], dict[str, Any]]


def study_command(config: Config) -> None:
    """Plan the parts, share them among processes, gather the results."""
    if unknown := set(config.cells) - set(CELLS):
        raise ValueError(f"cells: known are {', '.join(CELLS)}; got {', '.join(sorted(unknown))}")
    out = config.out or runs.default_directory("gradient_check")
    runs.check_out(out, resume=config.resume, checkpoints=False)
    # Parts that other code computed are not mixed with new ones.
    record = runs.config_record(config) | {"commit": runs.environment()["commit"]}
    if config.resume:
        runs.check_same_config(runs.load_config(out), record, out)
    else:
        runs.create(out, record, fill=lambda folder: (folder / "parts").mkdir(exist_ok=True))
    results = compute(plan(config), out)
    wrong = finish(out, config, results)
    if wrong:
        print("\n".join(wrong))
        raise SystemExit(1)


def plan(config: Config) -> dict[str, Part]:
    """What there is to do, by name, the longest first."""
    cells = config.cells or (QUICK_CELLS if config.quick else tuple(CELLS))
    seed, quick = config.seed, config.quick
    lengths = (10, 30, 100, 300) if quick else (10, 30, 100, 300, 1000, 3000, 10_000)
    parts: dict[str, Part] = {}
    for subject in mutation_targets.SUBJECTS:
        if subject == mutation_targets.MASKED_STEP or any(cell.startswith(subject) for cell in cells):
            parts[f"mutations {subject}"] = (mistakes, (subject, 10 if quick else 1), {})
    for cell in cells:
        parts[f"agreement {cell}"] = (agreement, (cell, seed), {"quick": quick})
    for cell in ["LSTM"] if quick else GROWTH_CELLS:
        parts[f"growth {cell}"] = (error_growth, (cell, lengths, seed), {})
    parts["steps LSTM"] = (step_sizes, ("LSTM", STEPS, seed), {})
    return parts


def mistakes(subject: str, every: int) -> dict[str, Any]:
    """What becomes of every k-th mistake in a derivative."""
    return dataclasses.asdict(mutations.study(subject, every=every))


def compute(parts: dict[str, Part], out: Path) -> dict[str, dict[str, Any]]:
    """The results of all parts, each kept in a file of its own as soon as it is there.

    Raises:
      SystemExit: after SIGINT, SIGTERM or SIGHUP; the parts that are done are kept.
    """
    files = {name: out / "parts" / f"{name.replace(' ', '_')}.json" for name in parts}
    todo = {name: part for name, part in parts.items() if not files[name].exists()}
    # Fresh processes: what is forked after JAX has started may lock up.
    context = multiprocessing.get_context("spawn")
    with (
        stop_on_signal() as stopped,
        counted(f"{len(todo)} parts in {cores()} processes") as on_done,
        ProcessPoolExecutor(cores(), context, initializer=_start_worker) as pool,
    ):
        running = {
            pool.submit(function, *arguments, **options): files[name]
            for name, (function, arguments, options) in todo.items()
        }
        try:
            left = _keep_results(running, stopped, on_done)
        finally:
            _end_workers(pool)
    if left:
        done = sum(file.exists() for file in files.values())
        print(f"stopped with {done} of {len(files)} parts done; continue with --out {out} --resume")
        raise SystemExit(128 + stopped[0])
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def _keep_results(
    running: dict[Future[Any], Path], stopped: list[int], on_done: Callable[[int, int], None]
) -> set[Future[Any]]:
    """Write each result to its file; what was not done when a signal came."""
    left = set(running)
    while left and not stopped:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                runs.write_json(running[future], future.result())
            except BrokenProcessPool:
                if not stopped:  # else the signal was the workers', too
                    raise
                left.add(future)
        on_done(len(running) - len(left), len(running))
    return left


def _end_workers(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in multiprocessing.active_children():
        worker.terminate()


def _start_worker() -> None:
    """In float64, and no longer than the parent, which ends its workers when it is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_enable_x64", True)


def _end_with_parent() -> None:
    """End this process once its parent is gone, killed say: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def finish(out: Path, config: Config, results: dict[str, dict[str, Any]]) -> list[str]:
    """Summary, plots and tables; what is wrong, a line each."""
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
        "error_by_step_size": {"step": STEPS, **of["steps"]["LSTM"]},
        **runs.environment(),
    }
    runs.write_json(out / "summary.json", summary)
    reports = [o["report"] for result in of["agreement"].values() for o in result["options"].values()]
    runs.write_text(out / "reports.txt", "\n\n".join(reports) + "\n")
    print_tables(errors, mutations.totals(studies))
    print(f"all in {out}")
    plots: dict[str, tuple[Callable[[Path, Any], None], Any]] = {
        "agreement.png": (draw_agreement, errors),
        "error_growth.png": (draw_growth, of["growth"]),
        "step_size.png": (draw_step_sizes, of["steps"]["LSTM"]),
        "mutations.png": (draw_mutations, studies),
    }
    for name, (draw, shown) in plots.items():
        with part(name):
            draw(out / name, shown)
    return [*disagreements(of["agreement"]), *complaints(studies)]


def disagreements(by_cell: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the gradients of the cells."""
    for cell, result in by_cell.items():
        for option, o in result["options"].items():
            if not o["agrees"]:
                yield f"{cell}, {option}: the methods disagree\n{o['report']}"
        for name in sorted(HIGHER_ORDER & result.keys()):
            if not result[name] < TOLERANCE:
                yield f"{cell}: {name} is off by {result[name]:.1e}, more than {TOLERANCE:g}"


def complaints(studies: list[mutations.Study]) -> Iterator[str]:
    """What is wrong with the derivatives, or with what looks for mistakes in them."""
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
    """How many mistakes are missed, for each derivative: by the comparison, and by JAX's own check."""
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


if __name__ == "__main__":
    main(__doc__ or "", {"study": (Config, study_command)})
