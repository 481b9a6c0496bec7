"""The command line."""

from experiments import baselines
from experiments.baselines.study import Train, train_command
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {"train": (Train, train_command)}

if __name__ == "__main__":
    main(baselines.__doc__ or "", COMMANDS)
