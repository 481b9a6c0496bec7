"""Named places at which a test may stop the process, or make a write fail.

Code that writes names the moments before and after: ``faults.at("checkpoint.published", path)``. Nothing
happens there unless a test has installed a hook, which may kill the process, raise an ``OSError``, or
damage what lies at the path.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Hook = Callable[[str, Path], None]

_hook: Hook | None = None


def at(point: str, path: Path) -> None:
    """Pass a named place; ``path`` is what is about to be written there, or was written."""
    if _hook is not None:
        _hook(point, path)


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Call ``hook(point, path)`` at every place that is passed.

    >>> with hooked(lambda point, path: print(point, path.name)):
    ...     at("file.written", Path("run/config.json"))
    file.written config.json
    """
    global _hook
    _hook = hook
    try:
        yield
    finally:
        _hook = None
