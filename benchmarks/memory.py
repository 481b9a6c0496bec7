"""What does ``remat`` save? Memory and time of a gradient against the length of the sequence.

    python -m benchmarks.memory                                           about four minutes
    python -m benchmarks.memory --json benchmarks/results/memory.json     figures and chart kept

The gradient of a loss by the weights of one layer, of a loss on the last carry alone and of mean(y²), which
needs every output. Without ``remat`` the derivative keeps what it needs of every step; with ``remat=k``
only the carry of every k-th step, and each stretch of k steps is computed again. Theory, with k near √T:

    loss on the last carry     memory ∝ T without, ∝ √T with remat; a third more products
    mean(y²)                   the outputs themselves, and their cotangents, are ∝ T in any case

Memory is what XLA allots to intermediate results, inputs and gradients not counted.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array

import jaxrnn
from benchmarks.measure import Spread, interleaved, typical_seconds
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.plots import COLOURS, MARKERS, save
from experiments.harness.progress import counted
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.checks import check_positive

Loss = Literal["last carry", "mean(y²)"]
Remat = Literal["none", "√T"]


@dataclass(frozen=True)
class Config:
    """Memory and time of a gradient with and without remat."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    lengths: tuple[int, ...] = (1250, 5000, 20_000)
    """Numbers of steps T."""
    batch_size: int = 8
    """Sequences."""
    in_features: int = 64
    """Inputs a step."""
    hidden_size: int = 256
    """Hidden units."""
    backward: Literal["autodiff", "bptt"] = "bptt"
    """How the gradient is taken."""
    repeats: int = 2
    """Rounds in which every program is called once."""
    json: Path | None = None
    """File for all figures, and beside it a chart."""


@dataclass(frozen=True)
class Row:
    """One gradient."""

    loss: Loss
    remat: Remat
    time: int  # steps
    chunk: int | None  # steps between carries that are kept
    temporary_bytes: int
    output_bytes: int  # of y, whether or not it is kept
    seconds: Spread
    compile_seconds: float


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    for name in ("batch_size", "in_features", "hidden_size", "repeats"):
        check_positive(name, getattr(config, name))
    if (
        len(config.lengths) < 2
        or list(config.lengths) != sorted({*config.lengths})
        or config.lengths[0] < 1
    ):
        raise ValueError(f"lengths must be two or more rising numbers, got {config.lengths}")
    check_json(config.json)


def build(
    config: Config, loss: Loss, remat: Remat, steps: int
) -> tuple[Compiled, tuple[Any, Array], float]:
    """A compiled gradient, its arguments, and the seconds that compiling took."""
    cell = CELLS[config.cell](config.hidden_size)
    keys = jax.random.split(jax.random.key(0))
    params = cell.init(keys[0], config.in_features)
    xs = jax.random.normal(keys[1], (steps, config.batch_size, config.in_features))

    def value(params: Any, xs: Array) -> Array:
        carry, ys = jaxrnn.unroll(cell, params, xs, backward=config.backward, remat=chunk_of(remat, steps))
        return jnp.mean(ys**2) if loss == "mean(y²)" else jnp.mean(carry.h**2)

    started = time.perf_counter()
    compiled = jax.jit(jax.grad(value)).lower(params, xs).compile()
    return compiled, (params, xs), time.perf_counter() - started


def chunk_of(remat: Remat, steps: int) -> int | None:
    """Steps between kept carries."""
    if remat == "none":
        return None
    # A number that divides the steps: for another, inputs are copied to fill the last stretch up.
    divisors = [k for k in range(1, steps + 1) if steps % k == 0]
    return min(divisors, key=lambda k: abs(k - math.sqrt(steps)))


def measure(config: Config) -> list[Row]:
    """All rows; the programs of one length are run in turns."""
    rows = []
    with counted(f"measuring {len(config.lengths)} lengths") as on_length:
        for done, steps in enumerate(config.lengths, start=1):
            built = {
                (loss, remat): build(config, loss, remat, steps)
                for loss in get_args(Loss)
                for remat in get_args(Remat)
            }
            timers = {
                " ".join(name): lambda compiled=compiled, arguments=arguments: typical_seconds(
                    lambda: jax.block_until_ready(compiled(*arguments))
                )
                for name, (compiled, arguments, _) in built.items()
            }
            spreads = interleaved(timers, config.repeats)
            for (loss, remat), (compiled, _, compile_seconds) in built.items():
                memory: Any = compiled.memory_analysis()
                rows.append(
                    Row(
                        loss,
                        remat,
                        steps,
                        chunk_of(remat, steps),
                        memory.temp_size_in_bytes,
                        4 * steps * config.batch_size * config.hidden_size,
                        spreads[f"{loss} {remat}"],
                        compile_seconds,
                    )
                )
            on_length(done, len(config.lengths))
    return rows


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """For each loss at the greatest length, what remat saves and costs, and how its memory grows."""
    found = {}
    for loss in get_args(Loss):
        (plain, kept) = (
            [row for row in rows if (row.loss, row.remat) == (loss, r)] for r in get_args(Remat)
        )
        logs = np.log([[row.time, row.temporary_bytes] for row in kept])
        found[loss] = {
            "memory_plain_to_remat": plain[-1].temporary_bytes / kept[-1].temporary_bytes,
            "time_remat_to_plain": kept[-1].seconds.median / plain[-1].seconds.median,
            "memory_remat_to_outputs": kept[-1].temporary_bytes / kept[-1].output_bytes,
            "exponent_of_memory": float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]),
        }
    return found


def print_tables(rows: list[Row], summary: dict[str, dict[str, float]]) -> None:
    """Every program, then what remat saves."""
    head = ("loss", "remat", "T", "MiB", "MiB of y", "s", "quartiles", "compile s")
    print("\n{:<12}{:>7}{:>8}{:>10}{:>10}{:>9}{:>16}{:>11}".format(*head))
    for row in rows:
        low, high = (f"{part:.3f}" for part in row.seconds[1:])
        print(
            f"{row.loss:<12}{row.chunk or 'none':>7}{row.time:>8}{row.temporary_bytes / 2**20:>10.1f}"
            f"{row.output_bytes / 2**20:>10.1f}{row.seconds.median:>9.3f}{f'{low}-{high}':>16}"
            f"{row.compile_seconds:>11.2f}"
        )
    print()
    for loss, figures in summary.items():
        print(loss)
        for name, figure in figures.items():
            print(f"  {name.replace('_', ' '):<28}{figure:>8.3f}")


def draw(path: Path, rows: list[Row], config: Config) -> None:
    """Memory and time against T, log-log."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), dpi=130, layout="constrained")
    series = [(loss, remat) for loss in get_args(Loss) for remat in get_args(Remat)]
    for index, (loss, remat) in enumerate(series):
        shown = [row for row in rows if (row.loss, row.remat) == (loss, remat)]
        x, label = [row.time for row in shown], f"{loss}, remat {remat}"
        style: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5}
        left.loglog(x, [row.temporary_bytes for row in shown], label=label, **style)
        right.loglog(x, [row.seconds.median for row in shown], **style)
    lengths = np.array(config.lengths)
    start = min(row.temporary_bytes for row in rows if row.time == lengths[0])
    left.loglog(lengths, start * np.sqrt(lengths / lengths[0]), "k--", linewidth=1, label="∝ √T")
    outputs = [row.output_bytes for row in rows if (row.loss, row.remat) == series[0]]
    left.loglog(lengths, outputs, "k:", linewidth=1, label="bytes of y")
    left.set(title="temporary memory (bytes)", xlabel="steps T")
    right.set(title="time (seconds)", xlabel="steps T")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xticks(lengths, lengths)
        axes.xaxis.set_minor_locator(plt.NullLocator())
    figure.suptitle(f"Gradient of one {config.cell}, batch {config.batch_size}, {config.hidden_size} units")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; tables, record and chart."""
    check(config)
    load = load_average()
    rows = measure(config)
    summary = summarise(rows)
    print_tables(rows, summary)
    figures = {"summary": summary, "results": [dataclasses.asdict(row) for row in rows]}
    publish(config, figures, lambda chart: draw(chart, rows, config), load=load)


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
