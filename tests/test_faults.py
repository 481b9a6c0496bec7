"""Runs that are killed, cannot write, are stopped, find damage or diverge: what is lost, what is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import faults as study
from benchmarks import small_run
from benchmarks.faults import Fault, disturb, place_of
from experiments.char_lm import training
from experiments.char_lm.__main__ import COMMANDS
from experiments.harness import loop
from experiments.harness import run as runs
from experiments.harness.settings import TrainingSettings
from experiments.harness.study import begin_study
from jaxrnn.training import faults
from jaxrnn.training.checkpoint import Checkpoints
from tests.commands import read_metrics, refusal, runner
from tests.conftest import COMPILES_FAST

ROOT = Path(__file__).parent.parent
PLACES = [f"checkpoint.{when}" for when in ("begin", "state", "sealed", "published", "deleted")]
PLACES += ["evaluation.begin", "evaluation.done", "metrics.begin", "metrics.written"]
PLACES += ["run.folder", "run.begun", "run.filled"]
for name in ("config.json", "metrics.jsonl", "samples.txt", "samples/*", "summary.json"):
    PLACES += [f"file.{when} {name}" for when in ("begin", "written", "renamed")]
PLACES.append("file.written picture")
run = runner(COMMANDS)


class Killed(BaseException):
    """What no code under test catches."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(small_run.TEXT)
    return path


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The folder of a run, what it comes to, and the places that it passes."""
    out, passed = tmp_path_factory.mktemp("undisturbed") / "run", []
    with faults.hooked(lambda point, path: passed.append(place_of(point, path))):
        small_run.train(out, corpus, resume=False)
    (out / "digest").write_text(small_run.digest(out))
    return out, small_run.outcome(out), passed


@pytest.fixture
def copied(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    return tmp_path / "run"


def resumed(out, corpus):
    """What a run comes to once it is resumed, or begun again if it had not begun."""
    small_run.train(out, corpus, resume=(out / "config.json").is_file())
    (out / "digest").write_text(small_run.digest(out))
    return small_run.outcome(out)


def test_no_place_is_forgotten(undisturbed):
    assert set(undisturbed[2]) == set(PLACES)


@pytest.mark.slow
def test_killed_at_every_place(undisturbed, corpus, tmp_path, monkeypatch):
    """One run, killed at every place in turn, and resumed from there."""

    def kill(process, number):
        raise Killed

    monkeypatch.setattr(study.os, "kill", kill)
    out = tmp_path / "run"
    for place in dict.fromkeys(undisturbed[2]):  # in the order in which a run passes them
        with faults.hooked(disturb(Fault(place, 1, "kill", 0), lambda: None)), pytest.raises(Killed):
            small_run.train(out, corpus, resume=(out / "config.json").is_file())
    assert resumed(out, corpus) == undisturbed[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "checkpoint.begin",
            "checkpoint 3 could not be written to {}/checkpoints: No space left on device",
        ),
        ("metrics.begin", "[Errno 28] No space left on device: '{}/metrics.jsonl'"),
        ("file.begin summary.json", "[Errno 28] No space left on device: '{}/summary.json'"),
        ("file.written config.json", "[Errno 28] No space left on device: '{}/config.json.tmp'"),
    ],
)
def test_a_write_that_fails(place, said, undisturbed, corpus, tmp_path, capsys):
    out = tmp_path / "run"
    with faults.hooked(disturb(Fault(place, 1, "no space", 0), lambda: None)):
        error = refusal(capsys, run, "train", "--corpus", corpus, "--out", out, *small_run.SETTINGS.split())
    assert error.startswith(f"error: {said.format(out)}")
    assert resumed(out, corpus) == undisturbed[1]


@pytest.mark.slow
def test_processes_that_die(tmp_path):
    """The study itself, on a few trials: fresh processes that are killed, and others that resume."""
    command = [sys.executable, "-m", "benchmarks.faults", "--trials", "3", "--out", str(tmp_path / "study")]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | COMPILES_FAST, check=True, capture_output=True, timeout=300
    )
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert summary["trials"] == 3
    assert summary["outcomes"].keys() <= {"same", "too late"}
    assert summary["outcomes"]["same"] >= 2


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


class TestDamage:
    def test_a_run_goes_on_from_the_newest_whole_checkpoint(self, copied, undisturbed, corpus, capsys):
        file = largest(copied / "checkpoints" / "9")
        flip(file)
        steps = sorted(path.name for path in (copied / "checkpoints").iterdir())
        assert steps == ["8", "9"]
        capsys.readouterr()
        assert resumed(copied, corpus)["state"] == undisturbed[1]["state"]
        name = file.relative_to(copied / "checkpoints" / "9")
        aside = copied / "checkpoints" / "9.damaged"
        said = f"warning: checkpoint 9 is damaged: {name} has changed; it stays in {aside}\n"
        assert capsys.readouterr().err == said
        assert resumed(copied, corpus) == undisturbed[1]
        assert aside.is_dir()

    def test_one_that_was_asked_for_is_refused(self, copied, capsys):
        with Checkpoints(copied / "checkpoints", read_only=True) as checkpoints:
            best, other = checkpoints.best, 17 - checkpoints.best
        file = largest(copied / "checkpoints" / str(best))
        flip(file)
        said = f"error: checkpoint {best} in {copied / 'checkpoints'} is damaged: "
        for command in (["sample", "--run", copied], ["train", "--out", copied, "--resume-from", best]):
            error = refusal(capsys, run, *command)
            assert error.startswith(said)
            assert error.endswith(f" has changed; whole: {other}\n")

    @pytest.mark.parametrize("change", ["removed", "added", "linked", "no checksums", "torn checksums"])
    def test_of_every_kind(self, change, copied):
        folder = copied / "checkpoints" / "9"
        file = largest(folder)
        name = file.relative_to(folder).as_posix()
        if change == "removed":
            file.unlink()
        elif change == "added":
            (folder / "state" / "more").write_text("")
        elif change == "linked":
            file.rename(copied / "elsewhere")
            file.symlink_to(copied / "elsewhere")
        elif change == "no checksums":
            (folder / "checksums").unlink()
        else:
            (folder / "checksums").write_text("{")
        words = {
            "removed": f"{name} is missing",
            "added": "state/more does not belong to it",
            "linked": f"{name} is a symbolic link",
            "no checksums": "checksums is missing",
            "torn checksums": "checksums cannot be read",
        }
        with Checkpoints(copied / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.damaged() == {9: words[change]}

    def test_earlier_versions_had_no_checksums(self, copied):
        folder = copied / "checkpoints" / "9"
        (folder / "checksums").unlink()
        (folder / "_CHECKPOINT_METADATA").write_text("{}")
        with Checkpoints(copied / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.damaged() == {}


def steps_in(out):
    return {int(path.name) for path in (out / "checkpoints").iterdir()}


def test_a_resumed_run_holds_one_state(copied, monkeypatch):
    """And at the end, of the best checkpoint, the parameters alone are on a device."""
    given_up, restored = [], []

    def resume(config, record, checkpoints, state):
        result = original(config, record, checkpoints, state)
        given_up.extend(jax.tree.leaves(state))
        return result

    def restore(checkpoints, step, like):
        restored.append(whole(checkpoints, step, like)[0])
        return restored[-1], checkpoints.record(step)

    original, whole = loop.resume, Checkpoints.restore
    monkeypatch.setattr(loop, "resume", resume)
    monkeypatch.setattr(Checkpoints, "restore", restore)
    run("train", "--out", copied, "--resume")
    assert given_up
    assert all(leaf.is_deleted() for leaf in given_up)
    last = restored[-1]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(last.params))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(last.opt_state))


class TestSettings:
    @pytest.mark.slow
    def test_as_many_are_kept_as_asked_for(self, corpus, tmp_path):
        run(
            "train", "--corpus", corpus, "--out", tmp_path / "run", *small_run.SETTINGS.split(), "--keep", 4
        )
        with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
            assert steps_in(tmp_path / "run") == {4, 6, 8, 9} | {checkpoints.best}

    @pytest.mark.slow
    def test_from_an_earlier_checkpoint(self, copied, undisturbed, corpus, capsys):
        """Later ones are gone, and are made again."""
        passed = []
        with faults.hooked(lambda point, path: passed.append((point, path.name))):
            run("train", "--out", copied, "--resume-from", 8)
        assert [name for point, name in passed if point == "checkpoint.published"] == ["9"]
        assert resumed(copied, corpus) == undisturbed[1]
        message = f"error: no checkpoint 5 in {copied / 'checkpoints'}; whole: 8, 9\n"
        assert refusal(capsys, run, "train", "--out", copied, "--resume-from", 5) == message
        assert steps_in(copied) == {8, 9}

    def test_a_comparison_has_no_checkpoint_to_ask_for(self, tmp_path):
        config = TrainingSettings(out=tmp_path, resume=True, resume_from=5)
        with pytest.raises(ValueError, match="--resume-from is for a single run"):
            begin_study(config, [])


class TestBatchesWithoutAFiniteLoss:
    @pytest.fixture
    def train(self, corpus, monkeypatch):
        """(folder, positions, *options) → a run in which the batches at these positions have nothing that
        counts, so that their mean loss is 0/0.
        """
        chunk = training.Streams.chunk

        def train(out, positions, *options):
            def poisoned(streams, position, *lanes):
                made = chunk(streams, position, *lanes)
                bad = position in positions and streams.drop_last  # which training's are
                return made._replace(mask=np.zeros_like(made.mask)) if bad else made

            monkeypatch.setattr(training.Streams, "chunk", poisoned)
            run("train", "--corpus", corpus, "--out", out, *small_run.SETTINGS.split(), *options)

        return train

    @pytest.mark.slow
    def test_they_are_skipped_counted_and_logged(self, train, tmp_path, capsys):
        out = tmp_path / "run"
        train(out, {4, 6}, "--skip-bad-steps", 2)
        assert [line.partition("; ")[2] for line in capsys.readouterr().err.splitlines()] == [
            "going on from checkpoint 4 without batch 4, 1 of at most 2",
            "going on from checkpoint 4 without batch 6, 2 of at most 2",
        ]
        summary = runs.read_json(out / "summary.json")
        assert (summary["steps"], summary["skipped_batches"]) == (9, 2)
        assert sum(summary["seconds_spent"].values()) == pytest.approx(summary["train_seconds"])
        assert [line for line in read_metrics(out) if "skipped_batch" in line] == [
            {"step": 5, "skipped_batch": 4},
            {"step": 6, "skipped_batch": 6},
        ]
        for leaf in small_run.saved_leaves(out):
            assert np.isfinite(leaf).all()

    @pytest.mark.slow
    def test_no_more_than_were_allowed(self, train, tmp_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path / "run", {4, 6}, "--skip-bad-steps", 1)
        assert stopped.value.code == 1
        assert "training stopped at step 6: loss nan" in capsys.readouterr().err

    @pytest.mark.slow
    def test_before_the_first_checkpoint(self, train, tmp_path):
        train(tmp_path / "run", {1}, "--skip-bad-steps", 1)
        assert runs.read_json(tmp_path / "run" / "summary.json")["skipped_batches"] == 1


class TestSignals:
    @pytest.mark.slow
    def test_an_evaluation_is_broken_off_and_made_later(self, undisturbed, corpus, tmp_path, capsys):
        """So that a long one does not outlast the grace period."""
        out = tmp_path / "run"

        def interrupt(point, path):
            if point == "evaluation.begin":
                os.kill(os.getpid(), signal.SIGTERM)

        with faults.hooked(interrupt), pytest.raises(SystemExit) as stopped:
            small_run.train(out, corpus, resume=False)
        assert stopped.value.code == 128 + signal.SIGTERM
        assert "stopped at step 4 of 9 and saved" in capsys.readouterr().out
        assert not any("valid_loss" in line for line in read_metrics(out))
        assert resumed(out, corpus) == undisturbed[1]

    @pytest.mark.parametrize("second", [signal.SIGTERM, None], ids=["second", "grace"])
    def test_what_ends_a_process_that_does_not_come_to_save(self, second):
        """A second signal, or the end of the grace period; compiling, say, runs no Python meanwhile."""
        script = """
import hashlib
from experiments.harness.signals import stop_on_signal
with stop_on_signal(grace_seconds=0.5 if GRACE else 60):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
""".replace("GRACE", str(second is None))
        with subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # an echo
            time.sleep(0.2)
            assert process.poll() is None
            if second:
                time.sleep(1)
                process.send_signal(second)
            _, error = process.communicate(timeout=10)
        assert process.returncode == 128 + signal.SIGTERM
        assert error == (
            "" if second else "not saved within 0.5 s of the signal: the last checkpoint stays\n"
        )


def test_where_the_time_went(undisturbed):
    summary = runs.read_json(undisturbed[0] / "summary.json")
    spent = summary["seconds_spent"]
    assert spent.keys() == {"training", "compiling", "evaluating", "saving", "waiting_for_data"}
    assert sum(spent.values()) == pytest.approx(summary["train_seconds"], rel=1e-9)
    assert all(seconds >= 0 for seconds in spent.values())


def test_what_a_restart_loses(copied, capsys):
    """The steps that were taken after the last checkpoint, and what it takes to begin again."""
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    lost = lines[-1] | {"step": 9999, "seconds": lines[-1]["seconds"] + 100}
    with (copied / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lost) + "\n")
    run("train", "--out", copied, "--resume")
    spent = runs.read_json(copied / "summary.json")["seconds_spent"]
    assert 100 <= spent["lost_to_restarts"] < 160
