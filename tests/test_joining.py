"""How processes find each other before they train together."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

import jax
import pytest
from jax._src import clusters

from experiments.harness import distributed
from experiments.harness.settings import TrainingSettings
from jaxrnn.training import processes

METHODS = typing.get_type_hints(TrainingSettings)["cluster_detection_method"]
ROOT = Path(__file__).parent.parent


class TestTheRoll:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(distributed, "START_SECONDS", 0.5)

    def called(self, count, numbers):
        """What each of the processes that come is told."""
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        told = {}

        def come(key, number):
            try:
                distributed._call_the_roll(f"localhost:{port}", count, number)
                told[key] = ""
            except ValueError as error:
                told[key] = str(error).replace(str(port), "PORT")

        threads = [threading.Thread(target=come, args=of) for of in enumerate(numbers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [told[key] for key in range(len(numbers))]

    def test_all_come(self, monkeypatch):
        monkeypatch.setattr(distributed, "START_SECONDS", 20.0)
        assert self.called(3, [2, 0, 1]) == ["", "", ""]

    def test_some_do_not(self, monkeypatch):
        monkeypatch.setattr(distributed, "START_SECONDS", 2.0)
        assert self.called(4, [0, 2]) == ["of 4 processes, 1, 3 did not come within 2 s"] * 2

    def test_one_comes_twice(self, monkeypatch):
        monkeypatch.setattr(distributed, "START_SECONDS", 20.0)
        assert self.called(3, [0, 1, 1]) == ["process_id 1 came twice, or is not one of 3"] * 3

    def test_nobody_is_there(self):
        (told,) = self.called(2, [1])
        assert told == "process 0 does not answer at localhost:PORT within 0.5 s: Connection refused"

    @pytest.mark.parametrize("answer", [b"", b"\xfe\xff\n"])
    def test_something_else_is_there(self, answer):
        """Asked now and then, and not as fast as can be."""
        asked = []
        with socket.create_server(("localhost", 0)) as server:

            def serve():
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:  # closed
                        return
                    asked.append(time.monotonic())
                    connection.sendall(answer)
                    connection.close()

            threading.Thread(target=serve, daemon=True).start()
            port = server.getsockname()[1]
            with pytest.raises(ValueError, match=r"process 0 does not answer at .* within 0.5 s: ") as told:
                distributed._call_the_roll(f"localhost:{port}", 2, 1)
            server.shutdown(socket.SHUT_RDWR)
        assert str(told.value).endswith(("something else does", "Connection reset by peer", "Broken pipe"))
        assert 2 <= len(asked) < 30

    def test_a_stranger_comes_first(self, monkeypatch):
        """And says nothing, or nonsense: the others are still waited for."""
        monkeypatch.setattr(distributed, "START_SECONDS", 20.0)
        monkeypatch.setattr(distributed, "ANSWER_SECONDS", 0.2)
        come = {}
        with socket.create_server(("localhost", 0)) as server:
            address = server.getsockname()
            strangers = [socket.create_connection(address), socket.create_connection(address)]
            strangers[1].sendall(b"GET / HTTP/1.1 and so on for a while")
            joining = socket.create_connection(address)
            joining.sendall(b"1\n")
            assert distributed._hear(server, come, 2, time.monotonic() + 20) == ""
        assert come.keys() == {1}
        for connection in [*strangers, joining, *come.values()]:
            connection.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 2}, "go together, .*; got --num-processes alone"),
        (
            {"coordinator_address": "host", "num_processes": 2, "process_id": 0},
            "coordinator_address must be HOST:PORT, got 'host'",
        ),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            "process_id must be below num_processes, 2, got 2",
        ),
    ],
)
def test_what_is_no_group_of_processes(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.connect(TrainingSettings(**given))


def test_processes_with_other_numbers_of_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda number: [0] * (2, 4)[number])
    with pytest.raises(ValueError, match="every process must have as many devices, got 2, 4; on CPU, JAX"):
        distributed._check_alike(TrainingSettings())


def test_processes_with_other_settings(monkeypatch):
    config = TrainingSettings(process_id=1)
    other = dataclasses.asdict(config) | {"process_id": 0, "steps": 7}
    monkeypatch.setattr(processes, "gathered", lambda own: [json.dumps(other), own])
    with pytest.raises(ValueError, match="steps is 7 in process 0, and 1000 in process 1"):
        distributed._check_alike(config)


@pytest.mark.parametrize("name", typing.get_args(typing.get_args(METHODS)[0]))
def test_a_method_is_one_of_jax(name):
    known = {of.name for of in clusters.ClusterEnv._cluster_types}
    assert name in known | {"auto"}


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (KeyError("SLURM_JOB_ID"), "not set: 'SLURM_JOB_ID'"),
        (ImportError("No module named 'mpi4py'"), "No module named 'mpi4py'"),
        (RuntimeError("DEADLINE_EXCEEDED: too late"), "DEADLINE_EXCEEDED: too late"),
    ],
)
def test_whatever_jax_raises_when_it_looks_for_them(error, what, monkeypatch):
    asked = {}

    def initialize(**options):
        asked.update(options)
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=re.escape(f"the processes could not be found (auto): {what}")):
        distributed.connect(TrainingSettings(cluster_detection_method="auto"))
    assert asked["cluster_detection_method"] is None  # as JAX calls it


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("method", "what"),
    [("slurm", "not set: 'SLURM_JOB_ID'"), ("auto", "coordinator_address should be defined.")],
)
def test_a_cluster_that_is_not_there(method, what):
    """One line, whatever JAX raises: here it asks for a variable that Slurm sets, or finds none."""
    command = [sys.executable, "-m", "experiments.char_lm", "--cluster-detection-method", method]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]  # after what JAX logs
    assert last == f"error: the processes could not be found ({method}): {what}"
