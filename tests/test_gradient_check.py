"""The gradient study as users run it: its files, its verdict, resumed, and given nonsense."""

import dataclasses
import json
import math
import re

import jax
import pytest

import jaxrnn
from experiments.gradient_check import agreement as agreements
from experiments.gradient_check import mutations, plots, report, study
from experiments.gradient_check.agreement import METHODS, agreement
from experiments.gradient_check.precision import STEPS
from tests.commands import refusal, runner
from tests.conftest import COMPILES_FAST

run = runner({"study": (study.Config, study.study_command)})


@pytest.mark.slow
def test_a_study_of_one_cell(tmp_path, monkeypatch, capsys):
    # For time: few mistakes, none in the masked step; processes that compile as fast as tests do.
    monkeypatch.setattr(study, "SUBJECTS", ["Elman"])
    planned = study.plan
    few = {"mutations Elman": (study.mistakes, ("Elman", 50), {})}
    monkeypatch.setattr(study, "plan", lambda config: planned(config) | few)
    for name, value in COMPILES_FAST.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "study"
    arguments = ("--quick", "--cells", "Elman tanh", "--out", out)
    run(*arguments)
    summary = json.loads((out / "summary.json").read_text())
    errors = summary["max_relative_error"]["elman"]
    assert set(errors) == set(METHODS)
    assert max(error for method, error in errors.items() if method != "finite_difference") < 1e-12
    assert summary["mutations_seeded"] == summary["mutations_found"] + summary["mutations_equivalent"] > 2
    for name in ("agreement", "error_growth", "step_size", "mutations"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert "autodiff" in (out / "reports.txt").read_text()

    parts = sorted((out / "parts").iterdir())
    written = [part.stat().st_mtime_ns for part in parts]
    capsys.readouterr()
    run(*arguments, "--resume")  # nothing is done twice
    assert [part.stat().st_mtime_ns for part in parts] == written
    assert "0 parts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cell_with_noise_agrees(float64, as_users_run):
    found = agreement("variational-dropout", 0, quick=True)
    assert [option["agrees"] for option in found["options"].values()] == [True, True]


@dataclasses.dataclass(frozen=True)
class Wrong(jaxrnn.MGU):
    """A tenth too much gradient reaches the step before."""

    def step_bwd(self, params, carry_before, residuals, d_carry, d_y):
        d_before, delta = super().step_bwd(params, carry_before, residuals, d_carry, d_y)
        return jax.tree.map(lambda d: 1.1 * d, d_before), delta


@pytest.mark.slow
def test_a_wrong_derivative_shows_under_every_option(float64, as_users_run, monkeypatch):
    monkeypatch.setattr(agreements, "study_cell", lambda name: Wrong(3))
    found = agreement("mgu", 0, quick=False)
    names = "plain, ragged, resets, saturated, remat, reverse, stacked, bidirectional"
    assert list(found["options"]) == names.split(", ")
    assert not any(option["agrees"] for option in found["options"].values())
    assert found["second_order"] > 1e-3
    assert found["jvp_vjp"] > 1e-3


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("gru-before", "gru-before"),
        ("GRU", "gru"),
        ("PeepholeLSTM", "peephole"),
        ("Elman tanh", "elman"),
        ("Elman relu", "elman-relu"),
        ("Elman sigmoid", "elman-sigmoid"),
        ("GRU after", "gru"),
        ("GRU before", "gru-before"),
    ],
)
def test_cells_by_name_by_class_and_by_the_names_of_older_studies(given, name):
    plan = study.plan(study.Config(cells=(given,)))
    subject = {"gru": "GRU", "gru-before": "GRU", "peephole": "PeepholeLSTM"}.get(name, "Elman")
    assert list(plan)[:3] == [f"mutations {subject}", "mutations masked step", f"agreement {name}"]


@pytest.mark.slow
def test_what_is_wrong_is_said(tmp_path, monkeypatch, capsys):
    """A disagreement and a mistake that nobody found both end up in the verdict, whatever plot fails."""
    monkeypatch.setattr(plots, "draw_growth", lambda path, growth: growth["no such cell"])
    errors = dict.fromkeys(METHODS, 1e-15) | {"bptt": 0.5}
    option = {"agrees": False, "errors": errors, "report": "the table"}
    judged = mutations.Study(
        name="Elman", seeded=3, found={"wrong value": 1}, missed={"float64": (), "float32": ("c",)},
        false_alarms={"float64": 0, "float32": 0},
        survivors=(("a * b  →  a", ""), ("b * a  →  a * b", "commutes")), seconds=1.0,
    )  # fmt: skip
    broken = mutations.Study("GRU", 0, {}, {}, {}, (), 1.0, wrong="wrong value")
    modes = [f"{p} {mode}" for p in ("float32", "bfloat16") for mode in ("autodiff", "bptt")]
    lengths = {"length": [1.0, 2.0], **{mode: [1e-7, 1e-6] for mode in modes}}
    steps = dict.fromkeys(("finite_difference", "complex_step"), [1e-9] * len(STEPS))
    results = {
        "mutations Elman": vars(judged),
        "mutations GRU": vars(broken),
        "agreement elman": {"options": {"plain": option}, "jvp_vjp": 1e-15, "second_order": math.nan},
        "growth lstm": lengths,
        "steps lstm": steps,
    }
    said = report.finish(tmp_path, results)
    disagreement, second_order, unexplained, wrong = said
    assert disagreement.startswith("elman, plain: the methods disagree")
    assert second_order == "elman: second_order is off by nan, more than 1e-12"
    assert unexplained.endswith("a * b  →  a")
    assert wrong == "GRU: wrong value"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["mutations_seeded"], summary["mutations_found"]) == (3, 1)
    assert summary["mutations_equivalent"] == summary["mutations_unexplained"] == 1
    printed = capsys.readouterr()
    assert "5.0e-01" in printed.out
    assert printed.err == "warning: error_growth.png failed: 'no such cell'\n"
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"agreement.png", "step_size.png", "mutations.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "Elmo"], "cells: known are elman, .*; got Elmo"),
        (["--resume"], "--resume needs --out DIR"),
        (["--seed", "-1"], "seed must be 0 or more and below .*, got -1"),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    error = refusal(capsys, run, *arguments)
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_study_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert "already holds a run" in refusal(capsys, run, "--out", tmp_path)
