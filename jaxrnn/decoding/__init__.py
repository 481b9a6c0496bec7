"""Decoders over any ``step(state, tokens)``; they never see a model."""

from jaxrnn.decoding.beam import Beams, beam_search
from jaxrnn.decoding.ensemble import ensemble
from jaxrnn.decoding.sampling import Decoded, greedy, sample
from jaxrnn.decoding.scoring import forced_score
from jaxrnn.decoding.stochastic_beam import StochasticBeams, stochastic_beam_search

__all__ = [
    "Beams",
    "Decoded",
    "StochasticBeams",
    "beam_search",
    "ensemble",
    "forced_score",
    "greedy",
    "sample",
    "stochastic_beam_search",
]
