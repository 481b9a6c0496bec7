"""The long-memory tasks against their definitions, and the script as users run it."""

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.small_run import saved_leaves
from experiments import long_memory
from experiments.harness import fit as fitting
from experiments.harness.settings import check
from experiments.long_memory import COMMANDS, PROBLEMS, Config, build_cell, build_task, train_command
from jaxrnn.training.checkpoint import Checkpoints
from tests.commands import assert_parts_are_the_whole, refusal, runner, untimed

SMALL = ["--length", "10", "--cells", "elman", "lstm-chrono", "--hidden-size", "4", "--batch-size", "8"]
SMALL += ["--steps", "30", "--evaluate-every", "10"]


def run(*arguments):
    """The command line, in this process, which already has its devices; less to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_memory, "CURVE_SEQUENCES", 20)
        patch.setattr(long_memory, "TEST_SEQUENCES", 50)
        runner(COMMANDS)(*arguments)


def draw(task, length, batch_size=500, seed=0):
    """A batch of a task in NumPy: inputs (time, batch, features), targets (answers, batch)."""
    drawn = jax.jit(PROBLEMS[task].draw, static_argnums=(1, 2))(jax.random.key(seed), batch_size, length)
    assert drawn.inputs.shape[1:] == (batch_size, PROBLEMS[task].in_features)
    return np.asarray(drawn.inputs, np.float64), np.asarray(drawn.targets)


def symbols_of(inputs):
    """One-hot vectors as symbols."""
    assert set(np.unique(inputs)) == {0.0, 1.0}
    np.testing.assert_array_equal(inputs.sum(axis=-1), 1)
    return inputs.argmax(axis=-1)


@pytest.mark.parametrize("length", [2, 7, 200])
def test_adding(length):
    inputs, targets = draw("adding", length)
    values, markers = inputs[..., 0], inputs[..., 1]
    assert values.shape == (length, 500)
    assert targets.shape == (1, 500)
    assert values.min() >= 0
    assert values.max() < 1
    half = length // 2
    for sequence in range(100):
        (steps,) = np.nonzero(markers[:, sequence])
        assert len(steps) == 2
        assert steps[0] < half <= steps[1]
        assert (markers[steps, sequence] == 1).all()
        assert targets[0, sequence] == pytest.approx(values[steps, sequence].sum(), rel=1e-6)
    if length == 7:
        assert (markers.sum(axis=1) > 0).all()  # every step is marked in some sequence


@pytest.mark.parametrize("length", [1, 5, 100])
def test_copy(length):
    inputs, targets = draw("copy", length)
    symbols = symbols_of(inputs)
    assert symbols.shape == targets.shape == (length + 20, 500)
    blank, delimiter = 8, 9
    for sequence in range(100):
        remembered = list(symbols[:10, sequence])
        assert set(remembered) <= set(range(8))
        rest = [blank] * (length - 1) + [delimiter] + [blank] * 10
        assert list(symbols[10:, sequence]) == rest
        assert list(targets[:, sequence]) == [blank] * (length + 10) + remembered
    counts = np.bincount(symbols[:10].ravel(), minlength=8)
    assert abs(counts / counts.sum() - 1 / 8).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("length", [10, 25, 100])
def test_temporal_order(length):
    inputs, targets = draw("temporal_order", length)
    symbols = symbols_of(inputs)
    assert targets.shape == (1, 500)
    classes = {"XX": 0, "XY": 1, "YX": 2, "YY": 3}
    places = np.array([np.nonzero((symbols[:, n] == 4) | (symbols[:, n] == 5))[0] for n in range(500)])
    for sequence, steps in enumerate(places[:100]):
        word = "".join("XY"[symbols[step, sequence] - 4] for step in steps)
        assert targets[0, sequence] == classes[word]
        others = np.delete(symbols[:, sequence], steps)
        assert (others[0], others[-1]) == (6, 7)
        assert set(others[1:-1]) <= {0, 1, 2, 3}
    least = [math.floor(length / 10), math.floor(5 * length / 10)]
    most = [math.floor(2 * length / 10), math.floor(6 * length / 10)]
    assert (places.min(axis=0) == least).all()
    assert (places.max(axis=0) == most).all()
    assert abs(np.bincount(targets[0], minlength=4) / 500 - 1 / 4).max() < 0.06


def means(sums):
    return {name: float(total) / float(count) for name, (total, count) in sums.items()}


@pytest.mark.slow
def test_what_can_be_had_without_memory():
    """The best answer that knows the task but not the sequence errs as much as the baseline says."""
    _, targets = draw("adding", 2, batch_size=100_000)
    assert np.var(targets) == pytest.approx(PROBLEMS["adding"].baseline(2), rel=0.02)
    figures = means(PROBLEMS["adding"].measure(jnp.ones((2, 100_000, 1)), jnp.asarray(targets)))
    assert figures["loss"] == pytest.approx(1 / 6, rel=0.02)

    _, targets = draw("copy", 100)
    probability = np.full((120, 500, 9), 1e-30)
    probability[:110, :, 8] = 1
    probability[110:, :, :8] = 1 / 8
    figures = means(PROBLEMS["copy"].measure(jnp.log(jnp.asarray(probability)), jnp.asarray(targets)))
    assert figures["loss"] == pytest.approx(PROBLEMS["copy"].baseline(100), rel=1e-5)
    assert figures["loss"] == pytest.approx(0.1733, abs=1e-4)
    assert figures["accuracy"] == pytest.approx(1 / 8, abs=0.02)

    _, targets = draw("temporal_order", 100)
    figures = means(PROBLEMS["temporal_order"].measure(jnp.zeros((100, 500, 4)), jnp.asarray(targets)))
    assert figures["loss"] == pytest.approx(PROBLEMS["temporal_order"].baseline(100), rel=1e-6)
    assert figures["accuracy"] == pytest.approx(1 / 4, abs=0.06)


@pytest.mark.parametrize("task", PROBLEMS)
@pytest.mark.slow
def test_a_right_answer_has_no_error(task):
    _, targets = draw(task, 20)
    outputs = np.zeros((40, 500, PROBLEMS[task].out_features))
    answers = targets if task == "adding" else 50 * np.eye(outputs.shape[-1])[targets]
    outputs[-len(targets) :] = answers.reshape(len(targets), 500, -1)
    figures = means(PROBLEMS[task].measure(jnp.asarray(outputs, jnp.float32), jnp.asarray(targets)))
    assert figures["loss"] == pytest.approx(0, abs=1e-12)
    assert figures.get("accuracy", 1) == 1


def test_data_depend_on_seed_and_position_alone():
    def batches(cell, seed):
        config = Config(length=10, batch_size=16, seed=seed)
        task, test = build_task(config, PROBLEMS["adding"], cell, build_cell(cell, 4, 10))
        assert_parts_are_the_whole(task.batch, 16)
        return [
            task.batch(5).inputs,
            task.batch(6).inputs,
            next(iter(task.valid())).inputs,
            next(test).inputs,
        ]

    first = batches("gru", 0)
    for a, b in zip(first, batches("elman", 0), strict=True):
        np.testing.assert_array_equal(a, b)
    different = [*first, *batches("gru", 1)]
    assert len({np.asarray(inputs).tobytes() for inputs in different}) == len(different)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run("--out", out, *SMALL)
    return out


def read_metrics(folder):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "items_per_second")} for line in lines]


def read_summary(out):
    return json.loads((out / "summary.json").read_text())


def saved_state(folder):
    """The arrays of the last checkpoint, and the record without the clock."""
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.record(checkpoints.latest)
    return saved_leaves(folder), record | {"seconds": 0, "spent": {}}


def assert_same_run(out, expected):
    for name in ("elman", "lstm-chrono"):
        assert read_metrics(out / name) == read_metrics(expected / name)
        leaves, record = saved_state(out / name)
        other_leaves, other_record = saved_state(expected / name)
        for a, b in zip(leaves, other_leaves, strict=True):
            np.testing.assert_array_equal(a, b)
        assert record == other_record
        figures, other = read_summary(out)["cells"][name], read_summary(expected)["cells"][name]
        assert untimed(figures) == untimed(other)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "summary.json", "learning_curves.png", "elman", "lstm-chrono"}
    for cell in ("elman", "lstm-chrono"):
        names = {path.name for path in (finished / cell).iterdir()}
        assert names == {"config.json", "metrics.jsonl", "checkpoints"}
        assert json.loads((finished / cell / "config.json").read_text())["cell"] == cell
        lines = read_metrics(finished / cell)
        assert [line["step"] for line in lines if "valid_loss" in line] == [10, 20, 30]
    summary = read_summary(finished)
    assert summary["error_without_memory"] == pytest.approx(1 / 6)
    assert summary["settings"]["length"] == 10
    for name in ("command", "device", "versions", "unit"):
        assert summary[name]
    elman, lstm = summary["cells"]["elman"], summary["cells"]["lstm-chrono"]
    assert elman["parameters"] == 4 * (2 + 4 + 1) + 5
    assert lstm["parameters"] == 4 * 4 * (2 + 4 + 1) + 5
    for figures in (elman, lstm):
        assert figures["steps"] == 30
        assert not figures["stopped_as_solved"]
        assert 0 < figures["error"] < 2
        assert "accuracy" not in figures


@pytest.mark.parametrize(
    ("cell", "step"), [pytest.param(1, 29, marks=pytest.mark.slow, id="last step of the first"), (2, 13)]
)
@pytest.mark.slow
def test_stopping_and_resuming_changes_nothing(cell, step, finished, tmp_path, capsys):
    """SIGTERM in a cell's training: what is finished is kept, and the rest goes on bit for bit."""
    out, original, made = tmp_path / "run", fitting.train_step, []

    def interrupting(*arguments):
        made.append(original(*arguments))

        def killed(state, chunk):
            if (len(made), int(state.step)) == (cell, step):
                os.kill(os.getpid(), signal.SIGTERM)
            return made[-1](state, chunk)

        return killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train_step", interrupting)
        with pytest.raises(SystemExit) as stopped:
            run("--out", out, *SMALL)
    assert stopped.value.code == 128 + signal.SIGTERM
    message = rf"stopped at step {step + 1} of 30 and saved 0\.\d s after the signal; "
    message += f"continue with --out {out} --resume"
    assert re.search(message, capsys.readouterr().out)
    assert not (out / "summary.json").exists()
    run("--out", out, "--resume")
    assert_same_run(out, finished)


@pytest.mark.slow
def test_resuming_a_finished_run_trains_no_further(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "summary.json").unlink()
    run("--out", out, "--resume")
    assert_same_run(out, finished)


@pytest.mark.slow
def test_more_steps_and_a_plot_that_fails(finished, tmp_path, monkeypatch, capsys):
    """Every cell goes on; the plot costs itself."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "learning_curves.png").unlink()
    monkeypatch.setattr(long_memory, "learning_curve", lambda *args, **options: {}["no font"])
    run("--out", out, "--resume", "--steps", 32)
    printed = capsys.readouterr()
    assert printed.out.count("32 steps instead of 30: from step 30 on, the learning rate follows") == 2
    assert printed.err == "warning: learning_curves.png failed: 'no font'\n"
    for name, figures in read_summary(out)["cells"].items():
        assert figures["steps"] == 32
        assert not figures["stopped_as_solved"]
        assert f"{figures['error']:.6f}" in printed.out
        assert json.loads((out / name / "config.json").read_text())["steps"] == 32
    before = {path: path.read_bytes() for path in out.rglob("*.json*")}
    with pytest.raises(SystemExit) as stopped:
        run("--out", out, "--resume", "--steps", 31)
    assert stopped.value.code == 2
    message = f"error: steps must be at least the 32 that the run in {out / 'elman'} has taken, got 31\n"
    assert capsys.readouterr().err == message
    assert {path: path.read_bytes() for path in out.rglob("*.json*")} == before


@pytest.mark.slow
def test_a_solved_task_ends_early_and_stays_ended(tmp_path):
    out = tmp_path / "run"
    options = ["--task", "temporal_order", *SMALL[:3], "elman", *SMALL[5:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_memory, "SOLVED", 100)
        run("--out", out, *options)
        first = read_summary(out)["cells"]["elman"]
        run("--out", out, "--resume")
    again = read_summary(out)["cells"]["elman"]
    for figures in (first, again):
        assert figures["steps"] == 10
        assert figures["stopped_as_solved"]
    assert first["accuracy"] == again["accuracy"]
    assert first["error"] == again["error"]


@pytest.mark.slow
def test_the_seed_decides(finished, tmp_path):
    for seed in (0, 1):
        run("--out", tmp_path / f"{seed}", *SMALL[:3], "elman", *SMALL[5:], "--seed", seed)
        same = read_metrics(tmp_path / f"{seed}" / "elman") == read_metrics(finished / "elman")
        assert same == (seed == 0)


@pytest.mark.slow
def test_gates_solve_what_they_should(tmp_path):
    out = tmp_path / "run"
    options = ["--length", 20, "--hidden-size", 16, "--batch-size", 16, "--steps", 600, "--tensorboard"]
    run("--out", out, "--cells", "gru", *options)
    assert read_summary(out)["cells"]["gru"]["error"] < 0.1 / 6
    assert list((out / "gru").glob("events.out.tfevents.*"))


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _as_users_run(self, as_users_run):
        pass

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--length", "1"], "length must be 2 or more for adding, got 1"),
            (["--task", "copy", "--length", "0"], "length must be 1 or more for copy, got 0"),
            (["--task", "temporal_order", "--length", "9"], "must be 10 or more for temporal_order, got 9"),
            (["--length", "2", "--cells", "lstm-chrono"], "longest_span must be an integer of 3 or more"),
            (["--hidden-size", "0"], "hidden_size must be a positive integer, got 0"),
            (["--batch-size", "0"], "batch_size must be a positive integer, got 0"),
            (["--steps", "0"], "steps must be a positive integer, got 0"),
            (["--evaluate-every", "0"], "evaluate_every must be a positive integer, got 0"),
            (["--checkpoint-every", "-5"], "checkpoint_every must be a positive integer, got -5"),
            (["--learning-rate", "0"], "learning_rate must be above 0, got 0.0"),
            (["--clip-norm", "-1"], "clip_norm must be above 0, got -1.0"),
            (["--cells", "gru", "gru"], "each once, got ('gru', 'gru')"),
            (["--cells", "gru", "mamba"], "mamba"),
            (["--task", "sorting"], "sorting"),
            (["--resume"], "holds no run: there is no config.json"),
        ],
    )
    def test_settings(self, arguments, message, tmp_path, capsys):
        assert message in refusal(capsys, run, "--out", tmp_path / "new", *arguments)
        assert not list(tmp_path.iterdir())

    def test_names_from_python(self):
        with pytest.raises(ValueError, match="task must be one of adding, copy, temporal_order, got 'x'"):
            check(Config(task="x"))
        with pytest.raises(ValueError, match=r"cells must be some of elman, .*, each once, got \(\)"):
            train_command(Config(cells=(), out=Path("nowhere")))

    @pytest.mark.slow
    def test_a_run_is_never_overwritten(self, finished, capsys):
        before = sorted(finished.rglob("*"))
        assert "already holds a run" in refusal(capsys, run, "--out", finished)
        assert "is not empty" in refusal(capsys, run, "--out", finished.parent)
        assert sorted(finished.rglob("*")) == before

    @pytest.mark.slow
    def test_resume_with_other_settings(self, finished, capsys):
        error = refusal(capsys, run, "--out", finished, "--resume", "--cells", "gru")
        assert "--resume: cells is ('elman', 'lstm-chrono') in the run in" in error
        error = refusal(capsys, run, "--out", finished, "--resume", "--length", "11")
        assert "length is 10 in the run in" in error

    @pytest.mark.slow
    def test_a_checkpoint_of_another_run(self, finished, tmp_path, capsys):
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        config = json.loads((out / "config.json").read_text()) | {"learning_rate": 0.5}
        (out / "config.json").write_text(json.dumps(config))
        assert "another configuration: learning_rate" in refusal(capsys, run, "--out", out, "--resume")
