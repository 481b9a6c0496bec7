"""A trained character model at work: samples, and the measure of a text."""

import math
from pathlib import Path
from typing import Annotated

from experiments.char_lm.training import load_run, nats_per_character
from experiments.char_lm.writing import (
    TEMPERATURE,
    first_character,
    most_probable,
    print_texts,
    unescaped,
    without_replacement,
    write,
)
from experiments.data.corpora import read_text
from experiments.harness import run as runs
from experiments.harness.reports import part
from experiments.harness.settings import Count, Seed, check_zero_or_more, settings
from jaxrnn.decoding.sampling import Feedback


@settings
class Sample:
    """Print text that a trained model writes."""

    run: Path
    """Folder of a run."""
    prompt: str | None = None
    r"""Text to continue, with \n for a line break, \t for a tab and \\ for a backslash; printed before the
    sample. None: a line break; without one in the vocabulary a space; else its first character."""
    length: Count = 500
    """Characters to draw."""
    temperature: Annotated[float, check_zero_or_more] = TEMPERATURE
    """Sampling temperature; lower is more conservative, and 0 takes the most probable character."""
    top_k: Count | None = None
    """Draw from the k most probable characters only."""
    top_p: float | None = None
    """Draw from the most probable characters that together have this probability."""
    beam: Count | None = None
    """Search for the most probable texts with a beam of this size instead of sampling; all of them are
    printed, best first. Expect repetition."""
    without_replacement: Count | None = None
    """Draw this many different texts, sampled without replacement (stochastic beam search)."""
    feedback: Feedback = "token"
    """What is fed back: the drawn character, or the whole softmax vector, to see why that fails."""
    seed: Seed = 0
    """Seed of the draws."""


def sample_command(config: Sample) -> None:
    """Print a prompt and its continuation, or continuations."""
    drawing = ("temperature", "top_k", "top_p", "feedback")
    changed = [name for name in drawing if getattr(config, name) != getattr(Sample, name)]
    several = [name for name in ("beam", "without_replacement") if getattr(config, name) is not None]
    if len(several) > 1 or (several and changed):
        given = ", ".join("--" + name.replace("_", "-") for name in [*several, *changed])
        raise ValueError(f"{given} do not go together; see sample --help")
    model, params, vocabulary = load_run(config.run)
    prompt = first_character(vocabulary) if config.prompt is None else unescaped(config.prompt)
    what = (model, params, vocabulary, prompt, config.length)
    if config.beam is not None:
        print_texts(prompt, most_probable(*what, config.beam))
    elif config.without_replacement is not None:
        print_texts(prompt, without_replacement(*what, config.without_replacement, seed=config.seed))
    else:
        options = {name: getattr(config, name) for name in drawing}
        print(prompt + write(*what, seed=config.seed, **options))


@settings
class Evaluate:
    """Measure a trained model on a text; the hidden state is carried over all of it."""

    run: Path
    """Folder of a run; the result also goes into its evaluation.json."""
    text: Path
    """UTF-8 text file."""


def evaluate_command(config: Evaluate) -> None:
    """Print and keep the nats and bits per character of a text."""
    model, params, vocabulary = load_run(config.run)
    ids = vocabulary.encode(read_text(config.text))
    nats = nats_per_character(model, params, ids)
    bits = nats / math.log(2)
    print(f"{nats:z.6f} nats, {bits:z.6f} bits per character")
    with part("evaluation.json"):
        result = {"text": str(config.text), "characters": len(ids) - 1}
        result |= {"nats_per_char": nats, "bits_per_char": bits}
        runs.write_json(config.run / "evaluation.json", result)
