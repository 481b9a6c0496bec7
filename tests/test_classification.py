"""Classification: its models against loops, and the script as users run it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification import training
from experiments.classification.__main__ import COMMANDS
from experiments.classification.data import examples_of, load_data
from experiments.classification.models import Bag, Majority, Window
from experiments.classification.training import (
    Train,
    build_model,
    by_length,
    load_vectors,
    pretrained,
    with_word,
)
from experiments.data import examples
from experiments.data.examples import NO_LABEL, UNKNOWN_LABEL, Batch, Examples
from experiments.data.labelled import Labelled
from experiments.data.order_sentences import order_sentences
from experiments.data.tokens import UNKNOWN
from experiments.harness.labels import Judged, figures_of, label_loss, probabilities
from tests.commands import few_lengths, killed, read_metrics, refusal, runner, untimed
from tests.digits import give

SMALL = ["--hidden-size", "6", "--embedding-size", "4", "--batch-size", "16", "--steps", "6"]
SMALL += ["--evaluate-every", "3"]

run = runner(COMMANDS)
two_lengths = few_lengths(examples, 2)


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
    """F1 by hand: a 2·2/(3+2), b 2·1/(2+2); c, d and the unknown label, which are never right, 0."""
    judged = Judged(np.array([0, 0, 1, 1, 2, UNKNOWN_LABEL]), np.array([0, 0, 1, 0, 3, 1]), np.ones(6))
    found = figures_of(judged, ["a", "b", "c", "d", "e"])
    assert found["accuracy"] == pytest.approx(3 / 6)
    expected = {"a": 4 / 5, "b": 2 / 4, "c": 0.0, "d": 0.0, "?": 0.0}
    assert found["f1"] == pytest.approx(expected)
    assert found["macro_f1"] == pytest.approx(sum(expected.values()) / 5)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained, file, capsys, monkeypatch):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"test_accuracy", "test_macro_f1", "test_f1", "test_accuracy_by_length"} <= set(summary)
    for name in ("confusion_matrix.png", "learning_curve.png", "mistakes.tsv", "words.json"):
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
    right = 0.5 if first == "positive" else 0.0
    assert json.loads((trained / "evaluation.json").read_text())["accuracy"] == right
    other.write_bytes("positive\tcafé\n".encode("latin-1"))
    assert "latin-1 say" in refusal(capsys, run, "evaluate", "--run", trained, "--data", other)
    run("evaluate", "--run", trained, "--data", other, "--encoding", "latin-1")
    assert "1 words are not in the vocabulary" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluation_reads_files_as_training_did(tmp_path, capsys):
    file, out = tmp_path / "cafés.csv", tmp_path / "run"
    rows = [f"{'good' if n % 3 else 'bad'},café {n}" for n in range(40)]
    file.write_bytes("\n".join(["mood,words", *rows]).encode("latin-1"))
    command = ["--model", "bag", "--columns", "mood", "words", "--encoding", "latin-1", *SMALL]
    run("train", "--data", file, "--out", out, *command)
    run("evaluate", "--run", out, "--data", file)
    assert "40 texts: accuracy 0." in capsys.readouterr().out


@pytest.mark.slow
def test_words_with_their_letters(file, tmp_path, capsys, monkeypatch):
    """Two words that training lacks differ by their letters; without those, and in a bag, they are one."""
    for letters, distinct in ((True, 2), (False, 1)):
        config = Train(data=str(file), letters=letters)
        data = load_data(config)
        model = build_model(config, data.tokenizers, data.shares)
        unseen = examples_of(Labelled(["goods", "quux"], ["positive"] * 2), data.classes, data.tokenizers)
        found = probabilities(model, model.init(jax.random.key(0)), unseen)
        assert len(np.unique(found, axis=0)) == distinct
    out = tmp_path / "run"
    run("train", "--data", file, "--out", out, *SMALL, "--letters", "--model", "bag")
    capsys.readouterr()
    give(monkeypatch, "goods\nquux\n")
    run("predict", "--run", out)
    told = capsys.readouterr()
    assert "2 words are not in the vocabulary" in told.err
    assert len(set(told.out.split())) == 1
    command = ["train", "--data", "digits", "--letters", "--out", tmp_path / "none", *SMALL]
    assert "--letters are for text" in refusal(capsys, run, *command)


@pytest.mark.slow
def test_a_comparison_stopped_and_resumed(file, tmp_path, capsys, monkeypatch):
    """SIGTERM in the first model; the vectors are read again, and must be the same."""
    monkeypatch.setattr(training, "KINDS", ("rnn", "majority"))
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("good 1 2 3 4\nbad 4 3 2 1\n")
    command = ["train", "--data", file, "--compare", "--vectors", vectors, *SMALL, "--word-dropout", "0.1"]
    run(*command, "--out", tmp_path / "whole")
    killed(run, 5, *command, "--out", tmp_path / "stopped")
    assert not (tmp_path / "stopped/majority").exists()
    vectors.write_text("good 1 2 3 5\nbad 4 3 2 1\n")
    resume = ["train", "--out", tmp_path / "stopped", "--resume"]
    assert "vectors: the text in" in refusal(capsys, run, *resume)
    vectors.write_text("good 1 2 3 4\nbad 4 3 2 1\n")
    run(*resume)
    told = capsys.readouterr().out
    whole, stopped = (
        json.loads((tmp_path / name / "summary.json").read_text())["models"]
        for name in ("whole", "stopped")
    )
    assert list(whole) == ["rnn", "majority"]
    for kind, figures in whole.items():
        assert untimed(figures) == untimed(stopped[kind])
        assert read_metrics(tmp_path / "whole" / kind) == read_metrics(tmp_path / "stopped" / kind)
    assert {line["step"] for line in read_metrics(tmp_path / "whole/majority")} == {1}  # nothing to learn
    assert (tmp_path / "whole/accuracy_by_length.png").exists()
    assert "accuracy by the steps of the sequence" in told
    message = "holds a comparison; name one of its runs: majority, rnn"
    assert message in refusal(capsys, run, "predict", "--run", tmp_path / "whole")


@pytest.mark.slow
def test_images(tmp_path, capsys):
    out = tmp_path / "run"
    run("train", "--data", "digits", "--out", out, *SMALL, "--model", "window")
    assert json.loads((out / "summary.json").read_text())["test_accuracy_by_length"].keys() == {"1–8"}
    assert refusal(capsys, run, "predict", "--run", out).strip().endswith("reads images, not text")


def test_accuracy_by_length_and_by_word():
    """Lengths 1 to 12, right up to 6; by hand."""
    lengths = np.arange(1, 13)
    texts = ["not so", "is n't", "but knot", "so"] * 3
    examples = Examples([np.zeros(n) for n in lengths], np.ones(12), texts)
    judged = Judged(np.ones(12), (lengths <= 6).astype(int), np.ones(12))
    found = by_length(judged, examples)
    assert list(found) == ["1–3", "4–5", "6–7", "8–9", "10–11", "12–12"]
    assert list(found.values()) == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert with_word(judged, examples, "not") == 4 / 6  # sentences 1, 2, 5, 6, 9 and 10
    assert with_word(judged, examples, "but") == 1 / 3


@pytest.mark.slow
def test_loss_of_labels():
    """Against NumPy: padding is not counted, an unknown label is never right, words are dropped."""
    table = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)

    class Model:
        @staticmethod
        def apply(params, inputs, *, lengths, key):
            return jnp.asarray(params)[inputs]

    inputs = np.array([[4, 5], [6, 7], [8, 0]])
    labels = np.array([[0, 2], [UNKNOWN_LABEL, 1], [1, NO_LABEL]], np.int32)
    batch = Batch(inputs, np.array([3, 2]), labels)
    sums = label_loss(Model)(table, batch, None)
    known = [(t, b) for t, b in np.ndindex(3, 2) if labels[t, b] >= 0]
    nats = sum(np.log(np.exp(table[inputs[at]]).sum()) - table[inputs[at]][labels[at]] for at in known)
    right = sum(table[inputs[at]].argmax() == labels[at] for at in known)
    np.testing.assert_allclose(sums["loss"], (nats, 4), rtol=1e-5)
    np.testing.assert_allclose(sums["accuracy"], (right, 5))
    dropped = label_loss(Model, word_dropout=0.999)(table, batch, jax.random.key(0))["loss"]
    nats = sum(np.log(np.exp(table[UNKNOWN]).sum()) - table[UNKNOWN][labels[at]] for at in known)
    np.testing.assert_allclose(dropped, (nats, 4), rtol=1e-5)
    smoothing = label_loss(Model, label_smoothing=0.3)
    np.testing.assert_allclose(smoothing(table, batch, None)["loss"], sums["loss"], rtol=1e-6)
    targets = {at: 0.7 * np.eye(3)[labels[at]] + 0.1 for at in known}
    nats = sum(np.log(np.exp(table[inputs[at]]).sum()) - table[inputs[at]] @ targets[at] for at in known)
    smoothed = smoothing(table, batch, jax.random.key(0))["loss"]
    np.testing.assert_allclose(smoothed, (nats, 4), rtol=1e-5)


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
@pytest.mark.parametrize("letters", [False, True])
def test_pretrained_vectors(file, tmp_path, capsys, letters):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("good 1 2 3 4\nbad 4 3 2 1\nzebra 0 0 0 0\n")
    out = tmp_path / "run"
    if not letters:
        run("train", "--data", file, "--vectors", vectors, "--out", out, *SMALL, "--steps", "1")
        assert f"{vectors}: 2 of" in capsys.readouterr().out
    config = Train(data=str(file), embedding_size=4, letters=letters)

    def embedding_of(params):
        return params.embedding if letters else params.encoder.embedding

    data = load_data(config)
    model = build_model(config, data.tokenizers, data.shares)
    drawn = embedding_of(model.init(jax.random.key(0)))
    found = embedding_of(pretrained(model, load_vectors(vectors, config, data))(jax.random.key(0)))
    ids = data.tokenizers["words"].get_vocab()
    np.testing.assert_array_equal(found[np.array([ids["good"], ids["bad"]])], [[1, 2, 3, 4], [4, 3, 2, 1]])
    assert (np.asarray(found != drawn).any(axis=1)).sum() == 2
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
        (
            ["--data", file, "--valid", one],
            "no label of the validation part comes in training: it has x (30)",
        ),
        (["--data", "digits", "--test", file], "digits has parts of its own; --test are for text"),
        (["--data", file, "--compare", "--vectors", tmp_path / "none"], "cannot be read"),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *SMALL, *options)
        assert not out.exists()
