"""The command line."""

from experiments import tagging
from experiments.harness.command_line import Commands, main
from experiments.tagging.commands import Evaluate, Tag, evaluate_command, tag_command
from experiments.tagging.training import Train, train_command

COMMANDS: Commands = {
    "train": (Train, train_command),
    "tag": (Tag, tag_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(tagging.__doc__ or "", COMMANDS)
