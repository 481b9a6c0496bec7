"""Attention: scores, weights and context vector, and the cell of a decoder that attends."""

from jaxrnn.attention.decoder import (
    AttentionDecoder,
    AttentionDecoderCarry,
    AttentionDecoderParams,
    GateParams,
    Memory,
    WithWeights,
)
from jaxrnn.attention.scores import (
    Additive,
    AdditiveParams,
    Attention,
    Dot,
    General,
    GeneralParams,
    attend,
)

__all__ = [
    "Additive",
    "AdditiveParams",
    "Attention",
    "AttentionDecoder",
    "AttentionDecoderCarry",
    "AttentionDecoderParams",
    "Dot",
    "GateParams",
    "General",
    "GeneralParams",
    "Memory",
    "WithWeights",
    "attend",
]
