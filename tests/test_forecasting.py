"""Forecasting: what is read and foretold, opponents and figures against loops, and the script."""

import io
import itertools
import json
import warnings

import numpy as np
import pytest
from statsmodels.tsa.statespace.sarimax import SARIMAX

from experiments.data.series import Clock, Series
from experiments.forecasting.__main__ import COMMANDS
from experiments.forecasting.data import Data, DataSettings, load_data, scale_of
from experiments.forecasting.forecasts import Forecasts
from experiments.forecasting.inputs import features, inputs_of, pieces
from experiments.forecasting.metrics import measure, measure_intervals
from experiments.forecasting.opponents import (
    ORDER,
    arma,
    climatology,
    last_reading,
    persistence,
    seasonal_naive,
)
from experiments.forecasting.training import Train, build_model, build_task, gaps, linear_forecast, load_run
from experiments.hidden_units.recording import Signal
from experiments.hidden_units.sequences import subjects_of
from tests.commands import assert_parts_are_the_whole, killed, needs, read_metrics, refusal, runner

SMALL = ["--hidden-size", "4", "--lags", "2", "--window", "16", "--batch-size", "8", "--steps", "6"]
SMALL += ["--evaluate-every", "3", "--horizon", "3"]

run = runner(COMMANDS)


def data_of(targets, *, horizon=3, season=4, step=3600, covariates=0, train=None, valid=None):
    """A series with gaps, and its parts."""
    targets = np.asarray(targets, np.float64).reshape(len(targets), -1)
    clock = Clock(np.datetime64("2023-12-30T20:00", "s"), step, "seconds")
    others = np.random.default_rng(9).normal(size=(len(targets), covariates)) * 5 + 1
    names = tuple("abc"[: targets.shape[1]]), tuple("xyz"[:covariates])
    series = Series(clock, targets, others, *names)
    train = len(targets) // 2 if train is None else train
    valid = len(targets) * 3 // 4 if valid is None else valid
    return Data(series, train, valid, horizon, season, scale_of(series, train), {})


def with_gaps(time, series=2, seed=0):
    random = np.random.default_rng(seed)
    values = random.normal(2, 3, (time, series))
    values[random.random(values.shape) < 0.2] = np.nan
    return values


def test_a_part_of_a_batch():
    config = Train(window=6, batch_size=5, gaps=0.5, lags=2)
    data = data_of(with_gaps(40), covariates=1)
    model = build_model(config, 2, 1, data.horizon, data.series.clock)
    assert_parts_are_the_whole(build_task(config, data, model, linear_forecast(config, data)).batch, 5)


def test_what_is_read_at_a_step():
    data = data_of(with_gaps(40), covariates=1)
    read = inputs_of(data.series, data.scale)
    training = data.series.targets[:20]
    for time in range(40):
        expected = []
        for number in range(2):
            known = training[:, number][~np.isnan(training[:, number])]
            value = (data.series.targets[time, number] - known.mean()) / known.std()
            expected.append(0 if np.isnan(value) else value)
        expected += [float(not np.isnan(value)) for value in data.series.targets[time]]
        covariate = data.series.covariates[:, 0]
        expected += [np.arcsinh((covariate[time] - covariate[:20].mean()) / covariate[:20].std()), 1]
        hour = (20 + time) % 24 / 24
        day = 363 + (20 + time) // 24 if time < 28 else (time - 28) // 24
        year = (day + hour) / 365.2425
        angles = [2 * np.pi * k * turn for turn in (year, hour) for k in (1, 2)]
        expected += [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        np.testing.assert_allclose(read[time], expected, atol=2e-6)


def test_a_constant_series_is_not_stretched():
    data = data_of(np.full(20, 7.0))
    assert data.scale.deviation.tolist() == [1.0]
    assert (inputs_of(data.series, data.scale)[:, 0] == 0).all()


def test_what_a_piece_foretells():
    """Readings of the part alone, none before the first, nor what is said while the state forms."""
    data = data_of(with_gaps(40))
    starts, hidden = np.array([-3, 5, 30]), np.zeros((10, 3), bool)
    hidden[4, 1] = True
    batch = pieces(data, starts, 10, range(2, 34), forming=2, hidden=hidden)
    whole = inputs_of(data.series, data.scale)
    nothing = features(np.full(2, np.nan), np.zeros(0), data.series.times[9], data.series.clock, data.scale)
    for lane, start in enumerate(starts):
        for time in range(10):
            at = start + time
            if 0 <= at < 40:
                expected = nothing if hidden[time, lane] else whole[at]
                np.testing.assert_allclose(batch.inputs[time, lane], expected, atol=1e-6)
            else:
                assert (batch.inputs[time, lane, :4] == 0).all()
            for step in range(3):
                to = at + 1 + step
                counts = time >= 2 and at >= 0 and 2 <= to < 34
                reading = data.series.targets[to] if counts else np.full(2, np.nan)
                np.testing.assert_array_equal(batch.known[time, lane, step], ~np.isnan(reading))
                scaled = np.nan_to_num((reading - data.scale.mean) / data.scale.deviation)
                np.testing.assert_allclose(batch.future[time, lane, step], scaled, rtol=1e-5)


def test_simple_opponents_equal_loops():
    data = data_of(with_gaps(30), horizon=6, season=4)
    values = data.series.targets
    last, naive = persistence(data), seasonal_naive(data)
    assert last.shape == naive.shape == (30, 6, 2)
    for origin in range(30):
        for number in range(2):
            known = [v for v in values[: origin + 1, number] if not np.isnan(v)]
            for step in range(6):
                np.testing.assert_equal(last[origin, step, number], known[-1] if known else np.nan)
                at, found = origin + 1 + step, np.nan
                while at >= 0 and (at > origin or np.isnan(found)):
                    at -= 4
                    if 0 <= at <= origin:
                        found = values[at, number]
                np.testing.assert_equal(naive[origin, step, number], found)
    np.testing.assert_array_equal(last_reading(np.array([[np.nan], [1.0], [np.nan]])), [[np.nan], [1], [1]])


def test_the_climatology_finds_cycles():
    hours = np.arange(24 * 365 * 2)
    year, day = 2 * np.pi * hours / (365.2425 * 24), 2 * np.pi * hours / 24
    truth = 10 + 5 * np.sin(year + 1) + (2 + np.cos(year)) * np.cos(2 * day + 1)
    readings = truth + np.random.default_rng(0).normal(size=len(hours))
    readings[::7] = np.nan
    usual = climatology(data_of(readings))[: len(hours), 0]
    assert np.sqrt(np.mean((usual - truth) ** 2)) < 0.1


@pytest.mark.slow
def test_arma_equals_statsmodels_from_every_origin():
    random = np.random.default_rng(0)
    values = np.zeros(200)
    for time in range(1, 200):
        values[time] = 0.8 * values[time - 1] + random.normal()
    values[[50, 51, 120]] = np.nan
    data = data_of(values)
    usual = climatology(data)[:, 0]
    found = arma(data)
    anomalies = values - usual[:200]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = SARIMAX(anomalies[:100], order=ORDER).fit(disp=False)
    for origin in (60, 121, 180):
        expected = fitted.apply(anomalies[: origin + 1]).forecast(3) + usual[origin + 1 : origin + 4]
        np.testing.assert_allclose(found[origin, :, 0], expected, rtol=1e-6)


def test_figures_equal_loops():
    """Each horizon has the same readings; where one forecast is missing, none is measured."""
    data = data_of(with_gaps(40), horizon=3)
    random = np.random.default_rng(1)
    p, q = random.normal(2, 3, (2, 40, 3, 2))
    q[35] = np.nan
    predictions = {"p": p, "q": q}
    part = range(30, 40)
    found = measure(predictions, data, part)
    intervals = measure_intervals(
        Forecasts(predictions["p"], np.sort(random.normal(2, 3, (40, 3, 2, 5)), axis=-1)), data, part
    )
    training = data.series.targets[:20]
    for number, series in enumerate("ab"):
        naive = abs(training[4:, number] - training[:-4, number])
        for step in range(1, 4):
            rows = [
                (
                    data.series.targets[at, number],
                    *(predictions[n][at - step, step - 1, number] for n in "pq"),
                )
                for at in part
            ]
            truth, of_p, _ = np.array([row for row in rows if not np.isnan(row).any()]).T
            of = {key: found["p"][key][series][step - 1] for key in ("mae", "rmse", "smape", "mase")}
            assert of["mae"] == pytest.approx(np.mean(abs(of_p - truth)))
            assert of["rmse"] == pytest.approx(np.sqrt(np.mean((of_p - truth) ** 2)))
            assert of["smape"] == pytest.approx(np.mean(abs(of_p - truth) / (abs(of_p) + abs(truth))))
            assert of["mase"] == pytest.approx(of["mae"] / np.nanmean(naive))
            narrow, wide = (intervals[f"coverage_{nominal}"][series][step - 1] for nominal in (80, 95))
            assert 0 <= narrow <= wide <= 1


def test_a_constant_series_has_no_mase():
    data = data_of(np.full(40, 3.0))
    found = measure({"zero": np.zeros((40, 3, 1))}, data, range(30, 40))["zero"]
    assert found["mae"]["a"] == [3.0, 3.0, 3.0]
    assert found["mase"]["a"] == [None, None, None]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Hourly readings of two series and a covariate, with gaps."""
    path = tmp_path_factory.mktemp("series") / "weather.csv"
    random = np.random.default_rng(0)
    rows = ["when,a,b,x"]
    for hour in range(240):
        if hour == 100:
            continue
        a, b, x = 5 * np.sin(2 * np.pi * hour / 24) + random.normal(size=3)
        time = np.datetime64("2024-02-25T00:00") + np.timedelta64(hour, "h")
        rows.append(f"{time},{'' if hour % 50 == 7 else f'{a:.3f}'},{b:.3f},{x:.3f}")
    path.write_text("\n".join(rows) + "\n")
    return path


COLUMNS = ["--time", "when", "--target", "a,b"]


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", "--data", file, *COLUMNS, "--covariates", "x", "--out", out, *SMALL)
    return out


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained):
    summary = json.loads((trained / "summary.json").read_text())
    names = {"network", "linear autoregression", "persistence", "seasonal naive", "climatology"}
    assert set(summary["errors"]) == names | {"ARMA on climatology"}
    assert all(len(of["rmse"][series]) == 3 for of in summary["errors"].values() for series in "ab")
    for name in ("errors.png", "forecasts.png", "learning_curve.png"):
        assert (trained / name).stat().st_size > 0


@pytest.mark.slow
def test_what_its_units_hold(trained):
    """The test part, as one sequence: the states that forecasts are made of."""
    (found,) = subjects_of(trained, {}, 20)
    trained_on = load_run(trained)
    data, (model, params, *_) = load_data(trained_on.config), trained_on.predictor
    part = slice(data.valid, data.valid + 20)
    given = inputs_of(data.series, data.scale)[part, None]
    state, _ = model.apply(params, given, model.initial_state(1))
    column = found.recording.signals.index(Signal(1, "c", 2))
    assert found.recording.exact(column)[-1] == pytest.approx(float(state.carry[0].c[0, 2]), abs=0.01)
    readings = data.series.targets[part, 0]
    known = ~np.isnan(readings)
    np.testing.assert_allclose(found.text.labels["a"][known], readings[known])
    assert float(found.text.text[0]) == pytest.approx(readings[0], abs=0.051)
    assert {"hour of day", "position"} <= set(found.text.labels)


@pytest.mark.slow
def test_evaluating_a_file(trained, file, capsys):
    """Every step counts of which all have a forecast: from the second day on."""
    run("evaluate", "--run", trained, "--data", file)
    assert "network is" in capsys.readouterr().out
    found = json.loads((trained / "evaluation.json").read_text())
    assert set(found["errors"]) == {"network", "persistence", "seasonal naive"}
    values = [float(line.split(",")[2]) for line in file.read_text().splitlines()[1:]]
    steps = [abs(after - before) for before, after in itertools.pairwise(values[:100])][23:]
    steps += [abs(after - before) for before, after in itertools.pairwise(values[100:])]  # over the gap
    steps.append(abs(values[100] - values[99]))
    assert found["errors"]["persistence"]["mae"]["b"][0] == pytest.approx(np.mean(steps))
    assert found["errors"]["network"]["mase"]["a"] == [None] * 3  # nothing was trained on here
    short = file.parent / "short.csv"
    short.write_text("\n".join(file.read_text().splitlines()[:4]) + "\n")
    error = refusal(capsys, run, "evaluate", "--run", trained, "--data", short)
    assert "has 3 steps, no more than the horizon 3" in error


@pytest.mark.slow
def test_following_equals_reading_everything(trained, file, capsys, tmp_path, monkeypatch):
    """Row by row, with and without the header, over a step that has no row."""
    lines = file.read_text().splitlines()
    known = tmp_path / "known.csv"
    known.write_text("\n".join(lines[:98]) + "\n")
    for header in ([lines[0]], []):
        new = [*header, *lines[98:103]]
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(new) + "\n"))
        capsys.readouterr()
        run("forecast", "--run", trained, "--data", known, "--follow")
        names, *followed = capsys.readouterr().out.splitlines()
        assert names == "origin,series,horizon,mean,lower_80,upper_80,lower_95,upper_95"
        assert len(followed) == 6 * 6
    for number in (98, 102, 103):
        known.write_text("\n".join(lines[:number]) + "\n")
        run("forecast", "--run", trained, "--data", known)
        _, *read = capsys.readouterr().out.splitlines()
        start = 6 * (number - 98)
        for one, other in zip(followed[start : start + 6], read, strict=True):
            one, other = one.split(","), other.split(",")
            assert one[:3] == other[:3]
            np.testing.assert_allclose(np.array(one[3:], float), np.array(other[3:], float), atol=2e-5)
    assert [row.split(",")[:3] for row in read[:2]] == [
        ["2024-02-29T06:00:00", "a", str(h)] for h in (1, 2)
    ]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(trained, file, tmp_path):
    out = tmp_path / "run"
    killed(run, 4, "train", "--data", file, *COLUMNS, "--covariates", "x", "--out", out, *SMALL)
    run("train", "--out", out, "--resume")
    assert read_metrics(out) == read_metrics(trained)


@pytest.mark.slow
def test_recursive_forecasts_without_held_out_parts(file, capsys, tmp_path):
    options = ["--strategy", "recursive", "--valid-fraction", "0", "--test-fraction", "0"]
    run("train", "--data", file, *COLUMNS, *options, "--out", tmp_path / "run", *SMALL)
    capsys.readouterr()
    run("forecast", "--run", tmp_path / "run", "--data", file)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    mean, lower, upper = (float(lines[2].split(",")[column]) for column in (3, 4, 5))
    assert lower < mean < upper


@pytest.mark.slow
def test_bad_input(trained, file, capsys, tmp_path):
    out = tmp_path / "run"
    for arguments, message in (
        (["--data", "none"], "data 'none' is neither a file nor one of simulated_weather"),
        (["--data", file], "a CSV file needs --time COLUMN"),
        (["--data", file, "--time", "when"], "a CSV file needs --target COLUMN"),
        (["--data", file, *COLUMNS, "--horizon", "200"], "--horizon 200 needs more than 192 steps"),
        (
            ["--data", file, *COLUMNS, "--horizon", "30"],
            "the test part has 24 steps, fewer than --horizon 30",
        ),
        (["--target", "a"], "--target is for a CSV file"),
        (["--covariates", "x"], "--covariates is for a CSV file"),
        (
            ["--data", file, *COLUMNS, "--covariates", "x", "--strategy", "recursive"],
            "would have to forecast the covariates too: x",
        ),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *arguments)
        assert not out.exists()
    daily = tmp_path / "daily.csv"
    daily.write_text("when,a,b,x\n2024-01-01,1,2,3\n2024-01-02,1,2,3\n")
    error = refusal(capsys, run, "forecast", "--run", trained, "--data", daily)
    assert "the run was trained on steps of 1 hour, and these are steps of 1 day" in error
    assert "--follow needs --data FILE" in refusal(capsys, run, "forecast", "--run", trained, "--follow")
    for row, message in (
        ("2024-03-06T00:00,1,2", "has 3 values, expected when,a,b,x"),
        ("2024-03-05T22:00,1,2,3", "is no later than the last one"),
        ("2024-03-06T00:00,1,two,3", "expected a number, got 'two'"),
        ("2024-03-06T00:30,1,2,3", "is no whole number of steps"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(row + "\n"))
            assert message in refusal(capsys, run, "forecast", "--run", trained, "--data", file, "--follow")


@needs("daily_min_temperatures")
def test_named_parts():
    data = load_data(DataSettings(data="daily_min_temperatures"), lambda message: None)
    times = data.series.times.astype("datetime64[D]").astype(str)
    assert (times[data.train], times[data.valid]) == ("1988-01-01", "1989-01-01")
    assert (data.horizon, data.season) == (7, 365)
    assert len(times) - data.valid == 730


def test_gaps_are_as_long_and_as_many_as_asked_for():
    """In the whole a share of the steps, in runs of eight or so; the same for the same generator."""
    config = Train(gaps=0.2, batch_size=50)
    hidden = gaps(np.random.default_rng(0), config, 4000)
    np.testing.assert_array_equal(hidden, gaps(np.random.default_rng(0), config, 4000))
    begins = hidden[1:] & ~hidden[:-1]
    assert begins.sum() / hidden[1:].size == pytest.approx(0.2 / 8 * (1 - hidden.mean()), rel=0.1)
    assert hidden.sum() / begins.sum() == pytest.approx(8, rel=0.15)
    assert not gaps(np.random.default_rng(0), Train(gaps=0.0), 100).any()
