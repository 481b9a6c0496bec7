"""The command line."""

from experiments import translation
from experiments.harness.command_line import Commands, main
from experiments.translation.commands import (
    Evaluate,
    Score,
    Translate,
    evaluate_command,
    score_command,
    translate_command,
)
from experiments.translation.training import Train, train_command

COMMANDS: Commands = {
    "train": (Train, train_command),
    "translate": (Translate, translate_command),
    "score": (Score, score_command),
    "evaluate": (Evaluate, evaluate_command),
}

if __name__ == "__main__":
    main(translation.__doc__ or "", COMMANDS, split_cores=False)
