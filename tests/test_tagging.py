"""Tagging: the model of words against its parts, and the script as users run it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import examples, scenes
from experiments.data.examples import Examples, numbers_of
from experiments.data.tokens import UNKNOWN
from experiments.data.words import MOST_LETTERS, Words, drop_words
from experiments.harness.labels import Judged, in_context
from experiments.tagging import data as sequences
from experiments.tagging.__main__ import COMMANDS
from experiments.tagging.data import load_data
from experiments.tagging.model import ModelSettings, build_model
from experiments.tagging.training import Train, span_f1
from tests.commands import few_lengths, refusal, runner
from tests.digits import give

SMALL = ["--hidden-size", "6", "--embedding-size", "4", "--letter-size", "3", "--spelling-size", "4"]
SMALL += ["--batch-size", "8", "--steps", "6", "--evaluate-every", "3"]
COLOURS, THINGS = ["red", "green", "blue"], ["cars", "trees", "Houses", "x" * 30]

one_length = few_lengths(examples, 1)


@pytest.fixture
def run(monkeypatch):
    sources = {f"{n}.py": f"def f_{n}(x):\n    return 'text {n}' + x  # {n}\n" * 8 for n in range(30)}
    monkeypatch.setattr(sequences, "library_files", lambda: sources | {"broken.py": "("})
    monkeypatch.setattr(sequences, "SCENES", {"train": 40, "valid": 10, "test": 10})
    return runner(COMMANDS)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Sentences of a colour and a thing, in two columns."""
    path = tmp_path_factory.mktemp("text") / "tags.txt"
    sentences = [f"{c}\tB-C\n{t}{n}\tI-C\nis\tO\n" for n in range(10) for c in COLOURS for t in THINGS]
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


@pytest.mark.slow
def test_words_are_read_with_their_letters():
    """In NumPy's order of things: each word alone, then its sentence alone."""
    config = ModelSettings(hidden_size=5, embedding_size=4, letter_size=3, spelling_size=4, dropout=0.0)
    model = build_model(config, 3, {"letters": 9, "words": 7}, 0)
    params = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    ids, lengths = random.integers(1, 7, (4, 2)), np.array([4, 2])
    spelled = random.integers(1, 5, (4, 2))
    letters = np.where(
        np.arange(MOST_LETTERS) < spelled[..., None], random.integers(1, 9, (4, 2, MOST_LETTERS)), 0
    )
    logits = model.apply(params, Words(ids, letters), lengths=lengths)
    for lane, length in enumerate(lengths):
        vectors = []
        for t in range(length):
            word = letters[t, lane, : spelled[t, lane]]
            spelling = model.spelling.apply(params.spelling, jnp.asarray(word))
            vectors.append(jnp.concatenate([params.embedding[ids[t, lane]], spelling]))
        alone = model.reader.apply(params.reader, jnp.stack(vectors))
        np.testing.assert_allclose(logits[:length, lane], alone, rtol=1e-5, atol=1e-6)
    noisy = drop_words(jax.random.key(1), Words(ids, letters), 1.0)
    assert (np.asarray(noisy.ids) == UNKNOWN).all()
    np.testing.assert_array_equal(noisy.letters, letters)


def test_f1_of_spans():
    """By hand: 4 true spans, 3 predicted, 1 the same; a tag that training lacks is a span missed."""
    classes = ("B-P", "I-P", "O")
    sentences = [("B-P I-P O B-P", "B-P I-P O O"), ("B-P O", "B-P I-P"), ("O O X", "O B-P O")]
    true, predicted = (
        np.concatenate([numbers_of(pair[n].split(), classes) for pair in sentences]) for n in (0, 1)
    )
    examples = Examples([np.zeros(len(pair[0].split())) for pair in sentences], [], [])
    assert span_f1(Judged(true, predicted, np.ones(9)), examples, classes) == pytest.approx(2 / 7)


def test_mistakes_are_shown_where_they_are():
    examples = Examples([np.zeros(3), np.zeros(4)], [], [["a", "b", "c"], "wxyz"])
    text = in_context(examples, around=2)
    assert [text(n) for n in (0, 2, 3, 6)] == ["⟦a⟧ b c", "a b ⟦c⟧", "⟦w⟧xy", "xy⟦z⟧"]


@pytest.mark.slow
def test_words(run, file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run("train", "--data", file, "--out", out, *SMALL)
    summary = json.loads((out / "summary.json").read_text())
    assert {"test_accuracy", "test_macro_f1", "test_span_f1", "test_unseen_accuracy"} <= set(summary)
    train, *_, test = (load_data(Train(data=str(file))))[:3]
    seen = {word.lower() for words in train.texts for word in words}
    assert (
        summary["test_unseen_words"]
        == sum(w.lower() not in seen for words in test.texts for w in words)
        > 0
    )
    capsys.readouterr()
    give(monkeypatch, "red cars  fly\n\nnever\n")
    run("tag", "--run", out)
    lines = capsys.readouterr().out.split("\n")
    assert [line.split("\t")[0] for line in lines] == ["red", "cars", "fly", "", "", "never", "", ""]
    assert {line.split("\t")[1] for line in lines if line} <= {"B-C", "I-C", "O"}
    other = tmp_path / "other.txt"
    other.write_text("red B-C\nsky O\nis VERB\n")
    run("evaluate", "--run", out, "--data", other)
    told = capsys.readouterr()
    assert "VERB (1)" in told.err
    assert "3 words: accuracy" in told.out
    assert (out / "evaluation_confusion_matrix.png").exists()


@pytest.mark.slow
def test_characters_compared(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "study"
    run("train", "--compare", "--out", out, *SMALL)
    summary = json.loads((out / "summary.json").read_text())
    sizes = [of["parameters"] for of in summary["models"].values()]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[1]
    assert (out / "f1_by_class.png").exists()
    capsys.readouterr()
    give(monkeypatch, "if x:\n\ty = '\\n'\n")
    run("tag", "--run", out / "forward")
    lines = capsys.readouterr().out.splitlines()
    found = "".join(line.split("\t")[0] for line in lines)
    assert found == "if x:\\n\\ty = '\\\\n'\\n"
    other = tmp_path / "other.py"
    other.write_text("x = (\n")
    assert "is not Python source" in refusal(
        capsys, run, "evaluate", "--run", out / "forward", "--data", other
    )
    other.write_text("x = 1\n")
    run("evaluate", "--run", out / "forward", "--data", other)
    assert "6 characters: accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_frames(run, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", "--data", "scenes", "--out", out, *SMALL)
    assert (out / "mistakes.tsv").read_text().count("\n") > 1
    assert set(json.loads((out / "classes.json").read_text())) == set(scenes.EVENTS)
    assert "reads frames of scenes, and no text" in refusal(capsys, run, "tag", "--run", out)


@pytest.mark.slow
def test_bad_input(run, file, tmp_path, capsys):
    out = tmp_path / "run"
    one = tmp_path / "one.txt"
    one.write_text("\n\n".join(f"word{n} X" for n in range(30)))
    for options, message in (
        (["--data", one], "has one tag only, 'X'; there is nothing to learn"),
        (["--data", "klingon"], "is neither a file nor one of python, scenes, gesture_phase, ud_en_ewt"),
        (["--test", file], "python has parts of its own; --test are for words"),
        (["--data", file, "--word-dropout", "1"], "word_dropout must lie in [0, 1), got 1.0"),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *SMALL, *options)
        assert not out.exists()
