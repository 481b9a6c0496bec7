"""The parallel text of a training run by its settings: pairs, vocabularies, buckets."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from experiments.data.batches import Size, buckets_of
from experiments.data.pairs import NAMES, ParallelText, load_pairs, subset
from experiments.data.tokens import Tokens, Vocabularies, count_unknown
from experiments.harness.run import DIGEST
from experiments.harness.settings import Count, settings
from experiments.translation.batches import EncodedPair, encode_pairs, short_enough

BUCKETS = 8


@settings
class ParallelSettings:
    """Settings of parallel text and its tokens."""

    data: str = "numbers"
    """numbers (their names, no download), multi30k, tatoeba_en_fr, two line-aligned files SOURCE,TARGET, or
    a file of SOURCE<TAB>TARGET lines; files are split, but for parts with files of their own."""
    languages: str | None = None
    """SOURCE-TARGET of a named set, de-en say; None: en-fr, and de-en for multi30k. numbers knows most
    of num2words."""
    valid: str | None = None
    """Files of the validation pairs, SOURCE,TARGET or of SOURCE<TAB>TARGET lines; one pair is enough."""
    test: str | None = None
    """Files of the test pairs, likewise."""
    pairs: Count | None = None
    """Train on this many pairs only, always the same; None: on all."""
    tokens: Tokens = "bpe"
    """char, word, or bpe (byte-pair encoding, learned from the training pairs)."""
    vocabulary_size: Count | None = None
    """Most tokens of byte-pair encoding, but single characters are always among them; None: one for every
    50 training pairs, from 250 to 8000."""
    min_count: Count = 2
    """Words and pairs of tokens that come less often in training are no tokens of their own."""
    joint: bool = False
    """One vocabulary for both languages."""
    lowercase: bool = False
    """Lose upper case, and measure without it."""
    max_length: Count = 200
    """Pairs with more tokens on a side are not trained on, but counted and reported."""


class Data(NamedTuple):
    """Parallel text, and what is trained on of it."""

    text: ParallelText
    vocabularies: Vocabularies
    pairs: list[EncodedPair]
    buckets: list[Size]
    digests: dict[str, str]  # SHA-256 of the pairs, and of the parts that have files of their own


def load_data(config: ParallelSettings, report: Callable[[str], None] = print) -> Data:
    """The pairs that the settings ask for, and vocabularies of those to train on.

    Raises:
      ValueError: for pairs that cannot be read or split, or that the vocabularies do not fit.
    """
    text = load_pairs(config.data, config.languages, report, valid=config.valid, test=config.test)
    if config.pairs is not None:
        text = text._replace(train=subset(text.train, config.pairs))
    vocabularies = Vocabularies.train(
        text.train,
        config.tokens,
        joint=config.joint,
        vocabulary_size=config.vocabulary_size or min(max(len(text.train.source) // 50, 250), 8000),
        min_count=config.min_count,
        lowercase=config.lowercase,
    )
    check_known(vocabularies, text, report)
    pairs = short_enough(encode_pairs(vocabularies, text.train), config.max_length, report)
    own = [part for part in ("valid", "test") if getattr(config, part) is not None]
    parts = {"pairs": [part for part in text._fields if part not in own]} | {part: [part] for part in own}
    digests = {name + DIGEST: _digest(text, of) for name, of in parts.items()}
    return Data(text, vocabularies, pairs, buckets_of([pair.size for pair in pairs], BUCKETS), digests)


def check_known(vocabularies: Vocabularies, text: ParallelText, report: Callable[[str], None]) -> None:
    """Report held-out text that the vocabularies lack most of.

    Raises:
      ValueError: for training text that they lack most of: most words come only once, say.
    """
    for part, pairs in text._asdict().items():
        for side, tokenizer, lines in zip(("source", "target"), vocabularies, pairs, strict=True):
            unknown = count_unknown(tokenizer, lines)
            if not unknown.most:
                continue
            lacks = (
                f"the vocabulary does not fit the {side} text of the {NAMES[part]} pairs: it lacks "
                f"{unknown.tokens:,} of {unknown.total:,} tokens; first in {unknown.first[:60]!r}"
            )
            if part == "train":
                raise ValueError(lacks)
            report(lacks)


def _digest(text: ParallelText, parts: list[str]) -> str:
    lines = "\0".join("\n".join(side) for part in parts for side in getattr(text, part))
    return hashlib.sha256(lines.encode()).hexdigest()
