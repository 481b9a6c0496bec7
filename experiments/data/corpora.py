"""Text corpora by name or by path, and the data directory in which named data sets lie.

The directory is ``$JAXRNN_DATA``, else the user's cache folder; files lie there as ``<data set>/<file>``.
"""

import codecs
import hashlib
import io
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import pooch


class RemoteFile(NamedTuple):
    """Where a file comes from, and what it must hold."""

    file: str
    url: str
    digest: str
    algorithm: Literal["sha256", "md5"] = "sha256"  # of the digest; MD5 where no other is published


CORPORA: Mapping[str, RemoteFile] = {
    # Karpathy's excerpt of Shakespeare's plays: 1,115,394 characters, 65 distinct; public domain.
    "tiny_shakespeare": RemoteFile(
        "input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    # The text of Karpathy et al. 2015, with LF line ends and no byte-order mark; public domain.
    "war_and_peace": RemoteFile(
        "warpeace_input.txt",
        "https://raw.githubusercontent.com/MrHereward/machine_learning_sandbox/"
        "2d0fdf30f4afbcf01c1b8c7b408e738a0161d613/warpeace_input.txt",
        "b0fc81c399971eaf738c8be89809e6a0d95c151749112b04f06b6af648d8a39f",
    ),
}

STANDARD_LIBRARY = "stdlib"
_ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def data_directory() -> Path:
    """``$JAXRNN_DATA``, or the user's cache folder."""
    return Path(os.environ.get("JAXRNN_DATA") or pooch.os_cache("jaxrnn")).expanduser()


def fetch(name: str, remote: RemoteFile) -> Path:
    """The file of a named data set: the one in the data directory, else downloaded there.

    Raises:
      ValueError: if the file's digest is not the known one, or it is not there and cannot be downloaded.
    """
    path = data_directory() / name / remote.file
    try:
        if not path.exists():
            pooch.retrieve(remote.url, f"{remote.algorithm}:{remote.digest}", remote.file, path.parent)
    except OSError as error:
        raise ValueError(
            f"{name} is not in the data directory and cannot be downloaded from {remote.url}: {error}\n"
            f"Put the file at {path}, or set JAXRNN_DATA to a directory that holds {name}/{remote.file}."
        ) from error
    digest = pooch.file_hash(str(path), remote.algorithm)
    if digest != remote.digest:
        algorithm = _ALGORITHMS[remote.algorithm]
        raise ValueError(
            f"{path} has {algorithm} {digest}, expected {remote.digest}; remove it and try again"
        )
    return path


def load_text(corpus: str) -> str:
    """The text of ``stdlib``, of a named corpus, or of a UTF-8 file, which may be a pipe.

    Raises:
      ValueError: if it is none of these, or the file is empty or not UTF-8 text.
    """
    if corpus == STANDARD_LIBRARY:
        return standard_library()
    if corpus in CORPORA:
        return read_text(fetch(corpus, CORPORA[corpus]))
    if not can_be_read(Path(corpus)):
        known = ", ".join([STANDARD_LIBRARY, *CORPORA])
        raise ValueError(f"corpus {corpus!r} is neither a file nor one of {known}")
    return read_text(Path(corpus))


def can_be_read(path: Path) -> bool:
    """Whether a path is a file's, or a pipe's, which gives its content only once."""
    return path.exists() and not path.is_dir()


def read_text(path: Path | None, newline: str | None = None, encoding: str | None = None) -> str:
    """All of a text file, or of standard input for None, without a byte-order mark.

    Args:
      path: the file; None reads standard input, whatever the locale.
      newline: as of ``open``, so that by default every kind of line end becomes LF.
      encoding: of the file; None is UTF-8, where the user cannot choose.

    Raises:
      ValueError: for what is missing, closed, empty, or not text in that encoding, or an unknown one.
    """
    name = "standard input" if path is None else str(path)
    try:
        content = _standard_input() if path is None else path.read_bytes()
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except LookupError as error:
        raise ValueError(
            f"encoding {encoding!r} is unknown; utf-8 and latin-1 are the usual ones"
        ) from error
    except UnicodeDecodeError as error:
        for marked, marks in _BYTE_ORDER_MARKS.items():
            if content.startswith(marks):
                raise ValueError(f"{name} is {marked} text, expected UTF-8") from error
        what = f"{name} is not {(encoding or 'utf-8').upper()} text: {error.reason} at byte {error.start}"
        hint = "" if encoding is None else "; --encoding names another, latin-1 say"
        raise ValueError(what + hint) from error
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise ValueError(f"{name} is not text: it holds a zero byte at character {text.index(chr(0))}")
    if not text:
        raise ValueError(f"{name} is empty")
    return io.StringIO(text, newline).read()


def _standard_input() -> bytes:
    if sys.stdin is None:  # closed when the process started
        raise OSError("it is closed")
    return sys.stdin.buffer.read()


def standard_library(root: Path | None = None) -> str:
    """The running Python's own standard library as one text of about 10 million characters: its files, in
    an order drawn from their names alone, so that the text's last part holds files of every kind.

    Raises:
      ValueError: if this Python comes without its sources.
    """
    return "\n".join(library_files(root).values())


def library_files(root: Path | None = None) -> dict[str, str]:
    """The files of the running Python's standard library, by name, in an order drawn from the names alone:
    the same installation gives the same ones.

    Files that are ASCII, tests left out.

    Raises:
      ValueError: if this Python comes without its sources.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    files = {}
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if not _LEFT_OUT.intersection(name.parts) and (content := path.read_bytes()).isascii():
            files[name.as_posix()] = content.decode("ascii").replace("\r\n", "\n")
    if not files:
        raise ValueError(f"this Python has no library sources under {root}; name a corpus or a text file")
    order = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
    return {name: files[name] for name in order}
