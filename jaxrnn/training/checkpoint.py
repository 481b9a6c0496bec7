"""Checkpoints: the train state and a JSON record, atomic and sealed; the best and the latest are kept."""

import errno
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jax.typing import ArrayLike

from jaxrnn.checks import as_integer, as_number, check_number, check_positive
from jaxrnn.training import arrays, faults, files, processes
from jaxrnn.training.state import TrainState
from jaxrnn.training.stored import as_like, check_record, misfit, same, specs, storable, target

_Metrics = Mapping[str, Any]  # of one checkpoint
# They end the name of a checkpoint that is being written, whose step is being written anew, that is being
# deleted, or that is damaged.
_WRITING, _ASIDE, _DELETED, _DAMAGED = ".writing", ".replaced", ".deleted", ".damaged"
_JSON = {"record": "record/metadata", "metrics": "metrics/metrics"}
# Written by earlier versions, which sealed nothing.
_EARLIER = (".orbax-checkpoint-tmp", "_CHECKPOINT_METADATA")


class Checkpoints:
    """A folder of checkpoints named by their step; a context manager.

    A checkpoint is written under a temporary name, sealed with the checksums of its files, and renamed, so
    that a process killed at any moment leaves none that is half written, and one whose bytes have changed
    since is never used. Of all that were saved, the latest and the one of lowest loss stay.

    A run may be rolled back, by restoring an earlier checkpoint, and trained on: ``latest`` is what was
    written last, whatever its step, and so what a resumed run continues from.

    Args:
      directory: created if need be.
      keep: how many of the latest stay, besides the best.
      read_only: only look; another process may be writing, and what it writes is seen.

    Raises:
      ValueError: if the path is not one for Orbax (see ``arrays.check_path``).

    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> from jaxrnn.training.state import init_state
    >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), (), jax.random.key(0))
    >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
    ...     checkpoints.save(state, {"position": 7}, loss=1.5)
    ...     restored, record = checkpoints.restore(checkpoints.latest, like=state)
    >>> record, restored.params["w"]
    ({'position': 7}, Array([1., 1.], dtype=float32))
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int = 1, read_only: bool = False
    ) -> None:
        arrays.check_path(directory)
        check_positive("keep", keep)
        self.directory = Path(directory).absolute()
        self._keep, self._read_only = keep, read_only
        if not read_only:
            processes.on_first(self._settle)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        pass  # nothing is held between calls

    @property
    def latest(self) -> int | None:
        """Step of the checkpoint that was written last, or None."""
        return _latest(self._agreed())

    @property
    def best(self) -> int | None:
        """Step of the checkpoint of lowest loss, or None; of several, that written last.

        A loss of NaN counts as infinite, like one that was not measured.
        """
        return _best(self._agreed())

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint, in words; None if they are those that were written.

        Those of earlier versions, which have no checksums, pass.
        """
        folder = self._folder(step)
        if (folder / _EARLIER[1]).exists() and not (folder / files.CHECKSUMS).exists():
            return None
        return files.damage(folder)

    def damaged(self) -> dict[int, str]:
        """What is wrong with each checkpoint that is damaged, by its step."""
        found = {step: self.damage(step) for step in self._steps()}
        return {step: what for step, what in found.items() if what is not None}

    def set_aside(self, step: int) -> Path:
        """Take a damaged checkpoint out of use; returns the path under which it stays."""
        self._check_writable()
        aside = self._folder(step, _DAMAGED)

        def rename() -> None:
            if aside.exists():
                shutil.rmtree(aside)
            self._folder(step).rename(aside)

        processes.on_first(rename)
        return aside

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints that were written after that of a step, which is then the latest.

        Raises:
          ValueError: if there is no such checkpoint, or it is damaged.
        """
        self._check_writable()
        self._whole(step)

        def delete() -> None:
            written = list(self._metrics())
            for later in reversed(written[written.index(step) + 1 :]):  # a kill leaves no gap
                self._delete(later)

        processes.on_first(delete)

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
        self._check_writable()
        step, measured = _step(state.step), _loss({"loss": check_number("loss", loss)})
        check_record(record)
        state = storable(state)
        metrics = self._agreed()
        if step not in metrics:
            self._write(step, state, record, measured)
            return
        before = _loss(metrics[step])
        keep = step == _best(metrics) and before < measured
        try:
            held = self._holds(step, state)
        except ValueError:  # damaged
            if keep:
                raise
            held = False
        if held:
            measured = measured if measured < math.inf else before
            if step == _latest(metrics) and measured == before:
                return
        elif keep:
            raise ValueError(
                f"checkpoint {step} in {self.directory} is the best, with loss {before}, and of other work "
                f"than this one, with loss {measured}: save into another folder, or move it away"
            )
        self._write(step, state, record, measured)

    def record(self, step: int | None) -> dict[str, Any]:
        """The JSON record of a checkpoint.

        Raises:
          ValueError: if there is no such checkpoint, or it is damaged.
        """
        folder = self._whole(step)
        try:
            record = files.read_json(folder / _JSON["record"])
        except (OSError, ValueError) as error:  # in one that is not sealed
            raise self._fault(step, f"is damaged: {arrays.one_line(error)}") from error
        if not isinstance(record, dict):
            raise self._fault(step, "is damaged: its record holds no entries")
        return record

    def restore(self, step: int | None, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a checkpoint, with the dtypes and shardings of ``like``, and its record.

        Floating-point numbers are rounded to the type of ``like``, integers take it where they stay what
        they are. Arrays that nobody has placed on a device are not placed either.

        Args:
          step: ``latest``, ``best``.
          like: its leaves arrays, NumPy arrays, numbers, or shapes and types as of ``jax.eval_shape``,
            which stand for arrays.

        Raises:
          ValueError: if there is no such checkpoint, it is damaged (the file is named, and the steps that
            are whole), or its leaves differ from those of ``like`` in shape, kind of number or kind of key
            (the leaf is named).
        """
        record = self.record(step)
        saved = self._read(step)
        if (difference := misfit(saved, like)) is not None:
            raise self._fault(step, f"does not fit: {difference}")
        loaded = self._read(step, target(saved, like))
        try:
            return as_like(loaded, like), record
        except ValueError as error:
            raise self._fault(step, f"does not fit: {error}") from error

    def _check_writable(self) -> None:
        if self._read_only:
            raise ValueError(f"{self.directory} was opened to read only")

    def _folder(self, step: int | None, ending: str = "") -> Path:
        return self.directory / f"{step}{ending}"

    def _steps(self) -> list[int]:
        """On disk, whoever wrote or removed them."""
        if not self.directory.exists():
            return []
        return sorted(
            int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir()
        )

    def _metrics(self) -> dict[int, _Metrics]:
        """In the order of writing; those of a checkpoint that is damaged may be empty."""
        found = {}
        for step in self._steps():
            try:
                metrics = files.read_json(self._folder(step) / _JSON["metrics"])
            except (OSError, ValueError):
                if not self._folder(step).exists():  # by now
                    continue
                metrics = {}
            found[step] = metrics if isinstance(metrics, dict) else {}
        return dict(sorted(found.items(), key=lambda item: _age(*item)))

    def _agreed(self) -> dict[int, _Metrics]:
        """Of processes that write together, what the first one sees: a network file system may show others
        later what it has written.
        """
        metrics = self._metrics()
        return metrics if self._read_only else dict(processes.gathered(list(metrics.items()))[0])

    def _write(self, step: int, state: TrainState, record: dict[str, Any], loss: float) -> None:
        written = 1 + max((_age(*of)[0] for of in self._agreed().items()), default=0)
        folder = self._folder(step, _WRITING)
        contents = {"record": record, "metrics": {"loss": loss, "written": written}}

        def begin() -> None:
            faults.at("checkpoint.begin", folder)
            shutil.rmtree(folder, ignore_errors=True)  # what an error has left behind
            folder.mkdir()

        def finish() -> None:
            faults.at("checkpoint.state", folder / "state")
            for name, content in contents.items():
                (folder / name).mkdir()
                (folder / _JSON[name]).write_text(json.dumps(content), encoding="utf-8")
            files.seal(folder)
            faults.at("checkpoint.sealed", folder)
            self._publish(step, folder)

        try:
            processes.on_first(begin)
            arrays.write(folder / "state", state)
            processes.on_first(finish)
        except OSError as error:
            reason = arrays.one_line(error)
            if processes.first():
                with suppress(OSError):
                    self._settle()
            if reason == os.strerror(errno.ENOSPC):
                reason += f" ({shutil.disk_usage(self.directory).free:,} bytes are free)"
            raise OSError(
                f"checkpoint {step} could not be written to {self.directory}: {reason}"
            ) from error

    def _publish(self, step: int, folder: Path) -> None:
        """Rename a checkpoint that is written; at every moment the one before is there, too, or aside."""
        path, aside = self._folder(step), self._folder(step, _ASIDE)
        if path.exists():
            path.rename(aside)
            faults.at("checkpoint.aside", aside)
        folder.rename(path)
        files.sync(self.directory)
        faults.at("checkpoint.published", path)
        self._settle()
        metrics = self._metrics()
        for old in set(list(metrics)[: -self._keep]) - {_best(metrics)}:
            self._delete(old)

    def _delete(self, step: int) -> None:
        deleted = self._folder(step, _DELETED)
        self._folder(step).rename(deleted)
        faults.at("checkpoint.deleted", deleted)
        shutil.rmtree(deleted)

    def _settle(self) -> None:
        """Clear up after a kill; one put aside gets its name back unless its step was written anew."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for aside in self.directory.glob(f"*{_ASIDE}"):
            path = aside.with_suffix("")
            if path.exists():
                shutil.rmtree(aside)
            else:
                aside.rename(path)
        for ending in (_WRITING, _DELETED, _EARLIER[0]):
            for left in self.directory.glob(f"*{ending}"):
                shutil.rmtree(left)

    def _holds(self, step: int, state: TrainState) -> bool:
        """Whether a checkpoint is of this very state.

        Raises:
          ValueError: if it is damaged.
        """
        self._whole(step)
        saved = self._read(step)
        if specs(saved) != specs(state) or misfit(saved, state) is not None:
            return False
        loaded = self._read(step, target(saved, state))
        try:
            (differs,) = processes.any_of(not same(as_like(loaded, state), state))
        except ValueError:  # keys of another implementation
            return False
        return not differs

    def _whole(self, step: int | None) -> Path:
        """The folder of a checkpoint that is there, and whole.

        Raises:
          ValueError: if it is not.
        """
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        what = self.damage(step) if self._folder(step).is_dir() else "not there"
        if what is None:
            return self._folder(step)
        damaged = self.damaged()
        whole = ", ".join(str(other) for other in self._steps() if other not in damaged) or "none"
        if what == "not there":
            raise ValueError(f"no checkpoint {step} in {self.directory}; whole: {whole}")
        raise self._fault(step, f"is damaged: {what}; whole: {whole}")

    def _read(self, step: int | None, asked: Any = None) -> Any:
        """The arrays of a checkpoint or, if none are asked for, what describes them."""
        folder = self._folder(step) / "state"
        try:
            return arrays.describe(folder) if asked is None else arrays.read(folder, asked)
        except ValueError as error:  # in one that is not sealed
            raise self._fault(step, f"is damaged: {error}") from error

    def _fault(self, step: int | None, what: str) -> ValueError:
        """Error for an unreadable checkpoint, or for one that another process deleted meanwhile."""
        what = what if self._folder(step).is_dir() else "was deleted meanwhile"
        return ValueError(f"checkpoint {step} in {self.directory} {what}")


def _loss(metrics: _Metrics) -> float:
    """The loss by which checkpoints are ordered."""
    loss = as_number(metrics.get("loss"))
    return math.inf if loss is None or math.isnan(loss) else loss


def _age(step: int, metrics: _Metrics) -> tuple[int, int]:
    """In the order of writing; older versions counted no saves, and wrote none below their latest."""
    return as_integer(metrics.get("written")) or 0, step


def _latest(of: Mapping[int, _Metrics]) -> int | None:
    return max(of, key=lambda step: _age(step, of[step]), default=None)


def _best(of: Mapping[int, _Metrics]) -> int | None:
    return max(of, key=lambda step: (-_loss(of[step]), *_age(step, of[step])), default=None)


def _step(value: Any) -> int:
    step = as_number(value)
    if step is None or not (step >= 0 and step.is_integer()):
        raise ValueError(f"state.step should be 0 or more, and whole, got {value!r}")
    return int(step)
