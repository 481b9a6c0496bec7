"""The command line."""

from experiments import captioning
from experiments.captioning.commands import Caption, Evaluate, caption_command, evaluate_command
from experiments.captioning.study import train_command
from experiments.captioning.training import Train
from experiments.harness.command_line import Commands, main

COMMANDS: Commands = {
    "train": (Train, train_command),
    "caption": (Caption, caption_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(captioning.__doc__ or "", COMMANDS, split_cores=False)
