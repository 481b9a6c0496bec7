"""The folder that a run leaves behind."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.harness import lock
from experiments.harness.devices import cores, on_one_device
from experiments.harness.settings import check, check_saved
from jaxrnn.training import arrays, faults, files, processes
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.files import temporary_name
from jaxrnn.training.state import TrainState

ROOT = Path(__file__).parents[2]

# Its name ends a key of config.json that is no setting, but says what the settings were used on.
DIGEST = "_sha256"

Settings = TypeVar("Settings")

# Settings of a process, which say where, and how it begins; a continuation has its own.
OF_THE_PROCESS = {"out", "resume", "resume_from", "coordinator_address", "num_processes"}
OF_THE_PROCESS |= {"process_id", "cluster_detection_method"}
# Settings that may differ between a run and its continuation: where data lie, if they are the same, too.
NOT_OF_THE_RUN = OF_THE_PROCESS | {"checkpoint_every", "keep", "steps", "tensorboard"}
NOT_OF_THE_RUN |= {"grace_seconds", "skip_bad_steps", "devices", "model_devices"}
NOT_OF_THE_RUN |= {"corpus", "data", "valid", "test", "vectors", "features"}


def write_text(path: Path, text: str) -> None:
    """Write a file that is never seen half written; of several processes, the first does."""
    if processes.first():
        files.write_text(path, text)


def write_json(path: Path, content: Any) -> None:
    """Write JSON that is never seen half written."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What ``write_json`` wrote.

    Raises:
      ValueError: if the file is missing or damaged.
    """
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}") from error


def default_directory(experiment: str) -> Path:
    """``out/<experiment>/<date-time>``."""
    return Path("out") / experiment / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def check_out(directory: Path, *, resume: bool | None, checkpoints: bool = True) -> None:
    """Raise ValueError if a new run would overwrite something, another process writes into the one that is
    to be continued, or checkpoints cannot be written there; nothing is written yet.

    ``resume`` is None where a run cannot be continued; ``checkpoints`` is False where parts that are done
    are all that it is continued from.
    """
    if checkpoints and resume is not None:
        arrays.check_path(directory)
    if resume:
        load_config(directory)
        lock.hold(directory)
        return
    if not directory.exists() or _begun(directory):
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a folder; give another --out")
    # An empty file system has a folder, too.
    if {path.name for path in directory.iterdir()} - {lock.NAME, "lost+found"}:
        what = "already holds a run" if (directory / "config.json").is_file() else "is not empty"
        instead = "another --out" if resume is None else "--resume to continue a run, or another --out"
        raise ValueError(f"{directory} {what}; give {instead}")


def _begun(directory: Path) -> bool:
    """Whether a run was killed while its folder was made."""
    path = directory / "config.json"
    return temporary_name(path).exists() and not path.exists()


def create(directory: Path, config: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Make the folder of a new run, with what ``fill`` writes in it and, last, ``config.json``: whenever
    the run is killed, it can be resumed, or begun again.

    The folder may be there and empty, a mount point say, or be where a symbolic link leads.

    Raises:
      ValueError: if another process writes into it, or has begun a run there.
    """
    directory.resolve().mkdir(parents=True, exist_ok=True)
    lock.hold(directory)
    check_out(directory, resume=None)  # what was free may have been taken since
    faults.at("run.folder", directory)
    temporary_name(directory / "config.json").touch()
    faults.at("run.begun", directory)
    fill(directory)
    for path in directory.rglob("*"):  # all there before config.json says so
        files.sync(path)
    faults.at("run.filled", directory)
    write_json(directory / "config.json", config)


def load_config(directory: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
      ValueError: if it holds no run.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no run: there is no config.json")
    try:
        config = files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no settings")
    return config


def saved_settings(directory: Path) -> dict[str, Any]:
    """The settings of the run in a folder, by name.

    Raises:
      ValueError: if it holds no run.
    """
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in load_config(directory).items()
        if not name.endswith(DIGEST)
    }


def holds(directory: Path, kind: type) -> bool:
    """Whether a folder holds a run with settings of that kind.

    Raises:
      ValueError: if it holds no run.
    """
    return saved_settings(directory).keys() <= {field.name for field in dataclasses.fields(kind)}


def load_settings(directory: Path, kind: type[Settings]) -> Settings:
    """The settings of the run in a folder, as its experiment's dataclass.

    Raises:
      ValueError: if it holds no run, one of another experiment, or a checkpoint of other settings.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    saved = saved_settings(directory)
    if unknown := saved.keys() - names:
        given = ", ".join(sorted(unknown))
        raise ValueError(f"{directory} holds a run of another experiment: config.json has {given}")
    try:
        check_saved(kind, saved)
        config = kind(**saved)
        check(config)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'} is damaged: {error}") from error
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        if (best := checkpoints.best) is not None:  # before a model is made of them
            check_same_config(checkpoints.record(best)["config"], load_config(directory), directory)
    return config


def saved_params(directory: Path, like: TrainState, step: int | None = None) -> Any:
    """The parameters of a checkpoint, by default the best, on one device; all else stays on the host.

    Raises:
      ValueError: if there is no checkpoint, or one that does not fit ``like``.
    """

    def on_host(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

    if not (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} holds no checkpoint yet")
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.best if step is None else step
        rest = jax.tree.map(on_host, like._replace(params=()))
        state, _ = checkpoints.restore(step, like=rest._replace(params=like.params))
    return on_one_device(state.params)


def config_record(config: Any) -> dict[str, Any]:
    """The settings of a run as JSON, without those of the process."""
    record = dataclasses.asdict(config)
    kept = {name: value for name, value in record.items() if name not in OF_THE_PROCESS}
    return json.loads(json.dumps(kept, default=str))  # tuples become lists, as they will be when read again


def check_same_config(saved: dict[str, Any], expected: dict[str, Any], directory: Path) -> None:
    """Raise ValueError, naming the field, if what a run saved has other settings or data than expected."""
    for name in sorted((expected.keys() | saved.keys()) - NOT_OF_THE_RUN):
        if saved.get(name) == expected.get(name):
            continue
        if name.endswith(DIGEST):
            what = name.removesuffix(DIGEST)
            where = next(
                (f for f in (expected.get(what), expected.get("data")) if isinstance(f, str)), None
            )
            text = "what is given now" if where is None else f"the text in {where}"
            raise ValueError(f"{what}: {text} is not the one the run in {directory} began with")
        raise ValueError(
            f"the run in {directory} has another configuration: "
            f"{name} should be {expected.get(name)!r}, got {saved.get(name)!r}"
        )


class Metrics:
    """The lines of ``metrics.jsonl``: one JSON object each, appended as training goes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add a line and flush it; of several processes, the first does."""
        if not processes.first():
            return
        faults.at("metrics.begin", self.path)
        with files.errors_name(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        faults.at("metrics.written", self.path)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        return list(self._lines())

    def curve(self, key: str, per_step: float = 1.0) -> tuple[list[float], list[float]]:
        """The steps, each times ``per_step``, and the values at those where there is one."""
        lines = [line for line in self._lines() if key in line]
        return [line["step"] * per_step for line in lines], [line[key] for line in lines]

    def forget_after(self, step: int, due: Collection[str] = ()) -> float:
        """Drop what a resumed run will write again: the lines past a step, and those at it that are due,
        the "line" of training or that of the "evaluation"; returns the seconds up to the last line.
        """
        lines = self.read()
        kept = [
            line
            for line in lines
            if line["step"] < step or (line["step"] == step and _kind(line) not in due)
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return max((line["seconds"] for line in lines), default=0.0)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # a last line cut off by a kill
                return


def _kind(line: dict[str, Any]) -> str:
    """What a line of metrics is called while it is due."""
    return "evaluation" if "valid_loss" in line else "line" if "loss" in line else "skipped"


def environment(*peers: str) -> dict[str, Any]:
    """What a figure depends on besides the settings: command, commit, device, cores, versions.

    ``peers`` are packages whose versions count besides those that the library itself needs.
    """
    packages = ["jax", "jaxlib", "flax", "optax", "numpy", *peers]
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": commit(),
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def commit() -> str | None:
    """The checked-out commit, with ``+changes`` if more than results differs; None without git."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    try:
        head = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        changes = git(["git", "--no-optional-locks", "status", "--porcelain", "--", ".", ":!*/results/*"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes.stdout.strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
