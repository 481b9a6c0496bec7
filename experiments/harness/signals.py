"""An orderly end on signals."""

import os
import signal
import socket
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

    def hear(self, number: int) -> None:
        """Take a signal for the first, unless there was one."""
        if not self:
            self.since, self.number = time.monotonic(), number  # in this order: two threads look

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
    previous = [signal.signal(number, lambda number, _: stop.hear(number)) for number in numbers]
    # Python calls handlers between its own instructions alone, not while XLA compiles, say; these bytes,
    # one for each signal, a thread reads at once.
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(ear, stop, numbers, grace_seconds), daemon=True)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
        mouth.close()
        listener.join()
        ear.close()


def _listen(ear: socket.socket, stop: Stop, numbers: list[int], grace_seconds: float | None) -> None:
    """End the process after a second signal, or ``grace_seconds`` after the first."""
    heard = False
    while True:
        if heard and grace_seconds is not None:
            ear.settimeout(max(0.001, stop.since + grace_seconds - time.monotonic()))
        try:
            number = int.from_bytes(ear.recv(1))
        except TimeoutError:
            print(
                f"not saved within {grace_seconds:g} s of the signal: the last checkpoint stays",
                file=sys.stderr,
                flush=True,
            )
            os._exit(stop.code)
        if not number:  # the other end is closed
            return
        if number in numbers:
            stop.hear(number)
            if heard and time.monotonic() - stop.since > ECHO_SECONDS:
                os._exit(128 + number)
            heard = True
