"""Files that are whole or not there, and folders whose bytes can be told to be those that were written."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxrnn.training import faults

CHECKSUMS = "checksums"  # in a sealed folder


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that is never seen half written; its folder is made if need be.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "folder" / "notes.txt"
    >>> write_text(path, "whole")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('whole', ['notes.txt'])
    """
    faults.at("file.begin", path)
    with errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        faults.at("file.written", temporary)
        temporary.replace(path)
        sync(path.parent)
    faults.at("file.renamed", path)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Failures to write name the path, as those to open a file do by themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: for a file that holds none, or nests it too deeply to read.
      OSError: if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def temporary_name(path: Path) -> Path:
    """Where a file lies while it is written."""
    return path.with_name(path.name + ".tmp")


def sync(path: Path) -> None:
    """Have the contents of a file, or the names in a folder, on the disk and not in memory alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # some file systems do not open folders, or have nothing to do for them
        if not (path.is_dir() and error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EBADF)):
            raise


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files beside them, and have all of it on the disk.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "weights").write_bytes(bytes(9))
    >>> seal(folder)
    >>> damage(folder)
    >>> _ = (folder / "weights").write_bytes(bytes(8))
    >>> damage(folder)
    'weights has changed'
    """
    sums = {name: _digest(folder / name) for name in _files(folder)}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, as a sentence about its first such file; None if it is whole."""
    try:
        sums = read_json(folder / CHECKSUMS)
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError):
        return f"{CHECKSUMS} cannot be read"
    names = set(_files(folder))
    if not isinstance(sums, dict):
        return f"{CHECKSUMS} cannot be read"
    for name in sorted(names | sums.keys()):
        if name not in names:
            return f"{name} is missing"
        if name not in sums:
            return f"{name} does not belong to it"
        if (folder / name).is_symlink():
            return f"{name} is a symbolic link"
        try:
            same = _digest(folder / name) == sums[name]
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if not same:
            return f"{name} has changed"
    return None


def _files(folder: Path) -> Iterator[str]:
    """Whatever is no folder; links are not followed."""
    for path in folder.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and path != folder / CHECKSUMS:
            yield path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
