"""Translation as users run it: train, translate, score, evaluate, resume, ensembles, and nonsense."""

import io
import json
import os
import random
import shutil
import signal
import sys

import numpy as np
import pytest

from experiments import translation
from experiments.data.batches import TrainingBatches
from experiments.data.pairs import Pairs
from experiments.harness import command_line
from experiments.harness.translating import described, evaluate, measure, score, translate
from tests.test_char_lm import read_metrics

SMALL = ["--hidden-size", "24", "--embedding-size", "8", "--batch-size", "16", "--steps", "120"]
SMALL += ["--evaluate-every", "60", "--dropout", "0.1", "--learning-rate", "1e-2", "--tokens", "word"]
COMMANDS = {
    "train": (translation.Train, translation.train_command),
    "translate": (translation.Translate, translation.translate_command),
    "score": (translation.Score, translation.score_command),
    "evaluate": (translation.Evaluate, translation.evaluate_command),
}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ZIFFERN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


def run(*arguments):
    """The command line, in this process, which already has its devices."""
    command_line.main("", COMMANDS, [str(argument) for argument in arguments], split_cores=False)


def give(monkeypatch, text):
    """A standard input, in the C locale, say."""
    stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)


def pairs_of_digits(count, seed=0):
    draw = random.Random(seed)
    numbers = [[draw.randrange(10) for _ in range(draw.randint(1, 4))] for _ in range(count)]
    return Pairs(
        *([" ".join(words[n] for n in number) for number in numbers] for words in (DIGITS, ZIFFERN))
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, lines in zip(("en", "de"), pairs_of_digits(400), strict=True):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "en", folder / "de"


def trained(files, out, *options):
    run("train", "--data", f"{files[0]},{files[1]}", "--out", out, *SMALL, *options)
    return out


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    return trained(files, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def backward(files, tmp_path_factory):
    """Another model of the same vocabularies, one that reads from the end, without attention."""
    options = ["--reverse", "--no-bidirectional", "--attention", "none", "--cell", "lstm", "--seed", "1"]
    return trained(files, tmp_path_factory.mktemp("run") / "run", *options)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(finished, backward):
    names = {path.name for path in finished.iterdir()}
    expected = {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "learning_curve.png"}
    expected |= {"source_vocabulary.json", "target_vocabulary.json", "translations.txt", "attention.png"}
    assert names == expected | {"test_source.txt", "test_target.txt"}
    assert {path.name for path in backward.iterdir()} == names - {"attention.png"}
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("valid_nats_per_token", "test_bleu", "test_chrf", "test_exact_match", "tokens_per_second"):
        assert summary[name] > 0, name
    assert summary["steps"] == 120
    assert summary["parameters"] > 1000
    assert summary["test_sentences"] == len((finished / "translations.txt").read_text().splitlines())
    losses = [line["valid_nats_per_token"] for line in read_metrics(finished) if "loss" not in line]
    assert losses[1] < losses[0]
    assert summary["valid_nats_per_token"] == min(losses)


@pytest.mark.slow
def test_evaluate_reproduces_the_test_figures(finished, capsys):
    files = ["--source", finished / "test_source.txt", "--target", finished / "test_target.txt"]
    run("evaluate", "--run", finished, *files)
    summary = json.loads((finished / "summary.json").read_text())
    result = json.loads((finished / "evaluation.json").read_text())
    for name in ("bleu", "chrf", "exact_match", "perplexity", "nats_per_token", "sentences", "beam"):
        assert result[name] == summary[f"test_{name}"], name
    assert f"BLEU {result['bleu']:.2f}" in capsys.readouterr().out
    (finished / "evaluation.json").unlink()


@pytest.mark.slow
def test_translate(finished, monkeypatch, capsys, tmp_path):
    expected = (finished / "translations.txt").read_text().splitlines()
    sources = (finished / "test_source.txt").read_text().splitlines()
    capsys.readouterr()
    give(monkeypatch, f"{sources[0]}\n\n  {sources[1]}\u00a0\n")
    run("translate", "--run", finished)
    told = capsys.readouterr()
    assert told.out == f"{expected[0]}\n\n{expected[1]}\n"
    assert "translating 2 sentences" in told.err
    (tmp_path / "source").write_text(sources[0] + "\n")
    picture = tmp_path / "looked.png"
    run(
        "translate", "--run", finished, "--source", tmp_path / "source", "--n-best", 3, "--picture", picture
    )
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][2] == expected[0]
    assert {line[0] for line in lines} == {"1"}
    assert [float(line[1]) for line in lines] == sorted((float(line[1]) for line in lines), reverse=True)
    assert len(lines) == 3
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_score_and_beam_agree(finished, files, tmp_path, capsys):
    """A translation scores what the beam says of it, alone or in a batch; the pairs need not be alike."""
    translator, _ = translation.load_run(finished)
    lines = ["one two", "nine", "three three three three", ""]
    found = [h for (h, *_) in translate(translator, lines, beam=3, length_penalty=0.0)]
    pairs = Pairs(lines, [h.text for h in found])
    nats, tokens = score(translator, pairs)
    np.testing.assert_allclose(nats, [h.score for h in found], rtol=1e-5)
    assert tokens.tolist() == [len(h.pieces) for h in found]
    for hypothesis in found[:-1]:  # the last one's source is empty
        np.testing.assert_allclose(hypothesis.weights.sum(axis=1), 1, rtol=1e-5)
        assert hypothesis.weights.shape == (len(hypothesis.pieces), len(hypothesis.source_pieces))
    for name, side in zip(("s", "t"), pairs, strict=True):
        (tmp_path / name).write_text("\n".join(side) + "\n")
    capsys.readouterr()
    run("score", "--run", finished, "--source", tmp_path / "s", "--target", tmp_path / "t")
    told = capsys.readouterr()
    assert told.out == "".join(f"{value:.4f}\n" for value in nats)
    assert "note: 1 of 4 lines are blank on a side, and scored as such" in told.err


def test_measure():
    figures = measure(["a b c d e", "X"], ["a b c d e", "x"], lowercase=False)
    assert figures["exact_match"] == 0.5
    assert "case:mixed" in figures["bleu_signature"]
    folded = measure(["a b c d e", "X"], ["a b c d e", "x"], lowercase=True)
    assert (folded["exact_match"], round(folded["bleu"])) == (1.0, 100)
    assert "case:lc" in folded["bleu_signature"]
    # Words alone, as German writes a number: all is right, and BLEU is zero.
    words = measure(["zwei", "drei"], ["zwei", "drei"], lowercase=False)
    others = {"sentences": 2, "perplexity": 1.0, "cut_off": 0}
    unknown = {"unknown_source_tokens": 0, "unknown_target_tokens": 0}
    assert (words["exact_match"], words["bleu"]) == (1.0, 0.0)
    assert "BLEU counts four words in a row, and there are none" in described(words | others | unknown)
    assert "four words" not in described(figures | others | unknown)


@pytest.mark.slow
def test_ensemble(finished, backward, files):
    """A model twice is itself, two models are something else; the figures are kept."""
    pairs = Pairs(["one"] * 10, ZIFFERN)
    nats = {}
    for runs in ((finished, finished), (backward, backward), (finished, backward)):
        translator, _ = translation.load_models(translation.Models(ensemble=runs))
        nats[runs] = score(translator, pairs)[0]
    for directory in (finished, backward):
        alone = score(translation.load_run(directory)[0], pairs)[0]
        np.testing.assert_allclose(nats[directory, directory], alone, rtol=1e-5)
        assert not np.allclose(nats[finished, backward], alone, rtol=1e-3)
    figures, found = evaluate(translator, pairs, beam=2, length_penalty=1.0)
    assert figures["sentences"] == 10
    assert found[0].weights.shape[1] == 1  # of the one model that has attention
    run("evaluate", "--ensemble", finished, backward, "--source", files[0], "--target", files[1])
    result = json.loads((finished / "evaluation.json").read_text())
    assert result["runs"] == [str(finished), str(backward)]
    (finished / "evaluation.json").unlink()


@pytest.mark.slow
def test_stopping_and_resuming_changes_nothing(finished, files, tmp_path, monkeypatch):
    out = tmp_path / "run"
    original = TrainingBatches.__call__

    def interrupting(batches, position):
        if position == 71 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batches, position)

    monkeypatch.setattr(TrainingBatches, "__call__", interrupting)
    with pytest.raises(SystemExit) as stopped:
        trained(files, out)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (out / "summary.json").exists()
    trained(files, out, "--resume")
    assert read_metrics(out) == read_metrics(finished)
    figures = [json.loads((path / "summary.json").read_text()) for path in (out, finished)]
    for name in ("valid_nats_per_token", "test_bleu", "test_nats_per_token"):
        assert figures[0][name] == figures[1][name]


@pytest.mark.slow
def test_unknown_words_are_counted(finished, tmp_path, capsys):
    (tmp_path / "s").write_text("one two eleven\n")
    (tmp_path / "t").write_text("eins zwei elf\n")
    capsys.readouterr()
    files = ["--source", tmp_path / "s", "--target", tmp_path / "t"]
    run("translate", "--run", finished, *files[:2])
    assert "note: 1 tokens of the source text are not in the vocabulary" in capsys.readouterr().err
    run("score", "--run", finished, *files)
    assert "note: 1 tokens of the target text are not in the vocabulary" in capsys.readouterr().err
    run("evaluate", "--run", finished, *files)
    assert "2 tokens are not in the vocabularies" in capsys.readouterr().out
    assert json.loads((finished / "evaluation.json").read_text())["unknown_source_tokens"] == 1
    (finished / "evaluation.json").unlink()


@pytest.mark.slow
def test_resuming_with_other_vocabularies_is_refused(finished, files, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.copy(out / "source_vocabulary.json", out / "target_vocabulary.json")
    with pytest.raises(SystemExit) as stopped:
        trained(files, out, "--resume")
    assert stopped.value.code == 2
    assert "are not those that its pairs give now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--layers", "2", "--variational", "--cell", "lstm", "--tokens", "char"],
        ["--tokens", "bpe", "--joint", "--tied", "all", "--scheduled-sampling", "0.5"],
        ["--no-bidirectional", "--attention", "dot", "--no-input-feeding", "--lowercase", "--pairs", "200"],
        ["--attention", "general", "--cell", "elman", "--tied", "output", "--label-smoothing", "0"],
    ],
    ids=lambda options: options[0] + options[1],
)
def test_every_switch(files, tmp_path, options):
    out = trained(files, tmp_path / "run", "--steps", "6", "--evaluate-every", "3", *options)
    summary = json.loads((out / "summary.json").read_text())
    assert np.isfinite(summary["test_nats_per_token"])
    assert summary["test_sentences"] > 10


def test_bad_settings(files, tmp_path, capsys):
    out = tmp_path / "run"
    for options, message in (
        (["--reverse"], "give --no-bidirectional too"),
        (["--attention", "dot"], "give --no-bidirectional, or --attention general"),
        (["--tied", "all"], "give --joint too"),
        (
            ["--tied", "output", "--attention", "none"],
            "a tied output needs a readout of embedding_size (8)",
        ),
        (["--dropout", "1"], "dropout must lie in [0, 1), got 1.0"),
        (["--length-penalty", "11"], "length_penalty must lie in [0, 10], got 11.0"),
        (["--data", "numbers", "--languages", "en-de"], "does not fit the target text of the train pairs"),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--pairs", "0"], "pairs must be a positive integer, got 0"),
        (["--tokens", "char", "--max-length", "2"], "pairs has at most --max-length 2 tokens a side"),
        (["--data", "klingon"], "data 'klingon' is none of numbers, multi30k, tatoeba_en_fr"),
        (["--data", "multi30k", "--languages", "de-xx"], "expected two of de, en, fr"),
    ):
        with pytest.raises(SystemExit) as stopped:
            trained(files, out, *options)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.slow
def test_bad_text(finished, backward, tmp_path, monkeypatch, capsys):
    before = sorted(path.name for path in finished.iterdir())
    texts = {"empty": "", "blank": "\n \n", "russian": "это не то\n", "one": "one\n", "two": "zwei\neins\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = {name: tmp_path / name for name in [*texts, "none"]}
    give(monkeypatch, "")
    for arguments, message in (
        (["translate", "--run", finished], "standard input is empty"),
        (["translate", "--run", finished, "--source", path["blank"]], "there is nothing to translate"),
        (["translate", "--run", finished, "--source", path["empty"]], "empty is empty"),
        (
            ["translate", "--run", finished, "--source", path["russian"]],
            "does not fit the source text: it lacks",
        ),
        (["translate", "--run", tmp_path], "holds no run: there is no config.json"),
        (["translate"], "give either --run DIR or --ensemble DIR DIR"),
        (
            ["translate", "--run", finished, "--n-best", 6],
            "--n-best must lie between 1 and --beam 5, got 6",
        ),
        (["translate", "--run", finished, "--beam", 0], "beam"),
        (
            ["translate", "--run", finished, "--source", path["one"], "--picture", path["none"] / "x.png"],
            "--picture: there is no folder",
        ),
        (
            ["translate", "--run", backward, "--source", path["one"], "--picture", path["none"]],
            "no attention",
        ),
        (["score", "--run", finished, "--source", path["one"], "--target", path["two"]], "has 1, "),
        (
            ["evaluate", "--run", finished, "--source", path["one"], "--target", path["russian"]],
            "target text",
        ),
        (
            ["evaluate", "--run", finished, "--source", path["one"], "--target", path["none"]],
            "cannot be read",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in finished.iterdir()) == before
    assert not path["none"].exists()
