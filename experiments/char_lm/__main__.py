"""The command line."""

from experiments import char_lm
from experiments.char_lm.commands import Evaluate, Sample, evaluate_command, sample_command
from experiments.char_lm.training import Train, train_command
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {
    "train": (Train, train_command),
    "sample": (Sample, sample_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(char_lm.__doc__ or "", COMMANDS)
