"""How fast does a character model train? The whole step, beside the same model in Flax NNX and in torch.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.language_model
    python -m benchmarks.language_model --json benchmarks/results/language_model.json     figures and chart

A step is forward pass, cross-entropy, gradient, clipping by norm and Adam, for a model of an embedding, one
or more layers and a linear output, on random characters. Each library runs as its users write it: ours
through ``truncated_step``, NNX through ``nnx.jit`` and ``nnx.Optimizer``, torch in eager mode. Each lives
in a process of its own, and they are called in turns. Like is compared with like: all have one JAX device,
whose operations use the cores as they do by themselves. Ours also runs sharded, its batch split over one
device a core; ratios of that are named so.
Before anything is timed, each must bring its loss on these characters down. Compile time is the median of
first calls, each in a fresh process.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxrnn
from benchmarks.measure import Spread
from benchmarks.record import check_json, load_average, publish
from benchmarks.training_steps import Libraries, Step, first_call, time_steps
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, cores, replicate, shard
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.checks import check_positive
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.losses import cross_entropy
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step

LEARNING_RATE, CLIP_NORM = 2e-3, 1.0


@dataclass(frozen=True)
class Config:
    """Time of a whole training step of an LSTM character model."""

    sizes: tuple[str, ...] = ("50,50,128,2", "32,128,256,1", "64,64,512,2")
    """Sizes, each as BATCH,TIME,HIDDEN,LAYERS."""
    vocabulary_size: int = 65
    """Distinct characters."""
    embedding_size: int = 64
    """Size of a character's vector."""
    repeats: int = 15
    """Rounds in which each library takes one step."""
    json: Path | None = None
    """File for all figures, and beside it a chart."""


@dataclass(frozen=True)
class Problem:
    """One size."""

    batch: int
    time: int
    hidden: int
    layers: int
    vocabulary: int
    embedding: int

    def tokens(self) -> np.ndarray:
        """Random characters (time + 1, batch)."""
        return np.random.default_rng(0).integers(0, self.vocabulary, (self.time + 1, self.batch), np.int32)


@dataclass(frozen=True)
class Row:
    """One library at one size."""

    size: str
    library: str
    step: Spread
    first_call: float  # median seconds, compilation included


def jaxrnn_step(given: Problem) -> Step:
    """Ours; the batch split over all devices that there are."""
    model = LanguageModel(
        given.vocabulary,
        [jaxrnn.LSTM(given.hidden)] * given.layers,
        embedding_size=given.embedding,
        backward="bptt",
    )

    def loss(params: Any, carry: Any, tokens: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        carry, logits = model.apply(params, tokens[:-1], carry)
        nats, count = cross_entropy(logits, tokens[1:])
        return nats / count, carry

    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))
    mesh = batch_mesh(given.batch)
    params = model.init(jax.random.key(0))
    state = replicate(init_state(params, optimizer, (), jax.random.key(1)), mesh)
    state = state._replace(carry=shard(model.initial_carry((given.batch,)), mesh, axis=0))
    tokens, take_step = shard(jnp.asarray(given.tokens()), mesh, axis=1), truncated_step(loss, optimizer)

    def step() -> float:
        nonlocal state
        state, metrics = take_step(state, tokens)
        jax.block_until_ready(state)
        return float(metrics.loss)

    return step


def nnx_step(given: Problem) -> Step:
    """Flax NNX."""
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            sizes = [given.embedding] + [given.hidden] * given.layers
            self.embedding = nnx.Embed(given.vocabulary, given.embedding, rngs=rngs)
            self.layers = nnx.List(
                nnx.RNN(nnx.OptimizedLSTMCell(a, b, rngs=rngs), time_major=True)
                for a, b in itertools.pairwise(sizes)
            )
            self.out = nnx.Linear(given.hidden, given.vocabulary, rngs=rngs)

        def __call__(self, tokens: Any, carries: Any) -> Any:
            ys, after = self.embedding(tokens), []
            for layer, carry in zip(self.layers, carries, strict=True):
                carry, ys = layer(ys, initial_carry=carry, return_carry=True)
                after.append(carry)
            return after, self.out(ys)

    model = Model(nnx.Rngs(0))
    transformation = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    zeros = jnp.zeros((given.batch, given.hidden))
    carries: Any = [(zeros, zeros)] * given.layers
    tokens = jnp.asarray(given.tokens())

    @nnx.jit
    def take_step(model: Any, optimizer: Any, carries: Any) -> Any:
        def loss(model: Any) -> Any:
            after, logits = model(tokens[:-1], carries)
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:])
            return jnp.mean(nats), after

        (value, after), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return value, after

    def step() -> float:
        nonlocal carries
        value, carries = jax.block_until_ready(take_step(model, optimizer, carries))
        jax.block_until_ready(nnx.state(model))
        return float(value)

    return step


def torch_step(given: Problem) -> Step:
    """The layers of ``torch.nn``, in eager mode."""
    import torch

    torch.manual_seed(0)
    embedding = torch.nn.Embedding(given.vocabulary, given.embedding)
    lstm = torch.nn.LSTM(given.embedding, given.hidden, given.layers)
    out = torch.nn.Linear(given.hidden, given.vocabulary)
    parameters = [p for module in (embedding, lstm, out) for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    tokens = torch.tensor(given.tokens(), dtype=torch.long)
    state: Any = None

    def step() -> float:
        nonlocal state
        optimizer.zero_grad()
        ys, after = lstm(embedding(tokens[:-1]), state)
        loss = torch.nn.functional.cross_entropy(out(ys).flatten(0, 1), tokens[1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        state = tuple(part.detach() for part in after)
        return loss.item()

    return step


LIBRARIES: Libraries = {
    "jaxrnn": jaxrnn_step,
    "jaxrnn, sharded": jaxrnn_step,
    "flax.nnx": nnx_step,
    "torch": torch_step,
}
OURS = [name for name in LIBRARIES if name.startswith("jaxrnn")]


def parse(size: str, config: Config) -> Problem:
    """Four whole numbers with commas between."""
    try:
        batch, time, hidden, layers = map(int, size.split(","))
    except ValueError:
        raise ValueError(
            f"a size is BATCH,TIME,HIDDEN,LAYERS, for example 32,128,256,1; got {size!r}"
        ) from None
    given = Problem(batch, time, hidden, layers, config.vocabulary_size, config.embedding_size)
    for name, value in dataclasses.asdict(given).items():
        check_positive(f"{name} of size {size}", value)
    return given


def measure(config: Config) -> list[Row]:
    """All rows."""
    rows = []
    with counted(f"measuring {len(config.sizes)} sizes") as on_size:
        for done, size in enumerate(config.sizes, start=1):
            given = parse(size, config)
            for library, spread in time_steps(
                LIBRARIES, given, config.repeats, 1.5 * math.log(given.vocabulary)
            ).items():
                first = first_call(library, LIBRARIES[library], given)
                rows.append(Row(size, library, spread, first))
            on_size(done, len(config.sizes))
    return rows


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """How many times as fast as the others we train, on one device and at best, and are compiled."""
    found = []
    for size in dict.fromkeys(row.size for row in rows):
        here = [row for row in rows if row.size == size]
        best = min((row for row in here if row.library in OURS), key=lambda row: row.step.median)
        (ours,) = (row for row in here if row.library == "jaxrnn")
        found += [
            {
                "size": size,
                "other": other.library,
                "step_one_device": other.step.median / ours.step.median,
                "step": other.step.median / best.step.median,
                "best": best.library,
                "first_call": other.first_call / ours.first_call,
            }
            for other in here
            if other.library not in OURS
        ]
    return found


def print_tables(rows: list[Row]) -> None:
    """Every row, then the ratios."""
    print(f"\n{'size':<16}{'':<17}{'ms':>9}{'quartiles':>18}{'first s':>9}")
    for row in rows:
        median, low, high = (1e3 * part for part in row.step)
        print(
            f"{row.size:<16}{row.library:<17}{median:>9.2f}{f'{low:.2f}-{high:.2f}':>18}{row.first_call:>9.2f}"
        )
    head = ("times as fast as", "", "one device", "best", "", "first call")
    print("\n{:<17}{:<17}{:>12}{:>9}  {:<17}{:>12}".format(*head))
    for entry in ratios(rows):
        print("{:<17}{:<17}{:>12.2f}{:>9.2f}  {:<17}{:>12.2f}".format(*entry.values()))


def draw(path: Path, rows: list[Row]) -> None:
    """Steps a second relative to torch's."""
    figure, axes = plt.subplots(figsize=(8, 3.8), dpi=130, layout="constrained")
    sizes = list(dict.fromkeys(row.size for row in rows))
    torch = [row.step.median for row in rows if row.library == "torch"]
    names = [name for name in LIBRARIES if name != "torch"]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        steps = [row.step.median for row in rows if row.library == name]
        speeds = np.array(torch) / np.array(steps)
        x = np.arange(len(sizes)) + (index - len(names) / 2 + 0.5) * width
        bars = axes.bar(x, speeds, width, color=COLOURS[index], label=name)
        axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=2, fontsize=9)
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="torch")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="batch, time, hidden, layers", ylabel="speed / torch's")
    axes.set_title("Whole training step of an LSTM character model, higher is faster")
    axes.grid(alpha=0.3, axis="y")
    axes.margins(y=0.1)
    figure.legend(loc="outside lower center", ncols=len(names) + 1, fontsize=9)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; tables, record and chart."""
    check_positive("repeats", config.repeats)
    check_json(config.json)
    if not config.sizes:
        raise ValueError("sizes must be one or more, got none")
    for size in config.sizes:
        parse(size, config)
    load = load_average()
    rows = measure(config)
    print_tables(rows)
    figures = {
        "devices_when_sharded": cores(),
        "times_as_fast": ratios(rows),
        "results": [dataclasses.asdict(row) for row in rows],
    }
    publish(config, figures, lambda chart: draw(chart, rows), load=load, peers=("torch",))


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
