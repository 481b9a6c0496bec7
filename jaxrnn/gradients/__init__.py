"""Gradient checks, independent methods of differentiation, and diagnostics of gradient flow."""

from jaxrnn.gradients.check import check
from jaxrnn.gradients.differences import complex_step, finite_difference, random_directions
from jaxrnn.gradients.flow import Flow, Saturation, flow
from jaxrnn.gradients.report import Comparison, GradientError, Report, compare
from jaxrnn.gradients.rtrl import rtrl
from jaxrnn.gradients.terms import Truncated, explicit_terms, truncated

__all__ = [
    "Comparison",
    "Flow",
    "GradientError",
    "Report",
    "Saturation",
    "Truncated",
    "check",
    "compare",
    "complex_step",
    "explicit_terms",
    "finite_difference",
    "flow",
    "random_directions",
    "rtrl",
    "truncated",
]
