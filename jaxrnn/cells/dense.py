"""Cells whose pre-activations are one dense layer of input and hidden state, and its pieces."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Deltas, DType, Params, Residuals, SizedCell
from jaxrnn.checks import check_positive
from jaxrnn.sharding import like_weight


@dataclass(frozen=True)
class DenseCell(SizedCell):
    """A cell with z_t = x_t W_ih + h_{t-1} W_hh + b, whose δ_t = ∂L/∂z_t is one array.

    Gives the explicit derivatives, which follow from that equation alone::

        ∂L/∂x_t = δ_t W_ihᵀ    ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂W_hh = Σ h_{t-1}ᵀ δ_t    ∂L/∂b = Σ δ_t

    Params are a NamedTuple with fields ``w_ih``, ``w_hh`` and ``b``; the carry has a field ``h``.
    """

    def pre_activations(self, params: Params, h_prev: Array, x: Array) -> Array:
        """z_t in the compute dtype, as one product of [x_t h_{t-1}] with the stacked weights."""
        dtype = self.compute_dtype(params, h_prev, x)
        x, h_prev, w_ih, w_hh, b = cast(dtype, x, h_prev, params.w_ih, params.w_hh, params.b)
        return jnp.concatenate([x, h_prev], axis=-1) @ jnp.concatenate([w_ih, w_hh]) + b

    def input_grads(self, params: Params, residuals: Residuals, deltas: Deltas) -> Array:
        """∂L/∂x_t = δ_t W_ihᵀ."""
        return deltas @ params.w_ih.astype(deltas.dtype).T

    def param_grads(
        self,
        params: Params,
        xs: Array,
        carries_before: Carry,
        residuals: Residuals,
        deltas: Deltas,
    ) -> Params:
        """Σ x_tᵀ δ_t, Σ h_{t-1}ᵀ δ_t, Σ δ_t."""
        return params._replace(
            w_ih=weight_grad(xs, deltas, params.w_ih),
            w_hh=weight_grad(carries_before.h, deltas, params.w_hh),
            b=bias_grad(deltas, params.b),
        )


def draw_w_ih(key: Array, in_features: int, gates: int, hidden: int, dtype: DType) -> Array:
    """Input weights ``(in_features, gates·hidden)``, LeCun normal (variance 1/in_features)."""
    check_positive("in_features", in_features)
    shape = (in_features, gates * hidden)
    return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32).astype(dtype)


def draw_w_hh(key: Array, hidden: int, gates: int, dtype: DType, rows: int | None = None) -> Array:
    """Recurrent weights ``(rows, gates·hidden)``, each gate's part orthogonal.

    ``rows``, the size of the state that is fed back, is ``hidden`` unless given; where the two differ,
    the rows of each part are orthonormal, or its columns if these are fewer.
    """
    draw = jax.nn.initializers.orthogonal()
    keys = jax.random.split(key, gates)
    parts = [draw(k, (rows or hidden, hidden), jnp.float32) for k in keys]
    return jnp.concatenate(parts, axis=1).astype(dtype)


def cast(dtype: DType, *arrays: Array) -> tuple[Array, ...]:
    """The arrays in one dtype.

    Parameters are cast inside the step: cast outside, autodiff would sum their gradients over time in
    the compute dtype, with 2-15 % error after 512 steps of bfloat16.
    """
    return tuple(array.astype(dtype) for array in arrays)


def cast_like(tree: Any, like: Any) -> Any:
    """``tree`` with each leaf in the dtype of the leaf of ``like`` at its place."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def weight_grad(inputs: Array, deltas: Array, weight: Array) -> Array:
    """Σ inputsᵀ·δ over all leading axes, as one matrix product, in the dtype of ``weight``."""
    leading = tuple(range(deltas.ndim - 1))
    # Leading axes are contracted as they are, not flattened first: a sharded batch axis stays sharded.
    total = jax.lax.dot_general(
        inputs.astype(deltas.dtype),
        deltas,
        ((leading, leading), ((), ())),
        # Not less than the weight's own dtype: thousands of steps would drown in bfloat16.
        preferred_element_type=jnp.promote_types(deltas.dtype, weight.dtype),
        out_sharding=like_weight(weight, deltas),
    )
    return total.astype(weight.dtype)


def bias_grad(deltas: Array, bias: Array) -> Array:
    """Σ δ over all leading axes, in the dtype of ``bias``."""
    dtype = jnp.promote_types(deltas.dtype, bias.dtype)
    return jnp.sum(deltas, axis=tuple(range(deltas.ndim - 1)), dtype=dtype).astype(bias.dtype)
