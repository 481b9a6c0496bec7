"""A forecaster: a linear forecast from the last readings, corrected by a recurrent network."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.scipy.stats import norm
from jaxtyping import Array
from sklearn.linear_model import Ridge

from jaxrnn import Stack, unroll
from jaxrnn.layers import dropout

Output = Literal["normal", "quantiles"]
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)  # of the quantiles: 95 % and 80 % intervals, and the median
NORMAL = scipy.stats.norm.ppf(LEVELS)  # of a standard normal distribution
RIDGE = 1.0  # penalty of the linear forecast, for inputs of variance near 1


class Params(NamedTuple):
    """Parameters of a forecaster."""

    cells: Any
    w_out: Array  # (hidden_size, horizon · series · (1 + spreads))
    b_out: Array
    w_lags: Array  # (lagged features, horizon · series); fitted by least squares, and left as it is
    b_lags: Array


class State(NamedTuple):
    """What a forecaster remembers of all readings so far."""

    carry: Any
    last: Array  # (lags − 1, batch, in_features), the latest last


class Spread(NamedTuple):
    """A forecast in units of the training part's mean and deviation: ``(time, batch, horizon, series)``."""

    centre: Array  # mean, or median
    widths: Array  # (..., 1): the standard deviation; (..., 4): distances between neighbours of ``LEVELS``


@dataclass(frozen=True)
class Forecaster:
    """From readings u_1 ... u_t to those at t + 1 ... t + H, at every step t.

    Equations, with p lags, r the readings in u, and a its dates, which come last::

        m_t = Σ_{j<p} r_{t−j} W_j + a_t V + b         by least squares on the training part (p = 0: m = 0)
        h_t = cells(u_t, h_{t−1}),   (d_t, s_t) = D(h_t) W_out + b_out
        normal:     x_{t+k} ~ N(m_{t,k} + d_{t,k}, softplus(s_{t,k})²)
        quantiles:  the median is m_{t,k} + d_{t,k}, and the next ones are softplus(s) away each

    Source: the linear shortcut is that of Lai et al. 2018, "Modeling long- and short-term temporal patterns
    with deep neural networks" (eq. 6 and 7), here fitted first.
    """

    cell: Stack
    in_features: int
    dates: int
    series: int
    horizon: int
    lags: int
    output: Output
    dropout: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """``(horizon, series)`` of a forecast."""
        return self.horizon, self.series

    @property
    def lagged_features(self) -> int:
        """Numbers from which the linear forecast is made."""
        return self.lags * (self.in_features - self.dates) + self.dates if self.lags else 0

    @property
    def spreads(self) -> int:
        """Numbers that say how wide a forecast is."""
        return 1 if self.output == "normal" else len(LEVELS) - 1

    def init(self, key: Array, fitted: "LinearForecast") -> Params:
        """Cells their own way; corrections that are 0; the widths of the linear forecast's errors."""
        values = self.horizon * self.series
        deviation = fitted.deviation.reshape(values)
        widths = deviation[:, None] * (np.ones(1) if self.output == "normal" else np.diff(NORMAL))
        b_out = np.concatenate([np.zeros((values, 1)), np.log(np.expm1(np.maximum(widths, 1e-3)))], axis=1)
        return Params(
            self.cell.init(key, self.in_features),
            jnp.zeros((self.cell.out_features, b_out.size)),
            jnp.asarray(b_out.ravel(), jnp.float32),
            jnp.asarray(fitted.weights, jnp.float32),
            jnp.asarray(fitted.bias, jnp.float32),
        )

    def initial_state(self, batch: int) -> State:
        """That before the first reading."""
        last = jnp.zeros((max(0, self.lags - 1), batch, self.in_features))
        return State(self.cell.initial_carry((batch,)), last)

    def apply(
        self, params: Params, inputs: Array, state: State, key: Array | None = None
    ) -> tuple[State, Spread]:
        """The state after some steps ``(time, batch, in_features)``, and the forecasts from each."""
        carry, hs = unroll(self.cell, params.cells, inputs, state.carry, backward="bptt")
        if key is not None:
            hs = dropout(key, hs, self.dropout)
        out = hs @ params.w_out + params.b_out
        out = out.reshape(*out.shape[:-1], *self.shape, 1 + self.spreads)
        together = jnp.concatenate([state.last, inputs])
        linear = jnp.zeros(out.shape[:-1])
        if self.lags:
            weights, bias = jax.lax.stop_gradient((params.w_lags, params.b_lags))
            linear = (lagged(together, self.lags, self.dates) @ weights + bias).reshape(linear.shape)
        state = State(carry, together[len(together) - len(state.last) :])
        return state, Spread(linear + out[..., 0], jax.nn.softplus(out[..., 1:]))

    def loss(self, spread: Spread, future: Array, known: Array) -> tuple[Array, Array]:
        """Negative log-likelihood in nats, or mean quantile loss, over what is known: sum, and how much."""
        if self.output == "normal":
            losses = -norm.logpdf(future, spread.centre, spread.widths[..., 0])
        else:
            error = future[..., None] - quantiles(spread)
            levels = jnp.array(LEVELS)
            losses = jnp.mean(2 * jnp.maximum(levels * error, (levels - 1) * error), axis=-1)
        return jnp.sum(jnp.where(known, losses, 0)), jnp.sum(known)


def quantiles(spread: Spread) -> Array:
    """The quantiles ``(..., levels)`` of ``LEVELS``, in order."""
    widths = spread.widths
    if widths.shape[-1] == 1:
        return spread.centre[..., None] + widths * jnp.array(NORMAL)
    middle = len(LEVELS) // 2
    below = -jnp.cumsum(widths[..., middle - 1 :: -1], axis=-1)[..., ::-1]
    above = jnp.cumsum(widths[..., middle:], axis=-1)
    centre = spread.centre[..., None]
    return jnp.concatenate([centre + below, centre, centre + above], axis=-1)


def lagged(inputs: Array, lags: int, dates: int) -> Array:
    """Readings of each step and those before it side by side, the latest first, then its dates:
    ``(time, ..., features)`` → ``(time − lags + 1, ..., lags · (features − dates) + dates)``.

    >>> lagged(jnp.array([[0, 10], [1, 11], [2, 12]]), lags=2, dates=1).tolist()
    [[1, 0, 11], [2, 1, 12]]
    """
    time, readings = len(inputs) - lags + 1, inputs.shape[-1] - dates
    parts = [inputs[lags - 1 - j :][:time, ..., :readings] for j in range(lags)]
    return jnp.concatenate([*parts, inputs[lags - 1 :, ..., readings:]], axis=-1)


class LinearForecast(NamedTuple):
    """A regression of what comes on the last readings."""

    weights: np.ndarray  # (lagged features, horizon · series)
    bias: np.ndarray  # (horizon · series,)
    deviation: np.ndarray  # (horizon, series): of its errors on what it was fitted to


def fit_linear(
    inputs: np.ndarray, future: np.ndarray, known: np.ndarray, lags: int, dates: int
) -> LinearForecast:
    """By least squares, on steps of which everything is known that is to be foretold.

    Args:
      inputs: ``(time, features)``.
      future: ``(time, horizon, series)``.
      known: likewise, of bool.
      lags: how many of the last steps are read; 0: none, so that the forecast is 0.
      dates: features at the end that are read of the last step alone.

    Raises:
      ValueError: for too few steps.
    """
    values = int(np.prod(future.shape[1:]))
    if not lags:
        return LinearForecast(np.zeros((0, values)), np.zeros(values), np.ones(future.shape[1:]))
    targets, whole = future.reshape(len(future), values)[lags - 1 :], np.all(known, (1, 2))[lags - 1 :]
    windows = np.asarray(lagged(jnp.asarray(inputs), lags, dates))[whole]
    if len(windows) < 2:
        raise ValueError(f"too few steps to fit a linear forecast from {lags} of them; give fewer --lags")
    regression = Ridge(RIDGE).fit(windows, targets[whole])
    errors = targets[whole] - regression.predict(windows)
    return LinearForecast(
        regression.coef_.T, regression.intercept_, errors.std(0).reshape(future.shape[1:])
    )
