"""A trained network at work: a piece of its data, continued."""

from pathlib import Path
from typing import Annotated

import numpy as np

from experiments.harness.command_line import note
from experiments.harness.settings import Count, Seed, check_zero_or_more, settings
from experiments.music.playing import ADDED, GIVEN, WRITERS, continued, write
from experiments.music.training import load_data, load_run


@settings
class Continue:
    """Let a trained network continue a test piece of its data."""

    run: Path
    """Folder of a trained run."""
    to: Path = Path("continuation.wav")
    """File to write, .wav or .mid."""
    piece: Annotated[int, check_zero_or_more] = 0
    """Which of the test pieces, from 0."""
    given: Count = GIVEN
    """Steps of the piece that the network hears first; they are in the file."""
    length: Count = ADDED
    """Steps that it adds."""
    seed: Seed = 0
    """Seed of the draws."""


def continue_command(config: Continue) -> None:
    """Write the file."""
    if config.to.suffix not in WRITERS:
        raise ValueError(f"--to must end in {' or '.join(WRITERS)}, got {config.to}")
    if not config.to.parent.is_dir():
        raise ValueError(f"there is no folder {config.to.parent} for {config.to.name}")
    trained, model, params = load_run(config.run)
    pieces = load_data(trained).test
    if config.piece >= len(pieces):
        raise ValueError(f"--piece must be below the {len(pieces)} test pieces, got {config.piece}")
    heard = pieces[config.piece][: config.given]
    added = continued(model, params, heard, config.length, config.seed)
    write(config.to, np.concatenate([heard, added]))
    note(f"{len(heard)} steps of the piece and {len(added)} of the network's in {config.to}")
