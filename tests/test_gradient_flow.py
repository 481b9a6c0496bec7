"""The study of gradient flow: bounds, known norms, equal gradients, clipping, a run from start to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.gradient_flow import clipping, cost, jacobians, networks, study, truncation
from experiments.gradient_flow.settings import Config
from jaxrnn import LSTM, Elman
from tests.commands import refusal, runner

SMALL = Config(time=12, hidden_size=6, draws=2, steps=4)


run = runner({"study": (Config, study.study_command)})


@pytest.mark.slow
def test_no_norm_is_above_the_bound(float64):
    found = jacobians.jacobian_norms(SMALL)
    assert len(found) == 2 * 3 * len(jacobians.LEVELS)
    for (base, activation, level), measured in found.items():
        norms = measured.singular_values[..., 0]
        assert norms.shape == (2, 13)
        assert (norms <= measured.bound * (1 + 1e-10)).all(), (base, activation, level)
        if base == "orthogonal":
            np.testing.assert_allclose(measured.bound[:, 1], level, rtol=1e-6)  # drawn in float32
        else:
            assert (measured.bound[:, 1] > level).all()


@pytest.mark.slow
def test_norms_of_a_relu_network_that_stays_linear(float64):
    """A permutation has no negative entry: inputs above zero keep every unit on, dS_T/dS_k is ρ^lag P."""
    cell, steps, radius = Elman(5, activation="relu"), 9, 1.3
    with pytest.MonkeyPatch.context() as patch:
        original = networks.draw

        def positive(cell, config, number, steps):
            params, xs, d_carry = original(cell, config, number, steps)
            return networks.Run(params._replace(w_ih=abs(params.w_ih)), abs(xs), d_carry)

        patch.setattr(networks, "draw", positive)
        permuted = radius * jnp.eye(5)[jnp.array([1, 2, 3, 4, 0])]
        measured = networks.flows(cell, Config(time=steps, draws=2), lambda w_hh, number: permuted)
    powers = radius ** np.arange(steps + 1)
    every = np.broadcast_to(powers[:, None], (2, steps + 1, 5))
    np.testing.assert_allclose(measured.singular_values, every, rtol=1e-12)
    np.testing.assert_allclose(measured.gradient_norms, every[..., 0], rtol=1e-12)  # u has length 1
    np.testing.assert_allclose(measured.bound, every[..., 0], rtol=1e-12)


@pytest.mark.parametrize("cell", [Elman(4), pytest.param(LSTM(4), marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_naive_sum_is_the_gradient(cell, float64):
    steps = 7
    drawn = networks.draw(cell, Config(), 0, steps)
    naive = cost.naive_sum(cell, drawn)

    def loss(params):  # by a loop, independent of unroll
        carry = cell.initial_carry((), "float64")
        for x in drawn.xs:
            carry, _ = cell.step(params, carry, x)
        return sum(jnp.vdot(u, leaf) for u, leaf in zip(drawn.d_carry, carry, strict=True))

    expected = jax.jit(jax.grad(loss))(drawn.params)
    for gradient in (naive, cost.summed_terms(cell, drawn), cost.bptt(cell, drawn)):
        assert cost.relative_error(gradient, expected) < 1e-12
    assert cost.relative_error(jax.tree.map(lambda a: a * (1 + 1e-9), naive), expected) > 1e-10


@pytest.mark.slow
def test_clipping_keeps_finite_what_otherwise_diverges():
    config = Config(time=16, hidden_size=6, steps=30, learning_rate=1e3)

    def trained(clip):
        return clipping.train(config, clip, jnp.asarray(0))

    free = trained(optax.identity())
    by_norm, by_value = trained(optax.clip_by_global_norm(1e-4)), trained(optax.clip(1e-5))
    assert not np.isfinite(free.losses).all()
    assert np.isfinite(by_norm.losses).all()
    assert np.isfinite(by_value.losses).all()
    assert free.losses[0] == by_norm.losses[0] == by_value.losses[0]  # the same weights and data
    assert by_norm.angles[0] < 0.1 < by_value.angles[0]  # only clipping by value turns the gradient


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(truncation, "CUTS", 2)
    monkeypatch.setattr(cost, "TIMED", 0.0)
    out = tmp_path / "run"
    run("--out", out, "--time", 8, "--hidden-size", 3, "--draws", 2, "--steps", 5)
    plots = {"jacobian_norms", "gates", "clipping", "truncation", "cost"}
    assert {path.name for path in out.iterdir()} == {"config.json", "summary.json"} | {
        f"{name}.png" for name in plots
    }
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["parts"]) == ["jacobians", "gates", "clipping", "truncation", "cost"]
    for part in summary["parts"].values():
        assert part["figures"]
        assert part["claims"]
    assert summary["settings"]["time"] == 8
    assert summary["device"]
    claims = {claim["claim"]: claim for part in summary["parts"].values() for claim in part["claims"]}
    assert claims["no norm is above (γλ)^(T−k)"]["shows"]
    assert claims["the sum over steps is the gradient"]["shows"]
    last = summary["parts"]["truncation"]["figures"]["GRU, loss at all steps"]
    assert last["angle, h = 8"] < 1e-6 < last["angle, h = 1"]
    printed = capsys.readouterr().out
    assert all(f": {claim} (" in printed for claim in claims)
    assert not jax.config.jax_enable_x64


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "everything"], "everything"),
        (["--time", "7"], "time must be 8 or more, got 7"),
        (["--hidden-size", "0"], "hidden_size must be a positive integer, got 0"),
        (["--draws", "-1"], "draws must be a positive integer, got -1"),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--learning-rate", "0"], "learning_rate must be a positive number, got 0.0"),
        (["--clip-norm", "nan"], "clip_norm must be a positive number, got nan"),
        (["--seed", "-1"], "seed must be 0 or more and below 2**32, got -1"),
        (["--clip-value", "-1"], "clip_value must be a positive number, got -1.0"),
    ],
)
def test_bad_input(arguments, message, tmp_path, capsys):
    assert message in refusal(capsys, run, "--out", tmp_path / "new", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_users_run")
def test_a_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    assert "is not empty" in refusal(capsys, run, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_plot_that_fails_costs_no_figure(tmp_path, monkeypatch, capsys):
    """Nor do claims that cannot be judged; every part's figures are kept before the next is measured."""

    def broken(*args):
        raise RuntimeError("broken")

    def measure(config, out):
        return {"row": {"norm": 0.5}}, broken, broken

    def last(config, out):
        assert json.loads((out / "summary.json").read_text())["parts"].keys() == {"first"}
        return measure(config, out)

    monkeypatch.setattr(study, "plan", lambda config: {"first": measure, "last": last})
    study.study_command(Config(out=tmp_path / "run"))
    parts = json.loads((tmp_path / "run" / "summary.json").read_text())["parts"]
    assert [part["figures"] for part in parts.values()] == [{"row": {"norm": 0.5}}] * 2
    printed = capsys.readouterr()
    assert printed.out.count("0.5") == 2
    assert printed.err == "".join(
        f"warning: the {what} of {name} failed: broken\n" for name in parts for what in ("claims", "plot")
    )
