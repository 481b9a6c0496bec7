r"""Forecasts that are updated with every reading: what does a recurrent network add to simple methods?

    python -m experiments.forecasting                          simulated weather at two places
    python -m experiments.forecasting --data daily_min_temperatures --cell gru --hidden-size 16
        --dropout 0.5 --gaps 0 --learning-rate 5e-4 --evaluate-every 50
    python -m experiments.forecasting --data beijing_weather --hidden-size 32 --dropout 0.5
    python -m experiments.forecasting --data FILE --time COLUMN --target COLUMN,COLUMN
    python -m experiments.forecasting forecast --run DIR --data FILE --follow

The first command takes three to four minutes on two CPU cores and needs no network. Training ends when the
validation loss no longer falls.
"""
