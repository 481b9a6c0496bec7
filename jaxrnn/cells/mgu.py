"""The minimal gated unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise, SizedCell
from jaxrnn.cells.dense import bias_grad, cast, cast_like, draw_w_hh, draw_w_ih, weight_grad


class MGUParams(NamedTuple):
    """Parameters of an MGU with m inputs and n hidden units; gate order f, n."""

    w_ih: Array  # (m, 2n)
    w_hh: Array  # (n, 2n)
    b: Array  # (2n,)


class MGUCarry(NamedTuple):
    """Carry of an MGU: the hidden state."""

    h: Array  # (*batch, n)


class MGUResiduals(NamedTuple):
    """Residuals of an MGU step, for its derivative."""

    f: Array  # (*batch, n)
    n: Array  # (*batch, n)


@dataclass(frozen=True)
class MGU(SizedCell):
    """The minimal gated unit of Zhou et al. (2016), "Minimal gated unit for recurrent neural networks": a
    GRU whose one gate both resets and updates.

    Equations::

        f_t = σ(x_t W_if + h_{t-1} W_hf + b_f)
        n_t = tanh(x_t W_in + (f_t ⊙ h_{t-1}) W_hn + b_n)
        h_t = (1 − f_t) ⊙ h_{t-1} + f_t ⊙ n_t
        y_t = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t, and ∂s at s_t = f_t ⊙ h_{t-1}::

        δ_n = ∂h ⊙ f ⊙ (1 − n²)        ∂s = δ_n W_hnᵀ
        δ_f = (∂h ⊙ (n − h_{t-1}) + ∂s ⊙ h_{t-1}) ⊙ f(1−f)
        ∂L/∂h_{t-1} = ∂h ⊙ (1 − f) + ∂s ⊙ f + δ_f W_hfᵀ        ∂L/∂x_t = [δ_f δ_n] W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ [δ_f δ_n]    ∂L/∂W_hf = Σ h_{t-1}ᵀ δ_f    ∂L/∂W_hn = Σ s_tᵀ δ_n
        ∂L/∂b    = Σ [δ_f δ_n]

    Args:
      hidden_size: number n of hidden units.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1.

    >>> cell = MGU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    @property
    def carries_h(self) -> bool:
        """True: h_t contains (1 − f_t) ⊙ h_{t-1}."""
        return True

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> MGUParams:
        """LeCun-normal input weights, recurrent weights orthogonal per gate, zero bias."""
        key_ih, key_hh = jax.random.split(key)
        n = self.hidden_size
        return MGUParams(
            w_ih=draw_w_ih(key_ih, in_features, 2, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 2, dtype),
            b=jnp.zeros(2 * n, dtype),
        )

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> MGUCarry:
        """Zeros ``(*batch_shape, hidden_size)``."""
        return MGUCarry(h=jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step_fwd(
        self, params: MGUParams, carry: MGUCarry, x: Array, noise: Noise = None
    ) -> tuple[MGUCarry, Array, MGUResiduals]:
        """One step; the residuals are f_t and n_t."""
        dtype = self.compute_dtype(params, carry, x)
        x, h_prev, w_ih, w_hh, b = cast(dtype, x, carry.h, *params)
        w_hf, w_hn = jnp.split(w_hh, 2, axis=1)
        x_f, x_n = jnp.split(x @ w_ih + b, 2, axis=-1)
        f = jax.nn.sigmoid(x_f + h_prev @ w_hf)
        n = jnp.tanh(x_n + (f * h_prev) @ w_hn)
        h = (1 - f) * carry.h + f * n
        return cast_like(MGUCarry(h=h), carry), h.astype(dtype), MGUResiduals(f, n)

    def step_bwd(
        self,
        params: MGUParams,
        carry_before: MGUCarry,
        residuals: MGUResiduals,
        d_carry: MGUCarry,
        d_y: Array,
    ) -> tuple[MGUCarry, Array]:
        """dL/dh_{t-1} and δ_t = [δ_f δ_n]."""
        f, n = residuals
        h_prev = carry_before.h
        w_hf, w_hn = jnp.split(params.w_hh.astype(n.dtype), 2, axis=1)
        d_h = d_carry.h + d_y
        delta_n = (d_h * f * (1 - n * n)).astype(n.dtype)
        d_s = delta_n @ w_hn.T
        delta_f = ((d_h * (n - h_prev) + d_s * h_prev) * f * (1 - f)).astype(n.dtype)
        d_before = MGUCarry(h=d_h * (1 - f) + d_s * f + delta_f @ w_hf.T)
        return cast_like(d_before, carry_before), jnp.concatenate([delta_f, delta_n], axis=-1)

    def input_grads(self, params: MGUParams, residuals: MGUResiduals, deltas: Array) -> Array:
        """∂L/∂x_t = δ_t W_ihᵀ."""
        return deltas @ params.w_ih.astype(deltas.dtype).T

    def param_grads(
        self,
        params: MGUParams,
        xs: Array,
        carries_before: MGUCarry,
        residuals: MGUResiduals,
        deltas: Array,
    ) -> MGUParams:
        """Σ x_tᵀ δ_t, [Σ h_{t-1}ᵀ δ_f, Σ s_tᵀ δ_n], Σ δ_t."""
        h_prev, f = carries_before.h, residuals.f
        delta_f, delta_n = jnp.split(deltas, 2, axis=-1)
        w_hf = weight_grad(h_prev, delta_f, params.w_hh)
        w_hn = weight_grad(f * h_prev, delta_n, params.w_hh)
        return MGUParams(
            w_ih=weight_grad(xs, deltas, params.w_ih),
            w_hh=jnp.concatenate([w_hf, w_hn], axis=1),
            b=bias_grad(deltas, params.b),
        )

    def gates(self, params: MGUParams, carry: MGUCarry, x: Array, noise: Noise = None) -> dict[str, Array]:
        """The value of the gate f at one step, ``(*batch, hidden_size)``."""
        _, _, residuals = self.step_fwd(params, carry, x)
        return {"f": residuals.f}
