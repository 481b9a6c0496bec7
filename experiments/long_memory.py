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

- adding (Hochreiter & Schmidhuber 1997, "Long short-term memory", experiment 4; in the form of Arjovsky et
  al. 2016, "Unitary evolution recurrent neural networks"). Each of T steps has a value u ~ U[0, 1) and a
  marker, which is 1 at one random step of either half, else 0. Target at the end: the sum of the two marked
  values. Mean squared error; always predicting 1 gives the variance of the target, 2/12.
- copy (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016). 10 symbols out of 8, T − 1 blanks, a
  delimiter, 10 blanks; targets: T + 10 blanks, then the 10 symbols. Cross-entropy in nats, averaged over
  all T + 20 steps; knowing when to answer but not what gives 10 ln 8 / (T + 20).
- temporal_order (Hochreiter & Schmidhuber 1997, experiment 6a, here of fixed length; Pascanu et al. 2013).
  E at the start, B at the end, random a, b, c, d between, but X or Y at a step in [T/10, 2T/10] and at one
  in [5T/10, 6T/10]. Class at the end: XX, XY, YX or YY. Cross-entropy in nats; guessing gives ln 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness import run as runs
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, replicate, shard
from experiments.harness.loop import Loop, check_steps, train
from experiments.harness.optimizer import adam
from experiments.harness.plots import learning_curve
from experiments.harness.reports import part
from jaxrnn import GRU, IRNN, LSTM, Chrono, Elman, unroll
from jaxrnn.cells.cell import Cell
from jaxrnn.checks import check_positive
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step

CURVE_SEQUENCES, TEST_SEQUENCES = 1000, 5000  # at least: whole batches are measured
SOLVED = 0.01  # of the error without memory: a cell that comes below it has solved the task, and stops


@dataclass(frozen=True)
class Config:
    """Train one cell after another on a task, and compare them."""

    task: Literal["adding", "copy", "temporal_order"] = "adding"
    """What is to be remembered."""
    length: int | None = None
    """Steps T of the task; None: 200 for adding, 100 for the others."""
    cells: tuple[Literal["elman", "irnn", "gru", "lstm", "lstm-chrono"], ...] = ("elman", "gru", "lstm")
    """Recurrent cells; lstm-chrono draws its forget bias for spans of up to T steps."""
    hidden_size: int = 64
    """Hidden units."""
    batch_size: int = 64
    """Sequences of a step."""
    steps: int = 3000
    """Most training steps of each cell; one that solves the task stops earlier."""
    learning_rate: float = 1e-2
    """Highest learning rate of Adam; it decays to a hundredth along a cosine."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    seed: int = 0
    """Seed of initialisation and data; every cell sees the same sequences."""
    evaluate_every: int = 100
    """Steps between measurements on fresh sequences."""
    checkpoint_every: int = 500
    """Steps between checkpoints; they also fall every 30 seconds, and with each measurement."""
    tensorboard: bool = False
    """Also write events for TensorBoard."""
    out: Path | None = None
    """Folder of the run, with one for each cell in it; by default out/long_memory/<date-time>."""
    resume: bool = False
    """Continue the run in --out: finished cells are kept, the interrupted one goes on."""


class Examples(NamedTuple):
    """A batch of sequences; the targets are those of the last steps."""

    inputs: jax.Array  # (time, batch, in_features)
    targets: jax.Array  # (answers, batch)


def adding(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Values, two of them marked; their sum."""
    keys = jax.random.split(key, 3)
    values = jax.random.uniform(keys[0], (length, batch_size))
    first = jax.random.randint(keys[1], (batch_size,), 0, length // 2)
    second = jax.random.randint(keys[2], (batch_size,), length // 2, length)
    steps = jnp.arange(length)[:, None]
    markers = ((steps == first) | (steps == second)).astype(values.dtype)
    return Examples(jnp.stack([values, markers], axis=-1), jnp.sum(values * markers, axis=0)[None])


def copy(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Symbols 0 to 7, blanks (8), a delimiter (9); blanks, then the symbols."""
    symbols = jax.random.randint(key, (10, batch_size), 0, 8)
    blanks = jnp.full((length + 10, batch_size), 8)
    inputs = jnp.concatenate([symbols, blanks.at[length - 1].set(9)])
    return Examples(jax.nn.one_hot(inputs, 10), jnp.concatenate([blanks, symbols]))


def temporal_order(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Distractors (0 to 3), X and Y (4, 5) at two steps, E and B (6, 7) at the ends; XX, XY, YX or YY."""
    keys = jax.random.split(key, 4)
    first = jax.random.randint(keys[0], (batch_size,), length // 10, 2 * length // 10 + 1)
    second = jax.random.randint(keys[1], (batch_size,), 5 * length // 10, 6 * length // 10 + 1)
    x_or_y = jax.random.randint(keys[2], (2, batch_size), 0, 2)
    steps = jnp.arange(length)[:, None]
    symbols = jax.random.randint(keys[3], (length, batch_size), 0, 4)
    symbols = jnp.where(steps == first, 4 + x_or_y[0], symbols)
    symbols = jnp.where(steps == second, 4 + x_or_y[1], symbols)
    symbols = symbols.at[0].set(6).at[-1].set(7)
    return Examples(jax.nn.one_hot(symbols, 8), (2 * x_or_y[0] + x_or_y[1])[None])


def squared_error(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """The mean squared error of the last outputs."""
    return {"error": jnp.mean((outputs[-len(targets) :, :, 0] - targets) ** 2)}


def classification(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """The mean cross-entropy in nats, and the accuracy of the last ten answers, which ask for memory."""
    logits = outputs[-len(targets) :]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = jnp.argmax(logits[-10:], axis=-1) == targets[-10:]
    return {"error": jnp.mean(nats), "accuracy": jnp.mean(right)}


@dataclass(frozen=True)
class Task:
    """A task: its data, the measure of an answer, and what can be had without memory."""

    draw: Callable[[jax.Array, int, int], Examples]  # (key, batch_size, length)
    in_features: int
    out_features: int
    measure: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]  # (outputs, targets)
    unit: str  # of the error
    baseline: Callable[[int], float]  # the least error without memory, by length
    length: int  # unless asked otherwise
    shortest: int


TASKS = {
    "adding": Task(adding, 2, 1, squared_error, "mean squared error", lambda T: 1 / 6, 200, 2),
    "copy": Task(copy, 10, 9, classification, "nats", lambda T: 10 * math.log(8) / (T + 20), 100, 1),
    "temporal_order": Task(temporal_order, 8, 4, classification, "nats", lambda T: math.log(4), 100, 10),
}

CELLS: dict[str, Callable[[int, int], Cell]] = {  # (hidden_size, T)
    "elman": lambda size, T: Elman(size),
    "irnn": lambda size, T: IRNN(size),
    "gru": lambda size, T: GRU(size),
    "lstm": lambda size, T: LSTM(size),
    "lstm-chrono": lambda size, T: LSTM(size, forget_bias=Chrono(T)),
}


class Study(NamedTuple):
    """What the cells of a run have in common."""

    config: Config
    task: Task
    length: int
    cells: dict[str, Cell]
    optimizer: optax.GradientTransformation
    mesh: Mesh
    out: Path
    record: dict[str, Any]

    def batch(self, key: jax.Array, position: int) -> Examples:
        """Examples that depend on the key and their position alone, split over the devices."""
        key = jax.random.fold_in(key, position)
        return shard(_draw(self.task.draw, key, self.config.batch_size, self.length), self.mesh, axis=1)


_draw = jax.jit(lambda draw, *arguments: draw(*arguments), static_argnums=(0, 2, 3))


def plan(config: Config) -> Study:
    """The study that the settings ask for.

    Raises:
      ValueError: for anything wrong with them.
    """
    for name in ("hidden_size", "batch_size", "steps", "evaluate_every", "checkpoint_every"):
        check_positive(name, getattr(config, name))
    if config.task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {config.task!r}")
    if not config.cells or len(set(config.cells) & set(CELLS)) < len(config.cells):
        raise ValueError(f"cells must be some of {', '.join(CELLS)}, each once, got {config.cells!r}")
    task = TASKS[config.task]
    length = task.length if config.length is None else config.length
    if length < task.shortest:
        raise ValueError(f"length must be {task.shortest} or more for {config.task}, got {length}")
    rate, clip = config.learning_rate, config.clip_norm
    return Study(
        config,
        task,
        length,
        cells={name: CELLS[name](config.hidden_size, length) for name in config.cells},
        optimizer=adam(rate, config.steps, warmup_steps=100, clip_norm=clip, clip_value=None),
        mesh=batch_mesh(config.batch_size),
        out=config.out or runs.default_directory("long_memory"),
        record=runs.config_record(config) | {"length": length},
    )


def train_command(config: Config) -> None:
    """Train the cells one after another, then compare them."""
    study = plan(config)
    runs.check_out(study.out, resume=config.resume)

    def fill(folder: Path) -> None:
        for name in study.cells:
            runs.write_json(folder / name / "config.json", study.record | {"cell": name})

    if config.resume:
        runs.check_same_config(runs.load_config(study.out), study.record, study.out)
        for name in study.cells:
            check_steps(study.out / name, config.steps)
        runs.write_json(study.out / "config.json", study.record)
    else:
        runs.create(study.out, study.record, fill)
    print(f"{config.task} over {study.length} steps; run in {study.out}", flush=True)
    results, diverged = {}, []
    for name in study.cells:
        try:
            results[name] = train_cell(study, name)
        except FloatingPointError as error:  # the others may do better
            diverged.append(f"{name}: {error}")
    if results:
        finish(study, results)
    if diverged:
        raise FloatingPointError("\n".join(diverged))


class Weights(NamedTuple):
    """A cell's parameters, and a linear readout of its outputs."""

    cell: Any
    w_out: jax.Array  # (hidden_size, out_features)
    b_out: jax.Array  # (out_features,)


def train_cell(study: Study, name: str) -> dict[str, Any]:
    """Train one cell in a folder of its own: its final figures, on sequences never seen before."""
    config, task, cell = study.config, study.task, study.cells[name]
    key, key_cell, key_out, key_train, key_curve, key_test = jax.random.split(
        jax.random.key(config.seed), 6
    )
    draw_w_out = jax.nn.initializers.lecun_normal()
    weights = Weights(
        cell.init(key_cell, task.in_features),
        w_out=draw_w_out(key_out, (cell.out_features, task.out_features)),
        b_out=jnp.zeros(task.out_features),
    )

    def measure(weights: Weights, examples: Examples) -> dict[str, jax.Array]:
        _, ys = unroll(cell, weights.cell, examples.inputs, backward="bptt")
        return task.measure(ys @ weights.w_out + weights.b_out, examples.targets)

    def loss(weights: Weights, carry: Any, examples: Examples, key: jax.Array) -> tuple[jax.Array, Any]:
        return measure(weights, examples)["error"], carry

    measured = jax.jit(measure)

    def mean(weights: Weights, key: jax.Array, sequences: int) -> dict[str, float]:
        batches = range(math.ceil(sequences / config.batch_size))
        figures = [jax.device_get(measured(weights, study.batch(key, batch))) for batch in batches]
        return {what: float(np.mean([each[what] for each in figures])) for what in figures[0]}

    parameters = sum(leaf.size for leaf in jax.tree.leaves(weights))
    print(f"\n{name}: {parameters:,} parameters", flush=True)
    loop = Loop(
        directory=study.out / name,
        whole=study.out,
        config=study.record | {"cell": name},
        train_step=truncated_step(loss, study.optimizer),
        chunk=lambda position: study.batch(key_train, position),
        evaluate=lambda state: mean(state.params, key_curve, CURVE_SEQUENCES),
        criterion="error",
        solved_below=SOLVED * task.baseline(study.length),
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        items_per_step=config.batch_size,
        unit=task.unit,
        tensorboard=config.tensorboard,
    )
    state = replicate(init_state(weights, study.optimizer, (), key), study.mesh)
    state, seconds = train(loop, state, resume=config.resume)
    figures: dict[str, Any] = mean(state.params, key_test, TEST_SEQUENCES)
    steps = int(state.step)
    figures |= {"steps": steps, "train_seconds": seconds, "parameters": parameters}
    return figures | {"stopped_as_solved": steps < config.steps}


def finish(study: Study, results: dict[str, dict[str, Any]]) -> None:
    """The table, the summary, and the curves of all cells."""
    out, unit = study.out, study.task.unit
    baseline = study.task.baseline(study.length)
    print(f"\ncell         parameters  steps  seconds  error ({unit})")
    for name, of in results.items():
        line = f"{name:<12} {of['parameters']:>10,} {of['steps']:>6} {of['train_seconds']:>8.0f}"
        line += f"  {of['error']:.6f}" + (f", accuracy {of['accuracy']:.4f}" if "accuracy" in of else "")
        print(line + ", solved" * of["stopped_as_solved"])
    print(f"{'without memory':<38}  {baseline:.6f}\nall in {out}")
    summary = {
        "cells": results,
        "error_without_memory": baseline,
        "unit": unit,
        "settings": study.record,
        **runs.environment(),
    }
    runs.write_json(out / "summary.json", summary)
    with part("learning_curves.png"):
        draw(study, results)


def draw(study: Study, results: dict[str, dict[str, Any]]) -> None:
    """The error of every cell as it was trained."""
    config, out = study.config, study.out
    curves = {}
    for name in results:
        lines = [line for line in runs.Metrics(out / name / "metrics.jsonl").read() if "error" in line]
        thousands = [line["step"] * config.batch_size / 1e3 for line in lines]
        curves[name] = (thousands, [line["error"] for line in lines])
    learning_curve(
        out / "learning_curves.png",
        curves,
        x_label="training sequences (thousands)",
        y_label=f"error on fresh sequences ({study.task.unit})",
        title=f"{config.task.replace('_', ' ')}, T = {study.length}, {config.hidden_size} hidden units",
        baseline=("without memory", study.task.baseline(study.length)),
        y_scale="log",
    )


if __name__ == "__main__":
    main(__doc__ or "", {"train": (Config, train_command)})
