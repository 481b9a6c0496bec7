"""Parts of a report that may fail without taking the others with them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxrnn.training import processes


@contextmanager
def part(name: str) -> Iterator[None]:
    """One part of a report: what goes wrong in it costs this part and a warning, never what follows."""
    try:
        yield
    except Exception as error:
        if processes.of_a_lost_process(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if processes.first():
            print(f"warning: {name} failed: {reason}", file=sys.stderr)
