"""A run from its settings and its task: train, load what was trained, and report it."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
import optax.contrib
from jax.sharding import Mesh

from experiments.harness import run as runs
from experiments.harness.devices import replicate_rest, shard, split_params, training_mesh
from experiments.harness.loop import Loop, Trained, train
from experiments.harness.plots import training_curves
from experiments.harness.reports import part
from experiments.harness.settings import Optimizer, TrainingSettings
from experiments.harness.task import Task, train_step
from jaxrnn.training import processes
from jaxrnn.training.state import TrainState, init_state

MOST_ROWS = 4096  # of a matrix that Muon moves


class Fitted(NamedTuple):
    """What a run has come to."""

    out: Path
    params: Any  # of the lowest validation loss, on one device
    trained: Trained  # the last state, and the time it took
    task: Task
    config: TrainingSettings
    decoded: Any = None  # what the processes made together of the parameters

    @property
    def steps(self) -> int:
        """How many were taken."""
        return int(self.trained.state.step)

    @property
    def seconds(self) -> float:
        """Of training in all runs so far, evaluation included."""
        return self.trained.progress.seconds

    @property
    def costs(self) -> dict[str, Any]:
        """What training took, for a summary."""
        return {
            "train_seconds": self.seconds,
            "seconds_spent": self.trained.progress.spent,
            "skipped_batches": len(self.trained.progress.skipped),
            "training_devices": self.trained.progress.devices,
            "steps": self.steps,
            "parameters": parameters(self.params),
        }


def fit(
    config: TrainingSettings,
    task: Task,
    *,
    whole: Path | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> Fitted:
    """Train to the end, in a new folder ``config.out`` or, with ``config.resume``, in that of the run.

    Args:
      config: its settings.
      task: what is trained.
      whole: the study that the run is a part of, whose folder a user resumes.
      decode: what all processes then do together with the parameters; the first one alone returns.

    Raises:
      FloatingPointError, SystemExit, ValueError: as ``loop.train``; and for a folder of another run.
    """
    began, out = time.monotonic(), config.folder
    mesh = training_mesh(config.batch_size, config.devices, task.split.devices)
    optimizer = make_optimizer(config)
    record = runs.config_record(config) | dict(task.record)
    if not config.resume:
        processes.on_first(lambda: runs.create(out, record, fill=task.assets))
    runs.check_same_config(runs.load_config(out), record, out)
    carry = task.first_carry(task.batch(0))
    state = on_mesh(config, task, optimizer, mesh)._replace(carry=shard(carry, mesh, axis=0))
    step = train_step(task, optimizer, state)
    trained = train(Loop(out, config, record, task, step, mesh, whole or out, began), state)
    if decode is None and not processes.first():  # the report is the first one's
        raise SystemExit
    params = load(out, config, task.init, carry, trained.best)
    decoded = None if decode is None else decode(params)
    if not processes.first():
        raise SystemExit
    return Fitted(out, params, trained, task, config, decoded)


def load(
    folder: Path, config: TrainingSettings, init: Any, carry: Any = (), step: int | None = None
) -> Any:
    """The parameters of the lowest validation loss in a run's folder, or after a step, on one device.

    ``config`` is that of the training, ``init`` and the first ``carry``, of which the shapes and types are
    enough, are those of its ``Task``.

    Raises:
      ValueError: if there is no checkpoint, or one that does not fit them.
    """
    like = jax.eval_shape(lambda: first_state(config, init, make_optimizer(config)))
    return runs.saved_params(folder, like._replace(carry=carry), step)


def first_state(config: TrainingSettings, init: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; its carry is still empty."""
    key_params, key = jax.random.split(jax.random.key(config.seed))
    return init_state(init(key_params), optimizer, (), key)


def on_mesh(
    config: TrainingSettings, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """``first_state`` on the devices of a mesh, its parameters split as the task says."""
    # What the optimiser keeps of a parameter lies where the parameter does.
    state = first_state(config, lambda key: split_params(task.init(key), mesh, task.split), optimizer)
    return replicate_rest(state, mesh)


def make_optimizer(config: TrainingSettings) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) or Muon under a linear warm-up and a cosine decay to a hundredth.

    Muon (Jordan et al. 2024) moves a matrix along the orthogonal one nearest to its averaged gradient, here
    scaled so that entries move about as far as under Adam (Liu et al. 2025). All else is left to Adam with
    Nesterov's momentum (Dozat 2016), and so are matrices with a row for each word of a vocabulary, whose
    rows move one by one and which take long to make orthogonal.

    The warm-up takes at most half of all steps. Entries of the gradient are clamped first to
    [-clip_value, clip_value], then its global norm to clip_norm (Pascanu et al. 2013).
    """
    schedule = (config.learning_rate, config.warmup_steps, config.steps)
    return _optimizer(config.optimizer, *schedule, config.clip_value, config.clip_norm)


@functools.lru_cache  # equal ones are the same, and compile once
def _optimizer(
    name: Optimizer,
    rate: float,
    warmup_steps: int,
    steps: int,
    clip_value: float | None,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    warmup_steps = min(warmup_steps, steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup_steps, steps, rate / 100)
    clips = [] if clip_value is None else [optax.clip(clip_value)]
    clips += [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    # A short memory of squares suits the few thousand steps of these runs.
    if name == "muon":
        options = {"consistent_rms": 0.2, "adam_b2": 0.99, "muon_weight_dimension_numbers": _matrices}
        return optax.chain(*clips, optax.contrib.muon(schedule, **options))
    return optax.chain(*clips, optax.adam(schedule, b2=0.99))


def _matrices(params: Any) -> Any:
    """Which leaves Muon moves, in the form that it asks for."""

    def axes(leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        moved = leaf.ndim == 2 and max(leaf.shape) <= MOST_ROWS
        return optax.contrib.MuonDimensionNumbers() if moved else None

    return jax.tree.map(axes, params)


def parameters(params: Any) -> int:
    """How many numbers there are in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def equal_size(parameters_of: Callable[[int], int], target: int) -> int:
    """The size at which the number of parameters, which grows with it, is nearest to a target.

    >>> equal_size(lambda size: size * (size + 1), target=100)
    9
    """
    low, high = 1, 2
    while parameters_of(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if parameters_of(middle) >= target else (middle, high)
    return min((low, high), key=lambda size: abs(parameters_of(size) - target))


def report(
    fitted: Fitted,
    figures: Mapping[str, Any],
    *,
    title: str,
    training: str = "training",
    packages: Sequence[str] = (),
) -> None:
    """Write figures of a run, with those that every run has, to ``summary.json``, print where all of it is,
    and draw ``learning_curve.png``.

    Args:
      fitted: the run.
      figures: what was measured, by name.
      title: of the plot.
      training: name of the training loss in it.
      packages: whose versions count besides those that the library itself needs.
    """
    items, per_step = fitted.task.items
    summary = {
        **figures,
        f"{items}_per_second": fitted.steps * per_step / fitted.seconds,
        **fitted.costs,
        "seed": fitted.config.seed,
        **runs.environment(*packages),
    }
    runs.write_json(fitted.out / "summary.json", summary)
    print(f"{fitted.steps} steps in {fitted.seconds:.0f} s; all in {fitted.out}")
    with part("learning_curve.png"):
        training_curves(
            fitted.out,
            {training: "loss", "validation": "valid_loss"},
            per_step=per_step / 1e6,
            x_label=f"{items} seen (millions)",
            y_label=f"loss ({fitted.task.unit})",
            title=title,
        )
