"""The command line."""

from experiments import gradient_flow
from experiments.gradient_flow.settings import Config
from experiments.gradient_flow.study import study_command
from experiments.harness.command_line import main

if __name__ == "__main__":
    main(gradient_flow.__doc__ or "", {"study": (Config, study_command)})
