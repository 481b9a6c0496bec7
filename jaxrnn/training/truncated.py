"""The former home of ``truncated_step``, for programs that import it from here."""

from jaxrnn.training.step import StepMetrics, truncated_step

__all__ = ["StepMetrics", "truncated_step"]
