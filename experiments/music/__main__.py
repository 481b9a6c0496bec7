"""The command line."""

from experiments import music
from experiments.harness.command_line import Commands, main
from experiments.music.commands import Continue, continue_command
from experiments.music.training import Train, train_command

COMMANDS: Commands = {"train": (Train, train_command), "continue": (Continue, continue_command)}

if __name__ == "__main__":
    main(music.__doc__ or "", COMMANDS, split_cores=False)
