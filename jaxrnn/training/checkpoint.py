"""Checkpoints: the train state and a JSON record beside it, atomic; the best and the latest are kept."""

import gc
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxrnn.training.state import TrainState


class Checkpoints:
    """A folder of checkpoints named by their step; a context manager.

    A checkpoint is written under a temporary name and renamed, so that a process killed at any moment
    leaves none that is half written. Of all that were saved, the latest and the one of lowest loss stay.

    Args:
      directory: created if need be.
      read_only: only look; another process may be writing.

    >>> import tempfile, jax.numpy as jnp, optax
    >>> from jaxrnn.training.state import init_state
    >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), (), jax.random.key(0))
    >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
    ...     checkpoints.save(state, {"position": 7}, loss=1.5)
    ...     restored, record = checkpoints.restore(checkpoints.latest, like=state)
    >>> record, restored.params["w"]
    ({'position': 7}, Array([1., 1.], dtype=float32))
    """

    def __init__(self, directory: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                best_fn=_loss,
                best_mode="min",
                preservation_policy=AnyPreservationPolicy(
                    [LatestN(1), BestN(get_metric_fn=_loss, reverse=True, n=1)]
                ),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=False,
            ),
        )

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
        """Step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint of lowest loss, or None."""
        return self._manager.best_step()

    def save(self, state: TrainState, record: dict[str, Any], loss: float = math.inf) -> None:
        """Save at ``state.step``; does nothing if that step is there already.

        Args:
          state: any shardings.
          record: JSON: data position, configuration.
          loss: what "best" goes by; infinite where it was not measured.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            metrics={"loss": float(loss)},
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)),
        )

    def record(self, step: int | None) -> dict[str, Any]:
        """The JSON record of a checkpoint.

        Raises:
          ValueError: if there is no such checkpoint, or it is damaged.
        """
        return self._load(step, record=ocp.args.JsonRestore()).record

    def restore(self, step: int | None, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a checkpoint, with the dtypes and shardings of ``like``, and its record.

        Raises:
          ValueError: if there is no such checkpoint, it is damaged, or its leaves differ from those of
            ``like`` (the leaf is named).
        """
        saved = _shapes(self._load(step, state=None))
        expected = _shapes(like)
        for path in [*expected, *saved]:
            if saved.get(path) != expected.get(path):
                raise ValueError(
                    f"checkpoint {step} in {self.directory} does not fit: {path} should have shape "
                    f"{expected.get(path, 'nothing')}, got {saved.get(path, 'nothing')}"
                )
        target = jax.tree.map(_abstract, like)
        loaded = self._load(step, state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        return loaded.state, loaded.record

    def _load(self, step: int | None, **items: Any) -> Any:
        """Restore items of a checkpoint; ``state=None`` stands for the metadata of its arrays."""
        if step is None or step not in self._manager.all_steps():
            raise ValueError(f"no checkpoint{'' if step is None else f' {step}'} in {self.directory}")
        with _cancelled_reads_ignored():
            try:
                if items == {"state": None}:
                    return self._manager.item_metadata(step).state.tree
                return self._manager.restore(step, args=ocp.args.Composite(**items))
            except Exception as error:  # orbax and tensorstore raise many kinds
                reason = (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec")[0]
            gc.collect()  # cancels the reads that the failed one left behind,
            time.sleep(0.3)  # whose threads then need a moment
        raise ValueError(f"checkpoint {step} in {self.directory} is damaged: {reason}")


@contextmanager
def _cancelled_reads_ignored() -> Iterator[None]:
    """Where one read fails, tensorstore's other reads end by reporting to an event loop that is closed."""
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _loss(metrics: dict[str, float]) -> float:
    return metrics["loss"]


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its path, spelled alike for a state and for what is stored of it."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)  # typed keys are stored as their data
        shapes["/".join(_name(key) for key in path)] = tuple(leaf.shape)
    return shapes


def _name(key: Any) -> str:
    return str(next(getattr(key, a) for a in ("name", "key", "idx") if hasattr(key, a)))
