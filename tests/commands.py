"""Commands of experiments as users type them, run in this process, which already has its devices."""

import json

import pytest

from experiments.data import corpora
from experiments.harness import command_line

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


def refusal(capsys, run, *arguments):
    """The message of a command that ends with exit code 2, and without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def read_metrics(out):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "items_per_second")} for line in lines]
