"""Texts from a character model: several at once, with their probabilities, and what is refused."""

import functools

import jax
import numpy as np
import pytest

import jaxrnn
from experiments.char_lm.commands import Sample, sample_command
from experiments.char_lm.writing import Text, most_probable, print_texts, without_replacement, write
from experiments.harness.settings import check
from jaxrnn.data.text import Vocabulary
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.losses import cross_entropy
from tests.table import random_like

pytestmark = pytest.mark.slow

VOCABULARY = Vocabulary.of("abcde")
MODEL = LanguageModel(5, [jaxrnn.GRU(4)])
PARAMS = jax.tree.map(lambda leaf: 3 * leaf, random_like(jax.eval_shape(MODEL.init, jax.random.key(0)), 0))
GIVEN = (MODEL, PARAMS, VOCABULARY, "bad", 6)


def log_probability(text: str) -> float:
    """Of what follows the prompt, from the whole text at once."""
    ids = np.asarray(VOCABULARY.encode("bad" + text))[:, None]
    _, logits = MODEL.apply(PARAMS, ids[:-1])
    return -float(cross_entropy(logits[2:], ids[3:])[0])


@pytest.mark.parametrize(
    "texts",
    [
        functools.partial(most_probable, *GIVEN, 4),
        functools.partial(without_replacement, *GIVEN, 4, seed=0),
    ],
    ids=["most probable", "without replacement"],
)
def test_texts_differ_and_tell_their_probability(texts):
    found = texts()
    assert len({text for text, _ in found}) == 4
    for text, nats in found:
        assert len(text) == 6
        assert nats == pytest.approx(log_probability(text), rel=1e-4)


def test_their_order():
    scores = [nats for _, nats in most_probable(*GIVEN, 4)]
    assert scores == sorted(scores, reverse=True)
    assert most_probable(*GIVEN, 1)[0].text == write(*GIVEN, seed=0, temperature=1e-4)
    drawn = without_replacement(*GIVEN, 4, seed=1)
    assert drawn == without_replacement(*GIVEN, 4, seed=1)
    assert drawn != without_replacement(*GIVEN, 4, seed=2)


def test_no_more_texts_than_there_are(capsys):
    """One more character is one of five; the head of each says how probable it is."""
    found = without_replacement(MODEL, PARAMS, VOCABULARY, "bad", 1, 9, seed=0)
    assert sorted(text for text, _ in found) == list("abcde")
    assert sum(np.exp(nats) for _, nats in found) == pytest.approx(1, rel=1e-5)
    print_texts("bad", found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1::2] == ["bad" + text for text, _ in found]
    bits = -found[0].nats / np.log(2)
    assert (
        f"--- 1 of 5: log-probability {found[0].nats:.2f} nats, {bits:.3f} bits per character" in lines[0]
    )


@pytest.mark.parametrize("nats", [-0.0, 0.0, -1e-6, 1e-6])
def test_a_certain_text(nats, capsys):
    print_texts("a", [Text("b", nats)])
    assert "log-probability 0.00 nats, 0.000 bits per character" in capsys.readouterr().out


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_no_character_to_choose_from(temperature):
    with pytest.raises(ValueError, match="top_k must be a positive integer, got 0"):
        write(*GIVEN, seed=0, temperature=temperature, top_k=0)


def test_a_model_without_probabilities_says_so():
    broken = jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)
    with pytest.raises(ValueError, match="the model's logits are not finite"):
        most_probable(MODEL, broken, VOCABULARY, "bad", 6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 3, "temperature": 2.0}, "--beam, --temperature do not go together"),
        ({"beam": 3, "without_replacement": 2}, "--beam, --without-replacement do not go together"),
        ({"without_replacement": 3, "top_k": 2}, "--without-replacement, --top-k do not go together"),
        ({"beam": 0}, "beam must be a positive integer, got 0"),
        ({"without_replacement": -1}, "without_replacement must be a positive integer, got -1"),
    ],
)
def test_what_does_not_go_together(options, message, tmp_path):
    """Said before the run is looked at."""

    def as_command(settings):
        check(settings)
        sample_command(settings)

    with pytest.raises(ValueError, match=message):
        as_command(Sample(run=tmp_path, **options))
