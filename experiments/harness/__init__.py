"""What the experiments share: command line, run folder, loop, devices, plots."""
