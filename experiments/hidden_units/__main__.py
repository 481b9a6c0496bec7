"""The command line."""

from experiments import hidden_units
from experiments.harness.command_line import Commands, main
from experiments.hidden_units.study import Explore, explore_command

COMMANDS: Commands = {"explore": (Explore, explore_command)}

if __name__ == "__main__":
    main(hidden_units.__doc__ or "", COMMANDS)
