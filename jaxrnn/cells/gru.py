"""The gated recurrent unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxrnn.cells.cell import DType, Noise, SizedCell
from jaxrnn.cells.dense import bias_grad, cast, cast_like, draw_w_hh, draw_w_ih, weight_grad

Reset = Literal["after", "before"]


class GRUParams(NamedTuple):
    """Parameters of a GRU with m inputs and n hidden units; gate order r, z, n."""

    w_ih: Array  # (m, 3n)
    w_hh: Array  # (n, 3n)
    b_ih: Array  # (3n,)
    b_hh: Any  # (3n,); None with reset "before", where it would only repeat b_ih


class GRUCarry(NamedTuple):
    """Carry of a GRU: the hidden state."""

    h: Array  # (*batch, n)


class GRUResiduals(NamedTuple):
    """Residuals of a GRU step, for its derivative."""

    r: Array  # (*batch, n)
    z: Array  # (*batch, n)
    n: Array  # (*batch, n)
    v: Any  # (*batch, n), h_{t-1} W_hn + b_hn; None with reset "before"


@dataclass(frozen=True, kw_only=True)
class GRU(SizedCell):
    """The gated recurrent unit of Cho et al. (2014), "Learning phrase representations using RNN
    encoder-decoder", eqs. 5-8, in the two forms in use.

    The roles of z and 1 − z are those of torch and cuDNN::

        r_t = σ(x_t W_ir + b_ir + h_{t-1} W_hr + b_hr)
        z_t = σ(x_t W_iz + b_iz + h_{t-1} W_hz + b_hz)
        n_t = tanh(x_t W_in + b_in + u_t)
        h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t-1}
        y_t = h_t

    where the reset gate acts after the recurrent product (torch, cuDNN) or before it (Cho et al.;
    there b_h is left out)::

        reset="after":   v_t = h_{t-1} W_hn + b_hn     u_t = r_t ⊙ v_t
        reset="before":  u_t = (r_t ⊙ h_{t-1}) W_hn

    Derivative, with ∂h = ∂L/∂h_t + ∂L/∂y_t::

        δ_n = ∂h ⊙ (1 − z) ⊙ (1 − n²)        δ_z = ∂h ⊙ (h_{t-1} − n) ⊙ z(1−z)
        after:   δ_r = δ_n ⊙ v ⊙ r(1−r)
                 ∂L/∂h_{t-1} = ∂h ⊙ z + [δ_r δ_z δ_n⊙r] W_hhᵀ
        before:  ∂s = δ_n W_hnᵀ,  δ_r = ∂s ⊙ h_{t-1} ⊙ r(1−r)
                 ∂L/∂h_{t-1} = ∂h ⊙ z + ∂s ⊙ r + [δ_r δ_z] [W_hr W_hz]ᵀ
        ∂L/∂x_t = [δ_r δ_z δ_n] W_ihᵀ

    Args:
      hidden_size: number n of hidden units.
      reset: "after" or "before" the recurrent product.
      dtype: compute dtype, or None.

    Raises:
      ValueError: for a size below 1 or an unknown reset.

    >>> cell = GRU(hidden_size=4, reset="before")
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, y = cell.step(params, cell.initial_carry((2,)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """

    reset: Reset = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in get_args(Reset):
            raise ValueError(f'reset must be "after" or "before", got {self.reset!r}')

    @property
    def carries_h(self) -> bool:
        """True: h_t contains z_t ⊙ h_{t-1}."""
        return True

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> GRUParams:
        """LeCun-normal input weights, recurrent weights orthogonal per gate, zero biases."""
        key_ih, key_hh = jax.random.split(key)
        n = self.hidden_size
        return GRUParams(
            w_ih=draw_w_ih(key_ih, in_features, 3, n, dtype),
            w_hh=draw_w_hh(key_hh, n, 3, dtype),
            b_ih=jnp.zeros(3 * n, dtype),
            b_hh=jnp.zeros(3 * n, dtype) if self.reset == "after" else None,
        )

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> GRUCarry:
        """Zeros ``(*batch_shape, hidden_size)``."""
        return GRUCarry(h=jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step_fwd(
        self, params: GRUParams, carry: GRUCarry, x: Array, noise: Noise = None
    ) -> tuple[GRUCarry, Array, GRUResiduals]:
        """One step; the residuals are the gates, and v_t where there is one."""
        x, h_prev, w_ih, w_hh, b_ih = cast(
            self.compute_dtype(params, carry, x), x, carry.h, params.w_ih, params.w_hh, params.b_ih
        )
        n2 = 2 * self.hidden_size
        from_x = x @ w_ih + b_ih  # (*batch, 3n)
        if self.reset == "after":
            from_h = h_prev @ w_hh + params.b_hh.astype(x.dtype)  # (*batch, 3n)
            r, z = _gates(from_x[..., :n2] + from_h[..., :n2])
            v = from_h[..., n2:]
            u = r * v
        else:
            r, z = _gates(from_x[..., :n2] + h_prev @ w_hh[:, :n2])
            v = None
            u = (r * h_prev) @ w_hh[:, n2:]
        n = jnp.tanh(from_x[..., n2:] + u)
        h = (1 - z) * n + z * carry.h
        return cast_like(GRUCarry(h=h), carry), h.astype(x.dtype), GRUResiduals(r, z, n, v)

    def step_bwd(
        self,
        params: GRUParams,
        carry_before: GRUCarry,
        residuals: GRUResiduals,
        d_carry: GRUCarry,
        d_y: Array,
    ) -> tuple[GRUCarry, Array]:
        """dL/dh_{t-1} and δ_t = [δ_r δ_z δ_n]."""
        r, z, n, v = residuals
        h_prev, w_hh = carry_before.h, params.w_hh.astype(n.dtype)
        n2 = 2 * self.hidden_size
        d_h = d_carry.h + d_y
        delta_n = (d_h * (1 - z) * (1 - n * n)).astype(n.dtype)
        delta_z = (d_h * (h_prev - n) * z * (1 - z)).astype(n.dtype)
        if self.reset == "after":
            delta_r = delta_n * v * r * (1 - r)
            through_w = jnp.concatenate([delta_r, delta_z, delta_n * r], axis=-1) @ w_hh.T
        else:
            d_s = delta_n @ w_hh[:, n2:].T
            delta_r = (d_s * h_prev * r * (1 - r)).astype(n.dtype)
            through_w = d_s * r + jnp.concatenate([delta_r, delta_z], axis=-1) @ w_hh[:, :n2].T
        delta = jnp.concatenate([delta_r, delta_z, delta_n], axis=-1)
        return cast_like(GRUCarry(h=d_h * z + through_w), carry_before), delta

    def input_grads(self, params: GRUParams, residuals: GRUResiduals, deltas: Array) -> Array:
        """∂L/∂x_t = δ_t W_ihᵀ."""
        return deltas @ params.w_ih.astype(deltas.dtype).T

    def param_grads(
        self,
        params: GRUParams,
        xs: Array,
        carries_before: GRUCarry,
        residuals: GRUResiduals,
        deltas: Array,
    ) -> GRUParams:
        """Σ x_tᵀ δ_t, Σ δ_t, and the same for the recurrent side, whose δ_n passes r."""
        h_prev, r = carries_before.h, residuals.r
        n2 = 2 * self.hidden_size
        delta_rz, delta_n = deltas[..., :n2], deltas[..., n2:]
        if self.reset == "after":
            from_h = jnp.concatenate([delta_rz, delta_n * r], axis=-1)
            w_hh = weight_grad(h_prev, from_h, params.w_hh)
            b_hh = bias_grad(from_h, params.b_hh)
        else:
            w_hrz = weight_grad(h_prev, delta_rz, params.w_hh)
            w_hn = weight_grad(r * h_prev, delta_n, params.w_hh)
            w_hh, b_hh = jnp.concatenate([w_hrz, w_hn], axis=1), None
        return GRUParams(
            w_ih=weight_grad(xs, deltas, params.w_ih),
            w_hh=w_hh,
            b_ih=bias_grad(deltas, params.b_ih),
            b_hh=b_hh,
        )

    def gates(self, params: GRUParams, carry: GRUCarry, x: Array, noise: Noise = None) -> dict[str, Array]:
        """The values of the gates r, z at one step, each ``(*batch, hidden_size)``."""
        _, _, residuals = self.step_fwd(params, carry, x)
        return {"r": residuals.r, "z": residuals.z}


def _gates(pre_activations: Array) -> tuple[Array, Array]:
    r, z = jnp.split(jax.nn.sigmoid(pre_activations), 2, axis=-1)
    return r, z
