"""Training over any number of devices and processes: the same steps, and what is said if it cannot be."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import small_run
from experiments.char_lm.__main__ import COMMANDS
from experiments.harness import devices, distributed, fit
from experiments.harness import run as runs
from experiments.harness.reports import part
from experiments.harness.settings import TrainingSettings
from experiments.harness.task import Task, evaluate, train_step
from experiments.harness.text_streams import first_carry, stream_loss
from jaxrnn import LSTM
from jaxrnn.data.text import Streams
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.training import processes
from jaxrnn.training.checkpoint import Checkpoints
from tests import digits
from tests.commands import killed, read_metrics, refusal, runner
from tests.conftest import COMPILES_FAST

ROOT = Path(__file__).parent.parent
SMALL = small_run.SETTINGS.replace("--batch-size 4", "--batch-size 8").split()
TOLERANCE = 2e-6  # of parameters: sums over devices add up in another order
run = runner(COMMANDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A corpus, and a validation text of several chunks, over which the carry goes on."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "corpus.txt").write_text(small_run.TEXT)
    (folder / "valid.txt").write_text(small_run.TEXT * (52_000 // len(small_run.TEXT)))
    return ["--corpus", folder / "corpus.txt", "--valid", folder / "valid.txt"]


@pytest.fixture(scope="module")
def on_one(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    run("train", *data, "--out", out, *SMALL, "--devices", 1)
    return out


def latest(out):
    with Checkpoints(out / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.latest


def distance(out, other):
    return max(
        np.abs(a.astype(np.float64) - b).max()
        for a, b in zip(small_run.saved_leaves(out), small_run.saved_leaves(other), strict=True)
    )


@pytest.mark.slow
def test_a_run_goes_on_over_another_number_of_devices(on_one, data, tmp_path, capsys):
    """The same batches and draws of dropout, whatever the number; equal numbers give equal bits."""
    out, same = tmp_path / "run", tmp_path / "same"
    killed(run, 3, "train", *data, "--out", out, *SMALL, "--devices", 4, "--model-devices", 2)
    killed(run, 3, "train", "--out", out, "--resume", "--devices", 2, "--model-devices", 1)
    assert "2 devices instead of 4: sums add up in another order" in capsys.readouterr().out
    run("train", "--out", out, "--resume")  # over as many as before
    assert "instead of" not in capsys.readouterr().out
    assert runs.read_json(out / "summary.json")["training_devices"] == 2
    assert distance(out, on_one) < TOLERANCE
    for line, expected in zip(read_metrics(out), read_metrics(on_one), strict=True):
        assert line == pytest.approx(expected, rel=1e-5)
    killed(run, 5, "train", *data, "--out", same, *SMALL, "--devices", 1)
    run("train", "--out", same, "--resume")
    assert distance(same, on_one) == 0


class Two:
    """Processes on one machine that train one model by a command."""

    def __init__(self, experiment, *arguments, numbers=(0, 1), devices=1):
        command = [sys.executable, "-m", f"experiments.{experiment}", "train", *map(str, arguments)]
        groups = distributed.local_group(2)
        self.port = int(groups[0][1].removeprefix("localhost:"))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = os.environ | COMPILES_FAST | {"JAX_NUM_CPU_DEVICES": str(devices)}
        self.running = [
            subprocess.Popen([*command, *groups[n]], cwd=ROOT, env=env, **pipes) for n in numbers
        ]

    def end(self):
        """Exit codes, and what was said on standard error."""
        said = [process.communicate(timeout=120)[1] for process in self.running]
        return [process.returncode for process in self.running], said


@pytest.mark.slow
def test_two_processes_with_four_devices_each(on_one, data, tmp_path):
    """The output layer split over pairs of these; the validation batch, of 50 lanes, is one pair's."""
    options = ["--devices", 8, "--model-devices", 2]
    two = Two("char_lm", *data, "--out", tmp_path / "two", *SMALL, *options, devices=4)
    assert two.end()[0] == [0, 0]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in on_one.iterdir()}
    assert distance(tmp_path / "two", on_one) < TOLERANCE
    summary, expected = (runs.read_json(out / "summary.json") for out in (tmp_path / "two", on_one))
    for name in small_run.FIGURES:
        assert summary[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.thorough
def test_two_processes_translate(tmp_path):
    """Each a part of the test pairs, and together what one process with two devices does."""
    files, options = digits.written(tmp_path), ["--steps", 20, "--evaluate-every", 10]
    two = ["--data", f"{files[0]},{files[1]}", "--out", tmp_path / "two", *digits.SMALL, *options]
    assert Two("translation", *two).end()[0] == [0, 0]
    digits.trained(files, tmp_path / "one", *options, "--devices", 2)
    names = ("translations.txt", "test_source.txt", "source_vocabulary.json")
    for name in names:
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    summary, expected = (runs.read_json(tmp_path / out / "summary.json") for out in ("two", "one"))
    for name in ("test_bleu", "test_nats_per_token", "valid_nats_per_token"):
        assert summary[name] == pytest.approx(expected[name], rel=1e-6)
    assert distance(tmp_path / "two", tmp_path / "one") == 0


class TestSharedWork:
    """Each item is one process's; here two of them are threads."""

    @pytest.fixture
    def together(self, monkeypatch):
        """(work) → what each process gets."""
        barrier, given = threading.Barrier(2), {}
        here = threading.local()
        monkeypatch.setattr(processes, "several", lambda: True)
        monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes.jax, "process_index", lambda: here.number)

        def exchange(mine):
            given[here.number] = mine
            barrier.wait(10)
            found = [given[0], given[1]]
            barrier.wait(10)
            return found

        def start(work, items):
            def call(number):
                here.number = number
                try:
                    return list(processes.shared(functools.partial(work, number), items))
                except RuntimeError as error:
                    return str(error)

            with ThreadPoolExecutor(2) as pool:
                return list(pool.map(call, range(2)))

        monkeypatch.setattr(processes, "_gathered_bytes", exchange)
        return start

    def test_each_does_its_part(self, together):
        for count in (0, 1, 4, 5):
            got = together(lambda number, item: (number, np.arange(item)), list(range(count)))
            for results in got:
                assert [number for number, _ in results] == [item % 2 for item in range(count)]
                assert [len(array) for _, array in results] == list(range(count))

    @pytest.mark.parametrize("error", [ValueError("no item 3"), KeyError("item 3")])
    def test_one_fails(self, error, together):
        def work(number, item):
            if item == 3:
                raise error
            return item

        assert together(work, list(range(6))) == [str(error)] * 2

    def test_a_lost_process_is_no_failure_of_a_part(self, monkeypatch, capsys):
        lost = RuntimeError("[external/gloo] Gloo AllGather failed: Connection closed by peer")
        with part("the captions"):
            raise lost
        assert capsys.readouterr().err.startswith("warning: the captions failed: [external/gloo]")
        monkeypatch.setattr(processes, "several", lambda: True)
        ended = pytest.raises(ConnectionError, match="another process of this run has ended")
        with ended, distributed.losses_named(), part("the captions"):
            raise lost


@pytest.mark.thorough
@pytest.mark.parametrize("who", [0, 1])
def test_one_of_two_processes_dies(who, data, tmp_path):
    """The other ends with a message; one process alone goes on from the last checkpoint."""
    out, options = tmp_path / "run", [*SMALL, "--steps", 3000, "--evaluate-every", 1500]
    two = Two("char_lm", *data, "--out", out, *options)
    while not list(out.glob("checkpoints/*[0-9]")):
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    two.running[who].send_signal(signal.SIGKILL)
    codes, said = two.end()
    assert time.monotonic() - began < 60
    assert codes[who] == -signal.SIGKILL
    if who == 0 and codes[1] == -signal.SIGABRT:  # JAX saw it first that process 0 is gone
        assert "another task died" in said[1]
    else:
        ended = "error: another process of this run has ended; start all of them again with --resume\n"
        assert codes[1 - who] == 1
        assert said[1 - who].endswith(ended)
        assert who == 0 or said[0] == ended  # JAX may speak of process 0 while the command is ending
    step = latest(out)
    run("train", "--out", out, "--resume", "--devices", 1, "--steps", step + 2)
    assert runs.read_json(out / "summary.json")["steps"] == step + 2


@pytest.mark.thorough
def test_one_of_two_processes_dies_once_it_has_come(data, tmp_path):
    """Before JAX knows of it: the other does not wait for minutes, and nothing is begun."""
    alone = Two("char_lm", *data, "--out", tmp_path / "run", *SMALL, numbers=[0])
    distributed._answer("localhost", alone.port, 1, time.monotonic() + 60)
    began = time.monotonic()
    codes, said = alone.end()
    assert time.monotonic() - began < 60
    assert codes == [-signal.SIGABRT]
    assert "another task died" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_signal_to_one_of_two_processes_stops_both(on_one, data, tmp_path):
    """At the same step, saved; together they go on."""
    out, options = tmp_path / "run", [*SMALL, "--steps", 3000, "--evaluate-every", 1500]
    two = Two("char_lm", *data, "--out", out, *options)
    while not list(out.glob("checkpoints/*[0-9]")):
        time.sleep(0.05)
    two.running[1].send_signal(signal.SIGTERM)
    assert two.end() == ([128 + signal.SIGTERM] * 2, ["", ""])
    step = latest(out)
    again = Two("char_lm", "--out", out, "--resume", "--steps", step + 2)
    assert again.end() == ([0, 0], ["", ""])
    assert runs.read_json(out / "summary.json")["steps"] == step + 2


@pytest.mark.parametrize(
    ("batch_size", "count", "message"),
    [
        (8, 5, "devices must be at most the 4 that there are, got 5"),
        (9, 4, "batch_size must divide by the 4 devices: 8 or 12, got 9"),
        (3, 4, "batch_size must divide by the 4 devices: 4, got 3"),
    ],
)
def test_what_devices_cannot_split(batch_size, count, message, data, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        devices.training_mesh(batch_size, count)
    options = ["--batch-size", batch_size, "--devices", count, "--out", tmp_path / "run"]
    assert refusal(capsys, run, "train", *data, *SMALL, *options) == f"error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_by_default_as_many_devices_as_pay_off():
    least = devices.LEAST_SEQUENCES_PER_DEVICE
    sizes = [devices.training_mesh(size, None).size for size in (1, least, 2 * least, 3 * least, 5 * least)]
    assert sizes == [1, 1, 2, 3, 4]


class TestASplitModel:
    """The output layer, and the embedding, over the second axis of a mesh."""

    def begun(self, vocabulary, tied, optimizer, count, split):
        """A task over so many devices, its first state, step, and batches."""
        model = LanguageModel(vocabulary, [LSTM(8)], embedding_size=8, tied=tied, dropout=0.2)
        streams = Streams(np.arange(400) * 7 % vocabulary, 4, 6)
        task = Task(
            model.init, stream_loss(model), streams.chunk, list, "", ("", 1), carry=first_carry(model)
        )
        task = replace(task, split=devices.Split(split, model.output_specs("model", split)))
        config = TrainingSettings(batch_size=4, optimizer=optimizer, warmup_steps=0, learning_rate=0.01)
        mesh, rule = devices.training_mesh(4, count, split), fit.make_optimizer(config)
        carry = devices.shard(task.first_carry(task.batch(0)), mesh, axis=0)
        state = fit.on_mesh(config, task, rule, mesh)._replace(carry=carry)
        batches = [devices.join_batch(task.batch(position), mesh) for position in range(3)]
        return task, state, train_step(task, rule, state), batches

    @pytest.mark.parametrize(
        ("vocabulary", "tied", "optimizer"),
        [
            (400, True, "adam"),
            pytest.param(400, False, "muon", marks=pytest.mark.thorough),
            (401, False, "adam"),
        ],
    )
    def test_equals_one_device_with_half_the_memory(self, vocabulary, tied, optimizer):
        figures, bytes_passing = [], []
        for count, split in ((2, 1), (4, 2)):
            task, state, step, batches = self.begun(vocabulary, tied, optimizer, count, split)
            kept = jax.tree.leaves((state.params, state.opt_state))
            large = [leaf for leaf in kept if leaf.ndim == 2 and vocabulary in leaf.shape]
            assert len(large) >= 3  # weights and their moments
            assert all(leaf.addressable_data(0).size * split == leaf.size for leaf in large)
            bytes_passing.append(
                step.lower(state, batches[0]).compile().memory_analysis().temp_size_in_bytes
            )
            where = jax.tree.map(lambda leaf: leaf.sharding, state)
            for batch in batches:
                state, measured = step(state, batch)
            assert jax.tree.map(lambda leaf: leaf.sharding, state) == where
            loss = evaluate(task, state.params, [task.batch(3)])["loss"]
            figures.append([measured, loss, devices.on_one_device(state.params)])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), *figures)
        if vocabulary % 2 == 0:  # else all logits are everywhere
            assert bytes_passing[1] < 0.6 * bytes_passing[0]

    def test_what_does_not_divide(self):
        with pytest.raises(
            ValueError, match="needs a vocabulary that they divide, or the 6 hidden units; got"
        ):
            LanguageModel(7, [LSTM(6)]).output_specs("model", 4)
        model = LanguageModel(7, [LSTM(8)], embedding_size=6)
        with pytest.raises(ValueError, match="the 8 hidden units and the 6 embedded features; got a vocab"):
            model.output_specs("model", 4)

    @pytest.mark.parametrize(
        ("count", "split", "message"),
        [
            (None, 5, "model_devices must be at most the 4 devices of a process, got 5"),
            (3, 2, "model_devices must divide the 3 devices of a process, got 2"),
        ],
    )
    def test_too_many_or_too_few_devices(self, count, split, message):
        with pytest.raises(ValueError, match=message):
            devices.training_mesh(8, count, split)
        assert dict(devices.training_mesh(8, 4, 2).shape) == {"batch": 2, "model": 2}
        with pytest.raises(
            ValueError, match="batch_size must divide by the 2 groups of devices: 8 or 10, got 9"
        ):
            devices.training_mesh(9, 4, 2)
