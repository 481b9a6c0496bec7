"""The main experiment as users run it: train, sample, evaluate, resume, be killed, be given nonsense."""

import argparse
import inspect
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.char_lm.__main__ import COMMANDS
from experiments.char_lm.training import Train, build_model, build_task, load_run
from experiments.data.corpora import load_text
from experiments.data.parts import load_parts
from experiments.harness import run as runs
from experiments.harness.fit import first_state, make_optimizer
from jaxrnn.data.text import Chunk, Streams, Vocabulary, split_in_order
from jaxrnn.models.losses import cross_entropy
from jaxrnn.training.checkpoint import Checkpoints
from tests.commands import read_metrics, refusal, runner

ROOT = Path(__file__).parent.parent
SMALL = ["--hidden-size", "8", "--batch-size", "2", "--chunk-length", "8", "--steps", "60"]
SMALL += ["--evaluate-every", "20", "--dropout", "0.1"]


run = runner(COMMANDS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(inspect.getsource(argparse)[3000:3800])  # so short that a run passes it more than once
    return path


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "long.txt"
    path.write_text(inspect.getsource(argparse)[:20_000])
    return path


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run("train", "--corpus", corpus, "--out", out, "--cell", "gru", *SMALL)
    return out


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    expected = {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "learning_curve.png"}
    assert expected | {"samples", "samples.txt", "vocabulary.json"} == names
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 60
    assert summary["parameters"] == 3 * 8 * (len(Vocabulary.load(finished / "vocabulary.json")) + 8 + 2) + (
        len(Vocabulary.load(finished / "vocabulary.json")) * 9
    )
    assert summary["bits_per_char"] == pytest.approx(summary["test_nats_per_char"] / np.log(2))
    for name in ("valid_nats_per_char", "characters_per_second", "train_seconds", "device", "versions"):
        assert summary[name]
    lines = read_metrics(finished)
    assert [line["step"] for line in lines] == [20, 20, 40, 40, 50, 60, 60]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert len((finished / "samples" / "step_000060.txt").read_text()) == 500


@pytest.mark.slow
def test_the_hidden_state_starts_anew_with_every_pass(corpus):
    config = Train(hidden_size=4, batch_size=2, chunk_length=5)
    none = {"valid": None, "test": None}
    data = load_parts(str(corpus), files=none, fractions={"valid": 0.1, "test": 0.1})
    model = build_model(config, len(data.vocabulary))
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    tokens = jnp.ones((5, 2), jnp.int32)
    anew = model.initial_carry((2,))
    carried = jax.tree.map(jnp.ones_like, anew)
    loss = build_task(config, data, Streams(data.train, 2, 5), model).loss
    values = []
    for first, start in ((True, anew), (False, carried)):
        chunk = Chunk(tokens, tokens, np.ones((5, 2), bool), np.asarray(first))
        _, logits = model.apply(params, tokens, start)
        sums, _ = loss(params, carried, chunk, key)
        nats, count = sums["loss"]
        expected, _ = cross_entropy(logits, tokens)
        assert float(nats) == pytest.approx(float(expected), rel=1e-6)
        assert int(count) == 10
        values.append(float(nats))
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_evaluate_reproduces_the_validation_figure(finished, corpus, tmp_path, capsys):
    text = load_text(str(corpus))
    vocabulary = Vocabulary.of(text)
    _, valid, _ = split_in_order(vocabulary.encode(text), 0.05, 0.05)
    path = tmp_path / "valid.txt"
    path.write_text(vocabulary.decode(valid))
    run("evaluate", "--run", finished, "--text", path)
    summary = json.loads((finished / "summary.json").read_text())
    result = json.loads((finished / "evaluation.json").read_text())
    assert result["nats_per_char"] == pytest.approx(summary["valid_nats_per_char"], rel=1e-6)
    assert result["bits_per_char"] == pytest.approx(result["nats_per_char"] / np.log(2))
    assert result["characters"] == len(valid) - 1
    assert f"{result['nats_per_char']:.6f} nats" in capsys.readouterr().out
    (finished / "evaluation.json").unlink()


@pytest.mark.slow
def test_sample_continues_the_prompt(finished, capsys):
    def drawn(*options):
        run("sample", "--run", finished, "--prompt", "def f", "--length", 40, *options)
        return capsys.readouterr().out

    text = drawn()
    assert text.startswith("def f")
    assert len(text) == 5 + 40 + 1
    assert drawn() == text
    assert drawn("--seed", 1) != text
    greedy = drawn("--temperature", 1e-4)
    assert drawn("--top-k", 1, "--seed", 7) == greedy
    assert len(drawn("--feedback", "softmax")) == len(text)
    assert drawn("--beam", 1).split("\n", 1)[1] == greedy
    assert drawn("--without-replacement", 3).count("\ndef f") == 3


def test_stopping_and_resuming_changes_nothing(finished, corpus, tmp_path):
    """SIGTERM in the middle saves and says how to go on; the rest of the run is bit for bit the same."""
    out = tmp_path / "run"
    original = Streams.chunk

    def interrupting(streams, position, *lanes):
        if position == 33 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(streams, position, *lanes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streams, "chunk", interrupting)
        with pytest.raises(SystemExit) as stopped:
            run("train", "--corpus", corpus, "--out", out, "--cell", "gru", *SMALL)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (out / "checkpoints" / "34").is_dir()
    run("train", "--out", out, "--resume")
    assert_same_run(out, finished)


def assert_same_run(out, expected):
    """Metrics, vocabulary, and every leaf of the last state: parameters, optimiser, carry, step and key."""
    assert read_metrics(out) == read_metrics(expected)
    assert Vocabulary.load(out / "vocabulary.json") == Vocabulary.load(expected / "vocabulary.json")
    state, other = last_state(out), last_state(expected)
    assert int(state.step) == 60
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    saved = json.loads((out / "summary.json").read_text())
    reference = json.loads((expected / "summary.json").read_text())
    for name in ("valid_nats_per_char", "test_nats_per_char"):
        assert saved[name] == reference[name]


def last_state(out, *, raw_key=True):
    model, config = load_run(out)[0], runs.load_settings(out, Train)
    like = first_state(config, model.init, make_optimizer(config))
    like = like._replace(carry=model.initial_carry((config.batch_size,)))
    with Checkpoints(out / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(checkpoints.latest, like)
    return state._replace(key=jax.random.key_data(state.key)) if raw_key else state


@pytest.mark.slow
def test_what_is_logged_after_the_last_checkpoint_is_logged_once(finished, corpus, tmp_path):
    """Killed between the lines of an evaluation and its checkpoint: what was not saved is done again."""
    out, save = tmp_path / "run", Checkpoints.save

    def killed(checkpoints, state, *rest):
        if int(state.step) == 40:
            raise KeyboardInterrupt
        save(checkpoints, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(SystemExit):
            run("train", "--corpus", corpus, "--out", out, "--cell", "gru", *SMALL)
    assert [line["step"] for line in read_metrics(out)] == [20, 20, 40, 40]
    run("train", "--out", out, "--resume")
    assert_same_run(out, finished)


def test_resuming_a_finished_run_trains_no_further(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "summary.json").unlink()
    run("train", "--out", out, "--resume", "--tensorboard")
    assert_same_run(out, finished)


@pytest.mark.slow
def test_tensorboard_and_plain_adam_without_clipping(corpus, tmp_path):
    out = tmp_path / "run"
    options = ["--tensorboard", "--clip-norm", "None", "--clip-value", "0.1", "--layers", "2"]
    options += ["--embedding-size", "8", "--tied"]
    run("train", "--corpus", corpus, "--out", out, *SMALL, *options)
    assert list(out.glob("events.out.tfevents.*"))


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _as_users_run(self, as_users_run):
        pass

    def train_fails(self, capsys, tmp_path, *arguments):
        """The message of a training that is refused, with nothing written."""
        before = sorted(tmp_path.rglob("*"))
        error = refusal(capsys, run, "train", "--out", tmp_path / "new", *arguments)
        assert sorted(tmp_path.rglob("*")) == before
        return error

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "is neither a file nor one of stdlib, tiny_shakespeare, war_and_peace"),
            (b"", "is empty"),
            (b"\xff\xfet\x00", "is UTF-16 text, expected UTF-8"),
            (b"some\x00text", "holds a zero byte"),
            (b"too short a text", "too short: 32 stream(s) of 64 step(s) need at least 2049 characters"),
        ],
    )
    def test_corpus(self, content, message, tmp_path, capsys):
        path = tmp_path / "text"
        if content is not None:
            path.write_bytes(content)
        assert message in self.train_fails(capsys, tmp_path, "--corpus", path)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--hidden-size", "0"], "hidden_size must be a positive integer, got 0"),
            (["--layers", "-1"], "layers must be a positive integer, got -1"),
            (["--batch-size", "0"], "batch_size must be a positive integer, got 0"),
            (["--chunk-length", "0"], "chunk_length must be a positive integer, got 0"),
            (["--steps", "0"], "steps must be a positive integer, got 0"),
            (["--evaluate-every", "0"], "evaluate_every must be a positive integer, got 0"),
            (["--checkpoint-every", "-5"], "checkpoint_every must be a positive integer, got -5"),
            (["--learning-rate", "0"], "learning_rate must be above 0, got 0.0"),
            (["--clip-norm", "-1"], "clip_norm must be above 0, got -1.0"),
            (["--warmup-steps", "-1"], "warmup_steps must be 0 or more, got -1"),
            (["--dropout", "1"], "dropout must lie in [0, 1), got 1"),
            (["--valid-fraction", "0"], "leaves 0 characters for --valid-fraction 0.0"),
            (["--test-fraction", "1"], "leave something to train on, got 0.05 and 1.0"),
            (["--tied"], "tied output needs embedding_size equal to"),
            (["--resume"], "holds no run: there is no config.json"),
        ],
    )
    def test_settings(self, arguments, message, long_corpus, tmp_path, capsys):
        assert message in self.train_fails(capsys, tmp_path, "--corpus", long_corpus, *arguments)

    def test_unknown_cell_and_command(self, tmp_path, capsys):
        assert "mamba" in self.train_fails(capsys, tmp_path, "--cell", "mamba")
        error = refusal(capsys, run, "translate")
        assert "unknown command 'translate'; known: train, sample, evaluate" in error

    def test_a_run_is_never_overwritten(self, finished, corpus, capsys):
        before = read_metrics(finished)
        error = refusal(capsys, run, "train", "--corpus", corpus, "--out", finished)
        assert "already holds a run; give --resume to continue a run, or another --out" in error
        error = refusal(capsys, run, "train", "--corpus", corpus, "--out", finished.parent)
        assert "is not empty" in error
        assert read_metrics(finished) == before

    def test_resume_with_other_settings(self, finished, capsys):
        error = refusal(capsys, run, "train", "--out", finished, "--resume", "--hidden-size", "9")
        assert "hidden_size is 8 in the run in" in error
        assert "got 9" in error
        assert "--resume needs --out DIR" in refusal(capsys, run, "train", "--resume")

    def test_prompt(self, finished, capsys):
        error = refusal(capsys, run, "sample", "--run", finished, "--prompt", "naïve 日本")
        assert "3 character(s) outside the vocabulary" in error
        assert "'ï日本'" in error
        assert "the prompt is empty" in refusal(capsys, run, "sample", "--run", finished, "--prompt", "")
        error = refusal(capsys, run, "sample", "--run", finished, "--temperature", "-1")
        assert "temperature must be 0 or more, got -1.0" in error
        error = refusal(capsys, run, "sample", "--run", finished, "--length", "0")
        assert "length must be a positive integer, got 0" in error

    def test_text_to_evaluate(self, finished, tmp_path, capsys):
        path = tmp_path / "text"
        error = refusal(capsys, run, "evaluate", "--run", finished, "--text", path)
        assert "cannot be read: No such file" in error
        path.write_text("é")
        arguments = ["evaluate", "--run", finished, "--text", path]
        assert "outside the vocabulary" in refusal(capsys, run, *arguments)
        path.write_text("e")
        assert "too short" in refusal(capsys, run, *arguments)
        assert not (finished / "evaluation.json").exists()

    def test_a_folder_that_is_no_run(self, tmp_path, capsys):
        error = refusal(capsys, run, "sample", "--run", tmp_path)
        assert "holds no run: there is no config.json" in error
        (tmp_path / "config.json").write_text('{"experiment": "other"}')
        assert "holds a run of another experiment: config.json has experiment" in refusal(
            capsys, run, "sample", "--run", tmp_path
        )
        (tmp_path / "config.json").write_text('{"corp')
        assert "config.json is damaged" in refusal(capsys, run, "sample", "--run", tmp_path)

    @pytest.mark.slow
    def test_damaged_or_foreign_checkpoints(self, finished, tmp_path, capsys):
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        for path in out.glob("checkpoints/*/state/**/d/*"):
            path.write_bytes(path.read_bytes()[:100])
        assert "is damaged" in refusal(capsys, run, "sample", "--run", out)
        run("train", "--out", out, "--resume")
        warned = capsys.readouterr().err.splitlines()
        assert [line.split(" is damaged: state/d/")[0] for line in warned[:2]] == [
            f"warning: checkpoint {step}" for step in (40, 60)
        ]
        assert warned[2] == "warning: no checkpoint is whole: training begins anew"
        assert_same_run(out, finished)

        shutil.rmtree(out / "checkpoints")
        assert "holds no checkpoint yet" in refusal(capsys, run, "sample", "--run", out)
        shutil.copytree(finished / "checkpoints", out / "checkpoints")
        config = json.loads((out / "config.json").read_text()) | {"learning_rate": 0.5}
        (out / "config.json").write_text(json.dumps(config))
        error = refusal(capsys, run, "sample", "--run", out)
        assert "another configuration: learning_rate should be 0.5, got 0.01" in error
        assert "another configuration" in refusal(capsys, run, "train", "--out", out, "--resume")

    def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(
        self, corpus, tmp_path, capsys
    ):
        out = tmp_path / "run"
        options = ["--learning-rate", "1e38", "--clip-norm", "None", "--cell", "elman"]
        options += ["--warmup-steps", "30", "--checkpoint-every", "1"]  # the first step's rate is zero
        with pytest.raises(SystemExit) as stopped:
            run("train", "--corpus", corpus, "--out", out, *SMALL, *options)
        assert stopped.value.code == 1
        error = capsys.readouterr().err
        assert "training stopped at step" in error
        last = max(int(path.name) for path in (out / "checkpoints").iterdir())
        assert f"the last good checkpoint is {out / 'checkpoints' / str(last)}." in error
        for leaf in jax.tree.leaves(last_state(out).params):
            assert np.isfinite(leaf).all()
