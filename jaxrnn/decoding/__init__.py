"""Decoders over any ``step(state, tokens)``; they never see a model."""

from jaxrnn.decoding.sampling import Decoded, greedy, sample

__all__ = ["Decoded", "greedy", "sample"]
