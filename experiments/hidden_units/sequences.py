"""Models that read something else than one long text, and what they do on the test part of their data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.classification import data as labelled
from experiments.classification import training as classification
from experiments.data.batches import buckets_of
from experiments.data.examples import Examples
from experiments.data.examples import batches_in_order as in_batches
from experiments.data.sentences import words_of
from experiments.data.tokens import SPECIAL, START
from experiments.forecasting import training as forecasting
from experiments.forecasting.data import load_data as load_series
from experiments.forecasting.inputs import features
from experiments.harness import run as runs
from experiments.harness.fit import load
from experiments.harness.study import check_no_study
from experiments.hidden_units.labels import Labels
from experiments.hidden_units.recording import Recording, record_sequences
from experiments.hidden_units.texts import Reading, in_sequence
from experiments.tagging import data as tagged
from experiments.tagging import training as tagging
from experiments.translation import data as parallel
from experiments.translation import training as translation
from experiments.translation.batches import batches_in_order, encode_pairs
from jaxrnn import diagnostics

LANES = 32  # sequences side by side
SHADES = " ░▒▓█"  # of a pixel
PER_LINE = 12  # readings of a series


class Subject(NamedTuple):
    """What a part of a model read, and what its units did."""

    name: str
    text: Reading
    recording: Recording


def subjects_of(folder: Path, patterns: Mapping[str, str], most: int) -> list[Subject]:
    """What the model of a run did on its test data: a translator's encoder and decoder each by itself.

    Args:
      folder: of the run.
      patterns: labels of the user's, by name a regular expression over the text of all steps.
      most: steps that are read, or the first sequence if it is longer.

    Raises:
      ValueError: for a run of another kind, or one without recurrent units.
    """
    check_no_study(folder)
    for settings, read in KINDS.items():
        if runs.holds(folder, settings):
            return read(folder, patterns, most)
    raise ValueError(
        f"{folder} holds a run of another experiment: expected one of char_lm, tagging, classification, "
        "translation or forecasting"
    )


def of_tagger(folder: Path, patterns: Mapping[str, str], most: int) -> list[Subject]:
    """Labelled by the class of every step."""
    config = runs.load_settings(folder, tagging.Train)
    data = tagged.load_data(config)
    check_same_data(folder, data.digests)
    model = tagging.model_of(config, data)
    params = load(folder, config, model.init)
    examples = beginning(data.test, most)
    signs = [
        list(text) if isinstance(text, str) else _words(text) for text in examples.texts
    ]  # characters, or words
    of_step = np.concatenate(list(examples.labels))
    labels = {f"is {name}": of_step == number for number, name in enumerate(data.classes)}
    return [_labelled(folder, model, params, examples, signs, labels, patterns)]


def of_classifier(folder: Path, patterns: Mapping[str, str], most: int) -> list[Subject]:
    """Labelled by the class of the sequence; an image is a row of shades a step."""
    config = runs.load_settings(folder, classification.Train)
    if config.model != "rnn":
        raise ValueError(f"the model in {folder} has no recurrent units: expected rnn, got {config.model}")
    data = labelled.load_data(config)
    check_same_data(folder, data.digests)
    model: Any = classification.build_model(config, data.tokenizers, data.shares, data.features)
    params = load(folder, config, model.init)
    examples = beginning(data.test, most)
    of_step = np.repeat(examples.labels, examples.lengths)
    labels = {f"of {name}": of_step == number for number, name in enumerate(data.classes)}
    signs = [_words(words_of(text)) for text in examples.texts]
    if data.features:
        signs = [_rows(image) for image in examples.inputs]
        labels["ink"] = np.concatenate(list(examples.inputs)).sum(-1)
    return [_labelled(folder, model, params, examples, signs, labels, patterns)]


def of_translator(folder: Path, patterns: Mapping[str, str], most: int) -> list[Subject]:
    """The encoder on source sentences, and the decoder, given the target's tokens, on targets."""
    config = runs.load_settings(folder, translation.Train)
    data = parallel.load_data(config)
    check_same_data(folder, data.digests)
    model = translation.build_model(config, data.vocabularies.sizes)
    params = load(folder, config, model.init)
    pairs = encode_pairs(data.vocabularies, data.text.test)
    ends = np.cumsum([sum(pair.size) for pair in pairs])
    pairs = pairs[: max(1, int(np.searchsorted(ends, most, "right")))]
    buckets = buckets_of([pair.size for pair in pairs], parallel.BUCKETS)
    batches = list(batches_in_order(pairs, buckets, lambda size: LANES))
    read = [[pair.source for pair in pairs], [np.r_[START, pair.target] for pair in pairs]]

    def part(number: int) -> Callable[[Any], Any]:
        def read(batch: Any) -> Any:
            lengths = {"source_lengths": batch.source_lengths, "lengths": batch.target_lengths}
            return model.record(params, batch.source, batch.fed, **lengths)[1 + number]

        return jax.jit(read)

    found = []
    for number, name in enumerate(("encoder", "decoder")):
        tokenizer = data.vocabularies[number]
        signs = [_tokens(tokenizer, ids) for ids in read[number]]
        sized = [(at, batch, (batch.source_lengths, batch.target_lengths)[number]) for at, batch in batches]
        left = np.concatenate([np.arange(len(ids))[::-1] for ids in read[number]])
        text = in_sequence(signs, {"tokens left": left}, patterns)
        recording = record_sequences(sized, part(number))
        found.append(Subject(f"{folder.name}: {name}", text, recording))
    return found


def of_forecaster(folder: Path, patterns: Mapping[str, str], most: int) -> list[Subject]:
    """The readings of the test part, as one sequence, labelled by what they are and when."""
    run = forecasting.load_run(folder)
    data = load_series(run.config)
    check_same_data(folder, data.digests)
    model, series = run.predictor.model, data.series
    part = slice(data.valid, data.valid + most)
    times, targets = series.times[part], series.targets[part]
    xs = features(targets, series.covariates[part], times, series.clock, data.scale)

    @jax.jit
    def read(inputs: Any) -> Any:
        _, _, signals = diagnostics.record(model.cell, run.predictor.params.cells, inputs)
        return diagnostics.by_layer(signals)

    recording = record_sequences([([0], xs[:, None], np.array([len(xs)]))], read)
    year = times.astype("datetime64[Y]")
    known = np.isfinite(targets)
    labels: Labels = {name: np.nan_to_num(targets[:, at]) for at, name in enumerate(run.target_names)}
    labels |= {f"no {name}": ~known[:, at] for at, name in enumerate(run.target_names)}
    labels["day of year"] = (times - year).astype("timedelta64[D]").astype(int)
    labels["hour of day"] = (times - times.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
    signs = [f"{value:5.1f} " if np.isfinite(value) else "    – " for value in targets[:, 0]]
    signs = [sign + "\n" if (at + 1) % PER_LINE == 0 else sign for at, sign in enumerate(signs)]
    return [Subject(folder.name, in_sequence([signs], labels, patterns), recording)]


KINDS: dict[type, Callable[[Path, Mapping[str, str], int], list[Subject]]] = {
    tagging.Train: of_tagger,
    classification.Train: of_classifier,
    translation.Train: of_translator,
    forecasting.Train: of_forecaster,
}


def check_same_data(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise ValueError unless the data are those that the run was trained on."""
    saved = runs.load_config(folder)
    if other := [name for name, digest in digests.items() if saved.get(name, digest) != digest]:
        was = f"{other[0]} differs"
        raise ValueError(f"the data are not those that the run in {folder} was trained on: {was}")


def beginning(examples: Examples, most: int) -> Examples:
    """The first examples, of so many steps together, one at least."""
    count = max(1, int(np.searchsorted(np.cumsum(examples.lengths), most, "right")))
    return Examples(examples.inputs[:count], examples.labels[:count], examples.texts[:count])


def _labelled(
    folder: Path,
    model: Any,
    params: Any,
    examples: Examples,
    signs: Sequence[Sequence[str]],
    labels: Labels,
    patterns: Mapping[str, str],
) -> Subject:
    """A model of labelled sequences on some of them."""
    read = jax.jit(lambda batch: model.record(params, batch.inputs, lengths=batch.lengths)[1])
    batches = [(numbers, batch, batch.lengths) for numbers, batch in in_batches(examples)]
    return Subject(folder.name, in_sequence(signs, labels, patterns), record_sequences(batches, read))


def _words(words: Sequence[str]) -> list[str]:
    """Words with blanks between them, and the end of the line."""
    return [word + " " for word in words[:-1]] + [word + "\n" for word in words[-1:]]


def _rows(image: np.ndarray) -> list[str]:
    """The rows of an image, grey values from 0 to 1, and an empty line."""
    levels = np.rint(np.clip(image, 0, 1) * (len(SHADES) - 1)).astype(int)
    rows = ["".join(SHADES[level] * 2 for level in row) + "\n" for row in levels]
    return [*rows[:-1], rows[-1] + "\n"]


def _tokens(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """Tokens as they are read, with blanks where words begin, and the end of the line."""
    tokens = [tokenizer.id_to_token(int(number)).replace("▁", " ") for number in ids]
    tokens = [f"{token} " if token in SPECIAL else token for token in tokens]
    return [*tokens[:-1], tokens[-1] + "\n"] if tokens else []
