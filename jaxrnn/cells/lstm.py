"""Long short-term memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise, SizedCell
from jaxrnn.cells.dense import DenseCell, cast_like, draw_w_hh, draw_w_ih
from jaxrnn.checks import as_integer, check_number, settle
from jaxrnn.promotion import default_promotion


class LSTMParams(NamedTuple):
    """Parameters of an LSTM with m inputs and n hidden units; gate order i, f, g, o."""

    w_ih: Array  # (m, 4n)
    w_hh: Array  # (n, 4n)
    b: Array  # (4n,)


class LSTMCarry(NamedTuple):
    """Carry of an LSTM: hidden state and cell state."""

    h: Array  # (*batch, n)
    c: Array  # (*batch, n), never less than float32


@dataclass(frozen=True)
class Chrono:
    """Chrono initialisation of the forget bias, for memories of up to ``longest_span`` steps.

    b_f ~ log U[1, longest_span − 1] and b_i = −b_f (Tallec & Ollivier 2018, "Can recurrent neural
    networks warp time?", eq. 16).

    Raises:
      ValueError: for a span below 3, which would leave nothing to draw from.

    >>> bias = LSTM(256, forget_bias=Chrono(784)).init(jax.random.key(0), in_features=1).b
    >>> bool(jnp.all(bias[256:512] >= 0)), bool(jnp.all(bias[:256] == -bias[256:512]))
    (True, True)
    """

    longest_span: int

    def __post_init__(self) -> None:
        span = as_integer(self.longest_span)
        if span is None or span < 3:
            raise ValueError(f"longest_span must be an integer of 3 or more, got {self.longest_span!r}")
        object.__setattr__(self, "longest_span", span)


def _number_or_chrono(name: str, value: Any) -> float | Chrono:
    if isinstance(value, Chrono):
        return value
    try:
        return check_number(name, value)
    except ValueError:
        raise ValueError(f"{name} must be a number or Chrono(...), got {value!r}") from None


@dataclass(frozen=True, kw_only=True)
class LSTMBase(SizedCell):
    """Base of the LSTMs: the initial bias of the forget gate, and a carry of h and c."""

    forget_bias: float | Chrono = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, _number_or_chrono, "forget_bias")

    @default_promotion()
    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> LSTMCarry:
        """Zeros, a buffer each: h ``(*batch_shape, out_features)``, c ``(*batch_shape, hidden_size)``."""
        return LSTMCarry(
            h=jnp.zeros((*batch_shape, self.out_features), dtype),
            c=jnp.zeros((*batch_shape, self.hidden_size), jnp.promote_types(dtype, jnp.float32)),
        )

    def draw_b_f_and_b_i(self, key: Array) -> tuple[Array, Array]:
        """Biases b_f of the forget gate and b_i of the input gate, each ``(hidden_size,)``."""
        shape = (self.hidden_size,)
        if not isinstance(self.forget_bias, Chrono):
            return jnp.full(shape, self.forget_bias), jnp.zeros(shape)
        span = jax.random.uniform(key, shape, minval=1, maxval=self.forget_bias.longest_span - 1)
        return jnp.log(span), -jnp.log(span)

    def draw_b(self, key: Array, dtype: DType) -> Array:
        """Biases ``(4·hidden_size,)`` of the gates i, f, g, o, zero but for the forget bias."""
        b_f, b_i = self.draw_b_f_and_b_i(key)
        return jnp.concatenate([b_i, b_f, jnp.zeros(2 * self.hidden_size)]).astype(dtype)


@dataclass(frozen=True)
class LSTM(LSTMBase, DenseCell):
    """Long short-term memory with a forget gate.

    Hochreiter & Schmidhuber (1997), with the forget gate of Gers, Schmidhuber & Cummins (2000);
    equations as in Greff et al. (2017), "LSTM: a search space odyssey", without peepholes::

        [i f g o]_t = x_t W_ih + h_{t-1} W_hh + b             pre-activations z_t
        i, f, o     = σ(·),  g = tanh(·)
        c_t         = f ⊙ c_{t-1} + i ⊙ g
        h_t         = o ⊙ tanh(c_t)
        y_t         = h_t

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t::

        ∂c   = ∂L/∂c_t + ∂h ⊙ o ⊙ (1 − tanh²(c_t))
        δ_i  = ∂c ⊙ g ⊙ i(1−i)           δ_f = ∂c ⊙ c_{t-1} ⊙ f(1−f)
        δ_g  = ∂c ⊙ i ⊙ (1−g²)           δ_o = ∂h ⊙ tanh(c_t) ⊙ o(1−o)
        ∂L/∂c_{t-1} = ∂c ⊙ f             ∂L/∂h_{t-1} = δ_t W_hhᵀ        ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂W_hh = Σ h_{t-1}ᵀ δ_t    ∂L/∂b = Σ δ_t

    Args:
      hidden_size: number n of hidden units.
      forget_bias: initial bias of the forget gate, a number or ``Chrono(longest_span)``; it is part of
        ``b`` and never added at run time.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a forget bias that is neither.

    >>> cell = LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape, carry.c.shape
    ((2, 4), (2, 4))
    """

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> LSTMParams:
        """LeCun-normal input weights, recurrent weights orthogonal per gate, bias zero but for f."""
        key_ih, key_hh, key_b = jax.random.split(key, 3)
        return LSTMParams(
            w_ih=draw_w_ih(key_ih, in_features, 4, self.hidden_size, dtype),
            w_hh=draw_w_hh(key_hh, self.hidden_size, 4, dtype),
            b=self.draw_b(key_b, dtype),
        )

    def step_fwd(
        self, params: LSTMParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> tuple[LSTMCarry, Array, Array]:
        """One step; the residual is z_t, from which the derivative recomputes the gates."""
        z = self.pre_activations(params, carry.h, x)
        i, f, g, o = lstm_gates(z)
        c = f * carry.c + i * g
        h = (o * jnp.tanh(c)).astype(z.dtype)
        return cast_like(LSTMCarry(h=h, c=c), carry), h, z

    def step_bwd(
        self,
        params: LSTMParams,
        carry_before: LSTMCarry,
        residuals: Array,
        d_carry: LSTMCarry,
        d_y: Array,
    ) -> tuple[LSTMCarry, Array]:
        """dL/d(h, c)_{t-1} and δ_t."""
        z = residuals
        i, f, g, o = lstm_gates(z)
        tanh_c = jnp.tanh(f * carry_before.c + i * g)
        d_h = d_carry.h + d_y
        d_c = d_carry.c + d_h * o * (1 - tanh_c * tanh_c)
        d_i = d_c * g * i * (1 - i)
        d_f = d_c * carry_before.c * f * (1 - f)
        d_g = d_c * i * (1 - g * g)
        d_o = d_h * tanh_c * o * (1 - o)
        delta = jnp.concatenate([d_i, d_f, d_g, d_o], axis=-1).astype(z.dtype)
        d_before = LSTMCarry(h=delta @ params.w_hh.astype(z.dtype).T, c=d_c * f)
        return cast_like(d_before, carry_before), delta

    def gates(
        self, params: LSTMParams, carry: LSTMCarry, x: Array, noise: Noise = None
    ) -> dict[str, Array]:
        """The values of the gates i, f, o at one step, each ``(*batch, hidden_size)``."""
        _, _, z = self.step_fwd(params, carry, x)
        i, f, _, o = lstm_gates(z)
        return {"i": i, "f": f, "o": o}


def lstm_gates(z: Array) -> tuple[Array, Array, Array, Array]:
    """The gates i, f, g, o of the pre-activations ``z (*batch, 4n)``."""
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
