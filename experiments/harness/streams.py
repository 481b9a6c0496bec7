"""Standard output and error that a command outlives."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lasting:
    """A text stream whose failures end nothing.

    What its encoding cannot show is escaped. Once it fails, because its reader is gone, the terminal is
    closed or the disk is full, the rest is dropped; ``failure`` is then the error.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, escape, or drop a text."""
        if self.failure is None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:
                self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self.failure is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        # What the stream still holds would fail once more when Python ends.
        with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting() -> Iterator[Lasting]:
    """Standard output and error, closed ones included, as streams that last; yields the first."""
    with contextlib.ExitStack() as stack:
        output, error = (
            Lasting(stream or stack.enter_context(open(os.devnull, "w")))
            for stream in (sys.stdout, sys.stderr)
        )
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            try:
                yield output
            finally:
                output.flush()
                error.flush()


def end(output: Lasting, *, files: bool) -> None:
    """Exit as other tools do whose output nobody could read; with ``files``, which the result is in, never.

    Raises:
      SystemExit: with 141 (128 + SIGPIPE), silently, where the reader is gone; else with 1 and the reason.
    """
    output.flush()
    if output.failure is None:
        return
    gone = output.failure.errno in (errno.EPIPE, errno.EIO)
    if not gone:
        kind = "warning" if files else "error"
        print(f"{kind}: standard output: {output.failure.strerror}", file=sys.stderr)
    if not files:
        raise SystemExit(141 if gone else 1)
