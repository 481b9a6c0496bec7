"""The former name of ``python -m experiments.translation.ablation``."""

from experiments.harness.command_line import main
from experiments.translation import ablation

if __name__ == "__main__":
    main(ablation.__doc__ or "", ablation.COMMANDS, split_cores=False)
