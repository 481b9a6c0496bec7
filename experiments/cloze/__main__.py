"""The command line."""

from experiments import cloze
from experiments.cloze.commands import Evaluate, Fill, evaluate_command, fill_command
from experiments.cloze.training import Train, train_command
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {
    "train": (Train, train_command),
    "fill": (Fill, fill_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(cloze.__doc__ or "", COMMANDS)
