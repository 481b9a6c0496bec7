"""Models made of cells: configuration in a frozen dataclass, parameters in a pytree."""

from jaxrnn.models.captioner import Captioner, CaptionerParams, doubly_stochastic_penalty
from jaxrnn.models.decoder import Decoder, DecoderParams
from jaxrnn.models.encoder import Encoder, EncoderParams
from jaxrnn.models.language_model import LanguageModel, LanguageModelParams
from jaxrnn.models.losses import cross_entropy
from jaxrnn.models.seq2seq import Seq2Seq, Seq2SeqParams
from jaxrnn.models.sequence import SequenceModel, SequenceModelParams

__all__ = [
    "Captioner",
    "CaptionerParams",
    "Decoder",
    "DecoderParams",
    "Encoder",
    "EncoderParams",
    "LanguageModel",
    "LanguageModelParams",
    "Seq2Seq",
    "Seq2SeqParams",
    "SequenceModel",
    "SequenceModelParams",
    "cross_entropy",
    "doubly_stochastic_penalty",
]
