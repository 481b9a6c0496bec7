r"""Which recurrent networks remember over long spans? Three tasks that nothing but memory solves.

    python -m experiments.long_memory                         adding problem, 200 steps: elman, gru, lstm
    python -m experiments.long_memory --task temporal_order --cells elman gru lstm lstm-chrono
    python -m experiments.long_memory --task copy --hidden-size 128 --learning-rate 0.02 --steps 6000 \
        --cells gru elman

The first command takes a minute on two CPU cores, the others two and five; no network is needed. It ends
with GRU and LSTM below 0.002, a hundredth of what can be had without memory, and the Elman network still
near that, at 1/6. The irnn wants a --learning-rate near 3e-4: at the default its loss overflows,
which ends its training, not the others'.

Data are drawn on the fly, so that no sequence comes twice:

- adding: the sum of two marked values out of T; always predicting 1 errs by 1/6 (squared).
- copy: 10 symbols, to be repeated after T blanks; knowing when but not what costs 10 ln 8 / (T + 20) nats.
- temporal_order: which of X and Y came first and second among T symbols; guessing costs ln 4 nats.

``experiments/data/memory_problems.py`` defines them.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.data.batches import EVERY
from experiments.data.memory_problems import PROBLEMS, Examples, Problem
from experiments.harness import run as runs
from experiments.harness.command_line import Commands, main
from experiments.harness.fit import fit, parameters
from experiments.harness.plots import learning_curve
from experiments.harness.reports import part
from experiments.harness.settings import Count, Positive, TrainingSettings, settings
from experiments.harness.study import begin_study, member
from experiments.harness.task import Loss, Sums, Task, evaluate
from jaxrnn import LSTM, Cell, Chrono, unroll
from jaxrnn.cells.table import CELLS, CellName

CURVE_SEQUENCES, TEST_SEQUENCES = 1000, 5000  # at least: whole batches are measured
SOLVED = 0.01  # of the error without memory: a cell that comes below it has solved the task, and stops


@settings
class Config(TrainingSettings):
    """Train one cell after another on a task, and compare them."""

    task: Literal["adding", "copy", "temporal_order"] = "adding"
    """What is to be remembered."""
    length: int | None = None
    """Steps T of the task; None: 200 for adding, 100 for the others."""
    cells: tuple[CellName | Literal["lstm-chrono"], ...] = ("elman", "gru", "lstm")
    """Recurrent cells; lstm-chrono draws its forget bias for spans of up to T steps."""
    hidden_size: Count = 64
    """Hidden units."""
    steps: Count = 3000
    """Most training steps of each cell; one that solves the task stops earlier."""
    learning_rate: Positive = 1e-2
    evaluate_every: Count = 100

    @property
    def time(self) -> int:
        """Steps T of the task."""
        return PROBLEMS[self.task].length if self.length is None else self.length


def build_cell(name: str, hidden_size: int, length: int) -> Cell:
    """A cell of the table, or an LSTM whose forget bias is drawn for spans of up to ``length`` steps."""
    if name == "lstm-chrono":
        return LSTM(hidden_size, forget_bias=Chrono(length))
    return CELLS[name](hidden_size)


def train_command(config: Config) -> None:
    """Train the cells one after another, then compare them."""
    problem = PROBLEMS[config.task]
    config = dataclasses.replace(config, length=config.time)
    if config.time < problem.shortest:
        raise ValueError(f"length must be {problem.shortest} or more for {config.task}, got {config.time}")
    if not config.cells or len(set(config.cells)) < len(config.cells):
        raise ValueError(f"cells must be some of {', '.join(CELLS)}, each once, got {config.cells!r}")
    cells = {name: build_cell(name, config.hidden_size, config.time) for name in config.cells}
    begin_study(config, cells)
    print(f"{config.task} over {config.time} steps; run in {config.folder}", flush=True)
    results, diverged = {}, []
    for name, cell in cells.items():
        try:
            results[name] = train_cell(config, problem, name, cell)
        except FloatingPointError as error:  # the others may do better
            diverged.append(f"{name}: {error}")
    if results:
        finish(config, problem, results)
    if diverged:
        raise FloatingPointError("\n".join(diverged))


class Weights(NamedTuple):
    """A cell's parameters, and a linear readout of its outputs."""

    cell: Any
    w_out: jax.Array  # (hidden_size, out_features)
    b_out: jax.Array  # (out_features,)


@functools.lru_cache  # the same function for equal cells, which compiles once
def output_loss(cell: Cell, problem: Problem) -> Loss:
    """That of the problem, of a linear readout of the cell's outputs."""

    def loss(weights: Weights, examples: Examples, key: jax.Array | None) -> Sums:
        _, ys = unroll(cell, weights.cell, examples.inputs, backward="bptt")
        return problem.measure(ys @ weights.w_out + weights.b_out, examples.targets)

    return loss


def build_task(config: Config, problem: Problem, name: str, cell: Cell) -> tuple[Task, Iterable[Examples]]:
    """The training of a cell on a problem, and sequences for the final test."""
    _, key_cell, key_out, *keys = jax.random.split(jax.random.key(config.seed), 6)
    key_train, key_curve, key_test = keys
    draw = jax.jit(problem.draw, static_argnums=(1, 2))

    def init(key: jax.Array) -> Weights:
        """Every cell draws its readout from the same key, whatever its own needs."""
        w_out = jax.nn.initializers.lecun_normal()(key_out, (cell.out_features, problem.out_features))
        return Weights(cell.init(key_cell, problem.in_features), w_out, jnp.zeros(problem.out_features))

    def batch(key: jax.Array, position: int) -> Examples:
        return draw(jax.random.fold_in(key, position), config.batch_size, config.time)

    def batches(key: jax.Array, sequences: int) -> Iterable[Examples]:
        return (batch(key, position) for position in range(math.ceil(sequences / config.batch_size)))

    task = Task(
        init=init,
        loss=output_loss(cell, problem),
        batch=lambda position, lanes=EVERY: Examples(*(x[:, lanes] for x in batch(key_train, position))),
        valid=lambda: batches(key_curve, CURVE_SEQUENCES),
        unit=problem.unit,
        items=("sequences", config.batch_size),
        record={"cell": name},
        stop=lambda errors: errors[-1] < SOLVED * problem.baseline(config.time),
    )
    return task, batches(key_test, TEST_SEQUENCES)


def train_cell(config: Config, problem: Problem, name: str, cell: Cell) -> dict[str, Any]:
    """Train one cell in a folder of its own: its final figures, on sequences never seen before."""
    task, test = build_task(config, problem, name, cell)
    size = parameters(jax.eval_shape(task.init, jax.random.key(0)))
    print(f"\n{name}: {size:,} parameters", flush=True)
    fitted = fit(member(config, config.folder / name), task, whole=config.folder)
    found = evaluate(task, fitted.trained.state.params, test)
    return {
        "error": found.pop("loss"),
        **found,
        **fitted.costs,
        "stopped_as_solved": fitted.steps < config.steps,
    }


def finish(config: Config, problem: Problem, results: dict[str, dict[str, Any]]) -> None:
    """The table, the summary, and the curves of all cells."""
    baseline = problem.baseline(config.time)
    print(f"\ncell         parameters  steps  seconds  error ({problem.unit})")
    for name, of in results.items():
        line = f"{name:<12} {of['parameters']:>10,} {of['steps']:>6} {of['train_seconds']:>8.0f}"
        line += f"  {of['error']:.6f}" + (f", accuracy {of['accuracy']:.4f}" if "accuracy" in of else "")
        print(line + ", solved" * of["stopped_as_solved"])
    print(f"{'without memory':<38}  {baseline:.6f}\nall in {config.folder}")
    summary = {
        "cells": results,
        "error_without_memory": baseline,
        "unit": problem.unit,
        "settings": runs.config_record(config),
        **runs.environment(),
    }
    runs.write_json(config.folder / "summary.json", summary)
    with part("learning_curves.png"):
        metrics = {name: runs.Metrics(config.folder / name / "metrics.jsonl") for name in results}
        learning_curve(
            config.folder / "learning_curves.png",
            {name: of.curve("valid_loss", config.batch_size / 1e3) for name, of in metrics.items()},
            x_label="training sequences (thousands)",
            y_label=f"error on fresh sequences ({problem.unit})",
            title=f"{config.task.replace('_', ' ')}, T = {config.time}, {config.hidden_size} units",
            baseline=("without memory", baseline),
            y_scale="log",
        )


COMMANDS: Commands = {"train": (Config, train_command)}

if __name__ == "__main__":
    main(__doc__ or "", COMMANDS)
