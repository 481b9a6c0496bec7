"""An orderly end on signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that receives the number of a SIGINT, SIGTERM or SIGHUP; what is ignored stays so (nohup)."""
    received: list[int] = []
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    numbers = [n for n in known if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    previous = [signal.signal(number, lambda n, _: received.append(n)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
