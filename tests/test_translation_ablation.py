"""The ablation as users run it, on digits: the comparison, and that nothing is done twice."""

import json
import os
import threading
from pathlib import Path

import jax
import pytest

from experiments.translation import ablation
from experiments.translation.ablation import COMMANDS, LENGTHS, ROAD, spread
from experiments.translation.model import build_model
from experiments.translation.training import Train, check_settings
from tests.commands import refusal, runner
from tests.digits import pairs_of_digits

SMALL = ["--steps", "40", "--pairs", "200", "--hidden-size", "16", "--embedding-size", "8", "--seeds", "3"]


run = runner(COMMANDS)


@pytest.fixture
def files(tmp_path):
    for name, lines in zip(("en", "de"), pairs_of_digits(300), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{tmp_path / 'en'},{tmp_path / 'de'}"


def test_every_model_of_the_road_can_be_built():
    """No two are alike, and each has more parameters than the one before, but for the order of reading."""
    models, counts = set(), {}
    for name, switches in ROAD.items():
        settings = Train(hidden_size=4, embedding_size=4, **switches)
        check_settings(settings)
        model = build_model(settings, (5, 5))
        models.add(model)
        params = jax.eval_shape(model.init, jax.random.key(0))
        counts[name] = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert list(counts.values()) == sorted(counts.values())
    assert counts["plain"] == counts["reversed"]
    assert len(set(counts.values())) == len(ROAD) - 1
    assert len(models) == len(ROAD)


@pytest.mark.slow
def test_the_whole_study(files, tmp_path, monkeypatch, capsys):
    """Killed after a run it goes on with the next, and the figures are those of its runs."""
    out, trained = tmp_path / "study", []
    road = {name: ROAD[name] for name in ("plain", "bidirectional")}  # two of five, for time
    monkeypatch.setattr(ablation, "ROAD", road)
    monkeypatch.setattr(ablation, "BEAMS", (1, 3))
    original = ablation.train_command

    def counted(config, whole):
        if len(trained) == 1 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            raise SystemExit(143)
        trained.append(config.out.name)
        original(config, whole)

    monkeypatch.setattr(ablation, "train_command", counted)
    with pytest.raises(SystemExit):
        run("--data", files, "--out", out, *SMALL)
    assert not (out / "summary.json").exists()
    more_steps_from_pipes(files, out, tmp_path, capsys)
    run("--data", files, "--out", out, *SMALL, "--resume", "--steps", "42")
    names = [name.replace(" ", "_") for name in road]
    assert trained == [f"{name}_3" for name in (names[0], *names)]
    summary = json.loads((out / "summary.json").read_text())
    table = capsys.readouterr().out.split("perplexity")[-1]
    for name in road:
        own = json.loads((out / f"{name.replace(' ', '_')}_3" / "summary.json").read_text())
        final = own["test_bleu"]
        assert own["steps"] == 42
        assert summary["median_least_largest"][name]["test_bleu"] == [final] * 3
        assert f"{final:.2f} ({final:.2f}–{final:.2f})" in table
        for of in summary["runs"][name]:
            assert len(of["bleu_by_length"]) == len(LENGTHS) - 1
            assert of["bleu_by_length"][0] is not None
            assert of["bleu_by_length"][-1] is None  # no digits are as long
    assert sum(summary["sentences_by_length"]) == len(
        (out / "plain_3/test_source.txt").read_text().splitlines()
    )
    assert len(summary["runs"]["bidirectional"][0]["bleu_by_beam"]) == 2
    assert summary["runs"]["plain"][0]["parameters"] < summary["runs"]["bidirectional"][0]["parameters"]
    for name in ("bleu_by_length.png", "bleu_by_beam.png"):
        assert (out / name).stat().st_size > 10_000


def more_steps_from_pipes(files, out, tmp_path, capsys):
    """On the same pairs; with a plot that cannot be drawn."""
    pipes = [tmp_path / "pipe_en", tmp_path / "pipe_de"]
    for pipe, file in zip(pipes, files.split(","), strict=True):
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(Path(file).read_bytes(),), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "draw_by_length", lambda *args: {}["no font"])
        run("--data", ",".join(map(str, pipes)), "--out", out, *SMALL, "--resume", "--steps", "42")
    assert "warning: bleu_by_length.png failed: 'no font'" in capsys.readouterr().err
    assert (out / "bleu_by_beam.png").exists()
    assert json.loads((out / "summary.json").read_text())["settings"]["steps"] == 42


def test_spread():
    assert spread([{"a": 1.0, "b": [5]}, {"a": 4.0, "b": [5]}, {"a": 2.0, "b": [5]}]) == {
        "a": [2.0, 1.0, 4.0]
    }


def test_bad_settings(files, tmp_path, capsys):
    for options, message in (
        (["--seeds", "1", "1"], "seeds must be one or more, each once, got (1, 1)"),
        (["--seeds", "-1"], "seeds must be 0 or more and below 2**32, got -1"),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--data", "none"], "data 'none' is none of numbers"),
    ):
        assert message in refusal(capsys, run, "--data", files, "--out", tmp_path / "study", *options)
        assert not (tmp_path / "study").exists()
