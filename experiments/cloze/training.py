"""Training and measuring models of blanks, one alone or three compared."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from experiments.cloze.data import NAMED, Data, DataSettings, load_data
from experiments.cloze.filling import answers, sentences_for
from experiments.cloze.model import BlankModel
from experiments.data.examples import Batch, Examples, batches_in_order
from experiments.data.tokens import load_tokenizer, save_tokenizer, tokens_of
from experiments.harness import run as runs
from experiments.harness.fit import Fitted, equal_size, fit, load, parameters, report
from experiments.harness.labels import Judged, curves, in_context, label_task, worst_mistakes
from experiments.harness.reports import part
from experiments.harness.settings import Count, Fraction, Positive, TrainingSettings, settings
from experiments.harness.study import check_no_study, run_members, summarize
from jaxrnn.caching import by_value
from jaxrnn.cells.stack import Stack
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.encoder import Direction, Encoder

MEMBERS: dict[str, Direction] = {"left": "forward", "right": "reversed", "both": "bidirectional"}
VOCABULARY = "vocabulary.json"
POSITIONS = 12  # of words in their sentences, whose bits are drawn one by one
AROUND = 8  # words on each side of a mistake that are shown


@settings
class Train(DataSettings, TrainingSettings):
    """Train a model of blanks, and measure it on sentences that it has not seen."""

    direction: Direction = "bidirectional"
    """forward knows the words on the left, reversed those on the right, bidirectional both."""
    compare: bool = False
    """Train all three, with as many parameters, and print the table."""
    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other, in each direction."""
    hidden_size: Count = 192
    """Hidden units of each layer and direction of the model that reads both sides; the other two get so
    many that they have as many parameters."""
    embedding_size: Count = 128
    """Size of the learned word embedding, shared with the output."""
    dropout: Fraction = 0.2
    """Probability that a feature is dropped, at the input and at the output."""
    batch_size: Count = 64
    """Sentences of a step."""
    steps: Count = 1200
    """Training steps; fewer on a file, once validation no longer improves."""
    learning_rate: Positive = 4e-3
    evaluate_every: Count = 200


def train_command(config: Train) -> None:
    """Train one model, or three."""
    data = load_data(config)
    sizes = ", ".join(f"{len(getattr(data, name).inputs):,} {name}" for name in ("train", "valid", "test"))
    known = data.words.get_vocab_size()
    print(f"{config.data}: sentences {sizes}; {known:,} words known; run in {config.folder}", flush=True)
    if not config.compare:
        train(config, data, config.folder)
        return
    variants = {name: {"direction": way, "compare": False} for name, way in MEMBERS.items()}
    results = run_members(config, variants, lambda own: train(own, data, config.folder))
    compare(config, results)


def build_model(config: Train, vocabulary_size: int) -> BlankModel:
    """The model that the settings ask for, with as many parameters in every direction."""

    def of_size(hidden_size: int, direction: Direction) -> BlankModel:
        cell = Stack([CELLS[config.cell](hidden_size)] * config.layers)
        return BlankModel(
            Encoder(
                [cell],
                vocabulary_size=vocabulary_size,
                embedding_size=config.embedding_size,
                direction=direction,
                dropout=config.dropout,
                backward="bptt",
            )
        )

    def count(model: BlankModel) -> int:
        return parameters(jax.eval_shape(model.init, jax.random.key(0)))

    both = of_size(config.hidden_size, "bidirectional")
    if config.direction == "bidirectional":
        return both
    size = equal_size(lambda hidden_size: count(of_size(hidden_size, config.direction)), count(both))
    return of_size(size, config.direction)


def train(config: Train, data: Data, whole: Path) -> dict[str, Any]:
    """A run in ``config.folder``, and its figures; ``whole`` is the study that it is a part of."""
    model = build_model(config, data.words.get_vocab_size())
    task = label_task(
        config,
        data,
        model,
        items=("words", float(np.mean(data.train.lengths)) - 2),
        until_best=config.data not in NAMED,
        record=data.digests,
        assets=lambda folder: save_tokenizer(data.words, folder / VOCABULARY),
    )
    task = dataclasses.replace(task, unit="nats per word")
    return finish(fit(config, task, whole=whole), config, data, model)


class Read(NamedTuple):
    """What a model says of every word of a text, unknown ones left out."""

    nats: np.ndarray  # (words,)
    judged: Judged
    places: np.ndarray  # (words,) indices of the words among all steps
    positions: np.ndarray  # (words,) in their sentences, from 1
    unknown: int  # words left out


def read(model: BlankModel, params: Any, examples: Examples) -> Read:
    """What a model says of every word, given the words around it."""
    found: dict[int, tuple[np.ndarray, ...]] = {}
    for indices, batch in batches_in_order(examples):
        rows = jax.device_get(_of_batch(model, params, batch))
        for lane, index in enumerate(indices):
            found[index] = tuple(of[: batch.lengths[lane], lane] for of in rows)
    order = range(len(examples.inputs))
    nats, predicted, surest = (np.concatenate([found[i][n] for i in order]) for n in range(3))
    labels = np.concatenate(list(examples.labels))
    positions = np.concatenate([np.arange(length) for length in examples.lengths])
    places = np.flatnonzero(labels >= 0)
    words = sum(examples.lengths) - 2 * len(examples.lengths)
    judged = Judged(labels[places], predicted[places], surest[places])
    return Read(nats[places], judged, places, positions[places], words - len(places))


@functools.partial(by_value, static_argnames=("model",))
def _of_batch(model: BlankModel, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of every step the nats of its word, the most probable word, and the probability of that."""
    logits = model.apply(params, batch.inputs, lengths=batch.lengths)
    log_probabilities = jax.nn.log_softmax(logits)
    labels = jnp.maximum(batch.labels, 0)[..., None]
    nats = -jnp.take_along_axis(log_probabilities, labels, axis=-1)[..., 0]
    return nats, jnp.argmax(logits, axis=-1), jnp.exp(jnp.max(log_probabilities, axis=-1))


def measured(found: Read) -> dict[str, Any]:
    """Bits, accuracy, and bits by the position of the word in its sentence."""
    bits = found.nats / math.log(2)
    by_position = {str(n): bits[found.positions == n] for n in range(1, POSITIONS)}
    by_position[f"{POSITIONS}+"] = bits[found.positions >= POSITIONS]
    return {
        "bits_per_word": float(np.mean(bits)),
        "accuracy": float(np.mean(found.judged.right)),
        "words": len(bits),
        "unknown_words_left_out": found.unknown,
        "bits_by_position": {name: float(np.mean(of)) for name, of in by_position.items() if len(of)},
    }


def finish(fitted: Fitted, config: Train, data: Data, model: BlankModel) -> dict[str, Any]:
    """The figures of the best checkpoint on the test part, its worst mistakes, and sentences it fills."""
    found = read(model, fitted.params, data.test)
    figures = {f"test_{name}": value for name, value in measured(found).items()}
    print(described(found))
    leave_mistakes(fitted.out, found, data.test, data.words)
    filled = answers(model, fitted.params, data.words, sentences_for(config.data))
    runs.write_text(fitted.out / "filled.txt", "\n".join(filled) + "\n")
    print("\n".join(filled))
    title = f"{config.direction} {config.cell} on {Path(config.data).name}"
    report(fitted, figures, title=title, packages=("tokenizers",))
    return figures | fitted.costs


def leave_mistakes(folder: Path, found: Read, examples: Examples, words: Tokenizer, name: str = "") -> None:
    """Write the mistakes of which the model was surest."""
    text = in_context(examples, AROUND)
    with part(f"{name}mistakes.tsv"):
        path = folder / f"{name}mistakes.tsv"
        worst_mistakes(path, found.judged, tokens_of(words), lambda i: text(int(found.places[i])))


def described(found: Read) -> str:
    """A line of figures."""
    figures = measured(found)
    return (
        f"{figures['bits_per_word']:z.4f} bits per word, {figures['accuracy']:.4f} of "
        f"{figures['words']:,} words guessed right; {found.unknown:,} unknown words left out"
    )


def compare(config: Train, results: dict[str, dict[str, Any]]) -> None:
    """The table of all three, the summary, and bits by the position of the word."""
    columns = {"bits": "test_bits_per_word", "accuracy": "test_accuracy"}
    summarize(config, results, columns)
    bits = {name: of["test_bits_per_word"] for name, of in results.items()}
    gain = min(bits["left"], bits["right"]) - bits["both"]
    print(f"both sides save {gain:z.4f} bits a word over the better single one")
    with part("bits_by_position.png"):
        curves(
            config.folder / "bits_by_position.png",
            {f"{name}: {bits[name]:.2f}": of["test_bits_by_position"] for name, of in results.items()},
            x_label="position of the word in its sentence",
            y_label="test bits per word",
            title=Path(config.data).name,
        )


def load_run(folder: Path) -> tuple[BlankModel, Any, Tokenizer]:
    """The best model of a run, its parameters and its words."""
    check_no_study(folder)
    config = runs.load_settings(folder, Train)
    words = load_tokenizer(folder / VOCABULARY)
    model = build_model(config, words.get_vocab_size())
    return model, load(folder, config, model.init), words
