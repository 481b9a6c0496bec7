"""Commands of experiments as users type them, run in this process, which already has its devices."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from experiments.data import corpora
from experiments.harness import command_line
from experiments.harness import fit as fitting

SETS = corpora.data_directory()


def needs(*names):
    """Skips a test of named data sets where they are not in the data directory: nothing is downloaded."""
    missing = [name for name in names if not (SETS / name).is_dir()]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not in the data directory")


def runner(commands):
    """(*arguments) → the command line run."""

    def run(*arguments):
        command_line.main("", commands, [str(argument) for argument in arguments], split_cores=False)

    return run


def few_lengths(module, count):
    """A fixture: a module's batches have so many lengths, each of which is compiled anew."""

    @pytest.fixture(scope="module", autouse=True)
    def few():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BUCKETS", count)
            yield

    return few


def refusal(capsys, run, *arguments):
    """The message of a command that ends with exit code 2, and without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def untimed(figures):
    """Figures without those of the clock."""
    return {name: of for name, of in figures.items() if name not in ("train_seconds", "seconds_spent")}


def killed(run, after, *arguments):
    """SIGTERM before a training step: the command saves, and ends with the signal's exit code."""
    original, taken = fitting.train_step, []

    def interrupting(*of_task):
        step = original(*of_task)

        def counted(state, chunk):
            taken.append(state)
            if len(taken) == after:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, chunk)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train_step", interrupting)
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
    assert stopped.value.code == 128 + signal.SIGTERM


def read_metrics(out):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "items_per_second")} for line in lines]


def assert_parts_are_the_whole(batch, lanes):
    """Some lanes of a batch are what they are in all of it: what each of several processes reads."""
    whole = batch(5)
    for part in (slice(0, lanes // 2), slice(lanes // 2, lanes)):
        found = batch(5, part)
        for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            if np.ndim(expected):
                expected = expected[:, part] if np.ndim(expected) > 1 else expected[part]
            np.testing.assert_array_equal(leaf, expected, strict=True)
