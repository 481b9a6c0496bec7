"""Translation as users run it: train, translate, score, evaluate, resume, ensembles, and nonsense."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest

from experiments.data.batches import TrainingBatches
from experiments.data.pairs import Pairs
from experiments.translation import batches, data
from experiments.translation.commands import Models, load_models
from experiments.translation.training import load_run
from experiments.translation.translating import described, evaluate, measure, score, translate
from tests.commands import few_lengths, read_metrics, refusal
from tests.digits import DIGITS, ZIFFERN, give, pairs_of_digits, run, trained, written

one_length = few_lengths(data, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return written(tmp_path_factory.mktemp("text"))


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
    losses = [line["valid_loss"] for line in read_metrics(finished) if "loss" not in line]
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
    translator, _ = load_run(finished)
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
        translator, _ = load_models(Models(ensemble=runs))
        nats[runs] = score(translator, pairs)[0]
    for directory in (finished, backward):
        alone = score(load_run(directory)[0], pairs)[0]
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

    def interrupting(batches, position, *lanes):
        if position == 71 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batches, position, *lanes)

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
@pytest.mark.parametrize(
    ("source", "target", "of_source", "of_target"),
    [
        ("one two eleven", "eins zwei elf", "1 tokens of the source text are not in the vocabulary\n", "1"),
        (
            "это не то",
            "не то",
            "3 tokens of the source text are not in the vocabulary, most of 3; first",
            "2",
        ),
    ],
    ids=["some", "all"],
)
def test_unknown_words_are_counted(finished, tmp_path, capsys, source, target, of_source, of_target):
    """They give a line and a note, however many they are."""
    (tmp_path / "s").write_text(f"{source}\n", encoding="utf-8")
    (tmp_path / "t").write_text(f"{target}\n", encoding="utf-8")
    files = ["--source", tmp_path / "s", "--target", tmp_path / "t"]
    capsys.readouterr()
    run("translate", "--run", finished, *files[:2])
    told = capsys.readouterr()
    assert told.out.count("\n") == 1
    assert f"note: {of_source}" in told.err
    run("score", "--run", finished, *files)
    told = capsys.readouterr()
    assert float(told.out) < 0
    assert f"note: {of_target} tokens of the target text are not in the vocabulary" in told.err
    run("evaluate", "--run", finished, *files)
    unknown = int(of_source[0]) + int(of_target)
    assert f"{unknown} tokens are not in the vocabularies" in capsys.readouterr().out
    assert json.loads((finished / "evaluation.json").read_text())["unknown_source_tokens"] == int(
        of_source[0]
    )
    (finished / "evaluation.json").unlink()


@pytest.mark.slow
def test_blank_lines_stay_blank(finished, tmp_path, monkeypatch, capsys):
    """Whatever else there is; nothing is left to draw then, and that is said."""
    give(monkeypatch, "\n \u00a0\n")
    run("translate", "--run", finished, "--n-best", 2, "--picture", tmp_path / "x.png")
    told = capsys.readouterr()
    assert told.out == "\n\n"
    assert "x.png failed: there is no sentence whose attention could be drawn" in told.err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_long_line_changes_no_other(finished, monkeypatch, capsys):
    """It is translated by itself, and the rest as ever: the same words, the scores within rounding."""
    translator, _ = load_run(finished)
    pairs = pairs_of_digits(40, seed=7)
    long = " ".join(DIGITS * 20)
    options = {"beam": 3, "length_penalty": 1.0}
    usual = translate(translator, pairs.source, **options)
    usual_nats, _ = score(translator, pairs)
    shapes = []
    collate = batches.collate

    def spy(group, bucket, lanes):
        shapes.append((bucket[0], lanes))
        return collate(group, bucket, lanes)

    monkeypatch.setattr(batches, "collate", spy)
    beside = translate(translator, [*pairs.source, long], **options)
    kept = [h.weights is not None for hypotheses in beside for h in hypotheses]
    assert sum(kept) == 4  # what a picture shows: attention of all would fill the memory
    nats, _ = score(translator, Pairs([*pairs.source, long], [*pairs.target, long]))
    assert shapes == [(16, 64), (208, 32), (16, 64), (208, 64)]
    assert [h.text for (h, *_) in beside[:-1]] == [h.text for (h, *_) in usual]
    np.testing.assert_allclose(nats[:-1], usual_nats, rtol=1e-5)
    (alone, *_), (last, *_) = translate(translator, [long], **options)[0], beside[-1]
    assert alone.text == last.text
    np.testing.assert_allclose(alone.score, last.score, rtol=1e-5)


@pytest.mark.slow
def test_evaluate_where_nothing_can_be_written(finished, files, monkeypatch, capsys):
    def refuse(path, text):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("experiments.harness.run.write_text", refuse)
    run("evaluate", "--run", finished, "--source", files[0], "--target", files[1])
    told = capsys.readouterr()
    assert "400 sentences: exact match" in told.out
    assert "evaluation.json failed" in told.err
    assert "Read-only file system" in told.err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_a_picture_of_three_sentences(finished, tmp_path, monkeypatch, suffix):
    give(monkeypatch, "one\ntwo two\nthree\n")
    run("translate", "--run", finished, "--picture", tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes()[:4] in (b"%PDF", b"<?xm")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_other_vocabularies_are_refused(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.copy(out / "source_vocabulary.json", out / "target_vocabulary.json")
    for arguments in (["train", "--out", out, "--resume"], ["translate", "--run", out]):
        message = f"error: the vocabularies in {out} are not those that its model was trained with\n"
        assert refusal(capsys, run, *arguments) == message


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
        (["translate", "--run", finished, "--source", path["empty"]], "empty is empty"),
        (["translate", "--run", tmp_path], "holds no run: there is no config.json"),
        (["translate"], "give either --run DIR or --ensemble DIR DIR"),
        (
            ["translate", "--run", finished, "--n-best", 6],
            "--n-best must lie between 1 and --beam 5, got 6",
        ),
        (["translate", "--run", finished, "--beam", 0], "beam"),
        (
            ["translate", "--run", finished, "--source", path["one"], "--picture", path["none"] / "x.png"],
            "there is no folder",
        ),
        (
            ["translate", "--run", backward, "--source", path["one"], "--picture", path["none"]],
            "no attention",
        ),
        (["score", "--run", finished, "--source", path["one"], "--target", path["two"]], "has 1, "),
        (
            ["translate", "--run", finished, "--source", path["one"], "--picture", path["none"] / "x.gif"],
            "a picture's name must end in one of .png, .pdf, .svg",
        ),
        (
            ["evaluate", "--run", finished, "--source", path["one"], "--target", path["none"]],
            "cannot be read",
        ),
    ):
        assert message in refusal(capsys, run, *arguments)
    assert sorted(path.name for path in finished.iterdir()) == before
    assert not path["none"].exists()
