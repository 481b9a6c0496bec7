"""Text that a character model writes after a prompt."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.checks import check_positive
from jaxrnn.data.text import Vocabulary
from jaxrnn.decoding import beam_search, sample, stochastic_beam_search
from jaxrnn.models.language_model import LanguageModel

TEMPERATURE = 0.75  # of samples, unless asked otherwise: more conservative than the model itself


class Text(NamedTuple):
    """A text and its log-probability under the model, in nats."""

    text: str
    nats: float


def first_character(vocabulary: Vocabulary) -> str:
    """What comes before a text that continues nothing: a line break, or a space, or what else there is."""
    return next((c for c in "\n " if c in vocabulary.characters), vocabulary.characters[0])


def unescaped(prompt: str) -> str:
    r"""A prompt as it is typed on a command line: ``\n``, ``\t`` and ``\\`` are one character each."""
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t", "\\": "\\"}[found[1]], prompt)


def write(
    model: LanguageModel,
    params: Any,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    seed: int,
    **options: Any,
) -> str:
    """A text drawn from the model; the options are those of ``sample``, and temperature 0 draws nothing but
    the most probable character.
    """
    if options.get("top_k") is not None:
        check_positive("top_k", options["top_k"])
    if options.get("temperature") == 0:
        options |= {"temperature": 1.0, "top_k": 1}
    step, carry, start = read(model, params, vocabulary, prompt)
    drawn = sample(step, carry, key=jax.random.key(seed), start=start, max_length=length, **options)
    return vocabulary.decode(drawn.tokens[0])


def draw(model: LanguageModel, params: Any, vocabulary: Vocabulary, seed: int) -> str:
    """A sample that continues nothing."""
    prompt = first_character(vocabulary)
    return write(model, params, vocabulary, prompt, 500, seed=seed, temperature=TEMPERATURE)


def most_probable(
    model: LanguageModel, params: Any, vocabulary: Vocabulary, prompt: str, length: int, count: int
) -> list[Text]:
    """The best texts that a beam of ``count`` finds, best first."""
    step, carry, start = read(model, params, vocabulary, prompt)
    found = beam_search(step, carry, start=start, max_length=length, beam_size=count)
    return texts(vocabulary, found.tokens[0], found.scores[0])


def without_replacement(
    model: LanguageModel,
    params: Any,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    count: int,
    *,
    seed: int,
) -> list[Text]:
    """Different texts drawn from the model, in the order of their draws."""
    step, carry, start = read(model, params, vocabulary, prompt)
    key = jax.random.key(seed)
    drawn = stochastic_beam_search(step, carry, key=key, start=start, max_length=length, beam_size=count)
    return texts(vocabulary, drawn.tokens[0], drawn.scores[0])


def read(model: LanguageModel, params: Any, vocabulary: Vocabulary, prompt: str) -> tuple[Any, Any, Any]:
    """The step, the carry and the token with which to go on after a prompt."""
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character")
    ids = jnp.asarray(vocabulary.encode(prompt))[:, None]  # (time, 1)
    carry, _ = model.apply(params, ids[:-1])
    return jax.tree_util.Partial(model.step, params), carry, ids[-1]


def texts(vocabulary: Vocabulary, tokens: Any, scores: Any) -> list[Text]:
    """Those that there are: a short text may have fewer continuations than were asked for.

    Raises:
      ValueError: where the model gives no probabilities.
    """
    nats = scores.tolist()
    if any(math.isnan(score) for score in nats):
        raise ValueError("the model's logits are not finite: it gives no text a probability")
    return [
        Text(vocabulary.decode(row), score)
        for row, score in zip(tokens, nats, strict=True)
        if score > -math.inf
    ]


def print_texts(prompt: str, found: list[Text]) -> None:
    """Each text below a line that tells how probable it is."""
    for number, (text, nats) in enumerate(found, start=1):
        bits = -nats / math.log(2) / len(text)
        probability = f"log-probability {nats:z.2f} nats, {bits:z.3f} bits per character"
        head = f"--- {number} of {len(found)}: {probability} "
        print(f"{head:-<79}\n{prompt}{text}")
