r"""Forecasts that are updated with every reading: what does a recurrent network add to simple methods?

    python -m experiments.forecasting                          simulated weather at two places
    python -m experiments.forecasting --data daily_min_temperatures --lags 14 --hidden-size 16
    python -m experiments.forecasting --data beijing_weather --lags 48
    python -m experiments.forecasting --data FILE --time COLUMN --target COLUMN,COLUMN
    python -m experiments.forecasting forecast --run DIR --data FILE --follow

The first command takes about a minute on two CPU cores and needs no network. Training ends when the
validation loss no longer falls.
"""
