"""Where a run goes on: what it remembers besides the state, and the checkpoint that it goes on from."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from experiments.harness.run import check_same_config
from experiments.harness.settings import TrainingSettings
from jaxrnn.training import processes
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import TrainState


@dataclass
class Progress:
    """What a resumed run must remember besides the state; JSON beside the checkpoint."""

    position: int = 0  # of the data
    seconds: float = 0.0
    window: list[float] = field(default_factory=list)  # losses since the last line of metrics
    valid: list[float] = field(default_factory=list)  # validation losses
    due: list[str] = field(default_factory=list)  # what has yet to be done after the last step, in turn
    grad_norm: float = 0.0  # of the last step
    skipped: list[int] = field(default_factory=list)  # positions of batches without a finite loss
    spent: dict[str, float] = field(default_factory=dict)  # seconds on each of ``clock.PARTS``
    devices: int | None = None  # over which the last step was taken


def resume(
    config: TrainingSettings, record: dict[str, Any], checkpoints: Checkpoints, state: TrainState
) -> tuple[TrainState, Progress]:
    """The state to go on from, in place of the first one: that of the newest checkpoint that is whole, or
    of the one asked for.

    Raises:
      ValueError: if the one asked for is damaged, or it is of another run, or past the last step.
    """
    if config.resume_from is not None:
        restored = restore(config, record, checkpoints, config.resume_from, _in_place_of(state))
        checkpoints.forget_after(config.resume_from)
        return restored
    damaged = processes.gathered(list(checkpoints.damaged().items()))[0]
    for step, what in damaged:
        aside = checkpoints.set_aside(step)
        warn(f"checkpoint {step} is damaged: {what}; it stays in {aside}")
    if (latest := checkpoints.latest) is None:  # the same steps come after the beginning
        if damaged:
            warn("no checkpoint is whole: training begins anew")
        return state, Progress()
    return restore(config, record, checkpoints, latest, _in_place_of(state))


def restore(
    config: TrainingSettings, record: dict[str, Any], checkpoints: Checkpoints, step: int, like: TrainState
) -> tuple[TrainState, Progress]:
    """The state of a checkpoint and what goes with it; tells what other ``steps`` or devices than before
    mean.
    """
    state, kept = checkpoints.restore(step, like=like)
    _check_enough(config.folder, step, config.steps)
    saved = kept.pop("config")
    check_same_config(saved, record, config.folder)
    try:
        progress = Progress(**kept)
    except TypeError as error:
        raise ValueError(
            f"the checkpoint in {config.folder} is of another version of this experiment, which cannot be "
            "continued here; begin anew in another --out"
        ) from error
    before = saved.get("steps", config.steps)
    if before != config.steps:
        print(
            f"{config.steps} steps instead of {before}: from step {step} on, the learning rate "
            f"follows the schedule of a run of {config.steps}",
            flush=True,
        )
    devices = devices_of(state)
    if progress.devices not in (None, devices):
        print(
            f"{devices} devices instead of {progress.devices}: sums add up in another order, so that the "
            "figures will not be the same in every digit",
            flush=True,
        )
    progress.devices = devices
    return state, progress


def check_steps(directory: Path, steps: int) -> None:
    """Raise ValueError if the run in a folder has taken more steps than it shall have."""
    if not (directory / "checkpoints").is_dir():
        return
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        taken = checkpoints.latest
    if taken is not None:
        _check_enough(directory, taken, steps)


def _check_enough(directory: Path, taken: int, steps: int) -> None:
    if taken > steps:
        raise ValueError(
            f"steps must be at least the {taken} that the run in {directory} has taken, got {steps}"
        )


def like(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state."""

    def of(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(of, state)


def _in_place_of(state: TrainState) -> TrainState:
    """``like``, for a state that is given up: what is restored may have its memory."""
    what = like(state)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    return what


def devices_of(state: TrainState) -> int:
    """The number of devices over which a state lies."""
    return state.step.sharding.num_devices


def warn(what: str) -> None:
    """A warning; of several processes, the first one's."""
    if processes.first():
        print(f"warning: {what}", file=sys.stderr, flush=True)
