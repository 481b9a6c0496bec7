"""The training loop: progress, metrics, checkpoints, and an orderly end on signals."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tensorboardX
from jax.sharding import Mesh

from experiments.harness.devices import on_one_device, shard_batch
from experiments.harness.progress import TrainingBar, training_bar
from experiments.harness.reports import part
from experiments.harness.run import Metrics, check_same_config, write_json
from experiments.harness.settings import TrainingSettings
from experiments.harness.signals import stop_on_signal
from experiments.harness.task import Task, evaluate
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import TrainState

LOG_EVERY = 50  # steps
CHECKPOINT_SECONDS = 30.0
_norm = jax.jit(optax.tree.norm)


@dataclass(frozen=True)
class Loop:
    """A run that is trained."""

    directory: Path
    config: TrainingSettings
    record: dict[str, Any]  # what config.json holds, and every checkpoint
    task: Task
    train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    mesh: Mesh
    whole: Path  # what --resume takes: ``directory``, or the study that it is a part of


@dataclass
class _Progress:
    """What a resumed run must remember besides the state; JSON beside the checkpoint."""

    position: int = 0  # of the data
    seconds: float = 0.0
    window: list[float] = field(default_factory=list)  # losses since the last line of metrics
    valid: list[float] = field(default_factory=list)  # validation losses


def train(loop: Loop, state: TrainState) -> tuple[TrainState, float]:
    """Train to the last step, or till the task says stop; with ``resume`` from the latest checkpoint on.

    Returns:
      the state, and the seconds of training in all runs so far, evaluation included.

    Raises:
      FloatingPointError: when the loss or the gradient is not finite; names the last good checkpoint.
      SystemExit: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
      ValueError: if the checkpoint is damaged, of another run, or past the last step.
    """
    progress, config = _Progress(), loop.config
    with Checkpoints(loop.directory / "checkpoints") as checkpoints:
        if config.resume and checkpoints.latest is not None:
            state, progress = _restore(loop, checkpoints, state)
        if config.resume:  # the data may have moved, and the steps be more
            write_json(loop.directory / "config.json", loop.record)
        metrics = Metrics(loop.directory / "metrics.jsonl")
        metrics.forget_after(int(state.step))
        with (
            stop_on_signal() as stopped,
            training_bar(config.steps, loop.task.unit) as bar,
            _events(loop) as events,
        ):
            session = _Session(loop, state, progress, checkpoints, metrics, bar, events)
            with _saved_whatever_happens(session):
                while not session.done and not stopped:
                    session.advance()
            session.save()
    if stopped and (loop.whole != loop.directory or not session.done):
        print(
            f"stopped at step {session.step} of {config.steps} and saved; "
            f"continue with --out {loop.whole} --resume"
        )
        raise SystemExit(128 + stopped[0])
    return session.state, progress.seconds


def _restore(loop: Loop, checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, _Progress]:
    """The latest state and what goes with it; tells what other ``steps`` than before mean."""
    steps = loop.config.steps
    check_steps(loop.directory, steps)
    state, record = checkpoints.restore(checkpoints.latest, like=like)
    saved = record.pop("config")
    check_same_config(saved, loop.record, loop.directory)
    before = saved.get("steps", steps)
    if before != steps:
        print(
            f"{steps} steps instead of {before}: from step {int(state.step)} on, the learning rate "
            f"follows the schedule of a run of {steps}",
            flush=True,
        )
    try:
        return state, _Progress(**record)
    except TypeError as error:
        raise ValueError(
            f"the checkpoint in {loop.directory} is of another version of this experiment, which cannot be "
            "continued here; begin anew in another --out"
        ) from error


def check_steps(directory: Path, steps: int) -> None:
    """Raise ValueError if the run in a folder has taken more steps than it shall have."""
    if not (directory / "checkpoints").is_dir():
        return
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        taken = checkpoints.latest
    if taken is not None and taken > steps:
        raise ValueError(
            f"steps must be at least the {taken} that the run in {directory} has taken, got {steps}"
        )


@contextmanager
def _saved_whatever_happens(session: "_Session") -> Iterator[None]:
    """Save what was trained before an error, a full disk or a failed evaluation say, ends the run."""
    try:
        yield
    except FloatingPointError:  # the state is no good
        raise
    except Exception:
        with part("saving what was trained"):
            session.save()
        raise


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        loop: Loop,
        state: TrainState,
        progress: _Progress,
        checkpoints: Checkpoints,
        metrics: Metrics,
        bar: TrainingBar,
        events: Any,
    ) -> None:
        self.loop, self.task, self.config = loop, loop.task, loop.config
        self.state, self.progress = state, progress
        self.checkpoints, self.metrics, self.bar, self.events = checkpoints, metrics, bar, events
        self.step = self.logged_step = int(state.step)
        self.clock = self.saved_at = self.logged_at = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or no more are needed."""
        valid = self.progress.valid
        return self.step >= self.config.steps or bool(valid and self.task.stop(valid))

    def advance(self) -> None:
        """One step, and whatever is due after it."""
        batch = shard_batch(self.task.batch(self.progress.position), self.loop.mesh)
        self.state, measured = self.loop.train_step(self.state, batch)
        # One step in flight at a time: XLA's collectives between CPU devices can lock up otherwise.
        loss, grad_norm = float(measured.loss), float(measured.grad_norm)
        self.step += 1
        self.progress.position += 1
        self._tick()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise FloatingPointError(self._not_finite(f"loss {loss}, gradient norm {grad_norm}"))
        self.progress.window.append(loss)
        evaluation_due = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
        if self.step % LOG_EVERY == 0 or evaluation_due:
            self._log_training(grad_norm)
        if evaluation_due:
            self._evaluate()
        elif (
            self.step % self.config.checkpoint_every == 0 or self.clock - self.saved_at > CHECKPOINT_SECONDS
        ):
            self.save()

    def save(self, loss: float = math.inf) -> None:
        """Save a checkpoint, unless this step has one; parameters that are not finite are never saved."""
        norm = float(_norm(self.state.params))
        if not math.isfinite(norm):
            raise FloatingPointError(self._not_finite(f"norm of the parameters {norm}"))
        record = {"config": self.loop.record, **vars(self.progress)}
        self.checkpoints.save(self.state, record, loss)
        self.saved_at = time.monotonic()

    def _log_training(self, grad_norm: float) -> None:
        window = self.progress.window
        steps = self.step - self.logged_step  # of this process: the window may hold an earlier one's
        rate = steps * self.task.items[1] / (self.clock - self.logged_at)
        loss = float(np.mean(window))
        window.clear()
        self._log({"loss": loss, "grad_norm": grad_norm, "items_per_second": rate})
        self.bar.update(self.step, loss, rate)
        self.logged_at, self.logged_step = self.clock, self.step

    def _evaluate(self) -> None:
        found = evaluate(self.task, self.state.params, self.task.valid())
        figures = {f"valid_{name}": value for name, value in found.items()}
        self._tick()
        self._log(figures)
        self.bar.evaluated(self.step, figures)
        self.progress.valid.append(found["loss"])
        self.save(found["loss"])
        with part(f"the report at step {self.step}"):
            self.task.on_evaluate(on_one_device(self.state.params), self.step)
        self._tick()
        self.logged_at = self.clock

    def _log(self, figures: dict[str, float]) -> None:
        self.metrics.append({"step": self.step, **figures, "seconds": self.progress.seconds})
        if self.events is not None:
            for name, value in figures.items():
                self.events.add_scalar(name, value, self.step)

    def _tick(self) -> None:
        """Count the time since the last tick as time of training."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.clock = now

    def _not_finite(self, what: str) -> str:
        last = self.checkpoints.latest
        saved = "nothing was saved yet"
        if last is not None:
            saved = f"the last good checkpoint is {self.checkpoints.directory / str(last)}"
        return (
            f"training stopped at step {self.step}: {what}; {saved}. "
            "Try a lower --learning-rate or a smaller --clip-norm."
        )


def _events(loop: Loop) -> Any:
    return tensorboardX.SummaryWriter(str(loop.directory)) if loop.config.tensorboard else nullcontext()
