"""Fresh networks, their inputs, and the flow of their gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.gradient_flow.settings import Config
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.gradients import Flow, flow

FEATURES = 8  # of the inputs, but for the adding problem, which has two


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
    """Gradient flow of every draw, every leaf (draws, ...); ``recurrent`` replaces W_hh."""
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
