"""What do RTRL and the explicit terms cost? Time and memory, against theory and against back-propagation.

    python -m benchmarks.gradients                                               under two minutes
    python -m benchmarks.gradients --json benchmarks/results/gradients.json     figures and chart kept

One sequence of T steps through a cell with n inputs and n units: s ∝ n numbers in its carry and p ∝ n²
parameters. The same gradient by ``jax.grad`` of unroll (autodiff, bptt), as the sum of explicit terms, and
forward in time by RTRL. Theory says, for the time of a step and the memory of it all:

    autodiff, bptt     time ∝ p = n²        memory ∝ T·n
    explicit_terms     time ∝ p = n²        memory ∝ T·p = T·n²
    rtrl               time ∝ s²·p = n⁴     memory ∝ s·(p + s) = n³, whatever T

Exponents are fitted to the largest three sizes, where fixed costs weigh least. The time is that of the
fastest call among repetitions taken in turns; memory is what XLA allots to intermediate and final results.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array
from matplotlib.axes import Axes

import jaxrnn
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.plots import COLOURS, MARKERS, save
from experiments.harness.progress import counted
from jaxrnn import gradients
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.checks import check_positive

LEAST_SECONDS = 0.02  # of calls in a repetition
FITTED = 3  # largest sizes that an exponent is fitted to

Against = Literal["steps", "hidden_size"]


@dataclass(frozen=True)
class Config:
    """Time and memory of four ways to one gradient, against the number of steps and of units."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    steps: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Numbers of steps T, at hidden size --hidden-size."""
    hidden_size: int = 16
    """Hidden units n while the number of steps varies."""
    hidden_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Hidden sizes n, each at --many-steps steps; explicit terms leave out the largest, RTRL two."""
    many_steps: int = 1024
    """Steps while the hidden size varies, for autodiff and bptt; explicit terms take a sixteenth of them,
    RTRL a 128th, since the cost of a step does not depend on their number."""
    repeats: int = 7
    """Repetitions: turns in which every program is called once, or for 20 ms if that is longer."""
    json: Path | None = None
    """File for all figures, and beside it a chart; the published ones are in benchmarks/results/."""


class Method(NamedTuple):
    """A way to the gradient, and the exponents that theory gives it."""

    gradient: Callable[..., Any]  # (cell, params, xs, d_ys) -> the gradient
    sizes_left_out: int  # of the largest hidden sizes
    fewer_steps: int  # divisor of many_steps
    exponents: dict[tuple[str, Against], int]


@dataclass(frozen=True)
class Row:
    """One program: what it is, and what it costs."""

    against: Against
    method: str
    steps: int
    hidden_size: int
    parameters: int
    seconds: float  # of the fastest call
    median_seconds: float
    largest_seconds: float
    compile_seconds: float
    bytes: int  # of intermediate and final results

    @property
    def size(self) -> int:
        """The size that is varied."""
        return self.steps if self.against == "steps" else self.hidden_size

    @property
    def cost(self) -> dict[str, float]:
        """Time (of one step where the hidden size varies: their number does not matter) and memory."""
        per = 1 if self.against == "steps" else self.steps
        return {"time": self.seconds / per, "memory": self.bytes}


def through_unroll(cell: Any, params: Any, xs: Array, d_ys: Array, *, backward: Any) -> Any:
    """``jax.grad`` of unroll."""

    def loss(params: Any) -> Array:
        return jnp.vdot(d_ys, jaxrnn.unroll(cell, params, xs, backward=backward)[1])

    return jax.grad(loss)(params)


def by_terms(cell: Any, params: Any, xs: Array, d_ys: Array) -> Any:
    """All explicit terms."""
    return gradients.explicit_terms(cell, params, xs, d_ys=d_ys)


def by_rtrl(cell: Any, params: Any, xs: Array, d_ys: Array) -> Any:
    """Real-time recurrent learning."""
    return gradients.rtrl(cell, params, xs, d_ys=d_ys)


def exponents(**against: tuple[int, int]) -> dict[tuple[str, Any], int]:
    """Of time and memory, against each size."""
    return {
        (what, size): value
        for size, values in against.items()
        for what, value in zip(("time", "memory"), values, strict=True)
    }


METHODS = {
    "autodiff": Method(
        functools.partial(through_unroll, backward="autodiff"),
        0,
        1,
        exponents(steps=(1, 1), hidden_size=(2, 1)),
    ),
    "bptt": Method(
        functools.partial(through_unroll, backward="bptt"),
        0,
        1,
        exponents(steps=(1, 1), hidden_size=(2, 1)),
    ),
    "explicit_terms": Method(by_terms, 1, 16, exponents(steps=(1, 1), hidden_size=(2, 2))),
    "rtrl": Method(by_rtrl, 2, 128, exponents(steps=(1, 0), hidden_size=(4, 3))),
}


class Program(NamedTuple):
    """A compiled gradient with its arguments."""

    against: Against
    method: str
    steps: int
    hidden_size: int
    compiled: Compiled
    arguments: tuple[Any, ...]
    compile_seconds: float

    def run(self) -> None:
        """Compute the gradient, and wait for it."""
        jax.block_until_ready(self.compiled(*self.arguments))


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    for name in ("hidden_size", "many_steps", "repeats"):
        check_positive(name, getattr(config, name))
    for name, least in (("steps", FITTED), ("hidden_sizes", FITTED + 2)):
        sizes = getattr(config, name)
        if len(sizes) < least or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"{name} must be {least} or more rising numbers, got {sizes}")
    check_json(config.json)


def plan(config: Config) -> list[tuple[Against, str, int, int]]:
    """The programs to compile: (against, method, steps, hidden size)."""
    planned: list[tuple[Against, str, int, int]] = []
    for name, method in METHODS.items():
        planned += [("steps", name, steps, config.hidden_size) for steps in config.steps]
        steps = max(1, config.many_steps // method.fewer_steps)
        sizes = config.hidden_sizes[: len(config.hidden_sizes) - method.sizes_left_out]
        planned += [("hidden_size", name, steps, size) for size in sizes]
    return planned


def build(config: Config, against: Against, method: str, steps: int, hidden_size: int) -> Program:
    """Draw a problem and compile a gradient for it."""
    cell = CELLS[config.cell](hidden_size)
    keys = jax.random.split(jax.random.key(0), 3)
    arguments = (
        cell.init(keys[0], hidden_size),
        jax.random.normal(keys[1], (steps, hidden_size)),
        jax.random.normal(keys[2], (steps, hidden_size)),
    )
    started = time.perf_counter()
    compiled = jax.jit(functools.partial(METHODS[method].gradient, cell)).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    return Program(against, method, steps, hidden_size, compiled, arguments, seconds)


def measure(programs: list[Program], repeats: int, on_repeat: Callable[[int, int], None]) -> list[Row]:
    """The time of every program, in turns, so that a busy moment of the machine falls on all alike."""
    counts = []
    for program in programs:
        program.run()  # touches the memory
        counts.append(1 + int(LEAST_SECONDS / _seconds(program)))
    samples: list[list[float]] = [[] for _ in programs]
    for repeat in range(repeats):
        for program, count, taken in zip(programs, counts, samples, strict=True):
            taken += [_seconds(program) for _ in range(count)]
        on_repeat(repeat + 1, repeats)
    return [row(program, np.array(taken)) for program, taken in zip(programs, samples, strict=True)]


def _seconds(program: Program) -> float:
    started = time.perf_counter()
    program.run()
    return time.perf_counter() - started


def row(program: Program, seconds: np.ndarray) -> Row:
    """A program's costs."""
    memory: Any = program.compiled.memory_analysis()
    return Row(
        against=program.against,
        method=program.method,
        steps=program.steps,
        hidden_size=program.hidden_size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0])),
        seconds=float(np.min(seconds)),
        median_seconds=float(np.median(seconds)),
        largest_seconds=float(np.max(seconds)),
        compile_seconds=program.compile_seconds,
        bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes,
    )


def fitted(rows: list[Row]) -> list[dict[str, Any]]:
    """Every exponent, measured and in theory."""
    found = []
    for name, method in METHODS.items():
        for (what, against), theory in method.exponents.items():
            largest = [r for r in rows if (r.method, r.against) == (name, against)][-FITTED:]
            x, y = np.log([r.size for r in largest]), np.log([r.cost[what] for r in largest])
            exponent = round(float(np.polyfit(x, y, 1)[0]), 3)
            found.append(
                {"method": name, "cost": what, "against": against, "exponent": exponent, "theory": theory}
            )
    return found


def print_tables(rows: list[Row], slopes: list[dict[str, Any]]) -> None:
    """Costs, and exponents beside theory's."""
    head = ("method", "T", "n", "parameters", "ms", "median", "largest", "MiB", "compile s")
    print("\n{:<15}{:>6}{:>5}{:>12}{:>11}{:>11}{:>11}{:>10}{:>11}".format(*head))
    for r in rows:
        times = (f"{1e3 * t:>11.3f}" for t in (r.seconds, r.median_seconds, r.largest_seconds))
        print(
            f"{r.method:<15}{r.steps:>6}{r.hidden_size:>5}{r.parameters:>12,}{''.join(times)}"
            f"{r.bytes / 2**20:>10.3f}{r.compile_seconds:>11.2f}"
        )
    print("\nexponents       measured (theory)")
    columns = list(dict.fromkeys((s["cost"], s["against"]) for s in slopes))
    names = {"steps": "T", "hidden_size": "n"}
    print(f"{'':<15}" + "".join(f"{f'{what} ~ {names[size]}':>14}" for what, size in columns))
    for name in METHODS:
        shown = [s for s in slopes if s["method"] == name]
        print(f"{name:<15}" + "".join(f"{s['exponent']:>10.2f} ({s['theory']})" for s in shown))


def draw(path: Path, rows: list[Row], config: Config) -> None:
    """Time and memory against T and n, log-log, with theory's slopes as dashed lines."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 7), dpi=130, layout="constrained", sharex="col")
    steps = {r.method: r.steps for r in rows if r.against == "hidden_size"}.values()
    labels = {"steps": "steps T", "hidden_size": "hidden units n = inputs"}
    titles = {
        ("time", "steps"): f"seconds a sequence, n = {config.hidden_size}",
        ("time", "hidden_size"): "seconds a step",
        ("memory", "steps"): f"bytes, n = {config.hidden_size}",
        ("memory", "hidden_size"): f"bytes, T = {', '.join(map(str, steps))}",
    }
    for (what, against), title in titles.items():
        panel = axes[["time", "memory"].index(what), list(labels).index(against)]
        for index, name in enumerate(METHODS):
            shown = [r for r in rows if (r.method, r.against) == (name, against)]
            _line(panel, shown, what, index, name)
        panel.set(title=title, xscale="log", yscale="log")
        panel.set_xticks(sorted({r.size for r in rows if r.against == against}))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.xaxis.set_minor_locator(plt.NullLocator())
        panel.grid(alpha=0.3)
    for panel, label in zip(axes[1], labels.values(), strict=True):
        panel.set_xlabel(label)
    axes[0, 0].plot([], [], "k--", linewidth=1, label="theory's slope")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(f"Four ways to the gradient of one sequence: {config.cell}")
    save(figure, path)


def _line(panel: Axes, rows: list[Row], what: str, index: int, name: str) -> None:
    x, y = np.array([r.size for r in rows]), np.array([r.cost[what] for r in rows])
    panel.plot(x, y, color=COLOURS[index], marker=MARKERS[index], markersize=5, label=name)
    theory = y[-1] * (x / x[-1]) ** METHODS[name].exponents[what, rows[0].against]
    panel.plot(x, theory, "--", color=COLOURS[index], linewidth=1)


def run(config: Config) -> None:
    """Compile, measure, fit; tables, record and chart."""
    check(config)
    started = time.perf_counter()
    load = load_average()
    planned = plan(config)
    programs = []
    with counted(f"compiling {len(planned)} programs") as on_program:
        for one in planned:
            programs.append(build(config, *one))
            on_program(len(programs), len(planned))
    with counted(f"measuring, {config.repeats} times each") as on_repeat:
        rows = measure(programs, config.repeats, on_repeat)
    slopes = fitted(rows)
    print_tables(rows, slopes)
    print(f"\n{time.perf_counter() - started:.0f} s; load at the start {load}")
    figures = {"exponents": slopes, "results": [asdict(r) for r in rows]}
    publish(config, figures, lambda chart: draw(chart, rows, config), load=load)


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
