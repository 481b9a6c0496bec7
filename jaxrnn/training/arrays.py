"""Trees of arrays in a folder, written and read by Orbax, whose failures become one line."""

import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

ALL = ocp.options.MultiprocessingOptions()
# Orbax spells gs:/ otherwise, and tensorstore takes a backslash for a slash.
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


def write(folder: Path, tree: Any) -> None:
    """Write a tree of arrays into a folder that is not there yet.

    Raises:
      OSError: if it could not be written, to a full disk say.
    """
    _run(lambda arrays: arrays.save(folder, args=ocp.args.StandardSave(tree)), OSError, ALL)


def read(folder: Path, target: Any) -> Any:
    """The arrays in a folder, with the shapes, dtypes and shardings of a target.

    Raises:
      ValueError: if they are damaged.
    """
    asked = ocp.args.StandardRestore(target)
    return _run(lambda arrays: arrays.restore(folder, args=asked), ValueError, _alone())


def describe(folder: Path) -> Any:
    """The tree in a folder, with shapes and dtypes in place of its arrays.

    Raises:
      ValueError: if it is damaged.
    """
    return _run(lambda arrays: arrays.handler.metadata(folder).tree, ValueError, _alone())


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes each reads what it needs, and waits for no other."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


def _run(
    work: Callable[[ocp.Checkpointer], Any],
    kind: type[Exception],
    options: ocp.options.MultiprocessingOptions,
) -> Any:
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    with _threads_silent():
        try:
            with ocp.Checkpointer(handler, multiprocessing_options=options) as arrays:
                return work(arrays)
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = one_line(error)
        _let_threads_end()
    raise kind(reason)


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


def one_line(error: Exception) -> str:
    """Reason of a failure in one line: the operating system's, if there is one.

    >>> one_line(OSError(28, "No space left on device", "run/file"))
    'No space left on device'
    """
    if code := re.search(r"\[os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec")[0]
