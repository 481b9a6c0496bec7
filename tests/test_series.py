"""Readings over time: what is read from CSV files, what is refused, and the named and simulated sets."""

import numpy as np
import pytest

from experiments.data.series import (
    Clock,
    beijing_weather,
    daily_min_temperatures,
    digest,
    read_series,
)
from experiments.data.simulated_weather import HOURS, simulated_weather
from tests.commands import needs


def read(tmp_path, text, time="time", targets=("a",), covariates=(), encoding="utf-8"):
    path, reported = tmp_path / "series.csv", []
    path.write_text(text, encoding=encoding)
    return read_series(path, time, targets, covariates, reported.append), reported


def test_gaps_are_filled_and_counted(tmp_path):
    text = "time,a,b\n2024-02-27,1,x\n2024-02-28,NA,x\n2024-03-01, 3 ,x\n"
    series, reported = read(tmp_path, text, encoding="utf-8-sig")
    assert series.times.astype("datetime64[D]").astype(str).tolist() == [
        "2024-02-27",
        "2024-02-28",
        "2024-02-29",
        "2024-03-01",
    ]
    np.testing.assert_array_equal(series.targets[:, 0], [1, np.nan, np.nan, 3])
    assert series.covariates.shape == (4, 0)
    assert reported[0].endswith("1 of 4 steps have no row, first 2024-02-29")
    assert reported[1].endswith("a: 1 of 3 rows have no reading")


def test_columns_in_the_order_asked_for(tmp_path):
    text = "a,time,b,c\n1,2024-01-01T06:00,2,3\n4,2024-01-01T12:00,5,6\n"
    series, reported = read(tmp_path, text, targets=("c", "a"), covariates=("b",))
    np.testing.assert_array_equal(series.targets, [[3, 1], [6, 4]])
    np.testing.assert_array_equal(series.covariates, [[2], [5]])
    assert series.clock == Clock(np.datetime64("2024-01-01T06:00", "s"), 6 * 3600, "seconds")
    assert reported == []


@pytest.mark.parametrize(
    ("times", "step", "unit"),
    [
        (["2024-01-31", "2024-02-29", "2024-03-31"], None, None),  # ends of months are no even steps
        (["2024-01-01", "2024-02-01", "2024-04-01", "2024-05-01"], 1, "months"),
        (["2021", "2022", "2023"], 12, "months"),
        (["2024-01-01T00:00+01:00", "2024-01-01T00:30+01:00"], 1800, "seconds"),
        (["01/15/2024", "01/16/2024", "01/18/2024", "01/19/2024"], 86_400, "seconds"),
    ],
)
def test_steps(tmp_path, times, step, unit):
    text = "time,a\n" + "".join(f"{time},1\n" for time in times)
    if step is None:
        with pytest.raises(ValueError, match="times are not evenly spaced: 2024-03-31 is no whole number"):
            read(tmp_path, text)
        return
    series, _ = read(tmp_path, text)
    assert (series.clock.step, series.clock.unit) == (step, unit)
    known = np.flatnonzero(~np.isnan(series.targets[:, 0]))
    np.testing.assert_array_equal(series.clock.positions(series.clock.times(known)), known)
    assert len(known) == len(times)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,a\n2024-01-01,1\n2024-01-02,x\n", "line 3, column 'a': expected a number, got 'x'"),
        ("time,a\n2024-01-01,1\n2024-01-02,inf\n", "line 3, column 'a': expected a number, got 'inf'"),
        ("time,a\n2024-01-01,1\nnever,2\n", "line 3, column 'time': expected a time, got 'never'"),
        ("time,a\n2024-01-02,1\n2024-01-01,2\n", "2024-01-01 comes out of order, after 2024-01-02"),
        ("time,a\n2024-01-02,1\n2024-01-02,2\n", "2024-01-02 comes twice"),
        ("time,b\n2024-01-02,1\n", "has no column 'a'; it has time, b"),
        ("time,a\n2024-01-02,1\n", "has 1 row, and at least 2 are needed"),
        ("time,a\n", "has no row below its header"),
        ("", "series.csv is empty"),
        ("time,a\n2024-01-01,\n2024-01-02,NA\n", "column 'a' has no reading"),
        ("time,a\n2024-01-01,1\n2024-01-02,1\n2204-01-01,1\n", "gap is from 2024-01-02 to 2204-01-01"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_column_named_twice(tmp_path):
    with pytest.raises(ValueError, match="column 'a' is named twice"):
        read(tmp_path, "time,a\n2024-01-01,1\n2024-01-02,1\n", covariates=("a",))


@needs("daily_min_temperatures")
def test_daily_minima():
    series = daily_min_temperatures(print)
    assert series.targets.shape == (3652, 1)
    assert str(series.times[-1]) == "1990-12-31T00:00:00"
    missing = series.times[np.isnan(series.targets[:, 0])]
    assert missing.astype("datetime64[D]").astype(str).tolist() == ["1984-12-31", "1988-12-31"]
    assert (series.targets[0, 0], series.targets[-1, 0]) == (20.7, 13.0)


@pytest.mark.slow
@needs("beijing_weather")
def test_beijing():
    series = beijing_weather(print)
    assert series.targets.shape == (43_824, 1)
    assert series.covariates.shape == (43_824, 6)
    assert str(series.times[-1]) == "2014-12-31T23:00:00"
    assert np.isnan(series.covariates).sum(0).tolist() == [0, 0, 2067, 0, 0, 0]


@pytest.mark.slow
def test_simulated_weather():
    """Fronts come to the east hours later, the pressure falls before them, and there are gaps."""
    weather = simulated_weather()
    assert digest(weather) == digest(simulated_weather())
    assert weather.targets.shape == (HOURS, 2)
    assert (np.isnan(weather.targets).mean(0) > 0.02).all()
    assert (np.isnan(weather.targets).mean(0) < 0.05).all()
    filled = np.where(np.isnan(weather.targets), np.nanmean(weather.targets), weather.targets)
    west, east = np.diff(filled, axis=0).T
    jumps = np.flatnonzero(abs(west) > 6)
    jumps = jumps[(jumps > 24) & (jumps < HOURS - 24)]
    follows = [np.mean(np.sign(west[jumps]) * east[jumps + lag]) for lag in range(16)]
    assert 5 <= int(np.argmax(follows)) <= 9
    falls = np.diff(weather.covariates[:, 0])
    before = np.mean([falls[jump - 12 : jump - 6].sum() for jump in jumps])
    assert before < -0.5
