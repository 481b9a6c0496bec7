"""The settings of the study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from experiments.harness.settings import Count, Seed
from jaxrnn.checks import check_positive_number

Positive = Annotated[float, check_positive_number]  # and finite


@dataclass(frozen=True)
class Config:
    """Measure gradients on their way back through time."""

    part: Literal["all", "jacobians", "gates", "clipping", "truncation", "cost"] = "all"
    """Part to measure."""
    time: Count = 100
    """Steps T; the training runs take half as many, the costs a quarter to eight times as many."""
    hidden_size: Count = 32
    """Hidden units."""
    draws: Count = 5
    """Networks that each figure is taken over."""
    steps: Count = 3000
    """Training steps of the clipping part."""
    learning_rate: Positive = 0.2
    """Learning rate of the clipping part."""
    clip_norm: Positive = 0.5
    """Largest global norm of a gradient that is clipped by norm; half and twice as much are tried too."""
    clip_value: Positive = 0.2
    """Largest entry of a gradient that is clipped by value; half and twice as much are tried too."""
    seed: Seed = 0
    """Seed of weights, inputs and data."""
    out: Path | None = None
    """Folder of the study; by default out/gradient_flow/<date-time>."""
