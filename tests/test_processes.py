"""The processes of a study: how they end, whatever ends their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARTS = """
import os, pathlib, signal, sys, time
from experiments.gradient_check import processes
def quick(out):
    return {}
def endless(out):
    (pathlib.Path(out) / f"worker_{os.getpid()}").touch()
    time.sleep(600)
if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1])
    (out / "parts").mkdir()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever runs the tests
    processes.cores = lambda: 2
    parts = {"quick": (quick, (out,), {}), "a b": (endless, (out,), {}), "c": (endless, (out,), {})}
    processes.compute(parts, out)
"""


def wait_for(condition, seconds=60):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_the_workers_end_with_their_parent(number, tmp_path):
    """Whatever ends it, and what is done is kept."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study.py").write_text(PARTS)
    out = tmp_path / "study"
    root = Path(__file__).parent.parent
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "study.py", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    workers = []
    try:
        wait_for(lambda: len(list(out.glob("worker_*"))) == 2 and list(out.rglob("quick.json")))
        workers = [int(path.name.removeprefix("worker_")) for path in out.glob("worker_*")]
        parent.send_signal(number)
        printed, errors = parent.communicate(timeout=20)
        wait_for(lambda: not any(map(alive, workers)), seconds=10)
    finally:
        for process in (parent.pid, *workers):
            if alive(process):
                os.kill(process, signal.SIGKILL)
    assert [path.name for path in (out / "parts").iterdir()] == ["quick.json"]
    if number == signal.SIGKILL:
        return
    assert parent.returncode == 128 + number
    said = f"stopped with 1 of 3 parts done; continue with --out {out} --resume"
    assert printed.splitlines() == ["3 parts in 2 processes", said]
    assert errors == ""
