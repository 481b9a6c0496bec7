"""Translation runs: settings, held-out files of one's own, and what a continued run may change."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.translation import training
from tests.commands import read_metrics, refusal
from tests.digits import run, trained, written

FEW = ["--steps", "6", "--evaluate-every", "3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return written(tmp_path_factory.mktemp("text"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--layers 2 --variational --cell lstm --tokens bpe --joint --tied all --scheduled-sampling 0.5 "
        "--attention general --label-smoothing 0",
        "--no-bidirectional --attention dot --no-input-feeding --cell elman --tokens char --tied output "
        "--lowercase --pairs 200",
    ],
    ids=["general", "dot"],
)
def test_every_switch(files, tmp_path, options):
    out = trained(files, tmp_path / "run", "--steps", "2", "--evaluate-every", "1", *options.split())
    summary = json.loads((out / "summary.json").read_text())
    assert np.isfinite(summary["test_nats_per_token"])
    assert summary["test_sentences"] > 10


@pytest.mark.slow
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
        (
            ["--data", "numbers", "--languages", "en-de"],
            "does not fit the target text of the training pairs",
        ),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--pairs", "0"], "pairs must be a positive integer, got 0"),
        (["--tokens", "char", "--max-length", "2"], "pairs has at most --max-length 2 tokens a side"),
        (["--data", "klingon"], "data 'klingon' is none of numbers, multi30k, tatoeba_en_fr"),
        (["--data", "multi30k", "--languages", "de-xx"], "expected two of de, en, fr"),
    ):
        assert message in refusal(capsys, trained, files, out, *options)
        assert not out.exists()


@pytest.mark.slow
def test_own_files_with_one_pair_each(files, tmp_path, capsys):
    """Of words that training does not know, of a length that it does not have."""
    words = " ".join(["one"] * 250)
    for name, text in {"v": f"{words}\t{words}\n", "t": "это\tне то\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    own = ["--valid", tmp_path / "v", "--test", tmp_path / "t"]
    out = trained(files, tmp_path / "run", *FEW, *own)
    assert (out / "test_source.txt").read_text(encoding="utf-8") == "это\n"
    told = capsys.readouterr().out
    assert "400 pairs" in told
    assert "the vocabulary does not fit the source text of the test pairs: it lacks 1 of 1 tokens" in told
    summary = json.loads((out / "summary.json").read_text())
    assert summary["test_sentences"] == 1
    assert summary["test_unknown_source_tokens"] == 1
    assert np.isfinite(summary["valid_nats_per_token"])


@pytest.mark.slow
def test_data_that_moved_and_more_steps(files, tmp_path, capsys):
    """A run goes on where its text lies now; a text that has changed is called changed."""
    (tmp_path / "old").mkdir()
    for name, seed in (("v", 1), ("t", 2)):
        written(tmp_path / "old", 30, seed)
        for side in ("en", "de"):
            (tmp_path / "old" / side).rename(tmp_path / f"{name}.{side}")
    here = {f"--{name}": f"{tmp_path / name[0]}.en,{tmp_path / name[0]}.de" for name in ("valid", "test")}
    own = [word for pair in here.items() for word in pair]
    out = trained(files, tmp_path / "run", *FEW, *own)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (*files, *tmp_path.glob("[vt].*")):
        shutil.copy(path, moved)
    there = [word.replace(f"{tmp_path}/", f"{moved}/") for word in own]
    data = ["--data", f"{moved / 'en'},{moved / 'de'}"]
    resume = ["train", "--out", out, "--resume", *data, *there]
    run(*resume, "--steps", "9")
    assert [line["step"] for line in read_metrics(out) if "loss" not in line] == [3, 6, 9]
    assert json.loads((out / "summary.json").read_text())["steps"] == 9
    assert json.loads((out / "config.json").read_text())["data"] == data[1]
    for changed, message in (
        ("t.en", f"test: the text in {there[3]} is not the one the run in {out} began with"),
        ("v.de", f"valid: the text in {there[1]} is not the one"),
        ("en", "pairs: "),
    ):
        whole = (moved / changed).read_text()
        (moved / changed).write_text(whole.replace("one", "two").replace("eins", "zwei"))
        capsys.readouterr()
        assert message in refusal(capsys, run, *resume, "--steps", "12")
        (moved / changed).write_text(whole)


@pytest.mark.slow
def test_a_report_that_fails_takes_nothing_with_it(files, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        for module in ("harness.plots", "translation.pictures"):
            patch.setattr(f"experiments.{module}.save", refuse)
        out = trained(files, tmp_path / "run", *FEW)
    told = capsys.readouterr()
    assert "BLEU" in told.out
    assert (
        told.err == "warning: learning_curve.png failed: no room\nwarning: attention.png failed: no room\n"
    )
    assert json.loads((out / "summary.json").read_text())["steps"] == 6
    (out / "summary.json").unlink()
    monkeypatch.setattr(training, "evaluate", refuse)
    run("train", "--out", out, "--resume")
    assert "warning: the translation of the test pairs failed: no room" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["valid_nats_per_token"] > 0
    assert "test_bleu" not in summary
    assert (out / "learning_curve.png").is_file()
    plt.close("all")  # those that could not be saved


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(f"sentence {n}", "yes") for n in range(40)], "no training pair is left of 40"),
        ([("a", "b")] * 30, "at least 20 different sentences are needed, got 1; give --valid"),
    ],
    ids=["targets alike", "too few"],
)
def test_a_split_that_cannot_be_is_found_before_training(tmp_path, capsys, pairs, message):
    (tmp_path / "data").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    assert message in refusal(capsys, run, "train", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
