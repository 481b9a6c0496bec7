"""The train state, training steps, and checkpoints."""

from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import TrainState, init_state
from jaxrnn.training.step import StepMetrics, supervised_step, truncated_step

__all__ = ["Checkpoints", "StepMetrics", "TrainState", "init_state", "supervised_step", "truncated_step"]
