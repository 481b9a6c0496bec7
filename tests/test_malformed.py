"""Run folders that something has spoiled: one clear line, exit code 2, nothing run, nothing written."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from benchmarks import small_run
from experiments.char_lm.__main__ import COMMANDS
from tests.commands import refusal, runner

run = runner(COMMANDS)
CHECKPOINT = "checkpoints/{best}"
HUGE = 10**30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "corpus.txt").write_text(small_run.TEXT)
    small_run.train(folder / "run", folder / "corpus.txt", resume=False)
    return folder / "run"


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def cut(tenth):
    def spoil(path, elsewhere):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * tenth // 10])

    return spoil


def entry(name, value):
    """A setting with another value, or none at all."""

    def spoil(path, elsewhere):
        content = json.loads(path.read_text())
        content[name] = value
        if value is REMOVED:
            del content[name]
        path.write_text(json.dumps(content))

    return spoil


def content(text):
    return lambda path, elsewhere: path.write_text(text)


def pickled(path, elsewhere):
    path.write_bytes(pickle.dumps(Bomb(elsewhere / "executed")))


def linked(path, elsewhere):
    path.rename(elsewhere / "secret")
    path.symlink_to(elsewhere / "secret")


REMOVED = object()
CONFIG, VOCABULARY = "config.json", "vocabulary.json"
SUMS, RECORD = "checkpoints/9/checksums", "checkpoints/9/record/metadata"
METRICS, ARRAYS = "checkpoints/9/metrics/metrics", "checkpoints/9/state/_METADATA"
SPOILT = {
    f"{path} cut to {tenth} tenths": (path, cut(tenth))
    for path in (CONFIG, VOCABULARY, SUMS, RECORD, ARRAYS)
    for tenth in range(10)
}
SPOILT |= {f"{METRICS} cut to {tenth} tenths": (METRICS, cut(tenth)) for tenth in (0, 3, 6, 9)}
SPOILT |= {
    f"config.json without {name}": (CONFIG, entry(name, REMOVED))
    for name in ("hidden_size", "cell", "dropout", "learning_rate", "batch_size", "corpus_sha256")
}
SPOILT |= {
    f"config.json with {name} {value!r}": (CONFIG, entry(name, value))
    for name, values in {
        "hidden_size": ["6", -1, 6.5, None, HUGE, 10**9, [6]],
        "cell": ["gru", "../lstm", 3, None, "__import__('os')"],
        "dropout": ["0.2", float("nan"), 7, {}],
        "learning_rate": [float("nan"), float("inf"), "fast"],
        "layers": [0, HUGE, 10**8, "1"],
        "steps": ["9", -9, None],
        "seed": [-1, HUGE, "0"],
        "corpus": [3],
        "nobody_knows": [1],
    }.items()
    for value in values
}
SPOILT |= {
    f"vocabulary.json with {name} {value!r:.20}": (VOCABULARY, entry(name, value))
    for name, values in {
        "characters": [[], ["a"], "abc", 3, None, ["a", "a"], ["ab"], [1, 2], REMOVED],
        "unknown": ["?", 3, REMOVED],
    }.items()
    for value in values
}
SPOILT |= {
    f"{path} as {what}": (path, spoil)
    for path in (CONFIG, VOCABULARY, RECORD, SUMS)
    for what, spoil in {
        "a pickle": pickled,
        "a list": content("[]"),
        "a number": content("1e999"),
        "deep": content("[" * 100_000),
    }.items()
}
SPOILT |= {f"{path} as a link": (path, linked) for path in (RECORD, ARRAYS, "checkpoints/9/state/d")}
SPOILT["checksums of files elsewhere"] = (SUMS, entry("../../../config.json", "0" * 64))


def files(folder):
    """Every file below a folder, and what it holds."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_there_are_a_hundred():
    assert len(SPOILT) >= 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=[] if n % 8 == 0 else pytest.mark.thorough) for n, w in enumerate(SPOILT)],
)
def test_is_refused(what, whole, tmp_path, capsys, as_users_run):
    name, spoil = SPOILT[what]
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "8")
    spoil(folder / name, elsewhere)
    before = files(tmp_path)
    command = ["sample", "--run", folder, "--length", 1]
    if name == CONFIG and any(
        word in what for word in ("learning_rate", "steps", "seed", "batch", "corpus")
    ):
        command = ["train", "--out", folder, "--resume"]  # for which they matter
    error = refusal(capsys, run, *command)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert files(tmp_path) == before
