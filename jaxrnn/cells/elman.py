"""The Elman recurrent network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.affine import AffineCell, cast_like, draw_w_hh, draw_w_ih
from jaxrnn.cells.cell import DType, Noise


class ElmanParams(NamedTuple):
    """Parameters of an Elman network with m inputs and n hidden units."""

    w_ih: Array  # (m, n)
    w_hh: Array  # (n, n)
    b: Array  # (n,)


class ElmanCarry(NamedTuple):
    """What an Elman network carries from step to step."""

    h: Array  # (*batch, n)


# Each activation with its slope, both as they are written in terms of z and of h = act(z).
_ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda h: 1 - h * h),
    "sigmoid": (jax.nn.sigmoid, lambda h: h * (1 - h)),
    # A comparison of real parts, so that complex steps pass; the slope at the kink z = 0 is 0.
    "relu": (
        lambda z: jnp.where(z.real > 0, z, 0),
        lambda h: (h.real > 0).astype(h.dtype),
    ),
}


@dataclass(frozen=True)
class Elman(AffineCell):
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
        act, _ = _ACTIVATIONS[self.activation]
        z = self.pre_activations(params, carry.h, x)
        h = act(z)
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
        _, slope = _ACTIVATIONS[self.activation]
        h = residuals
        delta = ((d_carry.h + d_y) * slope(h)).astype(h.dtype)
        d_before = ElmanCarry(h=delta @ params.w_hh.astype(h.dtype).T)
        return cast_like(d_before, carry_before), delta
