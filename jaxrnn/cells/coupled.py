"""The LSTM with coupled input and forget gates."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise
from jaxrnn.cells.dense import DenseCell, cast_like, draw_w_hh, draw_w_ih
from jaxrnn.cells.lstm import LSTMBase, LSTMCarry


class CoupledParams(NamedTuple):
    """Parameters of a coupled LSTM with m inputs and n hidden units; gate order f, g, o."""

    w_ih: Array  # (m, 3n)
    w_hh: Array  # (n, 3n)
    b: Array  # (3n,)


@dataclass(frozen=True)
class CoupledLSTM(LSTMBase, DenseCell):
    """The LSTM with a coupled input and forget gate (CIFG), i = 1 − f, of Greff et al. (2017), "LSTM: a
    search space odyssey", without peepholes.

    Equations::

        [f g o]_t = x_t W_ih + h_{t-1} W_hh + b               pre-activations z_t
        f, o      = σ(·),  g = tanh(·),  i = 1 − f
        c_t       = f ⊙ c_{t-1} + i ⊙ g
        h_t       = o ⊙ tanh(c_t)
        y_t       = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t::

        ∂c   = ∂L/∂c_t + ∂h ⊙ o ⊙ (1 − tanh²(c_t))
        δ_f  = ∂c ⊙ (c_{t-1} − g) ⊙ f(1−f)
        δ_g  = ∂c ⊙ (1−f) ⊙ (1−g²)       δ_o = ∂h ⊙ tanh(c_t) ⊙ o(1−o)
        ∂L/∂c_{t-1} = ∂c ⊙ f             ∂L/∂h_{t-1} = δ_t W_hhᵀ        ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂W_hh = Σ h_{t-1}ᵀ δ_t    ∂L/∂b = Σ δ_t

    Args:
      hidden_size: number n of hidden units.
      forget_bias: initial bias of the forget gate, a number or ``Chrono(longest_span)``; i = 1 − f needs
        none of its own.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a forget bias that is neither.

    >>> cell = CoupledLSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape, carry.c.shape
    ((2, 4), (2, 4))
    """

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> CoupledParams:
        """LeCun-normal input weights, recurrent weights orthogonal per gate, bias zero but for f."""
        key_ih, key_hh, key_b = jax.random.split(key, 3)
        n = self.hidden_size
        b_f, _ = self.draw_b_f_and_b_i(key_b)
        return CoupledParams(
            w_ih=draw_w_ih(key_ih, in_features, 3, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 3, dtype),
            b=jnp.concatenate([b_f, jnp.zeros(2 * n)]).astype(dtype),
        )

    def step_fwd(
        self, params: CoupledParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> tuple[LSTMCarry, Array, Array]:
        """One step; the residual is z_t, from which the derivative recomputes the gates."""
        z = self.pre_activations(params, carry.h, x)
        f, g, o = _gates(z)
        c = f * carry.c + (1 - f) * g
        h = (o * jnp.tanh(c)).astype(z.dtype)
        return cast_like(LSTMCarry(h=h, c=c), carry), h, z

    def step_bwd(
        self,
        params: CoupledParams,
        carry_before: LSTMCarry,
        residuals: Array,
        d_carry: LSTMCarry,
        d_y: Array,
    ) -> tuple[LSTMCarry, Array]:
        """dL/d(h, c)_{t-1} and δ_t."""
        z = residuals
        f, g, o = _gates(z)
        tanh_c = jnp.tanh(f * carry_before.c + (1 - f) * g)
        d_h = d_carry.h + d_y
        d_c = d_carry.c + d_h * o * (1 - tanh_c * tanh_c)
        d_f = d_c * (carry_before.c - g) * f * (1 - f)
        d_g = d_c * (1 - f) * (1 - g * g)
        d_o = d_h * tanh_c * o * (1 - o)
        delta = jnp.concatenate([d_f, d_g, d_o], axis=-1).astype(z.dtype)
        d_before = LSTMCarry(h=delta @ params.w_hh.astype(z.dtype).T, c=d_c * f)
        return cast_like(d_before, carry_before), delta

    def gates(
        self, params: CoupledParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the gates i = 1 − f, f, o at one step, each ``(*batch, hidden_size)``."""
        f, _, o = _gates(self.pre_activations(params, carry.h, x))
        return {"i": 1 - f, "f": f, "o": o}


def _gates(z: Array) -> tuple[Array, Array, Array]:
    f, g, o = jnp.split(z, 3, axis=-1)
    return jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
