"""The LSTM with peephole connections from the cell state to the gates."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise
from jaxrnn.cells.dense import DenseCell, bias_grad, cast, cast_like, draw_w_hh, draw_w_ih
from jaxrnn.cells.lstm import LSTMBase, LSTMCarry, lstm_gates


class PeepholeParams(NamedTuple):
    """Parameters of a peephole LSTM with m inputs and n hidden units; gate order i, f, g, o."""

    w_ih: Array  # (m, 4n)
    w_hh: Array  # (n, 4n)
    b: Array  # (4n,)
    p_i: Array  # (n,)
    p_f: Array  # (n,)
    p_o: Array  # (n,)


@dataclass(frozen=True)
class PeepholeLSTM(LSTMBase, DenseCell):
    """The LSTM with peepholes of Gers & Schmidhuber (2000), "Recurrent nets that time and count".

    Equations as in Greff et al. (2017), "LSTM: a search space odyssey", whose vanilla LSTM this is; the
    output gate looks at the new memory::

        [a_i a_f a_g a_o]_t = x_t W_ih + h_{t-1} W_hh + b
        z_i, z_f = a_i + p_i ⊙ c_{t-1},  a_f + p_f ⊙ c_{t-1}
        i, f, g  = σ(z_i), σ(z_f), tanh(z_g)                      z_g = a_g
        c_t      = f ⊙ c_{t-1} + i ⊙ g
        z_o      = a_o + p_o ⊙ c_t
        h_t      = o ⊙ tanh(c_t)                                  o = σ(z_o)
        y_t      = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t; δ_t at z_t is also that at a_t::

        δ_o  = ∂h ⊙ tanh(c_t) ⊙ o(1−o)
        ∂c   = ∂L/∂c_t + ∂h ⊙ o ⊙ (1 − tanh²(c_t)) + δ_o ⊙ p_o
        δ_i  = ∂c ⊙ g ⊙ i(1−i)     δ_f = ∂c ⊙ c_{t-1} ⊙ f(1−f)     δ_g = ∂c ⊙ i ⊙ (1−g²)
        ∂L/∂c_{t-1} = ∂c ⊙ f + δ_i ⊙ p_i + δ_f ⊙ p_f               ∂L/∂h_{t-1} = δ_t W_hhᵀ
        ∂L/∂p_i = Σ δ_i ⊙ c_{t-1}    ∂L/∂p_f = Σ δ_f ⊙ c_{t-1}    ∂L/∂p_o = Σ δ_o ⊙ c_t
        ∂L/∂W_ih, ∂L/∂W_hh, ∂L/∂b, ∂L/∂x_t as in ``LSTM``

    Args:
      hidden_size: number n of hidden units.
      forget_bias: initial bias of the forget gate, a number or ``Chrono(longest_span)``.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a forget bias that is neither.

    >>> cell = PeepholeLSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape, carry.c.shape
    ((2, 4), (2, 4))
    """

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> PeepholeParams:
        """As ``LSTM``; peephole weights normal with variance 1/n, that of the entries of W_hh."""
        key_ih, key_hh, key_b, key_p = jax.random.split(key, 4)
        n = self.hidden_size
        p_i, p_f, p_o = (jax.random.normal(key_p, (3, n), jnp.float32) / n**0.5).astype(dtype)
        return PeepholeParams(
            w_ih=draw_w_ih(key_ih, in_features, 4, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 4, dtype),
            b=self.draw_b(key_b, dtype),
            p_i=p_i,
            p_f=p_f,
            p_o=p_o,
        )

    def step_fwd(
        self, params: PeepholeParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> tuple[LSTMCarry, Array, Array]:
        """One step; the residual is z_t, from which the derivative recomputes the gates."""
        a = self.pre_activations(params, carry.h, x)
        p_i, p_f, p_o = cast(a.dtype, params.p_i, params.p_f, params.p_o)
        a_i, a_f, z_g, a_o = jnp.split(a, 4, axis=-1)
        z_i, z_f = cast(a.dtype, a_i + p_i * carry.c, a_f + p_f * carry.c)
        i, f, g = jax.nn.sigmoid(z_i), jax.nn.sigmoid(z_f), jnp.tanh(z_g)
        c = f * carry.c + i * g
        z_o = (a_o + p_o * c).astype(a.dtype)
        h = (jax.nn.sigmoid(z_o) * jnp.tanh(c)).astype(a.dtype)
        z = jnp.concatenate([z_i, z_f, z_g, z_o], axis=-1)
        return cast_like(LSTMCarry(h=h, c=c), carry), h, z

    def step_bwd(
        self,
        params: PeepholeParams,
        carry_before: LSTMCarry,
        residuals: Array,
        d_carry: LSTMCarry,
        d_y: Array,
    ) -> tuple[LSTMCarry, Array]:
        """dL/d(h, c)_{t-1} and δ_t."""
        z = residuals
        p_i, p_f, p_o = cast(z.dtype, params.p_i, params.p_f, params.p_o)
        i, f, g, o = lstm_gates(z)
        tanh_c = jnp.tanh(f * carry_before.c + i * g)
        d_h = d_carry.h + d_y
        d_o = d_h * tanh_c * o * (1 - o)
        d_c = d_carry.c + d_h * o * (1 - tanh_c * tanh_c) + d_o * p_o
        d_i = d_c * g * i * (1 - i)
        d_f = d_c * carry_before.c * f * (1 - f)
        d_g = d_c * i * (1 - g * g)
        delta = jnp.concatenate([d_i, d_f, d_g, d_o], axis=-1).astype(z.dtype)
        d_c_before = d_c * f + d_i * p_i + d_f * p_f
        d_before = LSTMCarry(h=delta @ params.w_hh.astype(z.dtype).T, c=d_c_before)
        return cast_like(d_before, carry_before), delta

    def param_grads(
        self,
        params: PeepholeParams,
        xs: Array,
        carries_before: LSTMCarry,
        residuals: Array,
        deltas: Array,
    ) -> PeepholeParams:
        """Those of ``DenseCell``, and Σ δ_i ⊙ c_{t-1}, Σ δ_f ⊙ c_{t-1}, Σ δ_o ⊙ c_t."""
        i, f, g, _ = lstm_gates(residuals)
        c_prev = carries_before.c
        c = f * c_prev + i * g
        d_i, d_f, _, d_o = jnp.split(deltas, 4, axis=-1)
        grads = super().param_grads(params, xs, carries_before, residuals, deltas)
        return grads._replace(
            p_i=bias_grad(d_i * c_prev, params.p_i),
            p_f=bias_grad(d_f * c_prev, params.p_f),
            p_o=bias_grad(d_o * c, params.p_o),
        )

    def gates(
        self, params: PeepholeParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the gates i, f, o at one step, each ``(*batch, hidden_size)``."""
        _, _, z = self.step_fwd(params, carry, x)
        i, f, _, o = lstm_gates(z)
        return {"i": i, "f": f, "o": o}
