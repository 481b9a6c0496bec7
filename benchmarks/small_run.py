"""A training run of seconds, and all that it comes to: what is disturbed, spoilt, and continued."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.char_lm.__main__ import COMMANDS
from experiments.harness import run as runs
from experiments.harness.command_line import main
from jaxrnn.training import arrays
from jaxrnn.training.checkpoint import Checkpoints

SETTINGS = """--cell elman --hidden-size 6 --dropout 0.2 --batch-size 4 --chunk-length 5 --steps 9
--warmup-steps 2 --evaluate-every 4 --checkpoint-every 3 --optimizer adam --learning-rate 0.01"""
TEXT = "the quick brown fox jumps over the lazy dog\n" * 12
BY_THE_CLOCK = {"seconds", "items_per_second"}
FIGURES = ("valid_nats_per_char", "test_nats_per_char", "steps", "parameters")


def train(out: Path, corpus: Path, group: Sequence[str] = (), *, resume: bool) -> None:
    """Train, or go on, as one process or, with its flags, one of a ``group``."""
    rest = ["--resume"] if resume else ["--corpus", str(corpus), *SETTINGS.split()]
    main("", COMMANDS, ["train", "--out", str(out), *rest, *group], split_cores=False)


def saved_leaves(out: Path) -> list[np.ndarray]:
    """The leaves of a run's last state, however they are nested."""
    with Checkpoints(out / "checkpoints", read_only=True) as checkpoints:
        folder = checkpoints.directory / str(checkpoints.latest) / "state"
    target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), arrays.describe(folder))
    return jax.tree.leaves(arrays.read(folder, target))


def digest(out: Path) -> str:
    """Of every bit of the last state."""
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in saved_leaves(out))).hexdigest()


def outcome(out: Path) -> dict[str, Any]:
    """What a run has come to, but for its clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    summary = runs.read_json(out / "summary.json")
    return {
        "state": (out / "digest").read_text(),
        "metrics": [{k: v for k, v in line.items() if k not in BY_THE_CLOCK} for line in lines],
        "figures": {name: summary[name] for name in FIGURES},
    }
