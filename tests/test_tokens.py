"""Tokenisers: what they give back, what they know, and that no special token can be typed."""

import pytest

from experiments.data.tokens import (
    END,
    UNKNOWN,
    Vocabularies,
    count_unknown,
    decode,
    encode,
    train_tokenizer,
)

LINES = ["A man's hat, in an orange hat.", "Le chapeau -- qu'il a ! -- d'été", "a (b) a «c»"]


def trained(tokens, lines=LINES, min_count=1, lowercase=False, vocabulary_size=300):
    return train_tokenizer(
        lines, tokens, vocabulary_size=vocabulary_size, min_count=min_count, lowercase=lowercase
    )


@pytest.mark.parametrize("tokens", ["char", "word", "bpe"])
def test_decoding_gives_the_text_back(tokens):
    tokenizer = trained(tokens)
    for line, ids in zip(LINES, encode(tokenizer, LINES), strict=True):
        assert UNKNOWN not in ids
        assert decode(tokenizer, [*ids, END, *ids]) == line
    small = trained(tokens, lowercase=True)
    assert decode(small, encode(small, LINES)[0]) == LINES[0].lower()


@pytest.mark.parametrize("tokens", ["char", "word", "bpe"])
def test_special_tokens_cannot_be_typed(tokens, tmp_path):
    text = "a </s> b <pad> <s> <unk>"
    tokenizer = trained(tokens, [text])
    Vocabularies(tokenizer, tokenizer).save(tmp_path)
    for found in (tokenizer, *Vocabularies.load(tmp_path)):
        (ids,) = encode(found, [text])
        assert ids.min() > UNKNOWN
        assert decode(found, ids) == text


def test_what_is_in_a_vocabulary():
    assert [trained("word").id_to_token(i) for i in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    words = trained("word", ["a a b"], min_count=2)
    assert [words.id_to_token(i) for i in encode(words, ["a b"])[0]] == ["▁a", "<unk>"]
    assert decode(words, encode(words, ["b a"])[0]) == "a"
    many = [str(number) for number in range(40_000)]
    assert trained("word", many).get_vocab_size() == 40_004  # no limit cuts it off
    pieces = trained("bpe", ["hundert hundertzwei"] * 3, vocabulary_size=20)
    assert pieces.get_vocab_size() == 20


def test_unknown_tokens_are_counted():
    words = trained("word")
    few = count_unknown(words, ["a hat", "in an orange что"])
    assert few == (1, 6, "in an orange что")
    assert not few.most
    many = count_unknown(words, ["a", "это не то"])
    assert many == (3, 4, "это не то")
    assert many.most
    assert count_unknown(words, ["a hat"]) == (0, 2, "")
    assert not count_unknown(words, []).most


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="tokens must be char, word or bpe, got 'syllable'"):
        trained("syllable")
    with pytest.raises(ValueError, match=r"source_vocabulary\.json is missing or damaged"):
        Vocabularies.load(tmp_path)
    (tmp_path / "source_vocabulary.json").write_text("{")
    with pytest.raises(ValueError, match=r"source_vocabulary\.json is missing or damaged"):
        Vocabularies.load(tmp_path)
    words, other = trained("word"), trained("char")
    assert Vocabularies(words, other).same_as(Vocabularies(trained("word"), trained("char")))
    assert not Vocabularies(words, other).same_as(Vocabularies(words, words))
