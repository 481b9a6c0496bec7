"""A forecaster: a linear forecast from the last readings, corrected by a recurrent network."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.scipy.stats import norm
from jaxtyping import Array

from jaxrnn import Stack, unroll
from jaxrnn.layers import dropout

Output = Literal["normal", "quantiles"]
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)  # of the quantiles: 95 % and 80 % intervals, and the median
NORMAL = scipy.stats.norm.ppf(LEVELS)  # of a standard normal distribution
# What a squared weight of the linear forecast costs, and how much more its change with the calendar.
PENALTIES = tuple(itertools.product((100.0, 10.0, 1.0), (10000.0, 100.0, 10.0, 1.0)))
Examples = tuple[np.ndarray, np.ndarray, np.ndarray]


class Params(NamedTuple):
    """Parameters of a forecaster."""

    cells: Any
    w_out: Array  # (hidden_size, horizon · series · (1 + spreads))
    b_out: Array
    w_linear: Array  # (*regressors, horizon · series); fitted by least squares, and left as it is


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

    Equations, with r the readings in u, r̄ their means over the last step, the one before, the two before
    that, the four before those and so on, up to p lags, and a the dates in u, which come last::

        m_t = Σ_i Σ_j (1, a_t)_i (1, a_t, r̄_t)_j W_ij      by least squares, first (p = 0: m = 0)
        h_t = cells(u_t, h_{t−1}),   (d_t, s_t) = D(h_t) W_out + b_out
        normal:     x_{t+k} ~ N(m_{t,k} + d_{t,k}, softplus(s_{t,k})²)
        quantiles:  the median is m_{t,k} + d_{t,k}, and the next ones are softplus(s) away each

    Sources: Lai et al. 2018, "Modeling long- and short-term temporal patterns with deep neural networks"
    (eq. 6 and 7), for the linear shortcut, here fitted first; Corsi 2009, "A simple approximate long-memory
    model of realized volatility", for means over longer and longer spans; Gladyshev 1961, "Periodically
    correlated random sequences", for weights that change with the season.
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
    def regressors(self) -> tuple[int, int]:
        """Sizes of (1, a) and (1, a, r̄); zeros without a linear forecast."""
        if not self.lags:
            return 0, 0
        return 1 + self.dates, 1 + self.dates + len(spans(self.lags)) * (self.in_features - self.dates)

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
            weights = jax.lax.stop_gradient(params.w_linear)
            parts = regressors(together, self.lags, self.dates)
            linear = jnp.einsum("...i,...j,ijo->...o", *parts, weights).reshape(linear.shape)
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


def spans(lags: int) -> list[range]:
    """Lags 0; 1; 2 and 3; 4 to 7; and so on, each span as long as all before it, up to ``lags`` of them.

    >>> spans(6)
    [range(0, 1), range(1, 2), range(2, 4), range(4, 6)]
    """
    ends = [1]
    while ends[-1] < lags:
        ends.append(min(2 * ends[-1], lags))
    return [range(start, end) for start, end in itertools.pairwise([0, *ends])]


def regressors(inputs: Array, lags: int, dates: int) -> tuple[Array, Array]:
    """Of every step from the ``lags``-th on (1, a) and (1, a, r̄): ``(time, ..., features)`` →
    ``(time − lags + 1, ..., 1 + dates)`` and ``(time − lags + 1, ..., 1 + dates + spans · readings)``.

    >>> both = regressors(jnp.array([[0.0, 10], [2, 11], [4, 12], [7, 13]]), lags=3, dates=1)
    >>> [part.tolist() for part in both]
    [[[1.0, 12.0], [1.0, 13.0]], [[1.0, 12.0, 4.0, 2.0, 0.0], [1.0, 13.0, 7.0, 4.0, 2.0]]]
    """
    time, split = len(inputs) - lags + 1, inputs.shape[-1] - dates
    readings, of_dates = inputs[..., :split], inputs[lags - 1 :, ..., split:]
    means = [sum(readings[lags - 1 - lag :][:time] for lag in span) / len(span) for span in spans(lags)]
    calendar = jnp.concatenate([jnp.ones_like(of_dates[..., :1]), of_dates], axis=-1)
    return calendar, jnp.concatenate([calendar, *means], axis=-1)


class LinearForecast(NamedTuple):
    """A regression of what comes on the last readings."""

    weights: np.ndarray  # (*regressors, horizon · series)
    deviation: np.ndarray  # (horizon, series): of its errors on what it was fitted to


def fit_linear(fit: Examples, choose: Examples, lags: int, dates: int) -> LinearForecast:
    """By penalised least squares, W = (XᵀX + P)⁻¹ Xᵀy, on steps of which everything is known that follows.

    Args:
      fit: inputs ``(time, features)``, what follows ``(time, horizon, series)``, and which of it is known.
      choose: likewise; of ``PENALTIES`` those with the least squared error here, for each column of y.
      lags: how many of the last steps are read; 0: none, so that the forecast is 0.
      dates: features at the end that are read of the last step alone.

    Raises:
      ValueError: for too few steps.
    """
    shape = fit[1].shape[1:]
    if not lags:
        return LinearForecast(np.zeros((0, 0, int(np.prod(shape)))), np.ones(shape))
    sizes, products, targets, known = _products(*fit, lags, dates)
    whole = known.all(1)
    if whole.sum() < 2:
        raise ValueError(f"too few steps to fit a linear forecast from {lags} of them; give fewer --lags")
    products, targets = products[whole], targets[whole]
    squares, sides = products.T @ products, products.T @ targets
    _, others, truth, counts = _products(*choose, lags, dates)
    tried, errors = [], []
    for penalty, change in PENALTIES:
        costs = np.full(sizes, penalty)
        costs[1:] *= change
        costs[0, 0] = 0
        tried.append(np.linalg.solve(squares + np.diag(costs.ravel()), sides))
        errors.append(np.sum((others @ tried[-1] - truth) ** 2 * counts, axis=0))
    best = np.argmin(errors, axis=0)
    weights = np.stack([tried[of][:, column] for column, of in enumerate(best)], axis=1)
    deviation = (targets - products @ weights).std(0)
    return LinearForecast(weights.reshape(*sizes, -1), deviation.reshape(shape))


def _products(
    inputs: np.ndarray, future: np.ndarray, known: np.ndarray, lags: int, dates: int
) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """Sizes of both regressors; their products, what follows, and what of it is known: ``(time, ...)``."""
    both = regressors(jnp.asarray(inputs), lags, dates)
    calendar, read = (np.asarray(part, np.float64) for part in both)
    products = (calendar[:, :, None] * read[:, None]).reshape(len(read), -1)
    future, known = (of.reshape(len(of), -1)[lags - 1 :] for of in (future, known))
    return (calendar.shape[1], read.shape[1]), products, future, known
