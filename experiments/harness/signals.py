"""An orderly end on signals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ECHO_SECONDS = 1.0


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

    Another one ends the process at once, unless it is an echo of the first, which shells and time limits
    send to a process and to its group; so does the end of ``grace_seconds`` after the first.
    """
    stop = Stop()
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    numbers = [n for n in known if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    timer: threading.Timer | None = None

    def handle(number: int, _: object) -> None:
        nonlocal timer
        if stop:
            if time.monotonic() - stop.since > ECHO_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        stop.number, stop.since = number, time.monotonic()
        if grace_seconds is not None:
            timer = threading.Timer(grace_seconds, _give_up, (stop, grace_seconds))
            timer.daemon = True
            timer.start()

    previous = [signal.signal(number, handle) for number in numbers]
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
