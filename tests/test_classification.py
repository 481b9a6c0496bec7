"""Classification: its models against loops, and the script as users run it."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.classification.__main__ import COMMANDS
from experiments.classification.models import Bag, Majority, Window
from experiments.data.order_sentences import order_sentences
from experiments.harness.labels import Judged, figures_of
from tests.commands import read_metrics, refusal, runner
from tests.digits import give

SMALL = ["--hidden-size", "6", "--embedding-size", "4", "--batch-size", "16", "--steps", "6"]
SMALL += ["--evaluate-every", "3"]

run = runner(COMMANDS)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "sentences.tsv"
    text = order_sentences((120, 1, 1)).train
    lines = [f"{label}\t{words}" for label, words in zip(text.labels, text.texts, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", "--data", file, "--out", out, *SMALL)
    return out


@pytest.mark.parametrize("words", [True, False], ids=["words", "vectors"])
def test_models_without_recurrence(words):
    random = np.random.default_rng(0)
    lengths = np.array([5, 2, 0])
    inputs = random.integers(0, 7, (5, 3)) if words else random.normal(size=(5, 3, 7)).astype(np.float32)
    vectors = np.eye(7)[inputs] if words else inputs.astype(np.float64)
    params = [random.normal(size=shape).astype(np.float32) for shape in ((7, 2), (2,))]
    logits = Bag(7, 2).apply(type(Bag(7, 2).init(jax.random.key(0)))(*params), inputs, lengths=lengths)
    expected = [vectors[:n, lane].sum(axis=0) @ params[0] + params[1] for lane, n in enumerate(lengths)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    window = Window(7, 2, steps=3, hidden_size=4)
    drawn = window.init(jax.random.key(0))
    w, b, w_out, b_out = (random.normal(size=leaf.shape).astype(np.float32) for leaf in drawn)
    expected = []
    for lane, n in enumerate(lengths):
        total = b.astype(np.float64)
        for place in range(min(3, n)):
            total = total + vectors[n - 1 - place, lane] @ w[place]
        expected.append(np.tanh(total) @ w_out + b_out)
    logits = window.apply(type(drawn)(w, b, w_out, b_out), inputs, lengths=lengths)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    majority = Majority((0.25, 0.75))
    logits = majority.apply(majority.init(jax.random.key(0)), inputs, lengths=lengths)
    np.testing.assert_allclose(jax.nn.softmax(logits), [[0.25, 0.75]] * 3, rtol=1e-5)


def test_figures():
    """F1 by hand: a 2·2/(3+2), b 2·1/(1+2), c, which is never guessed right, 0."""
    judged = Judged(np.array([0, 0, 1, 1, 2, -1]), np.array([0, 0, 1, 0, 3, 1]), np.ones(6))
    found = figures_of(judged, ["a", "b", "c", "d", "e"])
    assert found["accuracy"] == pytest.approx(3 / 6)
    expected = {"a": 4 / 5, "b": 2 / 4, "c": 0.0, "d": 0.0}
    assert found["f1"] == pytest.approx(expected)
    assert found["macro_f1"] == pytest.approx(sum(expected.values()) / 4)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained, file, capsys, monkeypatch):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"test_accuracy", "test_macro_f1", "test_f1", "test_accuracy_by_length"} <= set(summary)
    for name in ("confusion_matrix.png", "learning_curve.png", "mistakes.tsv", "vocabulary.json"):
        assert (trained / name).stat().st_size > 0
    lines = (trained / "mistakes.tsv").read_text().splitlines()
    assert len(lines) - 1 == round((1 - summary["test_accuracy"]) * 12)
    capsys.readouterr()
    give(monkeypatch, "the plot is good\n\nnever seen words\n")
    run("predict", "--run", trained)
    first, blank, last = capsys.readouterr().out.split("\n")[:3]
    assert blank == ""
    assert {first, last} <= {"positive", "negative"}
    give(monkeypatch, "the plot is good\n")
    run("predict", "--run", trained, "--probabilities")
    label, *of_classes = capsys.readouterr().out.strip().split("\t")
    assert label == first
    values = {name: float(value) for name, value in (each.split("=") for each in of_classes)}
    assert sum(values.values()) == pytest.approx(1, abs=1e-3)
    assert max(values, key=values.get) == label
    other = file.parent / "other.tsv"
    other.write_text("positive\tthe plot is good\nmixed\tit is so\n", encoding="utf-8")
    run("evaluate", "--run", trained, "--data", other)
    told = capsys.readouterr()
    assert "labels of" in told.err
    assert "mixed (1)" in told.err
    assert json.loads((trained / "evaluation.json").read_text())["accuracy"] in (0.0, 0.5)


@pytest.mark.slow
def test_resuming_changes_nothing(trained, file, tmp_path):
    out = tmp_path / "run"
    run("train", "--data", file, "--out", out, *SMALL, "--steps", "3")
    run("train", "--out", out, "--resume", "--steps", "6")
    assert len(read_metrics(out)) == len(read_metrics(trained))
    other = shutil.copytree(trained, tmp_path / "again")
    run("train", "--out", other, "--resume")
    assert read_metrics(other) == read_metrics(trained)


@pytest.mark.slow
def test_comparison(tmp_path, capsys):
    out = tmp_path / "study"
    run("train", "--data", "digits", "--compare", "--out", out, *SMALL, "--direction", "bidirectional")
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["models"]) == ["rnn", "window", "bag", "majority"]
    assert (out / "accuracy_by_length.png").exists()
    assert "macro F1" in capsys.readouterr().out
    assert refusal(capsys, run, "predict", "--run", out / "rnn").strip().endswith("reads images, not text")


@pytest.mark.slow
def test_training_on_a_file_ends_by_itself(file, tmp_path):
    out = tmp_path / "run"
    run(
        "train",
        "--data",
        file,
        "--out",
        out,
        *SMALL,
        "--model",
        "bag",
        "--steps",
        "400",
        "--learning-rate",
        "1",
    )
    assert json.loads((out / "summary.json").read_text())["steps"] < 100


@pytest.mark.slow
def test_pretrained_vectors(file, tmp_path, capsys):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("good 1 2 3 4\nbad 4 3 2 1\nzebra 0 0 0 0\n")
    out = tmp_path / "run"
    run("train", "--data", file, "--vectors", vectors, "--out", out, *SMALL, "--steps", "1")
    assert f"{vectors}: 2 of" in capsys.readouterr().out
    for options, message in (
        (["--embedding-size", "5"], "has vectors of 4 numbers, and --embedding-size is 5"),
        (["--model", "bag"], "--vectors are for the embedding of --model rnn on text"),
    ):
        none = tmp_path / "none"
        command = ["train", "--data", file, "--vectors", vectors, "--out", none, *SMALL, *options]
        assert message in refusal(capsys, run, *command)
        assert not none.exists()


@pytest.mark.slow
def test_bad_input(file, tmp_path, capsys):
    out = tmp_path / "run"
    one = tmp_path / "one.tsv"
    one.write_text("".join(f"x\ttext {n}\n" for n in range(30)))
    few = tmp_path / "few.tsv"
    few.write_text("x\ta\ny\tb\n")
    for options, message in (
        (["--data", one], "has one class only, 'x'; there is nothing to learn"),
        (["--data", few], "at least 10 different texts are needed to hold some out, got 2"),
        (["--data", "klingon"], "data 'klingon' is neither a file nor one of order, digits, trec, sst"),
        (["--data", file, "--dropout", "1"], "dropout must lie in [0, 1), got 1.0"),
        (["--data", file, "--test", tmp_path / "none"], "cannot be read"),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *SMALL, *options)
        assert not out.exists()
