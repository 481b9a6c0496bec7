"""An orderly end on signals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """Whether a signal has asked for the end, and when; true once it has."""

    number: int | None = None
    since: float = 0.0  # on the monotonic clock

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def code(self) -> int:
        """The exit code of a process that a signal has ended."""
        return 128 + (self.number or 0)


@contextmanager
def stop_on_signal(grace_seconds: float | None = None) -> Iterator[Stop]:
    """What tells of the first SIGINT, SIGTERM or SIGHUP; what is ignored stays so (nohup).

    A second one ends the process at once, and so does the end of ``grace_seconds`` after the first.
    """
    stop = Stop()
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    numbers = [n for n in known if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    timer: threading.Timer | None = None

    def first(number: int, _: object) -> None:
        nonlocal timer
        stop.number, stop.since = number, time.monotonic()
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        if grace_seconds is not None:
            timer = threading.Timer(grace_seconds, _give_up, (stop, grace_seconds))
            timer.daemon = True
            timer.start()

    previous = [signal.signal(number, first) for number in numbers]
    try:
        yield stop
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _give_up(stop: Stop, seconds: float) -> None:
    print(
        f"not saved within {seconds:g} s of the signal: the last checkpoint stays",
        file=sys.stderr,
        flush=True,
    )
    os._exit(stop.code)
