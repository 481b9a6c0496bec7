"""The command line."""

from experiments import forecasting
from experiments.forecasting.commands import Evaluate, Forecast, evaluate_command, forecast_command
from experiments.forecasting.results import train_command
from experiments.forecasting.training import Train
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {
    "train": (Train, train_command),
    "forecast": (Forecast, forecast_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(forecasting.__doc__ or "", COMMANDS, split_cores=False)
