"""The LSTM with layer normalisation."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise
from jaxrnn.cells.dense import bias_grad, cast, cast_like, draw_w_hh, draw_w_ih, weight_grad
from jaxrnn.cells.lstm import LSTMBase, LSTMCarry, lstm_gates

EPSILON = 1e-5  # added to the variance


class LayerNormParams(NamedTuple):
    """Parameters of a layer-norm LSTM with m inputs and n hidden units; gate order i, f, g, o."""

    w_ih: Array  # (m, 4n)
    w_hh: Array  # (n, 4n)
    scale_ih: Array  # (4n,)
    scale_hh: Array  # (4n,)
    b: Array  # (4n,)
    scale_c: Array  # (n,)
    b_c: Array  # (n,)


class Normalized(NamedTuple):
    """A normalised vector, and the residuals of its derivative."""

    value: Array  # (*batch, k), â = (a − m) / s
    s: Array  # (*batch, 1), the standard deviation, never less than float32


class LayerNormResiduals(NamedTuple):
    """Residuals of a layer-norm LSTM step, for its derivative."""

    ih: Normalized  # of x_t W_ih
    hh: Normalized  # of h_{t-1} W_hh
    c: Normalized  # of c_t


class LayerNormDeltas(NamedTuple):
    """Gradients at the sums of a layer-norm LSTM step."""

    z: Array  # (*batch, 4n), δ_t at the pre-activations
    ih: Array  # (*batch, 4n), at x_t W_ih
    hh: Array  # (*batch, 4n), at h_{t-1} W_hh
    u: Array  # (*batch, n), at the normalised, scaled and shifted c_t


@dataclass(frozen=True)
class LayerNormLSTM(LSTMBase):
    """The LSTM with layer normalisation of Ba, Kiros & Hinton (2016), "Layer normalization", eqs. 20-22 of
    the appendix.

    Equations, with m the mean of a vector and s² = mean((a − m)²) + ε its variance, ε = 1e-5::

        N(a) = (a − m) / s
        z_t  = N(x_t W_ih) ⊙ scale_ih + N(h_{t-1} W_hh) ⊙ scale_hh + b        over all 4n at once
        i, f, o = σ(·),  g = tanh(·)                                          of [i f g o]_t = z_t
        c_t  = f ⊙ c_{t-1} + i ⊙ g
        u_t  = N(c_t) ⊙ scale_c + b_c
        h_t  = o ⊙ tanh(u_t)
        y_t  = h_t

    The paper gives each of the first two normalisations a bias of its own beside b; only their sum
    appears, which is b here.

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t, and N′ that of â = N(a), from d at â to a::

        N′(d) = (d − mean(d) − â·mean(d ⊙ â)) / s
        δ_u  = ∂h ⊙ o ⊙ (1 − tanh²(u_t))
        ∂c   = ∂L/∂c_t + N′(δ_u ⊙ scale_c)
        δ_i  = ∂c ⊙ g ⊙ i(1−i)           δ_f = ∂c ⊙ c_{t-1} ⊙ f(1−f)
        δ_g  = ∂c ⊙ i ⊙ (1−g²)           δ_o = ∂h ⊙ tanh(u_t) ⊙ o(1−o)
        δ_ih = N′(δ_t ⊙ scale_ih)        δ_hh = N′(δ_t ⊙ scale_hh)
        ∂L/∂c_{t-1} = ∂c ⊙ f             ∂L/∂h_{t-1} = δ_hh W_hhᵀ       ∂L/∂x_t = δ_ih W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_ih    ∂L/∂W_hh = Σ h_{t-1}ᵀ δ_hh    ∂L/∂b = Σ δ_t    ∂L/∂b_c = Σ δ_u
        ∂L/∂scale_ih = Σ δ_t ⊙ N(x_t W_ih), and so on for scale_hh and scale_c

    Means are taken in float32 at least.

    Args:
      hidden_size: number n of hidden units.
      forget_bias: initial bias of the forget gate, a number or ``Chrono(longest_span)``.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a forget bias that is neither.

    >>> cell = LayerNormLSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape, carry.c.shape
    ((2, 4), (2, 4))
    """

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> LayerNormParams:
        """As ``LSTM``; scales one, b_c zero."""
        key_ih, key_hh, key_b = jax.random.split(key, 3)
        n = self.hidden_size
        return LayerNormParams(
            w_ih=draw_w_ih(key_ih, in_features, 4, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 4, dtype),
            scale_ih=jnp.ones(4 * n, dtype),
            scale_hh=jnp.ones(4 * n, dtype),
            b=self.draw_b(key_b, dtype),
            scale_c=jnp.ones(n, dtype),
            b_c=jnp.zeros(n, dtype),
        )

    def step_fwd(
        self, params: LayerNormParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> tuple[LSTMCarry, Array, LayerNormResiduals]:
        """One step; the residuals are the three normalised vectors."""
        dtype = self.compute_dtype(params, carry.h, x)
        x, h_prev, w_ih, w_hh, scale_c, b_c = cast(
            dtype, x, carry.h, params.w_ih, params.w_hh, params.scale_c, params.b_c
        )
        ih, hh = _normalize(x @ w_ih), _normalize(h_prev @ w_hh)
        i, f, g, o = lstm_gates(_pre_activations(params, ih, hh))
        c = f * carry.c + i * g
        normal_c = _normalize(c)
        u = normal_c.value * scale_c + b_c
        h = (o * jnp.tanh(u)).astype(dtype)
        return cast_like(LSTMCarry(h=h, c=c), carry), h, LayerNormResiduals(ih, hh, normal_c)

    def step_bwd(
        self,
        params: LayerNormParams,
        carry_before: LSTMCarry,
        residuals: LayerNormResiduals,
        d_carry: LSTMCarry,
        d_y: Array,
    ) -> tuple[LSTMCarry, LayerNormDeltas]:
        """dL/d(h, c)_{t-1}, and the gradients at z_t, x_t W_ih, h_{t-1} W_hh and u_t."""
        ih, hh, normal_c = residuals
        z = _pre_activations(params, ih, hh)
        w_hh, scale_ih, scale_hh, scale_c, b_c = cast(
            z.dtype, params.w_hh, params.scale_ih, params.scale_hh, params.scale_c, params.b_c
        )
        i, f, g, o = lstm_gates(z)
        tanh_u = jnp.tanh(normal_c.value * scale_c + b_c)
        d_h = d_carry.h + d_y
        d_u = d_h * o * (1 - tanh_u * tanh_u)
        d_c = d_carry.c + _normalize_bwd(normal_c, d_u * scale_c)
        d_i = d_c * g * i * (1 - i)
        d_f = d_c * carry_before.c * f * (1 - f)
        d_g = d_c * i * (1 - g * g)
        d_o = d_h * tanh_u * o * (1 - o)
        delta = jnp.concatenate([d_i, d_f, d_g, d_o], axis=-1).astype(z.dtype)
        d_ih = _normalize_bwd(ih, delta * scale_ih)
        d_hh = _normalize_bwd(hh, delta * scale_hh)
        d_before = LSTMCarry(h=d_hh @ w_hh.T, c=d_c * f)
        return cast_like(d_before, carry_before), LayerNormDeltas(z=delta, ih=d_ih, hh=d_hh, u=d_u)

    def input_grads(
        self, params: LayerNormParams, residuals: LayerNormResiduals, deltas: LayerNormDeltas
    ) -> Array:
        """∂L/∂x_t = δ_ih W_ihᵀ."""
        return deltas.ih @ params.w_ih.astype(deltas.ih.dtype).T

    def param_grads(
        self,
        params: LayerNormParams,
        xs: Array,
        carries_before: LSTMCarry,
        residuals: LayerNormResiduals,
        deltas: LayerNormDeltas,
    ) -> LayerNormParams:
        """Σ x_tᵀ δ_ih, Σ h_{t-1}ᵀ δ_hh, Σ δ ⊙ N of each scale, Σ δ of each bias."""
        ih, hh, normal_c = residuals
        return LayerNormParams(
            w_ih=weight_grad(xs, deltas.ih, params.w_ih),
            w_hh=weight_grad(carries_before.h, deltas.hh, params.w_hh),
            scale_ih=bias_grad(deltas.z * ih.value, params.scale_ih),
            scale_hh=bias_grad(deltas.z * hh.value, params.scale_hh),
            b=bias_grad(deltas.z, params.b),
            scale_c=bias_grad(deltas.u * normal_c.value, params.scale_c),
            b_c=bias_grad(deltas.u, params.b_c),
        )

    def gates(
        self, params: LayerNormParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the gates i, f, o at one step, each ``(*batch, hidden_size)``."""
        _, _, (ih, hh, _) = self.step_fwd(params, carry, x)
        i, f, _, o = lstm_gates(_pre_activations(params, ih, hh))
        return {"i": i, "f": f, "o": o}


def _pre_activations(params: LayerNormParams, ih: Normalized, hh: Normalized) -> Array:
    """z_t in the compute dtype, that of the normalised products."""
    scale_ih, scale_hh, b = cast(ih.value.dtype, params.scale_ih, params.scale_hh, params.b)
    return ih.value * scale_ih + hh.value * scale_hh + b


def _normalize(a: Array) -> Normalized:
    """N(a) in the dtype of a, with its mean and variance over the last axis in float32 at least."""
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    # Not jnp.var, which takes |a − m|²: of a complex step it would lose the derivative.
    s = jnp.sqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return Normalized((centred / s).astype(a.dtype), s)


def _normalize_bwd(normalized: Normalized, d: Array) -> Array:
    """N′(d): from the gradient at N(a) to that at a, in the dtype of N(a)."""
    value, s = normalized
    wide = d.astype(s.dtype)
    along = jnp.mean(wide * value, axis=-1, keepdims=True)
    return ((wide - jnp.mean(wide, axis=-1, keepdims=True) - value * along) / s).astype(value.dtype)
