"""How fast is text drawn from a character model? ``jaxrnn.decoding.sample`` beside a loop in torch.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.sampling
    python -m benchmarks.sampling --json benchmarks/results/sampling.json     figures and chart kept

One model with the same weights in both, an embedding, an LSTM and a linear layer; every character is drawn
from the model's distribution and fed back. In torch a Python loop over ``nn.LSTMCell`` without autograd, as
its users write it. Before anything is timed, the most probable characters must be the same in both.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import torch

import jaxrnn
from benchmarks.measure import Spread, interleaved, seconds, typical_seconds
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.plots import COLOURS, save
from jaxrnn.checks import check_positive
from jaxrnn.decoding import greedy, sample
from jaxrnn.models.language_model import LanguageModel, LanguageModelParams

COMPARED = 20  # characters after each first one


@dataclass(frozen=True)
class Config:
    """Characters a second, drawn one after the other."""

    streams: tuple[int, ...] = (1, 64)
    """Numbers of texts drawn side by side."""
    length: int = 500
    """Characters a text."""
    vocabulary_size: int = 100
    """Distinct characters."""
    embedding_size: int = 64
    """Size of a character's vector."""
    hidden_size: int = 256
    """Units of the LSTM."""
    repeats: int = 9
    """Rounds in which each library draws once."""
    json: Path | None = None
    """File for all figures, and beside it a chart; the published ones are in benchmarks/results/."""


@dataclass(frozen=True)
class Row:
    """One library with one number of streams."""

    library: str
    streams: int
    characters_per_second: float
    seconds: Spread
    first_call: float  # seconds, compilation included


class TorchModel(torch.nn.Module):
    """The language model in torch, with our weights."""

    def __init__(self, params: LanguageModelParams) -> None:
        super().__init__()
        (lstm,) = params.layers
        vocabulary, embedding = params.embedding.shape
        self.embedding = torch.nn.Embedding(vocabulary, embedding)
        self.cell = torch.nn.LSTMCell(embedding, lstm.w_hh.shape[0])
        self.out = torch.nn.Linear(lstm.w_hh.shape[0], vocabulary)
        weights = {
            "embedding.weight": params.embedding,
            "cell.weight_ih": lstm.w_ih.T,
            "cell.weight_hh": lstm.w_hh.T,
            "cell.bias_ih": lstm.b,
            "cell.bias_hh": 0 * lstm.b,
            "out.weight": params.w_out.T,
            "out.bias": params.b_out,
        }
        self.load_state_dict({name: torch.tensor(np.asarray(leaf)) for name, leaf in weights.items()})

    @torch.inference_mode()
    def draw(self, start: torch.Tensor, length: int, *, most_probable: bool = False) -> torch.Tensor:
        """Texts (streams, length) that follow the first characters (streams,)."""
        h = c = torch.zeros(len(start), self.cell.hidden_size)
        token, drawn = start, []
        for _ in range(length):
            h, c = self.cell(self.embedding(token), (h, c))
            logits = self.out(h)
            if most_probable:
                token = logits.argmax(-1)
            else:
                token = torch.multinomial(torch.softmax(logits, -1), 1).squeeze(-1)
            drawn.append(token)
        return torch.stack(drawn, 1)


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    for name in ("length", "vocabulary_size", "embedding_size", "hidden_size", "repeats"):
        check_positive(name, getattr(config, name))
    if not config.streams or min(config.streams) < 1:
        raise ValueError(f"streams must be one or more positive numbers, got {config.streams}")
    check_json(config.json)


def build(config: Config) -> tuple[Callable[[str, int], Any], Callable[[], tuple[Any, Any]]]:
    """How to draw with a library and a number of streams; and the most probable text of each library."""
    model = LanguageModel(
        config.vocabulary_size, [jaxrnn.LSTM(config.hidden_size)], embedding_size=config.embedding_size
    )
    keys = jax.random.split(jax.random.key(0), 3)
    params = model.init(keys[0])
    leaves, structure = jax.tree.flatten(params)  # biases that are not zero, too
    drawn = jax.random.split(keys[1], len(leaves))
    leaves = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(drawn, leaves, strict=True)]
    params = jax.tree.unflatten(structure, leaves)
    step, torch_model = jax.tree_util.Partial(model.step, params), TorchModel(params)

    def draw(library: str, streams: int) -> Any:
        if library == "torch":
            return torch_model.draw(torch.zeros(streams, dtype=torch.long), config.length)
        carry = model.initial_carry((streams,))
        return jax.block_until_ready(
            sample(step, carry, key=keys[2], start=0, max_length=config.length).tokens
        )

    def most_probable() -> tuple[Any, Any]:
        start = np.arange(config.vocabulary_size)
        carry = model.initial_carry(start.shape)
        ours = greedy(step, carry, start=start, max_length=COMPARED).tokens
        theirs = torch_model.draw(torch.tensor(start), COMPARED, most_probable=True)
        return np.asarray(ours), theirs.numpy()

    return draw, most_probable


def measure(config: Config) -> list[Row]:
    """All rows."""
    draw, most_probable = build(config)
    ours, theirs = most_probable()
    if (ours != theirs).any():
        raise RuntimeError("the most probable characters differ: these are two models")
    rows = []
    for streams in config.streams:
        calls = {
            library: lambda library=library, streams=streams: draw(library, streams)
            for library in ("jaxrnn", "torch")
        }
        first_calls = {library: seconds(call) for library, call in calls.items()}
        timers = {library: partial(typical_seconds, call) for library, call in calls.items()}
        for library, spread in interleaved(timers, config.repeats).items():
            speed = streams * config.length / spread.median
            rows.append(Row(library, streams, speed, spread, first_calls[library]))
    return rows


def ratios(rows: list[Row]) -> dict[str, float]:
    """How many times as fast as torch, by the number of streams."""
    speeds = {(row.library, row.streams): row.characters_per_second for row in rows}
    counts = dict.fromkeys(row.streams for row in rows)
    return {str(count): speeds["jaxrnn", count] / speeds["torch", count] for count in counts}


def print_table(rows: list[Row]) -> None:
    """Every row, then the ratios."""
    print(f"\n{'':<9}{'streams':>8}{'characters/s':>14}{'ms':>9}{'quartiles':>18}{'first s':>9}")
    for row in rows:
        median, low, high = (1e3 * part for part in row.seconds)
        print(
            f"{row.library:<9}{row.streams:>8}{row.characters_per_second:>14,.0f}{median:>9.1f}"
            f"{f'{low:.1f}-{high:.1f}':>18}{row.first_call:>9.2f}"
        )
    for count, value in ratios(rows).items():
        print(f"{count} stream{'s' * (count != '1')}: {value:.2f} times torch")


def draw_chart(path: Path, rows: list[Row]) -> None:
    """Characters a second, side by side."""
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=130, layout="constrained")
    counts = list(dict.fromkeys(row.streams for row in rows))
    for index, library in enumerate(("jaxrnn", "torch")):
        speeds = [row.characters_per_second for row in rows if row.library == library]
        bars = axes.bar(
            np.arange(len(counts)) + 0.4 * (index - 0.5), speeds, 0.4, color=COLOURS[index], label=library
        )
        axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=2, fontsize=9)
    axes.set_xticks(range(len(counts)), [f"{count} stream{'s' * (count > 1)}" for count in counts])
    axes.set(ylabel="characters a second", yscale="log", title="Text drawn from an LSTM")
    axes.margins(y=0.15)
    axes.legend(loc="upper left")
    save(figure, path)


def run(config: Config) -> None:
    """Measure; table, record and chart."""
    check(config)
    load = load_average()
    rows = measure(config)
    print_table(rows)
    figures = {"times_torch": ratios(rows), "results": [dataclasses.asdict(row) for row in rows]}
    publish(config, figures, lambda chart: draw_chart(chart, rows), load=load, peers=("torch",))


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
