"""Processes that train one model together, on one machine or on many."""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from experiments.harness.devices import share_cores
from experiments.harness.settings import TrainingSettings
from jaxrnn.training import processes

START_SECONDS = 60.0  # in which all must have come
ANSWER_SECONDS = 5.0  # in which who has come must say its number
SILENCE_SECONDS = 30  # after which a process counts as dead
CLUSTER_SECONDS = 300  # in which all must have come that a cluster starts
REPORT_SECONDS = 24 * 3600  # in which the first process must have written the report
OWN = {"process_id", "coordinator_address"}  # settings that differ between processes


def connect(config: TrainingSettings) -> None:
    """Join the processes that the settings name, if they name any; before JAX starts its devices.

    Raises:
      ValueError: if they cannot be reached, two have the same number, or one has other settings.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.cluster_detection_method is None:
        if not given:
            return
        _check_complete(given)
        _call_the_roll(**given)
        if given["coordinator_address"].startswith(("localhost:", "127.0.0.1:")):
            share_cores(given["num_processes"])
    jax.config.update("jax_enable_preemption_service", False)  # which would take SIGTERM for itself
    method = config.cluster_detection_method or "deactivate"
    try:
        jax.distributed.initialize(
            **given,
            cluster_detection_method=None if method == "auto" else method,
            initialization_timeout=SILENCE_SECONDS if given else CLUSTER_SECONDS,
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=REPORT_SECONDS,
        )
    except (KeyError, ImportError, RuntimeError, ValueError) as error:
        what = f"not set: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"the processes could not be found ({method}): {what}") from error
    _check_alike(config)


def local_group(count: int) -> list[list[str]]:
    """The flags by which each of so many processes of this machine joins the others; one alone has none."""
    if count == 1:
        return [[]]
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    flags = ["--coordinator-address", address, "--num-processes", str(count), "--process-id"]
    return [[*flags, str(number)] for number in range(count)]


def _check_complete(given: dict[str, Any]) -> None:
    """Raise ValueError unless all is there that processes which are started by hand need."""
    if len(given) < 3:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            "--coordinator-address, --num-processes and --process-id go together, unless "
            f"--cluster-detection-method finds them; got {flags} alone"
        )
    host, _, port = given["coordinator_address"].rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise ValueError(f"coordinator_address must be HOST:PORT, got {given['coordinator_address']!r}")
    if given["process_id"] >= given["num_processes"]:
        raise ValueError(
            f"process_id must be below num_processes, {given['num_processes']}, got {given['process_id']}"
        )


def _call_the_roll(coordinator_address: str, num_processes: int, process_id: int) -> None:
    """Make sure that all processes come, each once: JAX itself would abort if they did not.

    Raises:
      ValueError: in all that have come, if not.
    """
    host, _, port = coordinator_address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    if process_id:
        _answer(host, int(port), process_id, deadline)
        return
    come: dict[int, socket.socket] = {}
    try:
        with socket.create_server(("", int(port))) as server:
            verdict = _hear(server, come, num_processes, deadline)
    except OSError as error:
        raise ValueError(f"process 0 cannot listen at {coordinator_address}: {error.strerror}") from error
    for connection in come.values():
        with connection, contextlib.suppress(OSError):
            connection.sendall(f"{json.dumps(verdict)}\n".encode())
    if verdict:
        raise ValueError(verdict)


def _hear(server: socket.socket, come: dict[int, socket.socket], count: int, deadline: float) -> str:
    """Wait for the other processes; what is wrong with them, or nothing."""
    while missing := set(range(1, count)) - come.keys():
        server.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            numbers = ", ".join(map(str, sorted(missing)))
            return f"of {count} processes, {numbers} did not come within {START_SECONDS:g} s"
        try:
            connection.settimeout(ANSWER_SECONDS)
            number = int(connection.makefile().readline(20))
        except (OSError, ValueError):  # somebody else
            connection.close()
            continue
        if number not in missing:
            come[-1] = connection
            return f"process_id {number} came twice, or is not one of {count}"
        come[number] = connection
    return ""


def _answer(host: str, port: int, number: int, deadline: float) -> None:
    """Tell process 0 that this one is there, and hear what it says once all are.

    Raises:
      ValueError: if that is no good, or nobody is there.
    """
    while True:
        try:
            with socket.create_connection((host, port), timeout=1) as connection:
                connection.settimeout(max(1.0, deadline - time.monotonic() + 5))
                connection.sendall(f"{number}\n".encode())
                verdict = json.loads(connection.makefile(errors="replace").readline())
            break
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                why = "something else does" if isinstance(error, ValueError) else error.strerror or error
                what = f"process 0 does not answer at {host}:{port} within {START_SECONDS:g} s"
                raise ValueError(f"{what}: {why}") from error
            time.sleep(0.1)
    if verdict:
        raise ValueError(verdict)


def _check_alike(config: TrainingSettings) -> None:
    """Raise ValueError, in all processes, unless they have as many devices, and the same settings."""
    devices = [len(jax.local_devices(number)) for number in range(jax.process_count())]
    if len(set(devices)) > 1:
        numbers = ", ".join(map(str, devices))
        raise ValueError(
            f"every process must have as many devices, got {numbers}; on CPU, JAX_NUM_CPU_DEVICES=N sets it"
        )
    record = json.dumps(dataclasses.asdict(config), default=str)
    records = [json.loads(each) for each in processes.gathered(record)]
    for number, other in enumerate(records):
        for name in sorted((records[0].keys() | other.keys()) - OWN):
            here, there = records[0].get(name), other.get(name)
            if here != there:
                raise ValueError(f"{name} is {here!r} in process 0, and {there!r} in process {number}")


@contextlib.contextmanager
def one_speaks() -> Iterator[None]:
    """Standard output of the first process alone."""
    if processes.first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Errors that come of another process's end, as a ConnectionError that says so."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if processes.of_a_lost_process(error):
            raise ConnectionError(
                "another process of this run has ended; start all of them again with --resume"
            ) from error
        raise


def leave(code: int) -> None:
    """End a process of several at once, without waiting for those that may never come."""
    if processes.several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
