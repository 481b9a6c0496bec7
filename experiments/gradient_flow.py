"""Where do gradients go on their way back through time? Vanishing and exploding, seen.

    python -m experiments.gradient_flow                    all five parts
    python -m experiments.gradient_flow --part clipping    one of them

The first command takes two minutes on two CPU cores and needs no network. It leaves five plots,
and prints what the literature says of recurrent gradients, each claim marked "shows" or "DOES NOT SHOW".

- jacobians: ‖dS_T/dS_k‖ against the lag T − k for Elman networks, with the bound (γλ)^(T−k) of Pascanu,
  Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks". γ is the largest slope
  of the activation (1/4 for the sigmoid), λ the largest singular value of W_hh. Recurrent weights are a
  multiple of an orthogonal matrix, whose λ is its spectral radius ρ, or Gaussian, where λ is about 2ρ.
- gates: the same for IRNN, GRU, and LSTMs of several forget biases; dc_T/dc_k beside the highway Π f_j.
- clipping: stochastic gradient descent on the adding problem at a learning rate at which a relu network
  explodes; without clipping, clipped by norm, and by value; the same weights and data.
- truncation: the angle between the gradient cut off after h steps and the full one.
- cost: seconds of the sum Σ_k dL/dS_T (Π_{j>k} ∂S_j/∂S_{j-1}) d†S_k/dW with every product from scratch,
  against the recursion that shares them.

All but the training runs are in float64, on fresh networks, for standard normal inputs. Losses are ⟨u, S_T⟩
or ⟨u, y_t⟩ with random u of length 1. Lines are medians over draws of weights, inputs and u, between their
least and largest. Costs are the processor's, for one sequence; slopes are of the three longest.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.harness import flow_report as report
from experiments.harness import run as runs
from experiments.harness.command_line import main
from experiments.harness.flow_report import Figures
from experiments.long_memory import adding
from jaxrnn import GRU, IRNN, LSTM, Chrono, Elman, unroll
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.checks import check_positive, check_positive_number
from jaxrnn.gradients import Flow, explicit_terms, flow, truncated

FEATURES = 8  # of the inputs, but for the adding problem, which has two
BATCH_SIZE = 16  # of the training runs
LOSSES = ("loss at the end", "loss at all steps")  # of the truncation part
CUTS = 6  # lengths h of the truncation part
TIMED = 0.5  # processor seconds that each timing takes
LEVELS = (0.5, 0.9, 1.0, 1.5)  # γρ of the recurrent weights, ρ their spectral radius


@dataclass(frozen=True)
class Config:
    """Measure gradients on their way back through time."""

    part: Literal["all", "jacobians", "gates", "clipping", "truncation", "cost"] = "all"
    """What to measure."""
    time: int = 100
    """Steps T; the training runs take half as many, the costs a quarter to eight times as many."""
    hidden_size: int = 32
    """Hidden units."""
    draws: int = 5
    """Networks that each figure is taken over."""
    steps: int = 3000
    """Training steps of the clipping part."""
    learning_rate: float = 0.2
    """Learning rate of the clipping part."""
    clip_norm: float = 0.5
    """Largest global norm of a gradient that is clipped by norm; half and twice as much are tried too."""
    clip_value: float = 0.2
    """Largest entry of a gradient that is clipped by value; half and twice as much are tried too."""
    seed: int = 0
    """Seed of weights, inputs and data."""
    out: Path | None = None
    """Folder of the study; by default out/gradient_flow/<date-time>."""


Result = tuple[Figures, Callable[[Figures], list[report.Claim]], Callable[[], None]]  # judge, plot


def study_command(config: Config) -> None:
    """Measure part after part."""
    parts, record = plan(config), runs.config_record(config)
    out = config.out or runs.default_directory("gradient_flow")
    runs.check_out(out, resume=None)
    runs.create(out, record, fill=lambda folder: None)
    summary, about = {}, {"settings": record, **runs.environment()}
    for name, measure in parts.items():
        print(f"\n{name}", flush=True)
        started = time.monotonic()
        figures, judge, plot = measure(config, out)
        seconds = time.monotonic() - started
        claims = report.judged(name, judge, figures)
        summary[name] = {"seconds": seconds, "claims": [c._asdict() for c in claims], "figures": figures}
        runs.write_json(out / "summary.json", {"parts": summary, **about})
        report.print_result(figures, claims)
        report.drawn(name, plot)
    print(f"\nall in {out}")


def plan(config: Config) -> dict[str, Callable[[Config, Path], Result]]:
    """The parts that the settings ask for, by name.

    Raises:
      ValueError: for anything wrong with the settings.
    """
    parts: dict[str, Callable[[Config, Path], Result]] = {
        measure.__name__: measure for measure in (jacobians, gates, clipping, truncation, cost)
    }
    if config.part not in ("all", *parts):
        raise ValueError(f"part must be all or one of {', '.join(parts)}, got {config.part!r}")
    for name in ("time", "hidden_size", "draws", "steps"):
        check_positive(name, getattr(config, name))
    if config.time < 8:
        raise ValueError(f"time must be 8 or more, got {config.time}")
    for name in ("learning_rate", "clip_norm", "clip_value"):
        check_positive_number(name, getattr(config, name))
    return parts if config.part == "all" else {config.part: parts[config.part]}


class Run(NamedTuple):
    """A network, its inputs and the weight u of its last state in the loss."""

    params: Params
    xs: jax.Array  # (time, FEATURES)
    d_carry: Carry


def draw(cell: Cell, config: Config, number: int, steps: int) -> Run:
    """The draw of that number."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), 3)
    params = cell.init(keys[0], FEATURES, "float64")
    xs = jax.random.normal(keys[1], (steps, FEATURES))
    zero, unravel = ravel_pytree(cell.initial_carry((), "float64"))
    return Run(params, xs, unravel(unit(keys[2], zero.shape)))


def unit(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random vectors of length 1."""
    u = jax.random.normal(key, shape)
    return u / jnp.linalg.norm(u, axis=-1, keepdims=True)


def flows(cell: Cell, config: Config, recurrent: Callable[[jax.Array, int], Any] | None = None) -> Flow:
    """What becomes of the gradient, every leaf (draws, ...); ``recurrent`` replaces W_hh."""
    measured = []
    for number in range(config.draws):
        params, xs, d_carry = draw(cell, config, number, config.time)
        if recurrent is not None:
            params = params._replace(w_hh=recurrent(params.w_hh, number))
        measured.append(flow(cell, params, xs, d_carry=d_carry))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *measured)


def norm_figures(measured: Flow) -> dict[str, float]:
    """Medians of ‖dS_T/dS_k‖, and of ‖dL/dS_k‖ for the random loss."""
    norms = np.median(measured.singular_values[..., 0], axis=0)
    of_loss = float(np.median(measured.gradient_norms[:, -1]))
    return {"norm, T/2": float(norms[len(norms) // 2]), "norm, T": float(norms[-1]), "‖dL/dS_0‖": of_loss}


def jacobians(config: Config, out: Path) -> Result:
    """Elman networks against the bound."""
    with jax.enable_x64(True):
        found = jacobian_norms(config)
    figures: Figures = {}
    for (base, activation, level), measured in found.items():
        bound, ratios = np.median(measured.bound, axis=0), measured.singular_values[..., 0] / measured.bound
        worst = float(np.nanmax(ratios[:, 1:]))  # at lag 0 both are 1
        bounds = {"γλ": float(bound[1]), "bound, T": float(bound[-1]), "norm / bound": worst}
        figures[f"{activation}, {base}, {level}"] = norm_figures(measured) | bounds
    return figures, report.judge_jacobians, lambda: report.draw_jacobians(out / "jacobian_norms.png", found)


def jacobian_norms(config: Config) -> dict[tuple[str, str, float], Flow]:
    """By kind of W_hh, activation and level γρ."""

    def of_radius(base: str, radius: float, w_hh: jax.Array, number: int) -> Any:
        if base == "orthogonal":
            return radius * w_hh
        gaussian = np.random.default_rng([config.seed, number]).standard_normal(w_hh.shape)
        return jnp.asarray(radius * gaussian / np.max(np.abs(np.linalg.eigvals(gaussian))))

    cells = {act: Elman(config.hidden_size, activation=act) for act in ("tanh", "relu", "sigmoid")}
    return {
        (base, act, level): flows(
            cell, config, functools.partial(of_radius, base, level / cell.largest_slope)
        )
        for act, cell in cells.items()
        for base in ("orthogonal", "Gaussian")
        for level in LEVELS
    }


def gates(config: Config, out: Path) -> Result:
    """Gated cells and the IRNN, and the highway through the cell state."""
    n, half = config.hidden_size, config.time // 2
    cells: dict[str, Cell] = {"Elman tanh": Elman(n), "IRNN": IRNN(n), "GRU": GRU(n)}
    cells |= {f"LSTM, forget bias {bias}": LSTM(n, forget_bias=float(bias)) for bias in (0, 1, 3)}
    cells["LSTM, chrono"] = LSTM(n, forget_bias=Chrono(config.time))
    with jax.enable_x64(True):
        found = {name: flows(cell, config) for name, cell in cells.items()}
    figures: Figures = {}
    for name, measured in found.items():
        row: dict[str, Any] = norm_figures(measured)
        row["directions, T/2"] = float(np.mean(measured.singular_values[:, half] > 0.1))
        if measured.highway is not None:
            row["cell state, T/2"] = float(np.median(measured.cell_state_norms[:, half]))
            row["highway, T/2"] = float(np.median(np.max(measured.highway[:, half], axis=-1)))
        row["below 0.1, above 0.9"] = {
            gate: [float(np.mean(part)) for part in parts] for gate, parts in measured.saturation.items()
        }
        figures[name] = row
    return figures, report.judge_gates, lambda: report.draw_gates(out / "gates.png", found)


class Training(NamedTuple):
    """Training runs, every leaf (draws, steps)."""

    losses: jax.Array  # mean squared error
    norms: jax.Array  # of the gradient, before clipping
    angles: jax.Array  # between the gradient and what clipping leaves of it, in degrees


@functools.partial(jax.jit, static_argnames=("config", "clip"))
def train(config: Config, clip: optax.GradientTransformation, number: jax.Array) -> Training:
    """Stochastic gradient descent of a relu network on the adding problem."""
    cell = Elman(config.hidden_size, activation="relu")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), 3)
    w_out = jax.nn.initializers.lecun_normal()(keys[1], (cell.out_features, 1))
    weights = (cell.init(keys[0], 2), w_out, jnp.zeros(1))
    optimizer = optax.chain(clip, optax.sgd(config.learning_rate))

    def loss(weights: Any, key: jax.Array) -> jax.Array:
        params, w_out, b_out = weights
        inputs, targets = adding(key, BATCH_SIZE, config.time // 2)
        _, ys = unroll(cell, params, inputs, backward="bptt")
        return jnp.mean((ys[-1] @ w_out + b_out - targets[0][:, None]) ** 2)

    def step(run: tuple, position: jax.Array) -> tuple[tuple, Training]:
        weights, state = run
        value, gradient = jax.value_and_grad(loss)(weights, jax.random.fold_in(keys[2], position))
        updates, state = optimizer.update(gradient, state)
        norm = optax.tree.norm(gradient)
        cosine = -optax.tree.vdot(gradient, updates) / (norm * optax.tree.norm(updates))
        angle = jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1)))
        return (optax.apply_updates(weights, updates), state), Training(value, norm, angle)

    return jax.lax.scan(step, (weights, optimizer.init(weights)), jnp.arange(config.steps))[1]


def clipping(config: Config, out: Path) -> Result:
    """The same runs without clipping, clipped by norm, and by value."""
    clips = {"no clipping": optax.identity()}
    for factor in (1, 0.5, 2):
        norm, value = factor * config.clip_norm, factor * config.clip_value
        clips[f"by norm, {norm:g}"] = optax.clip_by_global_norm(norm)
        clips[f"by value, {value:g}"] = optax.clip(value)
    found: dict[str, Training] = {}
    for name, clip in clips.items():
        found[name] = jax.device_get(
            jax.vmap(functools.partial(train, config, clip))(np.arange(config.draws))
        )
    figures: Figures = {}
    for name, (losses, _, angles) in found.items():
        finite = np.isfinite(losses)
        ends = np.median(losses[:, -max(1, config.steps // 20) :], axis=1)
        last = [float(end) if ok.all() else None for end, ok in zip(ends, finite, strict=True)]
        figures[name] = {
            "diverged": sum(end is None for end in last),
            "median angle": float(np.nanmedian(angles)),
            "last losses": last,  # None where the run diverged
            "diverged at step": [None if ok.all() else int(np.argmin(ok)) for ok in finite],
        }
    return figures, report.judge_clipping, lambda: report.draw_clipping(out / "clipping.png", found)


def truncation(config: Config, out: Path) -> Result:
    """Angle and length of gradients cut off after h steps."""
    n, T = config.hidden_size, config.time
    cells: dict[str, Cell] = {"Elman tanh": Elman(n), "IRNN": IRNN(n), "GRU": GRU(n)}
    cells |= {"LSTM, forget bias 1": LSTM(n), "LSTM, chrono": LSTM(n, forget_bias=Chrono(T))}
    kept = sorted({round(h) for h in np.geomspace(1, T, CUTS)})
    figures: Figures = {}
    found: dict[str, dict[str, np.ndarray]] = {loss: {} for loss in LOSSES}
    with jax.enable_x64(True):
        for name, cell in cells.items():
            cuts = np.array([[cut_off(cell, config, i, h) for h in kept] for i in range(config.draws)])
            for loss, of_loss in zip(LOSSES, np.moveaxis(cuts, 2, 0), strict=True):
                found[loss][name] = of_loss  # (draws, h, 2)
                angles, ratios = np.nanmedian(of_loss, axis=0).T
                row = {f"angle, h = {h}": float(a) for h, a in zip(kept, angles, strict=True)}
                enough = next((h for h, a in zip(kept, angles, strict=True) if a < 10), T)
                figures[f"{name}, {loss}"] = row | {"h for 10°": enough, "norm ratios": ratios.tolist()}
    plot = functools.partial(report.draw_truncation, out / "truncation.png", kept, found)
    return figures, report.judge_truncation, plot


def cut_off(cell: Cell, config: Config, number: int, steps: int) -> list[tuple[float, float]]:
    """Angle in degrees and norm ratio of BPTT(steps) to the full gradient, for each of LOSSES."""
    params, xs, _ = draw(cell, config, number, config.time)
    every = unit(jax.random.fold_in(jax.random.key(config.seed + 1), number), (len(xs), cell.out_features))
    cuts = [truncated(cell, params, xs, steps=steps, d_ys=u) for u in (every.at[:-1].set(0), every)]
    return [(float(cut.angle), float(cut.norm_ratio)) for cut in cuts]


def cost(config: Config, out: Path) -> Result:
    """Seconds of the sum over steps, by length."""
    cell = Elman(config.hidden_size)
    lengths = [config.time // 4, config.time // 2, *(config.time * k for k in (1, 2, 4, 8))]
    ways = {"naive sum": naive_sum, "recursion, term by term": summed_terms, "BPTT": bptt}
    found: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, list[float]] = {name: [] for name in ways}
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        for T in lengths:
            run = draw(cell, config, 0, T)
            expected = bptt(cell, run, "autodiff")
            for name, way in ways.items():
                gradient, taken = timed(functools.partial(way, cell, run))
                found[name].append(taken)
                errors[name].append(relative_error(gradient, expected))
    figures: Figures = {}
    for name, seconds in found.items():
        row = {f"s, T = {T}": taken for T, taken in zip(lengths, seconds, strict=True)}
        slope = float(np.polyfit(np.log(lengths[-3:]), np.log(seconds[-3:]), 1)[0])
        figures[name] = row | {"slope": slope, "relative error": max(errors[name])}
    plot = functools.partial(report.draw_cost, out / "cost.png", lengths, found, figures)
    return figures, report.judge_cost, plot


@functools.partial(jax.jit, static_argnames="cell")
def naive_sum(cell: Cell, run: Run) -> Params:
    """Σ_k dL/dS_T (Π_{j=k+1..T} ∂S_j/∂S_{j-1}) d†S_k/dW, every product from scratch.

    Taken from the left, so that each factor costs as much as a step; matrix by matrix, n times it.
    """
    params, xs, d_carry = run

    def forward(carry: Carry, x: jax.Array) -> tuple[Carry, Carry]:
        return cell.step(params, carry, x)[0], carry

    _, before = jax.lax.scan(forward, cell.initial_carry((), xs.dtype), xs)

    def factors(k: jax.Array) -> Callable[[Carry], tuple[Params, Carry]]:
        """From v to v · d†S_k/dW and v · ∂S_k/∂S_{k-1}."""
        before_k = jax.tree.map(lambda leaf: leaf[k], before)
        return jax.vjp(lambda params, carry: cell.step(params, carry, xs[k])[0], params, before_k)[1]

    def term(k: jax.Array) -> Params:
        last = len(xs) - 1
        v = jax.lax.fori_loop(0, last - k, lambda i, v: factors(last - i)(v)[1], d_carry)
        return factors(k)(v)[0]

    return jax.tree.map(lambda terms: terms.sum(0), jax.lax.map(term, jnp.arange(len(xs))))


@functools.partial(jax.jit, static_argnames="cell")
def summed_terms(cell: Cell, run: Run) -> Params:
    """The same terms, each dL/dS_k from the one after it."""
    terms = explicit_terms(cell, run.params, run.xs, d_carry=run.d_carry)
    return jax.tree.map(lambda leaf: leaf.sum(0), terms)


@functools.partial(jax.jit, static_argnames=("cell", "backward"))
def bptt(cell: Cell, run: Run, backward: Literal["bptt", "autodiff"] = "bptt") -> Params:
    """The gradient as the library takes it."""

    def loss(params: Params) -> jax.Array:
        last, _ = unroll(cell, params, run.xs, backward=backward)
        return jnp.vdot(ravel_pytree(run.d_carry)[0], ravel_pytree(last)[0])

    return jax.grad(loss)(run.params)


def relative_error(gradient: Params, expected: Params) -> float:
    """max|a−b| / max|b|, the largest of all leaves."""
    errors = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)), gradient, expected)
    return float(np.max(jax.tree.leaves(errors)))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the processor's seconds of a call, the mean over TIMED seconds of calls.

    Compilation is left out; so are, unlike on the clock, other processes.
    """
    result = jax.block_until_ready(function())
    calls, started = 0, time.process_time()
    while calls < 3 or time.process_time() - started < TIMED:
        jax.block_until_ready(function())
        calls += 1
    return result, (time.process_time() - started) / calls


if __name__ == "__main__":
    main(__doc__ or "", {"study": (Config, study_command)})
