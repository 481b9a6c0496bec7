"""Texts of all kinds, reports that fail, more steps and moved data: what must not cost a run of char_lm."""

import contextlib
import errno
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from experiments.char_lm import training, writing
from experiments.data.parts import load_parts
from experiments.harness import fit as fitting
from experiments.harness import loop
from experiments.harness import run as runs
from jaxrnn.data.text import Streams, Vocabulary
from jaxrnn.models.losses import cross_entropy
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.step import truncated_step
from tests.commands import read_metrics, refusal
from tests.test_char_lm import last_state, run

SMALL = ["--hidden-size", 4, "--batch-size", 2, "--chunk-length", 4, "--steps", 6, "--evaluate-every", 3]
SMALL += ["--cell", "elman", "--warmup-steps", 1]
DNA = "acgt" * 60 + "ttga" * 30
LINES = "one two\nthree four\n" * 20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(LINES)
    return path


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run("train", "--corpus", corpus, "--out", out, *SMALL)
    return out


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "first"), [("abc\n d", "\n"), ("abc d", " "), ("bca", "a"), ("b", "b"), ("日本", "日")]
)
def test_what_comes_before_a_text(text, first):
    assert writing.first_character(Vocabulary.of(text)) == first


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n", "\n"),
        (r"a\tb\n", "a\tb\n"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\d\x\\", "\\d\\x\\"),
        ("\n", "\n"),
    ],
)
def test_a_prompt_as_it_is_typed(typed, meant):
    assert writing.unescaped(typed) == meant


@pytest.mark.slow
@pytest.mark.parametrize("text", [DNA, "one line of words " * 20, "a" * 300], ids=["dna", "line", "one"])
def test_a_text_without_a_line_break(text, tmp_path, capsys):
    (tmp_path / "text").write_text(text)
    run("train", "--corpus", tmp_path / "text", "--out", tmp_path / "run", *SMALL)
    for name in ("samples.txt", "samples/step_000003.txt", "samples/step_000006.txt"):
        assert set((tmp_path / "run" / name).read_text()) <= set(text + "\n")
    capsys.readouterr()
    run("sample", "--run", tmp_path / "run", "--length", 9)
    printed = capsys.readouterr().out
    assert printed[0] == (" " if " " in text else "a")
    assert len(printed) == 1 + 9 + 1


@pytest.mark.slow
def test_the_most_probable_characters(finished, capsys):
    def drawn(*options):
        run("sample", "--run", finished, "--length", 20, *options)
        return capsys.readouterr().out

    best = drawn("--temperature", 0)
    assert drawn("--temperature", 0, "--seed", 5, "--top-p", 0.5) == best
    assert drawn("--beam", 1).split("\n", 1)[1] == best
    assert (
        drawn("--temperature", 0, "--prompt", r"\n") == best == drawn("--temperature", 0, "--prompt", "\n")
    )
    assert best.startswith("\n")


def fails(*arguments):
    raise RuntimeError("broken")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "broken", "lost", "warnings"),
    [
        (
            training,
            "draw",
            {"samples", "samples.txt"},
            ["the report at step 3", "the report at step 6", "samples.txt"],
        ),
        (fitting, "training_curves", {"learning_curve.png"}, ["learning_curve.png"]),
    ],
)
def test_a_report_that_fails(
    where, broken, lost, warnings, finished, corpus, tmp_path, monkeypatch, capsys
):
    """It costs itself; the figures are the same."""
    monkeypatch.setattr(where, broken, lambda *args, **options: fails())
    run("train", "--corpus", corpus, "--out", tmp_path / "run", *SMALL)
    printed = capsys.readouterr()
    assert printed.err == "".join(f"warning: {name} failed: broken\n" for name in warnings)
    names = {path.name for path in finished.iterdir()} - {"evaluation.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names - lost
    assert read_metrics(tmp_path / "run") == read_metrics(finished)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"test {summary['test_nats_per_char']:.4f} nats per character" in printed.out
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best is not None


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["evaluate", "join_batch"])
def test_an_error_in_the_middle_loses_nothing(broken, finished, corpus, tmp_path, monkeypatch):
    """What was trained until then is saved, and the run can go on."""
    original, calls = getattr(loop, broken), []

    def second_fails(*args, **options):
        calls.append(args)
        if len(calls) == (1 if broken == "evaluate" else 3):
            raise RuntimeError("broken")
        return original(*args, **options)

    monkeypatch.setattr(loop, broken, second_fails)
    with pytest.raises(RuntimeError, match="broken"):
        run("train", "--corpus", corpus, "--out", tmp_path / "run", *SMALL)
    taken = 3 if broken == "evaluate" else 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(taken)]
    run("train", "--out", tmp_path / "run", "--resume")
    assert_same_params(last_state(tmp_path / "run"), last_state(finished))


def assert_same_params(state, expected):
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_written(copied, corpus, monkeypatch, capsys):
    def read_only(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(runs, "write_json", read_only)
    run("evaluate", "--run", copied, "--text", corpus)
    printed = capsys.readouterr()
    assert "nats, " in printed.out
    assert "warning: evaluation.json failed: [Errno 30] Read-only file system" in printed.err


@pytest.mark.slow
def test_more_steps(copied, finished, capsys):
    """They are those that the new schedule asks for, from where the old one has ended."""
    capsys.readouterr()
    run("train", "--out", copied, "--resume", "--steps", 9)
    said = "9 steps instead of 6: from step 6 on, the learning rate follows the schedule of a run of 9"
    assert said in capsys.readouterr().out
    assert read_metrics(copied)[: len(read_metrics(finished))] == read_metrics(finished)
    assert read_metrics(copied)[-1]["step"] == 9
    for name in ("config.json", "summary.json"):
        assert json.loads((copied / name).read_text())["steps"] == 9
    config = runs.load_settings(copied, training.Train)
    ids = Vocabulary.load(copied / "vocabulary.json").encode(LINES)
    streams = Streams(ids[: len(ids) - 2 * int(0.05 * len(ids))], 2, 4)
    with Checkpoints(finished / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(6, like=last_state(copied, raw_key=False))
    model = training.load_run(copied)[0]

    def loss(params, carry, chunk, key):
        carry, logits = model.apply(params, chunk.inputs, carry, key=key)
        nats, count = cross_entropy(logits, chunk.targets, chunk.mask)
        return nats / count, carry

    step = truncated_step(loss, fitting.make_optimizer(config))
    for position in range(6, 9):
        assert not streams.chunk(position).first
        state, _ = step(state, streams.chunk(position))
    assert_same_params(last_state(copied), state)
    run("train", "--out", copied, "--resume")  # goes on with the new number
    assert json.loads((copied / "config.json").read_text())["steps"] == 9


@pytest.mark.slow
def test_fewer_steps_than_were_taken(copied, capsys):
    before = (copied / "config.json").read_bytes()
    message = f"error: steps must be at least the 6 that the run in {copied} has taken, got 5\n"
    assert refusal(capsys, run, "train", "--out", copied, "--resume", "--steps", 5) == message
    assert (copied / "config.json").read_bytes() == before


@pytest.mark.slow
def test_data_that_have_moved(copied, tmp_path, capsys):
    """The same text elsewhere goes on, and is remembered; another one is called so."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    moved.write_text(LINES)
    other.write_text(LINES[::-1])
    (copied / "summary.json").unlink()
    run("train", "--out", copied, "--resume", "--corpus", moved)
    assert (copied / "summary.json").exists()
    assert json.loads((copied / "config.json").read_text())["corpus"] == str(moved)
    run("sample", "--run", copied, "--length", 1)
    message = f"error: corpus: the text in {other} is not the one the run in {copied} began with\n"
    assert refusal(capsys, run, "train", "--out", copied, "--resume", "--corpus", other) == message


@pytest.mark.slow
def test_held_out_texts_of_their_own(corpus, tmp_path, capsys):
    """As short as can be; the corpus gives up nothing, and the figures are those that evaluate finds."""
    files = {"valid": "on", "test": "two\nthree\n"}
    options = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        options += [f"--{name}", tmp_path / name]
    out, paths = tmp_path / "run", {name: str(tmp_path / name) for name in files}
    data = load_parts(str(corpus), files=paths, fractions={"valid": 0.2, "test": 0.3})
    assert data.vocabulary.decode(data.train) == LINES
    assert {name: data.vocabulary.decode(getattr(data, name)) for name in files} == files
    run("train", "--corpus", corpus, "--out", out, *SMALL, *options)
    summary = json.loads((out / "summary.json").read_text())
    for name in files:
        run("evaluate", "--run", out, "--text", tmp_path / name)
        found = json.loads((out / "evaluation.json").read_text())["nats_per_char"]
        assert summary[f"{name}_nats_per_char"] == pytest.approx(found, rel=1e-6)
    (tmp_path / "valid").write_text("no")
    with pytest.raises(SystemExit):
        run("train", "--out", out, "--resume")
    assert f"valid: the text in {tmp_path / 'valid'} is not the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("o", "--valid {} holds 1 character, and at least 2 are needed"),
        ("naïve", "--valid {}: text holds 3 character(s) outside the vocabulary of 11: 'avï'"),
        ("", "{} is empty"),
        (None, "{} cannot be read: No such file or directory"),
    ],
)
def test_held_out_texts_that_are_of_no_use(text, message, corpus, tmp_path, capsys):
    if text is not None:
        (tmp_path / "valid").write_text(text)
    arguments = ["--corpus", corpus, "--out", tmp_path / "run", *SMALL, "--valid", tmp_path / "valid"]
    assert refusal(capsys, run, "train", *arguments) == f"error: {message.format(tmp_path / 'valid')}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_texts_from_pipes(finished, corpus, tmp_path):
    def piped(text):
        path = tmp_path / "pipe"
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        threading.Thread(target=path.write_text, args=(text,)).start()
        return path

    run("train", "--corpus", piped(LINES), "--out", tmp_path / "run", *SMALL)
    assert read_metrics(tmp_path / "run") == read_metrics(finished)
    run("train", "--corpus", piped(LINES), "--out", tmp_path / "run", "--resume")
    run("evaluate", "--run", tmp_path / "run", "--text", piped("one\n"))
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["characters"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_a_run_whose_terminal_is_gone(number, corpus, finished, tmp_path, monkeypatch):
    original = loop.join_batch

    def interrupting(chunk, mesh):
        os.kill(os.getpid(), number)
        return original(chunk, mesh)

    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(loop, "join_batch", interrupting)
    with (
        open(writer, "w") as gone,
        contextlib.redirect_stdout(gone),
        pytest.raises(SystemExit) as stopped,
    ):
        run("train", "--corpus", corpus, "--out", tmp_path / "run", *SMALL)
    assert stopped.value.code == 128 + number
    monkeypatch.undo()
    run("train", "--out", tmp_path / "run", "--resume")
    assert read_metrics(tmp_path / "run") == read_metrics(finished)
