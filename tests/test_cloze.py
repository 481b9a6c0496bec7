"""Cloze: what the model may and may not read, and the script as users run it."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.cloze import data as sentences
from experiments.cloze.__main__ import COMMANDS
from experiments.cloze.data import examples_of
from experiments.cloze.model import BlankModel
from experiments.cloze.training import Train, build_model, load_run, read
from experiments.data import examples
from experiments.data.batches import pad
from experiments.data.tokens import END, START
from experiments.harness.fit import parameters
from jaxrnn import GRU
from jaxrnn.models.encoder import Encoder
from tests.commands import few_lengths, refusal, runner
from tests.digits import give

SMALL = ["--hidden-size", "6", "--embedding-size", "4", "--batch-size", "8", "--steps", "6"]
SMALL += ["--evaluate-every", "3", "--min-count", "1"]
DIRECTIONS = ["forward", "reversed", "bidirectional"]
ONE_QUICK = [*(pytest.param(way, marks=pytest.mark.slow) for way in DIRECTIONS[:-1]), DIRECTIONS[-1]]

run = runner(COMMANDS)
one_length = few_lengths(examples, 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [
        f"The {a} {b} has number {n}."
        for n in range(4)
        for a in ("old", "new")
        for b in ("cat", "dog", "car")
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def model_of(direction, **changes):
    options = {"hidden_size": 7, "embedding_size": 5, "layers": 2, "dropout": 0.0} | changes
    model = build_model(Train(direction=direction, **options), 11)
    params = model.init(jax.random.key(0))
    return model, jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), params
    )


@pytest.mark.slow
@pytest.mark.parametrize("direction", ONE_QUICK)
def test_a_word_does_not_tell_itself(direction):
    """Which words change the logits of a step: those on its left, on its right, or both, never its own."""
    model, params = model_of(direction)
    ids, lengths = np.random.default_rng(0).integers(4, 11, (7, 2)), np.array([7, 5])
    logits = np.asarray(model.apply(params, ids, lengths=lengths))
    for changed in range(7):
        other = ids.copy()
        other[changed] = 4 + (other[changed] - 3) % 7
        moved = np.abs(np.asarray(model.apply(params, other, lengths=lengths)) - logits).max(axis=-1) > 0
        for lane, length in enumerate(lengths):
            for t in range(length):
                left, right = changed < t, t < changed < length
                reads = {"forward": left, "reversed": right, "bidirectional": left or right}[direction]
                assert moved[t, lane] == reads


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_logits_are_those_of_the_context_alone(direction):
    """The state next to a step is that of a sequence which ends, or begins, there."""
    model, params = model_of(direction, layers=1)
    ids = np.random.default_rng(0).integers(4, 11, (6, 1))
    logits = np.asarray(model.apply(params, ids, lengths=np.array([6])))
    for t in range(6):
        around = []
        _, ys = model.encoder.apply(params.encoder, ids[:t])
        half = ys.shape[-1] // 2 if direction == "bidirectional" else ys.shape[-1]
        if direction != "reversed":
            around.append(np.asarray(ys[-1, 0, :half]) if t else np.zeros(half))
        _, ys = model.encoder.apply(params.encoder, ids[t + 1 :])
        if direction != "forward":
            around.append(np.asarray(ys[0, 0, -half:]) if t < 5 else np.zeros(half))
        expected = np.concatenate(around) @ params.w @ params.encoder.embedding.T + params.b
        np.testing.assert_allclose(logits[t, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_all_three_have_as_many_parameters():
    counts = [parameters(model_of(direction, hidden_size=40, layers=2)[1]) for direction in DIRECTIONS]
    assert max(counts) < 1.02 * min(counts)
    with pytest.raises(ValueError, match="an encoder of one layer with an embedding"):
        BlankModel(Encoder([GRU(4)], in_features=3))


@pytest.mark.slow
def test_comparison_filling_and_evaluation(file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "study"
    run("train", "--data", file, "--compare", "--out", out, *SMALL)
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["models"]) == ["left", "right", "both"]
    assert "both sides save" in capsys.readouterr().out
    for name in ("bits_by_position.png", "both/mistakes.tsv", "both/filled.txt", "both/learning_curve.png"):
        assert (out / name).stat().st_size > 0
    assert (out / "both/filled.txt").read_text().startswith("This is a ___ which can fly with 12 people.")
    give(monkeypatch, "The ___ cat has number 1.\n\n___ zebra\n")
    run("fill", "--run", out / "both", "--best", "3")
    first, blank, last, _ = capsys.readouterr().out.split("\n")
    assert blank == ""
    for line in (first, last):
        found = line.split("\t")
        assert len(found) == 6
        values = [float(value) for value in found[1::2]]
        assert values == sorted(values, reverse=True)
        assert not any(word.startswith("<") for word in found[::2])
    give(monkeypatch, "The ___ cat has number 1.\n")
    run("fill", "--run", out / "both", "--best", "100")
    assert sum(map(float, capsys.readouterr().out.strip().split("\t")[1::2])) == pytest.approx(1, abs=2e-3)
    run("evaluate", "--run", out / "both", "--data", file)
    evaluation = json.loads((out / "both/evaluation.json").read_text())
    model, params, words = load_run(out / "both")
    tokens = [line.lower().replace(".", " .").split() for line in file.read_text().splitlines()]
    ids = [[START, *(words.token_to_id(token) or 3 for token in line), END] for line in tokens]
    lengths = np.array(list(map(len, ids)))
    logits = jax.nn.log_softmax(model.apply(params, pad(ids, max(lengths), len(ids)), lengths=lengths))
    nats = [
        -float(logits[t, lane, line[t]])
        for lane, line in enumerate(ids)
        for t in range(1, len(line) - 1)
        if line[t] != 3
    ]
    assert evaluation["words"] == len(nats)
    assert evaluation["bits_per_word"] == pytest.approx(np.mean(nats) / math.log(2), rel=1e-5)


@pytest.mark.slow
def test_unknown_words_are_read_but_not_predicted():
    words = sentences.train_words(["a", "b", "a", "b"], min_count=1, lowercase=True)
    model = build_model(Train(hidden_size=4, embedding_size=3), words.get_vocab_size())
    params = model.init(jax.random.key(0))
    told = []
    text = [["a", "zebra", "b"], ["two", "gnus"], ["b", "a"]]
    found = read(model, params, examples_of(text, words, "a text", told.append))
    assert told == ["a text: left out 1 sentences without a known word"]
    assert (found.unknown, found.positions.tolist(), found.places.tolist()) == (
        1,
        [1, 3, 1, 2],
        [1, 3, 6, 7],
    )


@pytest.mark.slow
def test_bad_input(file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    short = tmp_path / "short.txt"
    short.write_text("No.\n\nYes.\n")
    for options, message in (
        (["--data", short, "--max-words", "1"], "has no sentence of 2 to --max-words 1 words"),
        (["--data", file, "--min-count", "1000"], "comes --min-count 1000 times in training"),
        (["--data", "klingon"], "data 'klingon' is neither a file nor one of docstrings, tatoeba"),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *SMALL, *options)
        assert not out.exists()
    run("train", "--data", file, "--out", out, *SMALL, "--steps", "1")
    for line, message in (
        ("The cat\n", "line 1: expected one blank, ___, got 0: 'The cat'"),
        ("The ___\n___ and ___\n", "line 2: expected one blank, ___, got 2"),
        ("\n___\n", "line 2: expected words beside the blank, got none"),
    ):
        give(monkeypatch, line)
        assert message in refusal(capsys, run, "fill", "--run", out)
