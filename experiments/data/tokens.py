"""From sentences to token ids and back: characters, words or byte pairs."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from experiments.data.pairs import Pairs

Tokens = Literal["char", "word", "bpe"]

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))

_ALL = 2**31 - 1  # no limit; the library's own would cut a vocabulary off without a word
MOST_UNKNOWN = 0.5  # of a text's tokens


def train_tokenizer(
    lines: Iterable[str],
    tokens: Tokens,
    *,
    vocabulary_size: int,
    min_count: int,
    lowercase: bool,
) -> Tokenizer:
    """A tokeniser of ``lines``. Words and byte pairs remember the space before them, so that decoding
    gives the very text back; punctuation stands alone.

    Args:
      lines: sentences of the training side.
      tokens: "char", "word", or "bpe" (Sennrich et al. 2016, "Neural machine translation of rare words
        with subword units").
      vocabulary_size: most tokens of byte-pair encoding, but every single character is one; characters
        and words have no limit.
      min_count: a word, or a pair of tokens, that comes less often is no token.
      lowercase: whether upper case is lost.

    Raises:
      ValueError: for an unknown kind of token.

    >>> options = {"vocabulary_size": 8000, "min_count": 1, "lowercase": False}
    >>> tokenizer = train_tokenizer(["a cat, a dog"], "word", **options)
    >>> tokenizer.encode("a dog, a bird").tokens
    ['▁a', '▁dog', ',', '▁a', '<unk>']
    """
    special = list(SPECIAL)
    trainer: trainers.BpeTrainer | trainers.WordLevelTrainer
    if tokens == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size, min_frequency=min_count, special_tokens=special, show_progress=False
        )
    elif tokens in ("char", "word"):
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
        trainer = trainers.WordLevelTrainer(
            vocab_size=_ALL,
            min_frequency=min_count if tokens == "word" else 1,
            special_tokens=special,
            show_progress=False,
        )
    else:
        raise ValueError(f"tokens must be char, word or bpe, got {tokens!r}")
    if tokens == "char":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
        )
        tokenizer.decoder = decoders.Metaspace()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.train_from_iterator(lines, trainer)
    return _text_only(tokenizer)


def train_words(words: Iterable[str], *, min_count: int, lowercase: bool) -> Tokenizer:
    """A vocabulary of words that are apart already; options as ``train_tokenizer``.

    >>> words = train_words(["New York", "is", "New York"], min_count=2, lowercase=False)
    >>> encode_words(words, [["New York", "is"]])[0].tolist() == [len(SPECIAL), UNKNOWN]
    True
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.WordLevelTrainer(
        vocab_size=_ALL, min_frequency=min_count, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    return _text_only(tokenizer)


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """The tokens in the order of their ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The ids of every sentence, one a word; a word that looks like a special token is an unknown one."""
    found = tokenizer.encode_batch([list(words) for words in sentences], is_pretokenized=True)
    ids = (np.array(sentence.ids, np.int32) for sentence in found)
    return [np.where(of < len(SPECIAL), UNKNOWN, of) for of in ids]


class Vocabularies(NamedTuple):
    """The tokenisers of both sides; the same one where there is a joint vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @property
    def sizes(self) -> tuple[int, int]:
        """The tokens of each side."""
        return self.source.get_vocab_size(), self.target.get_vocab_size()

    def same_as(self, other: "Vocabularies") -> bool:
        """Whether both split every text alike."""
        return all(a.to_str() == b.to_str() for a, b in zip(self, other, strict=True))

    @property
    def digest(self) -> str:
        """SHA-256 of both: how they split text."""
        return hashlib.sha256("\0".join(side.to_str() for side in self).encode()).hexdigest()

    @classmethod
    def train(cls, pairs: Pairs, tokens: Tokens, *, joint: bool, **options: Any) -> "Vocabularies":
        """Tokenisers of the two sides of training pairs, or one of both; options as ``train_tokenizer``."""
        sides = [[*pairs.source, *pairs.target]] if joint else pairs
        trained = [train_tokenizer(lines, tokens, **options) for lines in sides]
        return cls(trained[0], trained[-1])

    def save(self, folder: Path) -> None:
        """Write ``source_vocabulary.json`` and ``target_vocabulary.json``."""
        for name, tokenizer in self._asdict().items():
            save_tokenizer(tokenizer, folder / f"{name}_vocabulary.json")

    @classmethod
    def load(cls, folder: Path) -> "Vocabularies":
        """What ``save`` wrote.

        Raises:
          ValueError: if a file is missing or damaged.
        """
        return cls(*(load_tokenizer(folder / f"{name}_vocabulary.json") for name in cls._fields))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokeniser as JSON."""
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """What ``save_tokenizer`` wrote.

    Raises:
      ValueError: if the file is missing or damaged.
    """
    try:
        return _text_only(Tokenizer.from_str(path.read_text(encoding="utf-8")))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is missing or damaged: {error}") from error


def encode(tokenizer: Tokenizer, lines: Sequence[str]) -> list[np.ndarray]:
    """The ids of every sentence, without start and end."""
    return [np.array(found.ids, np.int32) for found in tokenizer.encode_batch(list(lines))]


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The sentence up to its end token; unknown tokens are left out."""
    kept = []
    for token in ids:
        if token == END:
            break
        kept.append(int(token))
    return tokenizer.decode(kept)


def hypotheses_of(beams: Any, lane: int) -> Iterator[tuple[int, float, list[int]]]:
    """The slot, score and token ids, the end included, of a lane's hypotheses, best first.

    Raises:
      ValueError: where a score is not a number.
    """
    for slot, score in enumerate(beams.scores[lane].tolist()):
        if math.isnan(score):
            raise ValueError("the model's logits are not finite: nothing that it writes has a probability")
        if score > -math.inf:
            yield slot, score, beams.tokens[lane, slot, : beams.lengths[lane, slot]].tolist()


class Unknown(NamedTuple):
    """The tokens of a text that its vocabulary lacks."""

    tokens: int
    total: int  # of the text's tokens
    first: str  # line with one, or nothing

    @property
    def most(self) -> bool:
        """Whether the text is probably in another language or script."""
        return self.tokens > MOST_UNKNOWN * self.total


def count_unknown(tokenizer: Tokenizer, lines: Sequence[str]) -> Unknown:
    """The tokens of a text that the vocabulary lacks."""
    encoded = encode(tokenizer, lines)
    counts = [int(np.sum(ids == UNKNOWN)) for ids in encoded]
    first = next((line for line, count in zip(lines, counts, strict=True) if count), "")
    return Unknown(sum(counts), sum(map(len, encoded)), first)


def _text_only(tokenizer: Tokenizer) -> Tokenizer:
    """A tokeniser to which "</s>" in a text is four characters and no more; this is not saved with it."""
    tokenizer.encode_special_tokens = True
    return tokenizer
