"""Training a forecaster, and reading it again."""

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.data.batches import EVERY
from experiments.data.series import Clock
from experiments.forecasting.data import Data, DataSettings, Scale
from experiments.forecasting.forecasts import Predictor
from experiments.forecasting.inputs import Batch, dates_of, pieces
from experiments.forecasting.model import Forecaster, LinearForecast, Output, Params, fit_linear
from experiments.harness import run as runs
from experiments.harness.fit import load
from experiments.harness.settings import (
    Count,
    Fraction,
    Positive,
    TrainingSettings,
    check_zero_or_more,
    settings,
)
from experiments.harness.task import Loss, Sums, Task, past_its_best
from jaxrnn import Stack
from jaxrnn.cells.table import CELLS, CellName

HIDDEN = 8.0  # steps: how long a gap is on average that training hides
CONFORMAL = "conformal.json"
ABOUT = "series.json"  # what a run must know of its series to forecast others


@settings
class Train(DataSettings, TrainingSettings):
    """Train a forecaster, and measure it beside simple opponents."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 64
    """Hidden units of each layer."""
    lags: Annotated[int, check_zero_or_more] = 64
    """Last steps from whose readings a linear forecast is made, by least squares, with weights that change
    with the time of year and day; the network corrects it. 0 leaves the network alone."""
    output: Output = "normal"
    """What is forecast: the mean and deviation of a normal distribution, or quantiles."""
    strategy: Literal["direct", "recursive"] = "direct"
    """Forecast every horizon at once, or one step at a time, along paths that are drawn and fed back; then
    nothing but the calendar may be a covariate."""
    dropout: Fraction = 0.3
    """Probability that a feature of the network's output is dropped."""
    gaps: Fraction = 0.05
    """Share of the steps whose readings are hidden in training, in gaps of 8 steps or so."""
    window: Count = 128
    """Steps of a training sequence; the loss counts its second half, once the state has formed."""
    steps: Count = 2000
    """Most training steps; it ends early once validation no longer improves."""
    learning_rate: Positive = 1e-3
    evaluate_every: Count = 100


class Run(NamedTuple):
    """A trained forecaster, and the series that it was trained on."""

    config: Train
    predictor: Predictor
    season: int
    target_names: tuple[str, ...]
    covariate_names: tuple[str, ...]
    moves: dict[int, np.ndarray]  # of the intervals, as ``conformal`` says


def horizon_of(config: Train, data: Data) -> int:
    """Steps that the model itself foretells."""
    return data.horizon if config.strategy == "direct" else 1


def build_model(config: Train, series: int, covariates: int, horizon: int, clock: Clock) -> Forecaster:
    """The model that the settings ask for."""
    dates = dates_of(clock)
    return Forecaster(
        Stack([CELLS[config.cell](config.hidden_size)] * config.layers),
        in_features=2 * (series + covariates) + dates,
        dates=dates,
        series=series,
        horizon=horizon,
        lags=config.lags,
        output=config.output,
        dropout=config.dropout,
    )


def linear_forecast(config: Train, data: Data) -> LinearForecast:
    """The regression on the last readings, of the training part."""
    told, part = data._replace(horizon=horizon_of(config, data)), validation(data)

    def examples(targets: range) -> Any:
        batch = pieces(told, np.zeros(1, int), targets.stop, targets, forming=0)
        return tuple(of[:, 0] for of in batch)

    fit, choose = examples(range(part.start)), examples(part)
    return fit_linear(fit, choose, config.lags, dates_of(data.series.clock))


def validation(data: Data) -> range:
    """The steps that choose a model: if the data set has none to spare, the last of the training part."""
    return range(data.train, data.valid) or range(data.train * 9 // 10, data.train)


def build_task(config: Train, data: Data, model: Forecaster, fitted: LinearForecast) -> Task:
    """The likelihood of what comes after every step of the training part."""
    length, half = config.window, config.window // 2
    told = data._replace(horizon=model.horizon)

    def batch(position: int, lanes: slice = EVERY) -> Batch:
        random = np.random.default_rng([config.seed, position])
        starts = random.integers(-half, max(1, data.train - 1 - half), config.batch_size)
        hidden = gaps(random, config, length)
        seen: dict[str, Any] = {"forming": half, "hidden": hidden[:, lanes]}
        return pieces(told, starts[lanes], length, range(data.train), **seen)

    def valid() -> list[Batch]:
        part = validation(data)
        starts = np.arange(part.start - told.horizon - half, part.stop - half, length - half)
        return [pieces(told, starts, length, part, forming=half)]

    return Task(
        init=lambda key: model.init(key, fitted),
        loss=future_loss(model),
        batch=batch,
        valid=valid,
        unit="nats" if config.output == "normal" else "quantile loss",
        items=("steps", config.batch_size * half),
        record=data.digests,
        assets=lambda folder: save_about(folder, data),
        stop=past_its_best,
    )


@functools.lru_cache  # the same function for equal models, which compiles once
def future_loss(model: Forecaster) -> Loss:
    """That of the model, of all that comes after every step."""

    def loss(params: Params, batch: Any, key: Any) -> Sums:
        state = model.initial_state(batch.inputs.shape[1])
        _, spread = model.apply(params, batch.inputs, state, key)
        return {"loss": model.loss(spread, batch.future, batch.known)}

    return loss


def gaps(random: np.random.Generator, config: Train, length: int) -> np.ndarray:
    """Which steps of the pieces of a batch are hidden: ``(length, batch)``."""
    shape = (length, config.batch_size)
    begins = random.random(shape) < config.gaps / HIDDEN
    stays = random.random(shape) < 1 - 1 / HIDDEN
    hidden = np.zeros(shape, bool)
    for step in range(length):
        before = hidden[step - 1] & stays[step] if step else False
        hidden[step] = begins[step] | before
    return hidden


def save_about(folder: Path, data: Data) -> None:
    """Write what a run must know of its series."""
    series = data.series
    about = {
        "targets": series.target_names,
        "covariates": series.covariate_names,
        "start": str(series.clock.start),
        "step": series.clock.step,
        "unit": series.clock.unit,
        "horizon": data.horizon,
        "season": data.season,
        "scale": {name: values.tolist() for name, values in data.scale._asdict().items()},
    }
    runs.write_json(folder / ABOUT, about)


def load_run(folder: Path) -> Run:
    """The best model of a run.

    Raises:
      ValueError: if there is none.
    """
    config = runs.load_settings(folder, Train)
    about = runs.read_json(folder / ABOUT)
    scale = Scale(**{name: np.array(values) for name, values in about["scale"].items()})
    clock = Clock(np.datetime64(about["start"], "s"), about["step"], about["unit"])
    targets, covariates = tuple(about["targets"]), tuple(about["covariates"])
    horizon = about["horizon"] if config.strategy == "direct" else 1
    model = build_model(config, len(targets), len(covariates), horizon, clock)
    unfitted = LinearForecast(
        np.zeros((*model.regressors, model.horizon * model.series)), np.ones(model.shape)
    )
    params = load(folder, config, lambda key: model.init(key, unfitted))
    moves = {int(k): np.array(of) for k, of in runs.read_json(folder / CONFORMAL).items()}
    predictor = Predictor(model, params, about["horizon"], scale, clock, jax.random.key(config.seed))
    return Run(config, predictor, about["season"], targets, covariates, moves)
