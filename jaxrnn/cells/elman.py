"""The Elman recurrent network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise
from jaxrnn.cells.dense import DenseCell, cast_like, draw_w_hh, draw_w_ih
from jaxrnn.checks import check_positive_number, settle


class ElmanParams(NamedTuple):
    """Parameters of an Elman network with m inputs and n hidden units."""

    w_ih: Array  # (m, n)
    w_hh: Array  # (n, n)
    b: Array  # (n,)


class ElmanCarry(NamedTuple):
    """Carry of an Elman network: the hidden state."""

    h: Array  # (*batch, n)


class _Activation(NamedTuple):
    act: Callable[[Array], Array]  # z to h = act(z)
    slope: Callable[[Array], Array]  # h to act'(z)
    largest_slope: float  # γ, the largest |act'(z)|


_ACTIVATIONS = {
    "tanh": _Activation(jnp.tanh, lambda h: 1 - h * h, 1.0),
    "sigmoid": _Activation(jax.nn.sigmoid, lambda h: h * (1 - h), 0.25),
    # A comparison of real parts, so that complex steps pass; the slope at the kink z = 0 is 0.
    "relu": _Activation(
        lambda z: jnp.where(z.real > 0, z, 0),
        lambda h: (h.real > 0).astype(h.dtype),
        1.0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Elman(DenseCell):
    """The simple recurrent network of Elman (1990), "Finding structure in time".

    Equations, with act one of tanh, relu, sigmoid::

        z_t = x_t W_ih + h_{t-1} W_hh + b
        h_t = act(z_t)
        y_t = h_t

    Derivative::

        δ_t          = (∂L/∂h_t + ∂L/∂y_t) ⊙ act'(z_t)
        ∂L/∂h_{t-1}  = δ_t W_hhᵀ        ∂L/∂x_t = δ_t W_ihᵀ
        ∂L/∂W_ih = Σ x_tᵀ δ_t    ∂L/∂W_hh = Σ h_{t-1}ᵀ δ_t    ∂L/∂b = Σ δ_t

    Args:
      hidden_size: number n of hidden units.
      activation: "tanh", "relu" (slope 0 at its kink) or "sigmoid".
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1 or an unknown activation.

    >>> cell = Elman(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}, got {self.activation!r}")

    @property
    def largest_slope(self) -> float:
        """γ of the activation: tanh 1, relu 1, sigmoid 1/4.

        Where γ times the largest singular value of W_hh is below 1, gradients vanish (Pascanu, Mikolov &
        Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.1).
        """
        return _ACTIVATIONS[self.activation].largest_slope

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> ElmanParams:
        """LeCun-normal input weights, orthogonal recurrent weights, zero bias."""
        key_ih, key_hh = jax.random.split(key)
        return ElmanParams(
            w_ih=draw_w_ih(key_ih, in_features, 1, self.hidden_size, dtype),
            w_hh=draw_w_hh(key_hh, self.hidden_size, 1, dtype),
            b=jnp.zeros(self.hidden_size, dtype),
        )

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> ElmanCarry:
        """Zeros ``(*batch_shape, hidden_size)``."""
        return ElmanCarry(h=jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step_fwd(
        self, params: ElmanParams, carry: ElmanCarry, x: Array, noise: Noise = None
    ) -> tuple[ElmanCarry, Array, Array]:
        """One step; the residual is h_t."""
        z = self.pre_activations(params, carry.h, x)
        h = _ACTIVATIONS[self.activation].act(z)
        return ElmanCarry(h=h.astype(carry.h.dtype)), h, h

    def step_bwd(
        self,
        params: ElmanParams,
        carry_before: ElmanCarry,
        residuals: Array,
        d_carry: ElmanCarry,
        d_y: Array,
    ) -> tuple[ElmanCarry, Array]:
        """dL/dh_{t-1} and δ_t."""
        h = residuals
        slope = _ACTIVATIONS[self.activation].slope(h)
        delta = ((d_carry.h + d_y) * slope).astype(h.dtype)
        d_before = ElmanCarry(h=delta @ params.w_hh.astype(h.dtype).T)
        return cast_like(d_before, carry_before), delta


@dataclass(frozen=True, kw_only=True)
class IRNN(Elman):
    """The IRNN of Le, Jaitly & Hinton (2015), "A simple way to initialize recurrent networks of rectified
    linear units": an ``Elman`` with relu whose recurrent weights start as a scaled identity.

    Equations, and their derivative as in ``Elman``::

        z_t = x_t W_ih + h_{t-1} W_hh + b        W_hh = scale·I at the start
        h_t = max(z_t, 0)
        y_t = h_t

    At scale 1 and without input, a new network keeps h as it is, and its gradient too; at a smaller scale
    both fade by that factor each step. At scale 1, h adds up the inputs of all steps, and rounding errors
    with them: over hundreds of steps bfloat16 is too coarse for it.

    Args:
      hidden_size: number n of hidden units.
      scale: what the identity is multiplied by; the paper takes 1, and 0.01 where no long memory is wanted.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1, or a scale that is not a positive number.

    >>> cell = IRNN(hidden_size=2, scale=0.5)
    >>> cell.init(jax.random.key(0), in_features=3).w_hh.tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """

    activation: Literal["tanh", "relu", "sigmoid"] = field(default="relu", init=False)
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, check_positive_number, "scale")

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> ElmanParams:
        """LeCun-normal input weights (in the paper, of standard deviation 0.001), scale·I, zero bias."""
        n = self.hidden_size
        return ElmanParams(
            w_ih=draw_w_ih(key, in_features, 1, n, dtype),
            w_hh=(self.scale * jnp.eye(n)).astype(dtype),
            b=jnp.zeros(n, dtype),
        )
