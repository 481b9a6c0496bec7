"""The settings of the study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Measure gradients on their way back through time."""

    part: Literal["all", "jacobians", "gates", "clipping", "truncation", "cost"] = "all"
    """Part to measure."""
    time: int = 100
    """Steps T; the training runs take half as many, the costs a quarter to eight times as many."""
    hidden_size: int = 32
    """Hidden units."""
    draws: int = 5
    """Networks that each figure is taken over."""
    steps: int = 3000
    """Training steps of the clipping part."""
    learning_rate: float = 0.2
    """Learning rate of the clipping part."""
    clip_norm: float = 0.5
    """Largest global norm of a gradient that is clipped by norm; half and twice as much are tried too."""
    clip_value: float = 0.2
    """Largest entry of a gradient that is clipped by value; half and twice as much are tried too."""
    seed: int = 0
    """Seed of weights, inputs and data."""
    out: Path | None = None
    """Folder of the study; by default out/gradient_flow/<date-time>."""
