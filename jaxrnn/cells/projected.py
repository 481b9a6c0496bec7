"""The LSTM with a projected output."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise
from jaxrnn.cells.dense import DenseCell, cast_like, draw_w_hh, draw_w_ih, weight_grad
from jaxrnn.cells.lstm import LSTMBase, LSTMCarry, lstm_gates
from jaxrnn.checks import check_positive, settle


class ProjectedParams(NamedTuple):
    """Parameters of a projected LSTM with m inputs, n hidden units and r outputs; gate order i, f, g, o."""

    w_ih: Array  # (m, 4n)
    w_hh: Array  # (r, 4n)
    b: Array  # (4n,)
    w_hr: Array  # (n, r)


class ProjectedDeltas(NamedTuple):
    """Gradients at the two products of a step."""

    z: Array  # (*batch, 4n), δ_t at the pre-activations
    h: Array  # (*batch, r), ∂h at the projection


@dataclass(frozen=True, kw_only=True)
class ProjectedLSTM(LSTMBase, DenseCell):
    """The LSTM with a recurrent projection layer of Sak, Senior & Beaufays (2014), "Long short-term memory
    recurrent neural network architectures for large scale acoustic modeling", without peepholes and
    without their second, non-recurrent projection, as torch's ``proj_size``.

    Equations; h has r = ``projection_size`` units, c has n::

        [i f g o]_t = x_t W_ih + h_{t-1} W_hh + b             pre-activations z_t
        i, f, o     = σ(·),  g = tanh(·)
        c_t         = f ⊙ c_{t-1} + i ⊙ g
        m_t         = o ⊙ tanh(c_t)
        h_t         = m_t W_hr
        y_t         = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t::

        ∂m   = ∂h W_hrᵀ
        ∂c   = ∂L/∂c_t + ∂m ⊙ o ⊙ (1 − tanh²(c_t))
        δ_i  = ∂c ⊙ g ⊙ i(1−i)           δ_f = ∂c ⊙ c_{t-1} ⊙ f(1−f)
        δ_g  = ∂c ⊙ i ⊙ (1−g²)           δ_o = ∂m ⊙ tanh(c_t) ⊙ o(1−o)
        ∂L/∂c_{t-1} = ∂c ⊙ f             ∂L/∂h_{t-1} = δ_t W_hhᵀ        ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_hr = Σ m_tᵀ ∂h             ∂L/∂W_ih, ∂L/∂W_hh, ∂L/∂b as in ``LSTM``

    Args:
      hidden_size: number n of hidden units.
      projection_size: number r of units of h and y.
      forget_bias: initial bias of the forget gate, a number or ``Chrono(longest_span)``.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a forget bias that is neither.

    >>> cell = ProjectedLSTM(hidden_size=4, projection_size=2)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((5,)), jnp.ones((5, 3)))
    >>> y.shape, carry.c.shape
    ((5, 2), (5, 4))
    """

    projection_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, check_positive, "projection_size")

    @property
    def out_features(self) -> int:
        """Features of the output: ``projection_size``."""
        return self.projection_size

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> ProjectedParams:
        """As ``LSTM``; the projection orthogonal too, as far as its shape allows."""
        key_ih, key_hh, key_b, key_hr = jax.random.split(key, 4)
        n, r = self.hidden_size, self.projection_size
        return ProjectedParams(
            w_ih=draw_w_ih(key_ih, in_features, 4, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 4, dtype, rows=r),
            b=self.draw_b(key_b, dtype),
            w_hr=draw_w_hh(key_hr, r, 1, dtype, rows=n),
        )

    def step_fwd(
        self, params: ProjectedParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> tuple[LSTMCarry, Array, Array]:
        """One step; the residual is z_t, from which the derivative recomputes the gates."""
        z = self.pre_activations(params, carry.h, x)
        i, f, g, o = lstm_gates(z)
        c = f * carry.c + i * g
        m = (o * jnp.tanh(c)).astype(z.dtype)
        h = m @ params.w_hr.astype(z.dtype)
        return cast_like(LSTMCarry(h=h, c=c), carry), h, z

    def step_bwd(
        self,
        params: ProjectedParams,
        carry_before: LSTMCarry,
        residuals: Array,
        d_carry: LSTMCarry,
        d_y: Array,
    ) -> tuple[LSTMCarry, ProjectedDeltas]:
        """dL/d(h, c)_{t-1}, δ_t and ∂h."""
        z = residuals
        i, f, g, o = lstm_gates(z)
        tanh_c = jnp.tanh(f * carry_before.c + i * g)
        d_h = (d_carry.h + d_y).astype(z.dtype)
        d_m = d_h @ params.w_hr.astype(z.dtype).T
        d_c = d_carry.c + d_m * o * (1 - tanh_c * tanh_c)
        d_i = d_c * g * i * (1 - i)
        d_f = d_c * carry_before.c * f * (1 - f)
        d_g = d_c * i * (1 - g * g)
        d_o = d_m * tanh_c * o * (1 - o)
        delta = jnp.concatenate([d_i, d_f, d_g, d_o], axis=-1).astype(z.dtype)
        d_before = LSTMCarry(h=delta @ params.w_hh.astype(z.dtype).T, c=d_c * f)
        return cast_like(d_before, carry_before), ProjectedDeltas(z=delta, h=d_h)

    def input_grads(self, params: ProjectedParams, residuals: Array, deltas: ProjectedDeltas) -> Array:
        """∂L/∂x_t = δ_t W_ihᵀ."""
        return super().input_grads(params, residuals, deltas.z)

    def param_grads(
        self,
        params: ProjectedParams,
        xs: Array,
        carries_before: LSTMCarry,
        residuals: Array,
        deltas: ProjectedDeltas,
    ) -> ProjectedParams:
        """Those of ``DenseCell``, and Σ m_tᵀ ∂h."""
        i, f, g, o = lstm_gates(residuals)
        m = o * jnp.tanh(f * carries_before.c + i * g)
        grads = super().param_grads(params, xs, carries_before, residuals, deltas.z)
        return grads._replace(w_hr=weight_grad(m, deltas.h, params.w_hr))

    def gates(
        self, params: ProjectedParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the gates i, f, o at one step, each ``(*batch, hidden_size)``."""
        i, f, _, o = lstm_gates(self.pre_activations(params, carry.h, x))
        return {"i": i, "f": f, "o": o}
