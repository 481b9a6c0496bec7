"""The training loop: progress, metrics, checkpoints, and an orderly end on signals."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tensorboardX
from jax.sharding import Mesh

from experiments.harness.clock import Clock
from experiments.harness.devices import join_batch, lanes, on_one_device, own_lanes
from experiments.harness.progress import TrainingBar, training_bar
from experiments.harness.reports import part
from experiments.harness.resume import Progress, devices_of, like, restore, resume, warn
from experiments.harness.run import Metrics, write_json
from experiments.harness.settings import TrainingSettings
from experiments.harness.signals import Stop, stop_on_signal
from experiments.harness.task import Task, evaluate
from jaxrnn.training import faults, files, processes
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
    began: float  # on the monotonic clock, when this process began to set it up


class Trained(NamedTuple):
    """What a run has come to once its last step is taken."""

    state: TrainState
    best: int | None  # step of the checkpoint of the lowest validation loss
    progress: Progress


def train(loop: Loop, state: TrainState) -> Trained:
    """Train to the last step, or till the task says stop; with ``resume`` from the latest whole checkpoint
    on, or that of the step which was asked for.

    Raises:
      FloatingPointError: when the loss or the gradient is not finite; names the last good checkpoint.
      SystemExit: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
      ValueError: if the checkpoint is damaged, of another run, or past the last step.
    """
    progress, config = Progress(), loop.config
    with Checkpoints(loop.directory / "checkpoints", keep=config.keep) as checkpoints:
        if config.resume:
            state, progress = resume(config, loop.record, checkpoints, state)
            # the data may have moved, and the steps be more
            write_json(loop.directory / "config.json", loop.record)
        metrics = Metrics(loop.directory / "metrics.jsonl")
        reached = metrics.forget_after(int(state.step), progress.due)
        with (
            stop_on_signal(config.grace_seconds) as stop,
            training_bar(config.steps, loop.task.unit) as bar,
            _events(loop) as events,
        ):
            session = _Session(loop, state, progress, checkpoints, metrics, bar, events, stop)
            if config.resume:
                session.clock.add("lost_to_restarts", max(0.0, reached - progress.seconds))
            with _saved_whatever_happens(session):
                while not session.done and not session.stopping():
                    session.advance()
            session.save()
            stopped = session.stopping()
            saved_in, best = time.monotonic() - stop.since, checkpoints.best
    if stopped:
        print(
            f"stopped at step {session.step} of {config.steps} and saved {saved_in:.1f} s after the signal;"
            f" continue with --out {loop.whole} --resume"
        )
        raise SystemExit(stop.code)
    return Trained(session.state, best, session.progress)


@contextmanager
def _saved_whatever_happens(session: "_Session") -> Iterator[None]:
    """Save what was trained before an error, a full disk or a failed evaluation say, ends the run."""
    try:
        yield
    except FloatingPointError:  # the state is no good
        raise
    except Exception:
        if not processes.several():  # which may be gone
            with part("saving what was trained"):
                session.save()
        raise


class _StoppedError(Exception):
    """A signal has asked for the end."""


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        loop: Loop,
        state: TrainState,
        progress: Progress,
        checkpoints: Checkpoints,
        metrics: Metrics,
        bar: TrainingBar,
        events: Any,
        stop: Stop,
    ) -> None:
        self.loop, self.task, self.config = loop, loop.task, loop.config
        self.state, self.progress = state, progress
        self.like = like(state)
        self.checkpoints, self.metrics, self.bar, self.events = checkpoints, metrics, bar, events
        self.stop, self.lanes = stop, own_lanes(self.config.batch_size)
        progress.devices = devices_of(state)
        self.late = False  # whether the last checkpoint is long ago
        self.step = self.logged_step = int(state.step)
        self.loss = math.inf  # on the validation data, once it is measured after a step
        self.clock = Clock(progress.spent)
        self.saved_at = self.logged_at = self.clock.now
        if self.config.resume:
            self.clock.add("lost_to_restarts", self.clock.now - loop.began)
        if self.config.skip_bad_steps and checkpoints.latest is None:
            self.save()  # to go on from

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or no more are needed, and nothing is due after the last."""
        valid = self.progress.valid
        enough = self.step >= self.config.steps or bool(valid and self.task.stop(valid))
        return enough and not self.progress.due

    def stopping(self) -> bool:
        """Whether a signal has asked one of the processes to end; ``stop`` then says so in all. They also
        settle whether it is time for a checkpoint.
        """
        late = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        stopping, self.late = processes.any_of(bool(self.stop), late)
        if stopping:
            self.stop.hear(signal.SIGTERM)
        return stopping  # and not what ``stop`` says by now in this process

    def advance(self) -> None:
        """What is due after the last step, or else the next one."""
        if self.progress.due:
            {
                "line": self._log_training,
                "evaluation": self._evaluate,
                "report": self._report,
                "checkpoint": self._checkpoint,
            }[self.progress.due[0]]()
        elif self.progress.position in self.progress.skipped:
            self._log({"skipped_batch": self.progress.position}, step=self.step + 1)
            self.progress.position += 1
        else:
            self._step()

    def _step(self) -> None:
        """One step; says what is due after it."""
        batch = self.task.batch(self.progress.position, self.lanes)
        if (found := lanes(batch)) != (asked := self.lanes.stop - self.lanes.start):
            raise ValueError(f"expected {asked} sequences of a batch, got {found}")
        batch = join_batch(batch, self.loop.mesh)
        self._charge("waiting_for_data")
        self.state, measured = self.loop.train_step(self.state, batch)
        # One step in flight at a time: XLA's collectives between CPU devices can lock up otherwise.
        loss, grad_norm = float(measured.loss), float(measured.grad_norm)
        self.step, self.loss = self.step + 1, math.inf
        self.progress.position += 1
        self._charge("training")
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._skip(f"loss {loss}, gradient norm {grad_norm}")
            return
        self.progress.window.append(loss)
        self.progress.grad_norm = grad_norm
        evaluated = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
        saved = self.late or self.step % self.config.checkpoint_every == 0
        if evaluated or self.step % LOG_EVERY == 0:
            self.progress.due.append("line")
        if evaluated or saved:
            self.progress.due.append("evaluation" if evaluated else "checkpoint")

    def _checkpoint(self) -> None:
        self.progress.due.pop(0)
        self.save()

    def save(self) -> None:
        """Save a checkpoint, unless this step has one; parameters that are not finite are never saved."""
        norm = float(_norm(self.state.params))
        if not math.isfinite(norm):
            raise FloatingPointError(self._not_finite(f"norm of the parameters {norm}"))
        if processes.first():
            files.sync(self.metrics.path)  # its lines until here are not written again
        record = {"config": self.loop.record, **vars(self.progress)}
        self.checkpoints.save(self.state, record, self.loss)
        self._charge("saving")
        self.saved_at = self.clock.now

    def _skip(self, what: str) -> None:
        """Go on from the last checkpoint without the batch that was read last, if that may be."""
        skipped = [*self.progress.skipped, self.progress.position - 1]
        if len(skipped) > self.config.skip_bad_steps:
            raise FloatingPointError(self._not_finite(what))
        seconds, spent, latest = self.progress.seconds, self.progress.spent, self.checkpoints.latest
        assert latest is not None  # that of step 0, if no other
        warn(
            f"step {self.step}: {what}; going on from checkpoint {latest} without batch "
            f"{skipped[-1]}, {len(skipped)} of at most {self.config.skip_bad_steps}"
        )
        self.state, self.progress = restore(
            self.config, self.loop.record, self.checkpoints, latest, self.like
        )
        for name in ("training", "waiting_for_data"):  # on steps that are taken back
            until = self.progress.spent.get(name, 0.0)
            self.clock.add("lost_to_restarts", spent.get(name, 0.0) - until)
            spent[name] = until
        self.progress.skipped, self.progress.seconds = skipped, seconds
        self.progress.spent = spent
        self.step = self.logged_step = latest
        self.metrics.forget_after(latest, self.progress.due)
        self._charge("lost_to_restarts")
        self.logged_at = self.clock.now

    def _log_training(self) -> None:
        window = self.progress.window
        steps = self.step - self.logged_step  # of this process: the window may hold an earlier one's
        passed = self.clock.now - self.logged_at
        rate = steps * self.task.items[1] / passed if passed else 0.0
        loss = float(np.mean(window))
        self._log({"loss": loss, "grad_norm": self.progress.grad_norm, "items_per_second": rate})
        self.progress.due.pop(0)
        window.clear()
        self.bar.update(self.step, loss, rate)
        self.logged_at, self.logged_step = self.clock.now, self.step

    def _evaluate(self) -> None:
        """Measure on the validation data, unless a signal comes in between: then it is still due."""
        faults.at("evaluation.begin", self.loop.directory)
        try:
            found = evaluate(self.task, self.state.params, self._until_stopped(self.task.valid()))
            found = processes.gathered(found)[0]  # each may have all of it to itself
        except _StoppedError:
            self._charge("evaluating")
            return
        figures = {f"valid_{name}": value for name, value in found.items()}
        self._charge("evaluating")
        faults.at("evaluation.done", self.loop.directory)
        self._log(figures)
        self.bar.evaluated(self.step, figures)
        self.progress.valid.append(found["loss"])
        self.progress.due[0] = "report"
        self.loss = found["loss"]
        self.save()

    def _until_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            if self.stopping():
                raise _StoppedError
            yield batch

    def _report(self) -> None:
        if processes.first():
            with part(f"the report at step {self.step}"):
                self.task.on_evaluate(on_one_device(self.state.params), self.step)
        self.progress.due.pop(0)
        self._charge("evaluating")
        self.logged_at = self.clock.now

    def _log(self, figures: dict[str, float], step: int | None = None) -> None:
        step = self.step if step is None else step
        self.metrics.append({"step": step, **figures, "seconds": self.progress.seconds})
        if self.events is not None:
            for name, value in figures.items():
                self.events.add_scalar(name, value, step)

    def _charge(self, part: str) -> None:
        """Count the time since the last call as time of training, spent on a part of it."""
        self.progress.seconds += self.clock.charge(part)

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
    wanted = loop.config.tensorboard and processes.first()
    return tensorboardX.SummaryWriter(str(loop.directory)) if wanted else nullcontext()
