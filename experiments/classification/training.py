"""Training and measuring classifiers, one alone or four compared."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.classification.data import NAMED, Data, DataSettings, load_data, save
from experiments.classification.models import KINDS, Bag, Kind, Majority, Model, Window
from experiments.data.examples import Examples
from experiments.data.order_sentences import BAG_CEILING
from experiments.data.tokens import SPECIAL
from experiments.data.vectors import Vectors, read_vectors
from experiments.data.words import Tokenizers
from experiments.harness import run as runs
from experiments.harness.fit import Fitted, fit, report
from experiments.harness.labels import (
    Judged,
    confusion_matrix,
    curves,
    figures_of,
    judge,
    label_task,
    worst_mistakes,
)
from experiments.harness.reports import part
from experiments.harness.settings import Count, Fraction, Positive, TrainingSettings, settings
from experiments.harness.spelling import SpelledModel, SpelledModelParams, spelled_model
from experiments.harness.study import print_table, run_members, summarize
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.encoder import Direction, Encoder
from jaxrnn.models.sequence import SequenceModel

LENGTH_PARTS = 6
CONTRASTS = ("not", "but")  # words that turn the sense of others around


@settings
class Train(DataSettings, TrainingSettings):
    """Train a classifier, and measure it on the test part."""

    model: Kind = "rnn"
    """rnn, or what it is held against: bag of words, window of the last words, majority class."""
    compare: bool = False
    """Train all four models, and print the table."""
    cell: CellName = "gru"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 128
    """Hidden units of each layer and direction, and of the window's network."""
    embedding_size: Count = 64
    """Size of the learned word embedding."""
    letter_size: Count = 32
    """With --letters, the size of a letter's embedding."""
    spelling_size: Count = 64
    """With --letters, hidden units in each direction of the network that reads them."""
    vectors: str | None = None
    """Word vectors from which the embedding starts: a text file as GloVe and word2vec write it."""
    direction: Direction = "forward"
    """How the recurrent network reads: forward, reversed or bidirectional."""
    pool: Literal["last", "mean", "max"] = "last"
    """Which of its outputs decide: the last, their mean, or their maxima."""
    window: Count = 5
    """Words that the window model reads, the last ones."""
    dropout: Fraction = 0.2
    """Probability that a feature is dropped: at the input, between layers, and at the output."""
    word_dropout: Fraction = 0.0
    """Probability that training takes a word for an unknown one."""
    label_smoothing: Fraction = 0.0
    """Share of the training target that is spread over all classes."""
    batch_size: Count = 64
    """Examples of a step."""
    steps: Count = 3000
    """Training steps; fewer on a file, once validation no longer improves."""
    learning_rate: Positive = 3e-3
    evaluate_every: Count = 100


def train_command(config: Train) -> None:
    """Train one model, or four."""
    if config.vectors is not None and (config.model != "rnn" or config.data == "digits"):
        raise ValueError("--vectors are for the embedding of --model rnn on text")
    data = load_data(config)
    vectors = None if config.vectors is None else load_vectors(Path(config.vectors), config, data)
    sizes = ", ".join(f"{len(getattr(data, name).labels):,} {name}" for name in ("train", "valid", "test"))
    print(f"{config.data}: {sizes}; {len(data.classes)} classes; run in {config.folder}", flush=True)
    if not config.compare:
        train(config, data, vectors, config.folder)
        return
    variants: dict[str, dict[str, Any]] = {kind: {"model": kind, "compare": False} for kind in KINDS}
    results = run_members(config, variants, lambda own: train(own, data, vectors, config.folder))
    compare(config, results)


def build_model(
    config: Train, tokenizers: Tokenizers, shares: tuple[float, ...], features: int = 0
) -> Model:
    """The model that the settings ask for; ``shares`` is how often each class comes in training, and
    ``features`` the size of feature vectors.
    """
    sizes = {name: tokenizer.get_vocab_size() for name, tokenizer in tokenizers.items()}
    inputs = sizes.get("words", features)
    if config.model == "bag":
        return Bag(inputs, len(shares))
    if config.model == "window":
        return Window(inputs, len(shares), config.window, config.hidden_size)
    if config.model == "majority":
        return Majority(shares)
    cells = [CELLS[config.cell](config.hidden_size)] * config.layers
    common: dict[str, Any] = {
        "direction": config.direction,
        "dropout": config.dropout,
        "backward": "bptt",
    }
    if "letters" in sizes:
        return spelled_model(
            sizes,
            len(shares),
            letter_cell=CELLS[config.cell](config.spelling_size),
            letter_size=config.letter_size,
            cells=cells,
            embedding_size=config.embedding_size,
            pool=config.pool,
            **common,
        )
    of_words: dict[str, Any] = {"vocabulary_size": inputs, "embedding_size": config.embedding_size}
    encoder = Encoder(cells, **(of_words if sizes else {"in_features": features}), **common)
    return SequenceModel(encoder, len(shares), pool=config.pool)


def load_vectors(path: Path, config: Train, data: Data) -> Vectors:
    """The vectors of words in training; how many have none is reported.

    Raises:
      ValueError: as ``read_vectors``, and for vectors of another size than the embedding's.
    """
    vocabulary = data.tokenizers["words"].get_vocab()
    words = {word: number for word, number in vocabulary.items() if number >= len(SPECIAL)}
    vectors = read_vectors(path, words)
    size, found = vectors.values.shape[1], len(vectors.rows)
    if size != config.embedding_size:
        raise ValueError(
            f"{path} has vectors of {size} numbers, and --embedding-size is {config.embedding_size}"
        )
    print(f"{path}: {found:,} of {len(words):,} words; {len(words) - found:,} are missing and start random")
    return vectors


def pretrained(model: SequenceModel | SpelledModel, vectors: Vectors) -> Callable[[jax.Array], Any]:
    """``model.init``, but for the embeddings of words that have a vector."""

    def started(params: Any) -> Any:
        return params._replace(embedding=params.embedding.at[vectors.rows].set(vectors.values))

    def init(key: jax.Array) -> Any:
        params = model.init(key)
        if isinstance(params, SpelledModelParams):
            return started(params)
        return params._replace(encoder=started(params.encoder))

    return init


def train(config: Train, data: Data, vectors: Vectors | None, whole: Path) -> dict[str, Any]:
    """A run in ``config.folder``, and its figures; ``whole`` is the study that it is a part of."""
    model = build_model(config, data.tokenizers, data.shares, data.features)
    if isinstance(model, Majority):
        config = dataclasses.replace(config, steps=1)  # there is nothing to learn
    record = dict(data.digests)
    if vectors is not None:
        record["vectors" + runs.DIGEST] = hashlib.sha256(vectors.values.tobytes()).hexdigest()
    task = label_task(
        config,
        data,
        model,
        items=("examples", 1),
        until_best=config.data not in NAMED,
        word_dropout=config.word_dropout if "words" in data.tokenizers else 0.0,
        label_smoothing=config.label_smoothing,
        record=record,
        assets=lambda folder: save(data, folder),
    )
    if vectors is not None and isinstance(model, SequenceModel | SpelledModel):
        task = dataclasses.replace(task, init=pretrained(model, vectors))
    return finish(fit(config, task, whole=whole), config, data, model)


def finish(fitted: Fitted, config: Train, data: Data, model: Model) -> dict[str, Any]:
    """The figures of the best checkpoint on the test part, its confusion matrix and its worst mistakes."""
    judged = judge(model, fitted.params, data.test)
    figures = {f"test_{name}": value for name, value in figures_of(judged, data.classes).items()}
    title = f"{config.model} on {Path(config.data).name}"
    with part("confusion_matrix.png"):
        confusion_matrix(fitted.out / "confusion_matrix.png", judged, data.classes, title)
    with part("mistakes.tsv"):
        worst_mistakes(fitted.out / "mistakes.tsv", judged, data.classes, data.test.texts.__getitem__)
    figures["test_accuracy_by_length"] = by_length(judged, data.test)
    if config.data == "sst":
        figures |= {f"test_accuracy_with_{word}": with_word(judged, data.test, word) for word in CONTRASTS}
    print(f"test: accuracy {figures['test_accuracy']:.4f}, macro F1 {figures['test_macro_f1']:.4f}")
    smoothed = f", labels smoothed by {config.label_smoothing}" if config.label_smoothing else ""
    training, packages = f"training{smoothed}", ("scikit-learn", "tokenizers")
    report(fitted, figures, title=title, training=training, packages=packages)
    return figures | fitted.costs


def by_length(judged: Judged, examples: Examples) -> dict[str, float]:
    """The accuracy on sequences of growing length, in up to six parts of about as many examples."""
    lengths = np.array(examples.lengths)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_PARTS + 1)[1:], method="higher"))
    lower, found = 0, {}
    for upper in edges:
        inside = (lengths > lower) & (lengths <= upper)
        found[f"{lower + 1}–{upper}"] = float(np.mean(judged.right[inside]))
        lower = int(upper)
    return found


def with_word(judged: Judged, examples: Examples, word: str) -> float:
    """The accuracy on texts that hold a word; "not" also as the ending n't."""
    forms = {"not", "n't"} if word == "not" else {word}
    holding = [bool(forms & set(text.lower().split())) for text in examples.texts]
    return float(np.mean(judged.right[holding]))


def compare(config: Train, results: dict[str, dict[str, Any]]) -> None:
    """The table of all models, the summary, and their accuracy as sequences grow."""
    columns = {"accuracy": "test_accuracy", "macro F1": "test_macro_f1"}
    if config.data == "sst":
        columns |= {f'with "{word}"': f"test_accuracy_with_{word}" for word in CONTRASTS}
    summarize(config, results, columns)
    if config.data == "order":
        print(f"a bag of words is right of {BAG_CEILING:.4f} here, whatever its weights")
    by_length = {kind: of["test_accuracy_by_length"] for kind, of in results.items()}
    print("\naccuracy by the steps of the sequence")
    print_table(by_length, {steps: steps for steps in by_length["rnn"]})
    with part("accuracy_by_length.png"):
        curves(
            config.folder / "accuracy_by_length.png",
            by_length,
            x_label="steps of the sequence",
            y_label="test accuracy",
            title=Path(config.data).name,
        )
