"""How fast is beam search? ``jaxrnn.decoding.beam_search`` beside a batched search in torch.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.beam
    python -m benchmarks.beam --json benchmarks/results/beam.json     figures and chart kept

One random decoder with the same weights in both: an embedding, an LSTM that attends to a random memory for
every sentence, and a linear layer. The torch search is written for speed too: tensors all the way, the host
is asked once a step whether to stop (see ``benchmarks.torch_beam``). Each library lives in a process of its
own, and they are called in turns; sharded means our batch split over one device a core. Before anything is
timed, at least 95 % of the sentences must have the same hypotheses in all.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array

import jaxrnn
from benchmarks.measure import Process, Spread, interleaved, seconds, typical_seconds
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, cores, replicate, shard
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.cells.lstm import LSTMCarry, LSTMParams
from jaxrnn.checks import check_positive
from jaxrnn.decoding import beam_search

START, END = 0, 1
# How much likelier the end is than another token: without it, random logits hardly ever end a sentence.
END_BIAS = 3.0
LEAST_ALIKE = 0.95  # of the sentences: rounding may turn a near tie, and all that follows from it


@dataclass(frozen=True)
class Config:
    """Sentences a second at beam search over an attention decoder."""

    batch_size: int = 64
    """Sentences decoded side by side."""
    beam_size: int = 5
    """Hypotheses of a sentence."""
    hidden_size: int = 512
    """Units of the LSTM, and size of the vectors attended to."""
    vocabulary_size: int = 8000
    """Distinct tokens."""
    source_length: int = 20
    """Vectors attended to, for each sentence."""
    max_length: int = 40
    """Most tokens of a hypothesis."""
    length_penalty: float = 0.6
    """α of the score: log-probability over ((5 + length) / 6)^α."""
    repeats: int = 9
    """Rounds in which each library decodes once."""
    json: Path | None = None
    """File for all figures, and beside it a chart; the published ones are in benchmarks/results/."""


@dataclass(frozen=True)
class Row:
    """One library."""

    library: str
    sentences_per_second: float
    seconds: Spread
    first_call: float  # seconds, compilation included


def draw_weights(config: Config) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The decoder's weights, and memories (batch, source, hidden)."""
    random = np.random.default_rng(0)
    n, v = config.hidden_size, config.vocabulary_size

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    weights = {
        "embedding": normal(v, n),
        "w_ih": normal(n, 4 * n, scale=n**-0.5),
        "w_hh": normal(n, 4 * n, scale=n**-0.5),
        "b": normal(4 * n),
        "w_combine": normal(2 * n, n, scale=n**-0.5),
        "w_out": normal(n, v, scale=3 * n**-0.5),
        "b_out": normal(v),
    }
    weights["b_out"][END] += END_BIAS
    return weights, normal(config.batch_size, config.source_length, n)


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=[])
@dataclass(frozen=True)
class Decoder:
    """The decoder in JAX."""

    weights: dict[str, Array]

    def step(self, carry: LSTMCarry, tokens: Array, memory: Array) -> tuple[LSTMCarry, Array]:
        """One step of all hypotheses."""
        w = self.weights
        cell = jaxrnn.LSTM(w["w_hh"].shape[0])
        params = LSTMParams(w["w_ih"], w["w_hh"], w["b"])
        carry, h = cell.step(params, carry, w["embedding"][tokens])
        attention = jax.nn.softmax(jnp.einsum("bsn,bn->bs", memory, h))
        read = jnp.einsum("bs,bsn->bn", attention, memory)
        return carry, jnp.tanh(jnp.concatenate([h, read], axis=-1) @ w["w_combine"]) @ w["w_out"] + w[
            "b_out"
        ]


Search = Callable[[], tuple[np.ndarray, np.ndarray]]  # tokens and scores of all hypotheses


def in_jaxrnn(config: Config, *, sharded: bool = False) -> Search:
    """Ours; ``sharded`` splits the batch over the host's devices."""
    jax.config.update("jax_num_cpu_devices", cores() if sharded else 1)
    weights, memory = draw_weights(config)
    mesh = batch_mesh(config.batch_size)
    weights, memory = replicate(weights, mesh), shard(memory, mesh, axis=0)
    state = shard(jaxrnn.LSTM(config.hidden_size).initial_carry((config.batch_size,)), mesh, axis=0)

    def search() -> tuple[np.ndarray, np.ndarray]:
        beams = beam_search(
            jax.tree_util.Partial(Decoder.step, Decoder(weights)),
            state,
            start=START,
            end=END,
            max_length=config.max_length,
            beam_size=config.beam_size,
            length_penalty=config.length_penalty,
            context=memory,
        )
        return np.asarray(beams.tokens), np.asarray(beams.scores)

    return search


def in_torch(config: Config) -> Search:
    """The same in torch."""
    import torch

    from benchmarks import torch_beam

    weights, memories = draw_weights(config)
    decoder, memory = torch_beam.Decoder(weights), torch.tensor(memories)

    def search() -> tuple[np.ndarray, np.ndarray]:
        found = torch_beam.beam_search(
            decoder,
            memory,
            start=START,
            end=END,
            max_length=config.max_length,
            beam_size=config.beam_size,
            length_penalty=config.length_penalty,
        )
        return found.tokens.numpy(), found.scores.numpy()

    return search


LIBRARIES: dict[str, Callable[[Config], Search]] = {
    "jaxrnn": in_jaxrnn,
    "jaxrnn, sharded": partial(in_jaxrnn, sharded=True),
    "torch": in_torch,
}


def result(search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Hypotheses that a search returns."""
    return search()


def measure(config: Config) -> tuple[list[Row], dict[str, float]]:
    """All rows, and how many tokens the best hypotheses have before their end."""
    with contextlib.ExitStack() as stack, counted("decoding in every library"):
        processes = {name: stack.enter_context(Process(make, config)) for name, make in LIBRARIES.items()}
        for process in processes.values():
            process.wait()
        first_calls = {name: process.ask(seconds) for name, process in processes.items()}
        *ours, (tokens, scores) = (process.ask(result) for process in processes.values())
        for our_tokens, our_scores in ours:
            alike = (our_tokens == tokens).all(axis=(1, 2))
            if np.mean(alike) < LEAST_ALIKE:
                raise RuntimeError(f"only {np.mean(alike):.1%} of the sentences have torch's hypotheses")
            np.testing.assert_allclose(our_scores[alike], scores[alike], rtol=1e-4)
        timers = {name: partial(process.ask, typical_seconds) for name, process in processes.items()}
        spreads = interleaved(timers, config.repeats)
    rows = [
        Row(name, config.batch_size / spread.median, spread, first_calls[name])
        for name, spread in spreads.items()
    ]
    lengths = np.argmax(np.concatenate([tokens, np.full((*tokens.shape[:2], 1), END)], -1) == END, axis=-1)
    low, median, high = np.percentile(lengths[:, 0], (0, 50, 100)).tolist()
    return rows, {"shortest": low, "median": median, "longest": high}


def draw(path: Path, rows: list[Row]) -> None:
    """Sentences a second, side by side."""
    figure, axes = plt.subplots(figsize=(5, 3.2), dpi=130, layout="constrained")
    speeds = [row.sentences_per_second for row in rows]
    bars = axes.bar([row.library for row in rows], speeds, 0.6, color=COLOURS[: len(rows)])
    axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=2)
    axes.set(ylabel="sentences a second", title="Beam search over an attention decoder")
    axes.margins(y=0.15)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; table, record and chart."""
    for name, value in dataclasses.asdict(config).items():
        if name not in ("json", "length_penalty"):
            check_positive(name, value)
    check_json(config.json)
    load = load_average()
    rows, lengths = measure(config)
    print(
        "length of the best hypothesis: {:.0f} to {:.0f}, median {:.0f}".format(
            lengths["shortest"], lengths["longest"], lengths["median"]
        )
    )
    print(f"{'':<16}{'sentences/s':>12}{'ms':>10}{'quartiles':>18}{'first s':>9}")
    for row in rows:
        median, low, high = (1e3 * part for part in row.seconds)
        print(
            f"{row.library:<16}{row.sentences_per_second:>12.1f}{median:>10.1f}"
            f"{f'{low:.1f}-{high:.1f}':>18}{row.first_call:>9.2f}"
        )
    *ours, torch = rows
    times_torch = {row.library: row.sentences_per_second / torch.sentences_per_second for row in ours}
    for library, times in times_torch.items():
        print(f"{library}: {times:.2f} times torch")
    figures = {
        "times_torch": times_torch,
        "best_lengths": lengths,
        "results": [dataclasses.asdict(row) for row in rows],
    }
    publish(config, figures, lambda chart: draw(chart, rows), load=load, peers=("torch",))


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
