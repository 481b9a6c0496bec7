"""The minimal LSTM and GRU, whose gates do not depend on the hidden state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise, SizedCell
from jaxrnn.cells.dense import bias_grad, cast, cast_like, draw_w_ih, weight_grad


class MinimalParams(NamedTuple):
    """Parameters of a minimal cell with m inputs, n hidden units and k gates, the candidate included."""

    w_ih: Array  # (m, kn)
    b: Array  # (kn,)


class MinimalCarry(NamedTuple):
    """Carry of a minimal cell: the hidden state."""

    h: Array  # (*batch, n)


@dataclass(frozen=True)
class _MinimalCell(SizedCell):
    """Base of the minimal cells: z_t = x_t W_ih + b, without h_{t-1}."""

    gate_count: ClassVar[int]

    @property
    def carries_h(self) -> bool:
        """True: h_t contains h_{t-1} itself."""
        return True

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> MinimalParams:
        """LeCun-normal weights, zero biases."""
        width = self.gate_count * self.hidden_size
        return MinimalParams(
            w_ih=draw_w_ih(key, in_features, self.gate_count, self.hidden_size, dtype),
            b=jnp.zeros(width, dtype),
        )

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> MinimalCarry:
        """Zeros ``(*batch_shape, hidden_size)``."""
        return MinimalCarry(h=jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def pre_activations(self, params: MinimalParams, x: Array) -> Array:
        """The z of any leading axes, in the compute dtype."""
        x, w_ih, b = cast(self.compute_dtype(params, x), x, params.w_ih, params.b)
        return x @ w_ih + b

    def input_grads(self, params: MinimalParams, residuals: Array, deltas: Array) -> Array:
        """∂L/∂x_t = δ_t W_ihᵀ."""
        return deltas @ params.w_ih.astype(deltas.dtype).T

    def param_grads(
        self,
        params: MinimalParams,
        xs: Array,
        carries_before: MinimalCarry,
        residuals: Array,
        deltas: Array,
    ) -> MinimalParams:
        """Σ x_tᵀ δ_t, Σ δ_t."""
        return MinimalParams(w_ih=weight_grad(xs, deltas, params.w_ih), b=bias_grad(deltas, params.b))


@dataclass(frozen=True)
class MinGRU(_MinimalCell):
    """The minimal GRU of Feng et al. (2024), "Were RNNs all we needed?", section 3.1.

    Equations; without h_{t-1} in the gate, the step is linear in it::

        [z h̃]_t = x_t W_ih + b,  z = σ(·)
        h_t     = (1 − z) ⊙ h_{t-1} + z ⊙ h̃
        y_t     = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t::

        δ_z = ∂h ⊙ (h̃ − h_{t-1}) ⊙ z(1−z)        δ_h̃ = ∂h ⊙ z
        ∂L/∂h_{t-1} = ∂h ⊙ (1 − z)               ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂b = Σ δ_t

    ``jaxrnn.parallel_unroll`` solves it in parallel over time.

    Args:
      hidden_size: number n of hidden units.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1.

    >>> cell = MinGRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    gate_count = 2  # z, h̃

    def step_fwd(
        self, params: MinimalParams, carry: MinimalCarry, x: Array, noise: Noise = None
    ) -> tuple[MinimalCarry, Array, Array]:
        """One step; the residual is [z h̃] before the sigmoid."""
        pre_activations = self.pre_activations(params, x)
        z, candidate = _gru_gates(pre_activations)
        h = (1 - z) * carry.h + z * candidate
        return cast_like(MinimalCarry(h=h), carry), h.astype(z.dtype), pre_activations

    def step_bwd(
        self,
        params: MinimalParams,
        carry_before: MinimalCarry,
        residuals: Array,
        d_carry: MinimalCarry,
        d_y: Array,
    ) -> tuple[MinimalCarry, Array]:
        """dL/dh_{t-1} and δ_t = [δ_z δ_h̃]."""
        z, candidate = _gru_gates(residuals)
        d_h = d_carry.h + d_y
        delta_z = d_h * (candidate - carry_before.h) * z * (1 - z)
        delta = jnp.concatenate([delta_z, d_h * z], axis=-1).astype(residuals.dtype)
        return cast_like(MinimalCarry(h=d_h * (1 - z)), carry_before), delta

    def linear_step(self, params: MinimalParams, xs: Array) -> tuple[MinimalCarry, MinimalCarry]:
        """The a = 1 − z and b = z ⊙ h̃ of every step, with h_t = a_t ⊙ h_{t-1} + b_t."""
        z, candidate = _gru_gates(self.pre_activations(params, xs))
        return MinimalCarry(h=1 - z), MinimalCarry(h=z * candidate)

    def gates(
        self, params: MinimalParams, carry: MinimalCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The value of the gate z at one step, ``(*batch, hidden_size)``."""
        z, _ = _gru_gates(self.pre_activations(params, x))
        return {"z": z}


@dataclass(frozen=True)
class MinLSTM(_MinimalCell):
    """The minimal LSTM of Feng et al. (2024), "Were RNNs all we needed?", section 3.2.

    Equations, gate order i, f, h̃; the gates are divided by their sum, so that the memory neither grows
    nor shrinks::

        [i f h̃]_t = x_t W_ih + b                   pre-activations z_t
        i, f       = σ(z_i), σ(z_f)
        i′, f′     = i / (i + f), f / (i + f)
        h_t        = f′ ⊙ h_{t-1} + i′ ⊙ h̃
        y_t        = h_t

    computed as f′ = σ(u), i′ = σ(−u) with u = log f − log i, which no saturated gate turns into 0/0.

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t and δ_u = ∂h ⊙ (h_{t-1} − h̃) ⊙ f′ i′::

        δ_i = −δ_u ⊙ (1 − i)      δ_f = δ_u ⊙ (1 − f)      δ_h̃ = ∂h ⊙ i′
        ∂L/∂h_{t-1} = ∂h ⊙ f′     ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂b = Σ δ_t

    ``jaxrnn.parallel_unroll`` solves it in parallel over time.

    Args:
      hidden_size: number n of hidden units.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1.

    >>> cell = MinLSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    gate_count = 3  # i, f, h̃

    def step_fwd(
        self, params: MinimalParams, carry: MinimalCarry, x: Array, noise: Noise = None
    ) -> tuple[MinimalCarry, Array, Array]:
        """One step; the residual is z_t."""
        z = self.pre_activations(params, x)
        i, f, candidate = _lstm_gates(z)
        h = f * carry.h + i * candidate
        return cast_like(MinimalCarry(h=h), carry), h.astype(z.dtype), z

    def step_bwd(
        self,
        params: MinimalParams,
        carry_before: MinimalCarry,
        residuals: Array,
        d_carry: MinimalCarry,
        d_y: Array,
    ) -> tuple[MinimalCarry, Array]:
        """dL/dh_{t-1} and δ_t = [δ_i δ_f δ_h̃]."""
        z_i, z_f, _ = jnp.split(residuals, 3, axis=-1)
        i, f, candidate = _lstm_gates(residuals)
        d_h = d_carry.h + d_y
        delta_u = d_h * (carry_before.h - candidate) * f * i
        # 1 − σ(z) = σ(−z), without the cancellation
        delta_i, delta_f = -delta_u * jax.nn.sigmoid(-z_i), delta_u * jax.nn.sigmoid(-z_f)
        delta = jnp.concatenate([delta_i, delta_f, d_h * i], axis=-1).astype(residuals.dtype)
        return cast_like(MinimalCarry(h=d_h * f), carry_before), delta

    def linear_step(self, params: MinimalParams, xs: Array) -> tuple[MinimalCarry, MinimalCarry]:
        """The a = f′ and b = i′ ⊙ h̃ of every step, with h_t = a_t ⊙ h_{t-1} + b_t."""
        i, f, candidate = _lstm_gates(self.pre_activations(params, xs))
        return MinimalCarry(h=f), MinimalCarry(h=i * candidate)

    def gates(
        self, params: MinimalParams, carry: MinimalCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the normalised gates i′, f′ at one step, each ``(*batch, hidden_size)``."""
        i, f, _ = _lstm_gates(self.pre_activations(params, x))
        return {"i": i, "f": f}


def _gru_gates(pre_activations: Array) -> tuple[Array, Array]:
    z, candidate = jnp.split(pre_activations, 2, axis=-1)
    return jax.nn.sigmoid(z), candidate


def _lstm_gates(z: Array) -> tuple[Array, Array, Array]:
    """i′, f′ and h̃."""
    i, f, candidate = jnp.split(z, 3, axis=-1)
    u = _softplus(-i) - _softplus(-f)  # log σ(f) − log σ(i)
    return jax.nn.sigmoid(-u), jax.nn.sigmoid(u), candidate


def _softplus(z: Array) -> Array:
    """log(1 + exp z) without overflow; JAX's own takes no complex numbers."""
    positive = z.real > 0
    return jnp.where(positive, z, 0) + jnp.log1p(jnp.exp(jnp.where(positive, -z, z)))
