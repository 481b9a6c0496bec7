"""The parts of a study, shared among processes."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax

from experiments.harness import run as runs
from experiments.harness.devices import cores
from experiments.harness.progress import counted
from experiments.harness.signals import Stop, stop_on_signal

Part = tuple[Callable[..., dict[str, Any]], tuple[Any, ...], dict[str, Any]]  # function, arguments, options


def compute(parts: dict[str, Part], out: Path) -> dict[str, dict[str, Any]]:
    """The results of all parts, each kept in a file of its own as soon as it is there.

    Raises:
      SystemExit: after SIGINT, SIGTERM or SIGHUP; the parts that are done are kept.
    """
    files = {name: out / "parts" / f"{name.replace(' ', '_')}.json" for name in parts}
    todo = {name: part for name, part in parts.items() if not files[name].exists()}
    # Fresh processes: what is forked after JAX has started may lock up.
    context = multiprocessing.get_context("spawn")
    with (
        stop_on_signal() as stopped,
        counted(f"{len(todo)} parts in {cores()} processes") as on_done,
        ProcessPoolExecutor(cores(), context, initializer=_start_worker) as pool,
    ):
        running = {
            pool.submit(function, *arguments, **options): files[name]
            for name, (function, arguments, options) in todo.items()
        }
        try:
            left = _keep_results(running, stopped, on_done)
        finally:
            _end_workers(pool)
    if left:
        done = sum(file.exists() for file in files.values())
        print(f"stopped with {done} of {len(files)} parts done; continue with --out {out} --resume")
        raise SystemExit(stopped.code)
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def _keep_results(
    running: dict[Future[Any], Path], stopped: Stop, on_done: Callable[[int, int], None]
) -> set[Future[Any]]:
    """Write each result to its file; what was not done when a signal came."""
    left = set(running)
    while left and not stopped:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                runs.write_json(running[future], future.result())
            except BrokenProcessPool:
                if not stopped:  # else the signal was the workers', too
                    raise
                left.add(future)
        on_done(len(running) - len(left), len(running))
    return left


def _end_workers(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in multiprocessing.active_children():
        worker.terminate()


def _start_worker() -> None:
    """In float64, and no longer than the parent, which ends its workers when it is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_enable_x64", True)


def _end_with_parent() -> None:
    """End this process once its parent is gone, killed say: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
