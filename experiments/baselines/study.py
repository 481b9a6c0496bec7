"""All models on one text, one after another, and what comes of it."""

import functools
import math
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.baselines import kneser_ney
from experiments.baselines.data import Data, DataSettings, load_data
from experiments.baselines.errors import explain, print_explained
from experiments.baselines.networks import BagNetwork, WindowNetwork, token_log_probabilities
from experiments.baselines.pictures import draw
from experiments.harness import run as runs
from experiments.harness.fit import equal_size, fit, parameters
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, Fraction, Positive, TrainingSettings, settings
from experiments.harness.study import print_table, run_members
from experiments.harness.task import Task
from experiments.harness.text_streams import curve_chunks, first_carry, stream_loss
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.data.text import Streams
from jaxrnn.models.language_model import LanguageModel

GROWTH = (1 / 64, 1 / 16, 1 / 4)  # of the training text, over which the memory of n-grams is measured


@settings
class Train(DataSettings, TrainingSettings):
    """Train every model on the same text, and compare them."""

    order: Count = 10
    """Longest n-grams, in tokens: the last of them, and the context before it."""
    windows: tuple[Count, ...] = (1, 2, 4, 8, 12, 20)
    """Tokens that the window networks see; no number leaves them out."""
    cells: tuple[CellName, ...] = ("elman", "gru", "lstm")
    """Recurrent cells."""
    layers: Count = 1
    """Recurrent cells of a kind on top of each other."""
    bag: bool = True
    """Also train a network on the bag of all tokens so far."""
    parameters: Count | None = None
    """Of every network, about: its hidden size follows. None: 130,000; for words, 150 for each."""
    embedding_size: Count | None = None
    """Size of the learned embedding of tokens. None: one-hot vectors; for words, 64."""
    tied: bool = False
    """Recurrent networks share the embedding with the output; it is as large as their output."""
    dropout: Fraction = 0.0
    """Probability that a feature is dropped at the output, and at the inputs of recurrent cells."""
    batch_size: Count = 32
    """Streams of text read side by side."""
    chunk_length: Count = 64
    """Tokens between truncations of back-propagation through time."""
    refit: bool = False
    """Train on the validation part too, with settings that it has chosen in other runs: on all before the
    test part. Its figures are then of text trained on."""
    steps: Count = 2000
    """Training steps of every network, each one chunk of every stream."""
    learning_rate: Positive = 4e-3
    evaluate_every: Count = 250


def train_command(config: Train) -> None:
    """Train all networks, count n-grams, and compare."""
    data = load_data(config)
    if config.refit:
        data = data._replace(train=np.concatenate([data.train, data.valid]))
    if config.order > len(data.train):
        raise ValueError(
            f"--order {config.order} is longer than the {len(data.train):,} tokens to train on"
        )
    Streams(data.train, config.batch_size, config.chunk_length)  # or the text is too short
    sizes = (
        f"{len(data.train):,} {data.unit}s to train on, {len(data.valid):,} valid, {len(data.test):,} test"
    )
    print(f"{config.corpus}: {sizes}, {len(data.tokens):,} distinct; run in {config.folder}", flush=True)
    models = networks(config, data)
    found: dict[str, np.ndarray] = {}

    def train(own: Train) -> dict[str, Any]:
        name = own.folder.name
        figures, found[name] = train_network(own, data, models[name], config.folder)
        return figures | {"context": int(name.split("_")[1]) if name.startswith("window") else None}

    results = run_members(config, {name: {} for name in models}, train)
    finish(config, data, results, found)


def networks(config: Train, data: Data) -> dict[str, Any]:
    """Every network by its name, at the size whose parameters are nearest to those asked for."""
    vocabulary_size, words = len(data.tokens), data.unit == "word"
    target = config.parameters or (150 * vocabulary_size if words else 130_000)
    embedding_size = config.embedding_size or (64 if words else None)
    shared: dict[str, Any] = {"embedding_size": embedding_size, "dropout": config.dropout}

    def recurrent(cell: str, size: int) -> LanguageModel:
        cells = [CELLS[cell](size)] * config.layers
        own = {"tied": True, "embedding_size": cells[-1].out_features} if config.tied else {}
        return LanguageModel(vocabulary_size, cells, backward="bptt", **shared | own)

    of_size: dict[str, Callable[[int], Any]] = {
        f"window_{window}": functools.partial(_window, vocabulary_size, window, shared)
        for window in config.windows
    }
    if config.bag:
        of_size["bag"] = lambda size: BagNetwork(vocabulary_size, size, **shared)
    of_size |= {cell: functools.partial(recurrent, cell) for cell in config.cells}

    def count(make: Callable[[int], Any], size: int) -> int:
        return parameters(jax.eval_shape(make(size).init, jax.random.key(0)))

    return {
        name: make(equal_size(functools.partial(count, make), target)) for name, make in of_size.items()
    }


def _window(vocabulary_size: int, window: int, shared: dict[str, Any], size: int) -> WindowNetwork:
    return WindowNetwork(vocabulary_size, window, size, **shared)


def train_network(config: Train, data: Data, model: Any, whole: Path) -> tuple[dict[str, Any], np.ndarray]:
    """A run in ``config.folder``: its figures, and the log-probabilities of test tokens but the first."""
    streams = Streams(data.train, config.batch_size, config.chunk_length)
    task = Task(
        init=model.init,
        loss=stream_loss(model),
        batch=streams.chunk,
        valid=lambda: curve_chunks(data.valid),
        unit=f"nats per {data.unit}",
        items=(f"{data.unit}s", config.batch_size * config.chunk_length),
        record=data.digests,
        carry=first_carry(model),
    )
    fitted = fit(config, task, whole=whole)
    found = {}
    for name, ids in (("valid", data.valid), ("test", data.test)):
        with counted(f"measuring {len(ids):,} {data.unit}s of {name} text") as on_chunk:
            found[name] = token_log_probabilities(model, fitted.params, ids, on_chunk)
    figures = {f"{name}_nats": nats(of) for name, of in found.items()}
    print(f"test {figures['test_nats']:.4f} nats per {data.unit}", flush=True)
    sizes = sizes_of([np.asarray(leaf) for leaf in jax.tree.leaves(fitted.params)])
    return figures | sizes | fitted.costs, found["test"]


def nats(log_probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood."""
    return float(-np.mean(log_probabilities))


def sizes_of(arrays: list[np.ndarray]) -> dict[str, int]:
    """Bytes of arrays in memory, and on disk once compressed."""
    return {
        "bytes_in_memory": sum(array.nbytes for array in arrays),
        "bytes_on_disk": sum(len(zlib.compress(array.tobytes(), 1)) for array in arrays),
    }


def count_ngrams(data: Data, order: int) -> tuple[kneser_ney.KneserNey, list[float]]:
    """The n-gram models of every order, and the seconds after which each was there."""
    start, seconds = time.perf_counter(), list[float]()
    with counted(f"counting n-grams of up to {order} {data.unit}s") as on_order:

        def done(length: int, of: int) -> None:
            seconds.append(time.perf_counter() - start)
            on_order(length, of)

        return kneser_ney.fit(data.train, len(data.tokens), order, on_order=done), seconds


def ngrams(
    model: kneser_ney.KneserNey, seconds: list[float], data: Data
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of the n-gram models of every order, and the log-probabilities of all test tokens but the
    first.
    """

    def log_probabilities(model: kneser_ney.KneserNey, ids: np.ndarray) -> np.ndarray:
        return np.log(kneser_ney.probabilities(model, ids)[:, 1:])

    found = {}
    parts = {"valid": data.valid, "test": data.test}
    each = {name: log_probabilities(model, ids) for name, ids in parts.items()}
    plain = log_probabilities(model._replace(discounts="single"), data.test)
    sizes = Counter[str]()  # of all orders so far
    for order, grams in enumerate(model.orders, start=1):
        sizes.update({"parameters": len(grams.keys), **sizes_of(list(grams))})
        found[f"{order}-gram"] = {
            "context": order - 1,
            **{f"{name}_nats": nats(of[order - 1]) for name, of in each.items()},
            "test_nats_single_discount": nats(plain[order - 1]),
            **sizes,
            "train_seconds": seconds[order - 1],
        }
    return found, each["test"]


def growth(model: kneser_ney.KneserNey, data: Data) -> dict[str, list[int]]:
    """Tokens read, and the bytes in memory of the n-grams counted in them; the last are the model's."""
    order, size = len(model.orders), len(data.train)
    read = [max(order, round(part * size)) for part in GROWTH]
    models = [kneser_ney.fit(data.train[:tokens], len(data.tokens), order) for tokens in read]
    return {"tokens": [*read, size], "bytes_in_memory": [of.nbytes for of in (*models, model)]}


def finish(
    config: Train, data: Data, results: dict[str, dict[str, Any]], found: dict[str, np.ndarray]
) -> None:
    """The table, the picture, and which errors of a recurrent network others would have avoided."""
    model, seconds = count_ngrams(data, config.order)
    with counted("measuring n-grams"):
        counted_grams, of_ngrams = ngrams(model, seconds, data)
        grown = growth(model, data)
    models = counted_grams | results
    for of in models.values():
        of["test_bits"] = of["test_nats"] / math.log(2)
        of["test_perplexity"] = math.exp(of["test_nats"])
    valid = "trained on" if config.refit else "valid nats"
    columns = {valid: "valid_nats", "test nats": "test_nats"}
    columns |= {"perplexity": "test_perplexity"} if data.unit == "word" else {"test bits": "test_bits"}
    columns |= {"parameters": "parameters", "on disk": "bytes_on_disk", "in memory": "bytes_in_memory"}
    columns |= {"seconds": "train_seconds"}
    print()
    print_table(models, columns)
    summary: dict[str, Any] = {"models": models, "growth": grown}
    recurrent = [name for name in config.cells if name in results]
    if recurrent and data.unit == "character":
        best = min(recurrent, key=lambda name: results[name]["valid_nats"])
        with part("errors"):
            text = "".join(data.tokens[token] for token in data.test)
            train = "".join(data.tokens[token] for token in data.train)
            summary["errors"] = {
                "model": best,
                **explain(np.exp(found[best]), np.exp(of_ngrams.max(0)), text, train),
            }
            print_explained(summary["errors"])
    summary |= {"settings": runs.config_record(config), **runs.environment()}
    runs.write_json(config.folder / "summary.json", summary)
    with part("context.png"):
        draw(config.folder / "context.png", models, grown, data.unit)
    print(f"all in {config.folder}")
