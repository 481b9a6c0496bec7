"""One process at a time writes into a folder: a lock of the operating system, free after any kill."""

import contextlib
import errno
import os
import platform
import sys
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".lock"  # in the folder; removed with the lock, but for a kill, after which it means nothing

_held: dict[Path, FileLock] = {}


def hold(directory: Path) -> None:
    """Keep other processes from writing into a folder until ``release``, or until this process ends.

    Raises:
      ValueError: if another process does; it is named.
    """
    path = directory.resolve() / NAME
    if path in _held:
        return
    # Without the fallback, whose locks would outlive a kill.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"a run in {directory} is being written{_holder(path)}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        print(f"warning: {directory} cannot be locked: {error.strerror}", file=sys.stderr)
        return
    _held[path] = lock
    with contextlib.suppress(OSError):
        path.write_text(f"{os.getpid()} {platform.node()}")


def release() -> None:
    """Let others write into the folders that this process holds."""
    while _held:
        path, lock = _held.popitem()
        # First: whoever has opened it sees that it is gone, and tries anew.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    """What the holder has left about itself, if it got that far."""
    try:
        process, host = path.read_text().split()
    except (OSError, ValueError):
        return " by another process"
    return f" by process {process} on {host}"
