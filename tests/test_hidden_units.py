"""Single hidden units: labels, recordings, scores and held units against other ways; the command."""

import base64
import csv
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.char_lm.__main__ import COMMANDS as CHAR_LM
from experiments.hidden_units import recording, study
from experiments.hidden_units.__main__ import COMMANDS
from experiments.hidden_units.ablation import can_be_held, nats_held
from experiments.hidden_units.attribution import (
    BACK,
    OUTPUTS,
    PASSAGES,
    attribute,
    logit_of,
    moved,
    vectors,
)
from experiments.hidden_units.labels import labels_of
from experiments.hidden_units.page import _label
from experiments.hidden_units.recording import Signal, record_text, signals_of
from experiments.hidden_units.scores import permutation_p, score
from experiments.hidden_units.texts import reading
from jaxrnn import GRU, LSTM
from jaxrnn.data.text import Vocabulary
from jaxrnn.models.language_model import LanguageModel, text_nats
from tests.commands import refusal, runner
from tests.table import random_like

run, train = runner(COMMANDS), runner(CHAR_LM)
SOURCE = """\
def f(x):
    if (x > "é"  # so
            or x):
        return [x,
                'a']
y = 1
"""
# One sign a character; a point where the label does not hold.
MARKS = {
    "in string": """\
..........
............sss.......
...................
...................
................sss..
......
""",
    "in comment": """\
..........
.................cccc.
...................
...................
.....................
......
""",
    "in if-condition": """\
..........
........iiiiiiiiiiiii.
iiiiiiiiiiiiiiii...
...................
.....................
......
""",
}


def test_labels_of_python():
    labels = labels_of(SOURCE, {"x": "x"})
    assert all(label.shape == (len(SOURCE),) for label in labels.values())
    lines = SOURCE.splitlines(keepends=True)
    for name, marks in MARKS.items():
        found = np.split(labels[name], np.cumsum([len(line) for line in lines])[:-1])
        for line, row, mark in zip(lines, found, marks.splitlines(), strict=True):
            inside = [sign != "." for sign in mark]
            assert row.tolist()[: len(line) - 1] == inside[: len(line) - 1], (name, line)
    by_line = np.split(labels["indentation"], np.cumsum([len(line) for line in lines])[:-1])
    depths = [0, 1, 1, 2, 2, 0]
    assert [row.tolist() for row in by_line] == [
        [n] * len(row) for n, row in zip(depths, by_line, strict=True)
    ]
    at = SOURCE.index("[x")
    assert labels["brackets"][[at - 1, at, at + 1]].tolist() == [0, 1, 1]
    assert labels["brackets"][SOURCE.index("]")] == 1
    assert labels["x"].sum() == SOURCE.count("x")


def test_labels_of_prose():
    text = 'He said "so\nit is" and\n\n"went'
    labels = labels_of(text, {})
    assert "in string" not in labels
    assert "".join(np.array(list(text))[labels["inside quotes"]]) == '"so\nit is"'
    assert labels["position in line"].tolist()[-6:] == [0, 0, 1, 2, 3, 4]
    assert np.flatnonzero(labels["capital"]).tolist() == [0]


def model_and_params():
    model = LanguageModel(7, [LSTM(5), GRU(4)], embedding_size=3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    return model, random_like(params, 3)


def steps_of(model, params, ids):
    """h, c and gates of both layers, one step after another."""
    carry, found = model.initial_carry((1,)), []
    for token in ids:
        x = params.embedding[token][None]
        row = []
        after = []
        for cell, of_cell, state in zip(model.cells, params.layers, carry, strict=True):
            gates = cell.gates(of_cell, state, x)
            state, x = cell.step(of_cell, state, x)
            row += [*state, *(gates[name] for name in sorted(gates))]
            after.append(state)
        carry = tuple(after)
        found.append(np.concatenate([part[0] for part in row]))
    return np.array(found)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.slow
def test_a_recording_is_what_steps_give(lanes, monkeypatch):
    """One after another, or in pieces that begin a little earlier than they are needed."""
    monkeypatch.setattr(recording, "LANES", lanes)
    monkeypatch.setattr(recording, "WARM_UP", 30)
    monkeypatch.setattr(recording, "CHUNK", 17)
    model, params = model_and_params()
    ids = np.random.default_rng(0).integers(0, 7, 200).astype(np.int32)
    found = record_text(model, params, ids)
    expected = steps_of(model, params, ids)
    assert found.values.shape == expected.shape
    assert [signal.name for signal in found.signals[::5][:5]] == ["h", "c", "f", "i", "o"]
    exact = np.stack([found.exact(column) for column in range(expected.shape[1])], axis=1)
    tolerance = (found.high - found.low) / recording.LEVELS * 0.51 + (0 if lanes == 1 else 0.02)
    seen = (expected > found.low) & (expected < found.high)
    assert seen.mean() > 0.99
    assert (np.abs(exact - expected) <= tolerance)[seen].all()
    assert np.isnan(found.nats[-1])
    total, count = text_nats(model, params, ids)
    assert np.mean(found.nats[:-1]) == pytest.approx(total / count, rel=1e-5 if lanes == 1 else 1e-2)


def test_a_character_that_the_model_does_not_know():
    model, params = model_and_params()
    text = reading(["abcde", "zab"], Vocabulary.of("abcdefg"), {})
    assert text.ids.tolist() == [0, 1, 2, 3, 4, -1, 0, 1]
    found = record_text(model, params, text.ids)
    assert np.flatnonzero(np.isnan(found.nats)).tolist() == [4, 7]


def test_scores_are_those_of_other_libraries():
    random = np.random.default_rng(1)
    values = random.integers(0, 9, (300, 4)).astype(np.uint8)
    labels = np.stack([values[:, 0] + random.integers(0, 9, 300) > 9, random.integers(0, 5, 300)], axis=1)
    found = score(values, labels)
    for column, of in enumerate(values.T):
        assert found.auc[column, 0] == pytest.approx(roc_auc_score(labels[:, 0], of), abs=1e-5)
        for number, label in enumerate(labels.T):
            assert found.r[column, number] == pytest.approx(np.corrcoef(of, label)[0, 1], abs=1e-5)
    assert np.isnan(found.auc[:, 1]).all()
    constant = score(np.full((9, 1), 3, np.uint8), np.zeros((9, 1)))
    assert np.isnan(constant.auc).all()
    assert np.isnan(constant.r).all()


def test_p_counts_the_shifts_that_do_as_well():
    random = np.random.default_rng(2)
    values = random.integers(0, 200, (61, 70)).astype(np.uint8)
    labels = np.stack([values[:, 0] > 100, random.random(61) > 0.5], axis=1)
    found = permutation_p(values, labels)
    assert found[0, 0] == 1 / 61
    for column, label in ((0, 1), (3, 0), (69, 1)):
        shifted = [
            abs(roc_auc_score(np.roll(labels[:, label], k), values[:, column]) - 0.5) for k in range(61)
        ]
        assert found[column, label] == pytest.approx(np.mean(np.array(shifted) >= shifted[0] - 1e-9))


@pytest.mark.slow
def test_a_unit_that_is_held():
    """h and c of single units at constants of their own, against steps in which they are put there."""
    model, params = model_and_params()
    ids = np.random.default_rng(3).integers(0, 7, 40).astype(np.int32)
    units, constants = [Signal(1, "c", 2), Signal(2, "h", 3), Signal(1, "h", 0)], [0.5, -0.25, 2.0]
    assert all(can_be_held(model, unit) for unit in units)
    assert not can_be_held(model, Signal(2, "z", 0))
    assert not can_be_held(model, Signal(2, "c", 0))
    found = nats_held(model, params, ids, units, constants)
    assert found.shape == (39, 4)
    total, count = text_nats(model, params, ids)
    assert found[:, 0].mean() == pytest.approx(total / count, rel=1e-5)
    for lane, (unit, constant) in enumerate(zip(units, constants, strict=True), start=1):
        carry, nats = list(model.initial_carry((1,))), []
        for token, target in itertools.pairwise(ids):
            x = params.embedding[token][None]
            for layer, cell in enumerate(model.cells):
                carry[layer], x = cell.step(params.layers[layer], carry[layer], x)
                if layer == unit.layer - 1:
                    held = getattr(carry[layer], unit.name).at[:, unit.unit].set(constant)
                    carry[layer] = carry[layer]._replace(**{unit.name: held})
                    x = held if unit.name == "h" else x
            nats.append(-jax.nn.log_softmax(x @ params.w_out + params.b_out)[0, target])
        np.testing.assert_allclose(found[:, lane], jnp.stack(nats), rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_what_moved_a_logit(float64):
    """By central differences in the size of one input after another, each in its own place; integrated
    gradients add up to the difference from inputs of zero.
    """
    model, params = model_and_params()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float64), params)
    read = np.random.default_rng(0).integers(0, 7, 5 + BACK + OUTPUTS + 1)
    plain, integrated = moved(model, params, read), moved(model, params, read, points=16)
    for output in (0, OUTPUTS - 1):
        first = 6 + output  # of the characters that explain it
        carry, _ = model.apply(params, read[:first, None])
        xs = vectors(model, params, jnp.asarray(read[first : first + BACK]))
        target = read[first + BACK]

        def logit(sizes, carry=carry, xs=xs, target=target):
            return float(logit_of(model, params, carry, target, jnp.asarray(sizes)[:, None] * xs))

        _, whole = model.apply(params, read[: first + BACK, None])
        assert logit(np.ones(BACK)) == pytest.approx(float(whole[-1, 0, target]), abs=1e-12)
        for back in (0, 1, 40):
            step = 1e-5 * (np.arange(BACK) == BACK - 1 - back)
            slope = (logit(1 + step) - logit(1 - step)) / 2e-5
            assert plain[output, back] == pytest.approx(slope, rel=1e-6, abs=1e-9)
        difference = logit(np.ones(BACK)) - logit(np.zeros(BACK))
        assert integrated[output].sum() == pytest.approx(difference, rel=1e-6)


def test_a_text_that_is_too_short_explains_nothing():
    model, params = model_and_params()
    assert attribute(model, params, np.zeros(300, int)).moved.shape == (0, OUTPUTS, BACK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("char_lm")
    (folder / "text").write_text((SOURCE + "\n") * 60)
    small = ["--hidden-size", "8", "--steps", "4", "--batch-size", "4", "--chunk-length", "8"]
    train("--corpus", folder / "text", "--out", folder / "run", *small)
    return folder / "run"


@pytest.mark.slow
def test_the_command(finished, tmp_path, capsys):
    out = tmp_path / "units"
    run("--run", finished, "--out", out, "--label", "vowel=[aeiou]", "--held", "2")
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    rows = list(csv.DictReader((out / "units.csv").read_text().splitlines()))
    assert len(rows) == 5 * 8 * len(summary["labels"])
    assert (out / "units.png").stat().st_size > 10_000
    for name, best in summary["labels"].items():
        assert f"{name}: {best['signal']} {best['unit']}, layer 1" in printed
        own = [row for row in rows if row["label"] == name]
        if best["auc"] is not None:
            falls = best["auc"] < 0.5
            assert best["area"] == pytest.approx(abs(falls - best["auc_held_out"]))
            assert f"{best['area']:.4f}" in printed
        held = [row for row in own if row["loss_outside"]]
        assert len(held) == (0 if name in ("position in line", "indentation", "brackets") else 2)
        assert {row["signal"] for row in held} <= {"h", "c"}
    assert "vowel" in summary["labels"]


@pytest.mark.slow
def test_two_models_and_a_text_of_ones_own(finished, tmp_path, capsys):
    """More than is read, with characters that the models do not know; the page has both models."""
    (tmp_path / "long").write_text("x = 1 ¿\n" * 500, encoding="utf-8")
    out = tmp_path / "units"
    run("--run", finished, "--beside", finished, "--text", tmp_path / "long", "--most", "900", "--out", out)
    told = capsys.readouterr().err
    assert "900 of 4,000 characters are read, 10 pieces spread over the text" in told
    assert "of 900 characters are none that the model in run knows" in told
    html = (out / "units.html").read_text(encoding="utf-8")
    data = json.loads(html.split('type="application/json">')[1].split("</script>")[0])
    assert [of["name"] for of in data["runs"]] == ["run", "run"]
    assert data["runs"][0]["text"].count("¿") == len(data["runs"][0]["strange"]) > 100
    assert len(data["runs"][0]["moved"]["starts"]) == PASSAGES
    assert (out / "reach.png").stat().st_size > 10_000


@pytest.mark.slow
def test_as_many_steps_as_there_is_room_for(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "MOST_VALUES", 5 * 8 * 300)
    run("--run", finished, "--out", tmp_path / "units")
    assert "at most 300 characters are read: what all units of" in capsys.readouterr().err
    assert 250 < json.loads((tmp_path / "units" / "summary.json").read_text())["steps"] <= 300


@pytest.mark.slow
def test_a_cell_whose_states_have_other_names(tmp_path):
    """A stack's h and c are on the page and in the table, and are not held."""
    (tmp_path / "text").write_text((SOURCE + "\n") * 60)
    small = ["--hidden-size", "4", "--steps", "2", "--batch-size", "4", "--chunk-length", "8"]
    train("--corpus", tmp_path / "text", "--out", tmp_path / "run", "--cell", "stack", *small)
    run("--run", tmp_path / "run", "--out", tmp_path / "units")
    summary = json.loads((tmp_path / "units" / "summary.json").read_text())
    assert {best["signal"] for best in summary["labels"].values()} <= {"0.h", "0.c", "1.h", "2.h"}
    assert all(best["loss_outside"] is None for best in summary["labels"].values())
    assert '"0.c"' in (tmp_path / "units" / "units.html").read_text(encoding="utf-8")


def test_a_number_on_the_page_lies_between_its_least_and_its_largest():
    found = _label("depth", np.array([-1.0, 2.5, 0.75]), slice(0, 3))
    assert (found["low"], found["high"]) == (-1, 2.5)
    assert list(base64.b64decode(found["values"])) == [0, 255, 127]


@pytest.mark.slow
def test_labels_of_ones_own(finished, tmp_path, capsys):
    text, table = tmp_path / "text", tmp_path / "labels.csv"
    text.write_text("x = 1\n" * 50)
    table.write_text("odd,depth\n" + "0,2.5\n1,-1\n" * 150)
    call = ["--run", finished, "--text", text, "--labels", table]
    run(*call, "--out", tmp_path / "units")
    labels = json.loads((tmp_path / "units" / "summary.json").read_text())["labels"]
    assert labels["odd"]["auc"] is not None
    assert labels["depth"]["auc"] is None
    capsys.readouterr()
    for content, message in (
        ("odd\n0\n", "label 'odd': expected 300 rows, one for every character of the text, got 1"),
        ("odd\n0\nyes\n", "expected numbers, got 'yes' in column 'odd', row 2"),
        ("", "expected a CSV file with a header"),
    ):
        table.write_text(content)
        assert message in refusal(capsys, run, *call, "--out", tmp_path / "other")
    assert "which is missing" in refusal(capsys, run, "--run", finished, "--labels", table)


@pytest.mark.slow
def test_the_demo_trains_and_opens_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "text").write_text((SOURCE + "\n") * 60)
    small = {"corpus": str(tmp_path / "text"), "hidden_size": 8, "batch_size": 4, "chunk_length": 8}
    original, opened = study.train_command, []
    monkeypatch.setattr(study, "DEMO_STEPS", 4)
    monkeypatch.setattr(study, "train_command", lambda own: original(dataclasses.replace(own, **small)))
    monkeypatch.setattr(study.webbrowser, "open", opened.append)
    run("--demo", "--out", tmp_path / "demo")
    assert opened == [(tmp_path / "demo" / "units.html").as_uri()]
    assert (tmp_path / "demo" / "char_lm" / "summary.json").exists()


@pytest.mark.slow
def test_bad_input(finished, tmp_path, capsys):
    (tmp_path / "one").write_text("x")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--demo"], "expected --run DIR, a trained model, or --demo, which trains one"),
        (["--label", "vowel"], "--label: expected NAME=REGEX, got 'vowel'"),
        (["--label", "v=[a"], "--label v=[a: expected a regular expression"),
        (["--text", tmp_path / "one"], "expected a text of at least 2 characters, got 1"),
        (["--text", tmp_path / "none"], "none"),
        (["--run", tmp_path / "empty"], "holds no run"),
        (["--most", "0"], "most must be a positive integer, got 0"),
    ):
        options = ["--run", finished, "--out", tmp_path / "units", *arguments]
        assert message in refusal(capsys, run, *options)
        assert not (tmp_path / "units").exists()


def test_signals_are_named_in_the_order_of_the_columns():
    model, params = model_and_params()
    _, _, layers = jax.eval_shape(model.record, params, jnp.zeros((1, 1), int))
    signals = signals_of(layers)
    assert len(signals) == 5 * 5 + 3 * 4
    assert signals[0] == Signal(1, "h", 0)
    assert signals[25:29] == tuple(Signal(2, "h", unit) for unit in range(4))
    assert signals[-1] == Signal(2, "z", 3)
