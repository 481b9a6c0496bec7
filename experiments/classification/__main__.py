"""The command line."""

from experiments import classification
from experiments.classification.commands import Evaluate, Predict, evaluate_command, predict_command
from experiments.classification.training import Train, train_command
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {
    "train": (Train, train_command),
    "predict": (Predict, predict_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(classification.__doc__ or "", COMMANDS)
