"""The command line."""

from experiments import gradient_check
from experiments.gradient_check.study import Config, study_command
from experiments.harness.command_line import main

if __name__ == "__main__":
    main(gradient_check.__doc__ or "", {"study": (Config, study_command)})
