"""Seconds of the gradient as a sum over steps, by length: every product from scratch, or shared."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.gradient_flow.networks import Run, draw
from experiments.gradient_flow.report import Claim, Figures, Result, listed
from experiments.gradient_flow.settings import Config
from experiments.harness.plots import COLOURS, MARKERS, save
from jaxrnn import Elman, unroll
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.gradients import explicit_terms

TIMED = 0.5  # processor seconds that each timing takes


def measure(config: Config, out: Path) -> Result:
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
    plotted = functools.partial(plot, out / "cost.png", lengths, found, figures)
    return figures, judge, plotted


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


def judge(figures: Figures) -> list[Claim]:
    """Claims about the powers of T that the costs grow with."""
    error = max(row["relative error"] for row in figures.values())
    slopes = {name: row["slope"] for name, row in figures.items()}
    naive, *others = slopes.values()
    return [
        Claim("the sum over steps is the gradient", "Werbos 1990", error < 1e-12,
              f"Largest relative error against jax.grad: {error:.1e}"),
        Claim("its naive cost grows with T², that of the recursion with T", "Werbos 1990",
              1.7 < naive < 2.3 and max(others) < 1.3, f"Seconds grow as T to the power: {listed(slopes)}"),
    ]  # fmt: skip


def plot(
    path: Path, lengths: Sequence[int], found: Mapping[str, Sequence[float]], figures: Figures
) -> None:
    """Seconds against length, both logarithmic."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for (name, taken), colour, marker in zip(found.items(), COLOURS, MARKERS, strict=False):
        axes.loglog(
            lengths, taken, color=colour, marker=marker, label=f"{name}: slope {figures[name]['slope']:.2f}"
        )
    axes.set(xlabel="length T (steps)", ylabel="processor seconds for one gradient")
    axes.set_xticks(lengths, [str(length) for length in lengths], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)
