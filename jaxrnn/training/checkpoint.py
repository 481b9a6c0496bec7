"""Checkpoints: the train state and a JSON record beside it, atomic; the best and the latest are kept."""

import functools
import gc
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from jax.typing import ArrayLike
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from jaxrnn.checks import as_number, check_number
from jaxrnn.training.state import TrainState
from jaxrnn.training.stored import as_like, check_record, misfit, same, specs, storable, target

_Metrics = Mapping[str, Any]  # of one checkpoint
_ASIDE = ".replaced"  # ends the name of a checkpoint whose step is being written anew
_TEMPORARY = ".orbax-checkpoint-tmp"  # ends the name of one that is being written
# Orbax looks for its files by glob, spells gs:/ otherwise, and tensorstore takes a backslash for a slash.
_UNWRITABLE = re.compile(r"\\|\[[^/]+\]|\*\*|gs:/|[\ud800-\udfff]")


def check_path(directory: str | os.PathLike[str]) -> None:
    """Raise ValueError if the path of a folder is one that Orbax cannot write checkpoints into.

    >>> check_path("runs/lr=0.1 *")
    >>> check_path("/runs/[0.1]")
    Traceback (most recent call last):
        ...
    ValueError: '/runs/[0.1]' has '[0.1]' in it, where Orbax cannot write checkpoints: name it otherwise
    """
    path = str(Path(directory).absolute())
    if found := _UNWRITABLE.search(f"{path}/"):
        what = found.group()
        raise ValueError(
            f"{path!r} has {what!r} in it, where Orbax cannot write checkpoints: name it otherwise"
        )


class Checkpoints:
    """A folder of checkpoints named by their step; a context manager.

    A checkpoint is written under a temporary name and renamed, so that a process killed at any moment
    leaves none that is half written. Of all that were saved, the latest and the one of lowest loss stay.

    A run may be rolled back, by restoring an earlier checkpoint, and trained on: ``latest`` is what was
    written last, whatever its step, and so what a resumed run continues from.

    Args:
      directory: created if need be.
      read_only: only look; another process may be writing, and what it writes is seen.

    Raises:
      ValueError: if the path is not one for Orbax (see ``check_path``), or a checkpoint there is damaged.

    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> from jaxrnn.training.state import init_state
    >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), (), jax.random.key(0))
    >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
    ...     checkpoints.save(state, {"position": 7}, loss=1.5)
    ...     restored, record = checkpoints.restore(checkpoints.latest, like=state)
    >>> record, restored.params["w"]
    ({'position': 7}, Array([1., 1.], dtype=float32))
    """

    def __init__(self, directory: str | os.PathLike[str], *, read_only: bool = False) -> None:
        check_path(directory)
        self.directory = Path(directory).absolute()
        self._read_only = read_only
        if not read_only:
            self._settle()
        self._manager = _opened(self.directory, read_only)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the checkpoint that was written last, or None."""
        return _latest(self._metrics())

    @property
    def best(self) -> int | None:
        """Step of the checkpoint of lowest loss, or None; of several, that written last.

        A loss of NaN counts as infinite, like one that was not measured.
        """
        return _best(self._metrics())

    def save(self, state: TrainState, record: dict[str, Any], loss: ArrayLike = math.inf) -> None:
        """Save at ``state.step``, which is then the latest.

        A step that is there already is replaced. The same state is not written twice: its record stays,
        and its loss, unless another was measured.

        Args:
          state: any shardings; its leaves arrays or numbers.
          record: JSON: data position, configuration.
          loss: by which the best checkpoint is chosen; infinite where it was not measured.

        Raises:
          ValueError: before anything is written: if the state or the record would not come back as it
            is (the leaf or the entry is named), or if other work of lower loss, the best of all, is at
            this step, or what is there and the best is damaged.
          OSError: if it could not be written, to a full disk say; what was there before stays.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened to read only")
        step, measured = _step(state.step), _loss({"loss": check_number("loss", loss)})
        check_record(record)
        state = storable(state)
        if step not in self._steps():
            self._write(step, state, record, measured)
            return
        before = _loss(self._metrics()[step])
        keep = step == self.best and before < measured
        try:
            held = self._holds(step, state)
        except ValueError:  # damaged
            if keep:
                raise
            held = False
        if held:
            measured = measured if measured < math.inf else before
            if step == self.latest and measured == before:
                return
        elif keep:
            raise ValueError(
                f"checkpoint {step} in {self.directory} is the best, with loss {before}, and of other work "
                f"than this one, with loss {measured}: save into another folder, or move it away"
            )
        self._replace(step, state, record, measured)

    def record(self, step: int | None) -> dict[str, Any]:
        """The JSON record of a checkpoint.

        Raises:
          ValueError: if there is no such checkpoint, or it is damaged.
        """
        return self._load(step, record=ocp.args.JsonRestore()).record

    def restore(self, step: int | None, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a checkpoint, with the dtypes and shardings of ``like``, and its record.

        Floating-point numbers are rounded to the type of ``like``, integers take it where they stay what
        they are. Arrays that nobody has placed on a device are not placed either.

        Args:
          step: ``latest``, ``best``.
          like: its leaves arrays, NumPy arrays, numbers, or shapes and types as of ``jax.eval_shape``,
            which stand for arrays.

        Raises:
          ValueError: if there is no such checkpoint, it is damaged, or its leaves differ from those of
            ``like`` in shape, kind of number or kind of key (the leaf is named).
        """
        saved = self._load(step, state=None)
        if (difference := misfit(saved, like)) is not None:
            raise self._fault(step, f"does not fit: {difference}")
        asked = ocp.args.StandardRestore(target(saved, like))
        loaded = self._load(step, state=asked, record=ocp.args.JsonRestore())
        try:
            return as_like(loaded.state, like), loaded.record
        except ValueError as error:
            raise self._fault(step, f"does not fit: {error}") from error

    def _steps(self) -> Sequence[int]:
        """On disk, whoever wrote or removed them."""
        if not self.directory.exists():
            return []
        return sorted(
            int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir()
        )

    def _metrics(self) -> dict[int, _Metrics]:
        return {step: self._manager.metrics(step) or {} for step in self._steps()}

    def _write(self, step: int, state: TrainState, record: dict[str, Any], loss: float) -> None:
        self._manager.reload()
        written = 1 + max((metrics.get("written", 0) for metrics in self._metrics().values()), default=0)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        metrics = {"loss": loss, "written": written}
        with _threads_silent():
            try:  # by force, as orbax declines steps below its latest
                done = self._manager.save(step, metrics=metrics, args=items, force=True)
            except Exception as error:  # orbax and tensorstore raise many kinds
                done, reason = None, _reason(error)
            if done is None:
                _let_threads_end()
                shutil.rmtree(self.directory / f"{step}{_TEMPORARY}", ignore_errors=True)
                raise OSError(f"checkpoint {step} could not be written to {self.directory}: {reason}")
        if not done:
            raise RuntimeError(f"checkpoint {step} was not saved in {self.directory}")

    def _replace(self, step: int, state: TrainState, record: dict[str, Any], loss: float) -> None:
        """Write a step anew; at every moment one of the two is there, under its own name or aside."""
        path = self.directory / str(step)
        path.rename(path.with_name(path.name + _ASIDE))
        try:
            self._write(step, state, record, loss)
        finally:
            self._settle()

    def _settle(self) -> None:
        """Delete a checkpoint put aside if its step was written anew, else restore its name."""
        for aside in self.directory.glob(f"*{_ASIDE}"):
            path = aside.with_suffix("")
            if path.exists():
                shutil.rmtree(aside)
            else:
                aside.rename(path)

    def _holds(self, step: int, state: TrainState) -> bool:
        """Whether a checkpoint is of this very state.

        Raises:
          ValueError: if it is damaged.
        """
        saved = self._load(step, state=None)
        if specs(saved) != specs(state) or misfit(saved, state) is not None:
            return False
        loaded = self._load(step, state=ocp.args.StandardRestore(target(saved, state))).state
        try:
            return same(as_like(loaded, state), state)
        except ValueError:  # keys of another implementation
            return False

    def _load(self, step: int | None, **items: Any) -> Any:
        """Restore items of a checkpoint; ``state=None`` stands for the metadata of its arrays."""
        if step is None or step not in self._steps():
            raise ValueError(f"no checkpoint{'' if step is None else f' {step}'} in {self.directory}")
        with _threads_silent():
            try:
                if items == {"state": None}:
                    return self._manager.item_metadata(step).state.tree
                return self._manager.restore(step, args=ocp.args.Composite(**items))
            except Exception as error:  # orbax and tensorstore raise many kinds
                reason = _reason(error)
            _let_threads_end()
        raise self._fault(step, f"is damaged: {reason}")

    def _fault(self, step: int | None, what: str) -> ValueError:
        """Error for an unreadable checkpoint, or for one that another process deleted meanwhile."""
        what = what if step in self._steps() else "was deleted meanwhile"
        return ValueError(f"checkpoint {step} in {self.directory} {what}")


@contextmanager
def _threads_silent() -> Iterator[None]:
    """Where one read or write fails, orbax's threads log it at length, and tensorstore's other ones end by
    reporting to an event loop that is closed.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    def other(entry: logging.LogRecord) -> bool:
        noise = ("_SignalingThread.run()", "exception was never retrieved")
        return not any(text in str(entry.msg) for text in noise)

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    sys.unraisablehook = hook
    for logger in loggers:
        logger.addFilter(other)
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for logger in loggers:
            logger.removeFilter(other)


def _let_threads_end() -> None:
    gc.collect()  # cancels what the failed read or write left behind,
    time.sleep(0.3)  # whose threads then need a moment


def _reason(error: Exception) -> str:
    """Reason of a failure of orbax or tensorstore, in one line: the operating system's, if there is one."""
    if code := re.search(r"\[os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec")[0]


def _opened(directory: Path, read_only: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        best_fn=_loss,  # without which orbax does not write the metrics
        preservation_policy=_BestAndLatest(),
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=False,
    )
    handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
    create = functools.partial(ocp.CheckpointManager, directory, item_handlers=handlers, options=options)
    try:
        for _ in range(9):
            with suppress(FileNotFoundError):  # another process has deleted a checkpoint once it was listed
                return create()
        return create()
    except ValueError as error:
        raise ValueError(f"a checkpoint in {directory} is damaged: {error}") from error


def _loss(metrics: _Metrics) -> float:
    """The loss by which checkpoints are ordered."""
    loss = metrics.get("loss", math.inf)
    return math.inf if math.isnan(loss) else loss


def _age(step: int, metrics: _Metrics) -> tuple[int, int]:
    """In the order of writing; older versions counted no saves, and wrote none below their latest."""
    return metrics.get("written", 0), step


def _latest(of: Mapping[int, _Metrics]) -> int | None:
    return max(of, key=lambda step: _age(step, of[step]), default=None)


def _best(of: Mapping[int, _Metrics]) -> int | None:
    return max(of, key=lambda step: (-_loss(of[step]), *_age(step, of[step])), default=None)


class _BestAndLatest(PreservationPolicy):
    """Which checkpoints orbax keeps; its own policies lose their way at NaN, and go by the step."""

    def should_preserve(self, checkpoints: Sequence[Any], **_: Any) -> Sequence[bool]:
        metrics = {info.step: info.metrics or {} for info in checkpoints}
        return [step in (_best(metrics), _latest(metrics)) for step in metrics]


def _step(value: Any) -> int:
    step = as_number(value)
    if step is None or not (step >= 0 and step.is_integer()):
        raise ValueError(f"state.step should be 0 or more, and whole, got {value!r}")
    return int(step)
