"""How fast do models of labels train? The whole step, beside the same models in torch.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.tagger
    python -m benchmarks.tagger --json benchmarks/results/tagger.json                     figures and chart

Three models, with the sizes that their experiments have: a class for a sentence (LSTM, last state), a class
for every character (bidirectional LSTM), a word for every blank (bidirectional LSTM, softmax over the
vocabulary). Sequences differ in length, and padding counts for nothing: ours has ``lengths``, torch packs
its sequences. A step is forward pass, cross-entropy, gradient, clipping by norm and Adam, as in training;
items are sentences, characters or words without padding. Each library lives in a process of its own, and
they are called in turns. Ours runs on one device, whose operations use the cores as they do by themselves,
and with the batch split over one device a core, as the experiments train. Before anything is timed, each
must bring its loss down.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxrnn
from benchmarks.measure import Spread
from benchmarks.record import check_json, load_average, publish
from benchmarks.training_steps import Libraries, Step, first_call, peak, time_steps
from experiments.cloze.model import BlankModel
from experiments.data.examples import NO_LABEL, Batch
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, cores, replicate, shard_batch
from experiments.harness.labels import label_loss
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.checks import check_positive
from jaxrnn.models.encoder import Encoder
from jaxrnn.models.sequence import SequenceModel
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step

LEARNING_RATE, CLIP_NORM = 2e-3, 1.0

Reading = Literal["last", "each", "blank"]


@dataclass(frozen=True)
class Problem:
    """A model, and the batch that it is trained on."""

    reading: Reading
    batch: int
    time: int
    vocabulary: int
    embedding: int
    hidden: int
    classes: int
    items: str

    @property
    def bidirectional(self) -> bool:
        """Whether it reads both ways."""
        return self.reading != "last"

    def examples(self) -> Batch:
        """Random tokens and labels; lengths spread evenly from half to all of the steps."""
        random = np.random.default_rng(0)
        lengths = np.linspace(self.time // 2, self.time, self.batch).astype(np.int32)
        within = np.arange(self.time)[:, None] < lengths
        tokens = np.where(within, random.integers(4, self.vocabulary, within.shape, np.int32), 0)
        if self.reading == "last":
            return Batch(tokens, lengths, random.integers(0, self.classes, self.batch, np.int32))
        if self.reading == "blank":
            edge = np.arange(self.time)[:, None]
            return Batch(tokens, lengths, np.where((edge > 0) & (edge < lengths - 1), tokens, NO_LABEL))
        return Batch(
            tokens, lengths, np.where(within, random.integers(0, self.classes, within.shape), NO_LABEL)
        )

    def count(self) -> int:
        """Labels of a batch."""
        return int((self.examples().labels >= 0).sum())


PROBLEMS = {
    "classification": Problem("last", 64, 40, 120, 64, 64, 2, "sentences"),
    "tagging": Problem("each", 32, 256, 100, 64, 128, 7, "characters"),
    "cloze": Problem("blank", 64, 24, 6000, 128, 192, 6000, "words"),
}


@dataclass(frozen=True)
class Config:
    """Time of a whole training step of models of labels."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Which of classification, tagging and cloze."""
    repeats: int = 15
    """Rounds in which each library takes one step."""
    json: Path | None = None
    """File for all figures, and beside it a chart."""


@dataclass(frozen=True)
class Row:
    """One library at one problem."""

    problem: str
    library: str
    step: Spread
    items_per_second: float
    first_call: float  # median seconds, compilation included
    peak_bytes: int | None  # of a step, beyond what was there before


def jaxrnn_step(given: Problem) -> Step:
    """Ours; the batch split over all devices that there are."""
    encoder = Encoder(
        [jaxrnn.LSTM(given.hidden)],
        vocabulary_size=given.vocabulary,
        embedding_size=given.embedding,
        direction="bidirectional" if given.bidirectional else "forward",
        backward="bptt",
    )
    model: Any = (
        BlankModel(encoder)
        if given.reading == "blank"
        else SequenceModel(encoder, given.classes, pool=given.reading)
    )
    sums = label_loss(model)

    def loss(params: Any, carry: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        total, count = sums(params, batch, key)["loss"]
        return total / count, carry

    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))
    mesh = batch_mesh(given.batch)
    state = replicate(init_state(model.init(jax.random.key(0)), optimizer, (), jax.random.key(1)), mesh)
    batch, take_step = shard_batch(given.examples(), mesh), truncated_step(loss, optimizer)

    def step() -> float:
        nonlocal state
        state, metrics = take_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics.loss)

    return step


def torch_step(given: Problem) -> Step:
    """The layers of ``torch.nn``, in eager mode, sequences packed."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.manual_seed(0)
    embedding = torch.nn.Embedding(given.vocabulary, given.embedding)
    torch.nn.init.normal_(embedding.weight, std=given.embedding**-0.5)  # as ours: a tied output is as large
    lstm = torch.nn.LSTM(given.embedding, given.hidden, bidirectional=given.bidirectional)
    features = given.hidden * (1 + given.bidirectional)
    out = torch.nn.Linear(features, given.embedding if given.reading == "blank" else given.classes)
    bias = torch.nn.Parameter(torch.zeros(given.vocabulary))
    parameters = [p for module in (embedding, lstm, out) for p in module.parameters()]
    parameters += [bias] if given.reading == "blank" else []
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    drawn = given.examples()
    tokens, labels = (torch.tensor(part, dtype=torch.long) for part in (drawn.inputs, drawn.labels))
    lengths = torch.tensor(drawn.lengths, dtype=torch.long)

    def logits() -> Any:
        packed = pack_padded_sequence(embedding(tokens), lengths, enforce_sorted=False)
        ys, (h, _) = lstm(packed)
        if given.reading == "last":
            return out(h[-1])
        ys, _ = pad_packed_sequence(ys, total_length=given.time)
        if given.reading == "each":
            return out(ys)
        before, after = ys[:-2, :, : given.hidden], ys[2:, :, given.hidden :]
        inner = out(torch.cat([before, after], dim=-1)) @ embedding.weight.T + bias
        return torch.nn.functional.pad(inner, (0, 0, 0, 0, 1, 1))

    def step() -> float:
        optimizer.zero_grad()
        found = logits()
        loss = cross_entropy(found.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        return loss.item()

    return step


LIBRARIES: Libraries = {
    "jaxrnn": jaxrnn_step,
    "jaxrnn, sharded": jaxrnn_step,
    "torch": torch_step,
}


def measure(config: Config) -> list[Row]:
    """All rows."""
    rows = []
    with counted(f"measuring {len(config.problems)} models") as on_problem:
        for done, name in enumerate(config.problems, start=1):
            given = PROBLEMS[name]
            for library, spread in time_steps(
                LIBRARIES, given, config.repeats, 1.5 * math.log(given.classes)
            ).items():
                call = library, LIBRARIES[library], given
                items = given.count() / spread.median
                rows.append(Row(name, library, spread, items, first_call(*call), peak(*call)))
            on_problem(done, len(config.problems))
    return rows


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """How many times as fast as torch we train: medians, and the quartiles that are farthest apart."""
    found = []
    for ours in rows:
        if ours.library != "torch":
            (torch,) = (row for row in rows if (row.problem, row.library) == (ours.problem, "torch"))
            low, high = torch.step.low / ours.step.high, torch.step.high / ours.step.low
            step = {"step": torch.step.median / ours.step.median, "step_low": low, "step_high": high}
            found.append({"problem": ours.problem, "library": ours.library, **step})
    return found


def print_tables(rows: list[Row]) -> None:
    """Every row, then the ratios."""
    print(f"\n{'model':<16}{'':<17}{'ms':>9}{'quartiles':>18}{'items/s':>12}{'first s':>9}{'MiB':>8}")
    for row in rows:
        median, low, high = (1e3 * part for part in row.step)
        memory = "?" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.1f}"
        print(
            f"{row.problem:<16}{row.library:<17}{median:>9.2f}{f'{low:.2f}-{high:.2f}':>18}"
            f"{row.items_per_second:>12,.0f}{row.first_call:>9.2f}{memory:>8}"
        )
    print("\ntimes as fast as torch")
    for problem, library, step, low, high in map(dict.values, ratios(rows)):
        print(f"{problem:<16}{library:<17}{step:>9.2f}{f'{low:.2f}-{high:.2f}':>18}")


def draw(path: Path, rows: list[Row]) -> None:
    """Steps a second relative to torch's."""
    figure, axes = plt.subplots(figsize=(7, 3.8), dpi=130, layout="constrained")
    problems, found = list(dict.fromkeys(row.problem for row in rows)), ratios(rows)
    names = [name for name in LIBRARIES if name != "torch"]
    for index, name in enumerate(names):
        speeds = [of["step"] for of in found if of["library"] == name]
        bars = axes.bar(
            np.arange(len(problems)) + 0.4 * index - 0.2, speeds, 0.4, color=COLOURS[index], label=name
        )
        axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=2, fontsize=9)
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="torch")
    axes.set_xticks(range(len(problems)), problems)
    axes.set(ylabel="speed / torch's", title="Whole training step of models of labels, higher is faster")
    axes.grid(alpha=0.3, axis="y")
    axes.margins(y=0.1)
    axes.legend(fontsize=9)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; tables, record and chart."""
    check_positive("repeats", config.repeats)
    check_json(config.json)
    if not config.problems or not set(config.problems) <= set(PROBLEMS):
        raise ValueError(f"problems must be some of {', '.join(PROBLEMS)}, got {config.problems}")
    load = load_average()
    rows = measure(config)
    print_tables(rows)
    figures = {
        "devices_when_sharded": cores(),
        "times_as_fast": ratios(rows),
        "problems": {name: dataclasses.asdict(PROBLEMS[name]) for name in config.problems},
        "results": [dataclasses.asdict(row) for row in rows],
    }
    publish(config, figures, lambda chart: draw(chart, rows), load=load, peers=("torch",))


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
