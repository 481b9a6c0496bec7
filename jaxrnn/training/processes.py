"""Several processes that train together: what one does for all of them, and what all of them know."""

import functools
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Item = TypeVar("Item")
Result = TypeVar("Result")
# ``map``, or ``shared`` where all processes come to it together.
Share = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def first() -> bool:
    """Whether this is the process that does what is done once: of one alone, always.

    >>> first()
    True
    """
    return not several() or jax.process_index() == 0


def several() -> bool:
    """Whether there are others; JAX's devices are started only where there may be."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def of_a_lost_process(error: BaseException) -> bool:
    """Whether an error comes of another process's end.

    >>> of_a_lost_process(ValueError("[external/gloo] Gloo AllGather failed"))
    False
    """
    signs = ("Gloo ", "oordination service", "oordinationService", "UNAVAILABLE:", "DEADLINE_EXCEEDED:")
    of_a_file = isinstance(error, OSError) and error.filename is not None
    return several() and not of_a_file and any(sign in str(error) for sign in signs)


def on_first(work: Callable[[], object]) -> None:
    """Do in the first process what is done once; all go on when it is done.

    Raises:
      OSError, ValueError: in all of them, where it fails in the first.
    """
    if not several():
        work()
        return
    failure = None
    if first():
        try:
            work()
        except (OSError, ValueError) as error:
            failure = [isinstance(error, OSError), _arguments(error)]
    failure = gathered(failure)[0]
    if failure is not None:
        kind = OSError if failure[0] else ValueError
        raise kind(*failure[1])


def _arguments(error: OSError | ValueError) -> list[Any]:
    """What makes an error anew: of a file's, the number, the text and the path."""
    if isinstance(error, OSError) and error.errno is not None:
        return [error.errno, error.strerror, *([] if error.filename is None else [str(error.filename)])]
    return [str(error)]


def gathered(value: Any) -> list[Any]:
    """What each process gives, by its number; JSON.

    >>> gathered({"seed": 0})
    [{'seed': 0}]
    """
    if not several():
        return [value]
    return [json.loads(given) for given in _gathered_bytes(json.dumps(value).encode())]


def _gathered_bytes(given: bytes) -> list[bytes]:
    sizes = multihost_utils.process_allgather(np.array(len(given)))
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes, each of which compiles
    padded[: len(given)] = np.frombuffer(given, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def shared(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``map``, for work that all processes come to together: each item is one's, and all get the results.

    Raises:
      RuntimeError: in all of them, where it fails in one.

    >>> list(shared(len, ["a", "bc"]))
    [1, 2]
    """
    if not several():
        yield from map(work, items)
        return
    for begin in range(0, len(items), jax.process_count()):
        own = items[begin + jax.process_index() :][:1]
        try:
            done: Any = [work(item) for item in own]
        except Exception as error:  # of whatever kind: the others wait
            done = str(error) or type(error).__name__
        for given in map(pickle.loads, _gathered_bytes(pickle.dumps(done))):
            if isinstance(given, str):
                raise RuntimeError(given)
            yield from given


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set in some process, which all of them then know.

    >>> any_of(True, False)
    (True, False)
    """
    if not several():
        return flags
    spread, any_row = _rows()
    rows = jax.make_array_from_process_local_data(spread, np.array([flags]))
    return tuple(map(bool, np.asarray(any_row(rows).addressable_data(0))))


@functools.cache
def _rows() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """Where a row of each process lies, and what any of them has: asked at every step, so made once."""
    devices = [jax.local_devices(number)[0] for number in range(jax.process_count())]
    mesh = jax.make_mesh((len(devices),), ("process",), axis_types=(AxisType.Auto,), devices=devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    any_row = jax.jit(lambda rows: rows.any(axis=0), out_shardings=everywhere)
    return NamedSharding(mesh, PartitionSpec("process")), any_row
