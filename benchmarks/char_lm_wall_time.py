"""Quality at equal wall time: what does a recurrent character model reach in 90 seconds on the CPU?

    python -m benchmarks.char_lm_wall_time                   train 90 seconds on tiny_shakespeare, measure
    python -m benchmarks.char_lm_wall_time --transformer     and nanoGPT's CPU recipe in torch beside it
    python -m benchmarks.char_lm_wall_time --steps N         replay a run of N steps, with the same figures

The seconds are those of training, compilation included; loading data and measuring are not counted. The
figure is nats per character on the validation part (everything after the first 1,003,854 characters),
the hidden state carried over the whole of it. The settings were chosen on the last tenth of the training
part (--tuning), not on the validation part.
"""

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.equal_time import (
    CORPUS,
    PRODUCT_SIZE,
    Data,
    Timing,
    check_limits,
    decay_done,
    load_data,
    product_gflops,
    train_for,
    warmed_up,
)
from benchmarks.record import check_json, load_average
from experiments.char_lm.training import Train
from experiments.char_lm.training import build_model as model_of
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, on_one_device, replicate, shard, shard_batch
from experiments.harness.progress import counted
from experiments.harness.run import ROOT, config_record, environment, write_json
from experiments.harness.settings import Seed
from experiments.harness.text_streams import stream_loss
from jaxrnn.checks import check_positive
from jaxrnn.data.text import Streams
from jaxrnn.models.language_model import LanguageModel, text_nats
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step

PLATEAU = 0.4  # the learning rate decays over the rest of the steps


@dataclass(frozen=True)
class Config:
    """Train a character model for a given time, then measure it."""

    seconds: float = 90.0
    """Seconds of training on the CPU, compilation included."""
    steps: int | None = None
    """Take exactly this many steps instead: the replay of a run."""
    seed: Seed = 0
    """Seed of initialisation."""
    tuning: bool = False
    """Train on the first nine tenths of the training part, and measure on its last tenth."""
    transformer: bool = False
    """Also train nanoGPT's small Transformer for the same time, in torch, in a process of its own."""
    transformer_steps: int | None = None
    """Steps of the Transformer in a replay."""
    cell: Literal["elman", "lstm", "gru"] = "gru"
    """Recurrent cell."""
    layers: int = 1
    """Cells on top of each other."""
    hidden_size: int = 256
    """Hidden units of each layer."""
    embedding_size: int | None = None
    """Size of the learned character embedding; None feeds one-hot vectors."""
    dropout: float = 0.1
    """Probability that a feature is dropped at the input and the output of the cell."""
    batch_size: int = 32
    """Streams of text read side by side."""
    chunk_length: int = 64
    """Characters between truncations of back-propagation through time."""
    learning_rate: float = 6e-3
    """Highest learning rate of Adam; it decays linearly to a hundredth over the last 60 % of the steps."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    json: Path | None = None
    """File for all figures; the published ones are in benchmarks/results/char_lm_wall_time.json."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    model: str
    measured: str  # how the context of a character is given
    parameters: int
    steps: int
    characters: int  # seen in training
    seconds: float
    first_step_seconds: float
    nats_per_char: float
    bits_per_char: float


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    check_limits(config.seconds, config.steps)
    check_limits(config.seconds, config.transformer_steps)
    check_positive("batch_size", config.batch_size)
    check_positive("chunk_length", config.chunk_length)
    for name in ("learning_rate", "clip_norm"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")
    if config.warmup_steps < 0:
        raise ValueError(f"warmup_steps must be 0 or more, got {config.warmup_steps}")
    if config.transformer_steps is not None and not config.transformer:
        raise ValueError("--transformer-steps needs --transformer")
    if config.transformer and importlib.util.find_spec("torch") is None:
        raise ValueError("--transformer needs torch: install the peers extra, pip install -e '.[peers]'")
    check_json(config.json)


def build_model(config: Config, vocabulary_size: int) -> LanguageModel:
    """The experiment's character model."""
    settings = Train(
        cell=config.cell,
        layers=config.layers,
        hidden_size=config.hidden_size,
        embedding_size=config.embedding_size,
        dropout=config.dropout,
    )
    return model_of(settings, vocabulary_size)


def learning_rate(config: Config, step: int, total: float) -> float:
    """Linear warm-up, plateau, linear decay to a hundredth."""
    decayed = 1 - 0.99 * decay_done(step, total, PLATEAU)
    return config.learning_rate * min(warmed_up(step, config.warmup_steps), decayed)


def train(config: Config, model: LanguageModel, ids: np.ndarray) -> tuple[Any, Timing]:
    """Truncated BPTT over the text, the batch split over the cores; the parameters and the time."""
    started = time.monotonic()
    streams = Streams(ids, config.batch_size, config.chunk_length)
    mesh = batch_mesh(config.batch_size)
    # The learning rate is an array in the optimiser's state: fixing the number of steps on the way
    # changes values alone, and compiles nothing anew.
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b2=0.99),
        optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.0),
    )

    loss = stream_loss(model)

    def mean_loss(params: Any, carry: Any, chunk: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        sums, carry = loss(params, carry, chunk, key)
        nats, count = sums["loss"]
        return nats / count, carry

    train_step = truncated_step(mean_loss, optimizer)
    key_params, key = jax.random.split(jax.random.key(config.seed))
    carry = shard(model.initial_carry((config.batch_size,)), mesh, axis=0)
    state = replicate(init_state(model.init(key_params), optimizer, (), key), mesh)._replace(carry=carry)

    def take_step(step: int, total: float) -> float:
        nonlocal state
        rate = replicate(np.float32(learning_rate(config, step, total)), mesh)
        state = state._replace(opt_state=optax.tree.set(state.opt_state, learning_rate=rate))
        state, metrics = train_step(state, shard_batch(streams.chunk(step), mesh))
        # One step in flight at a time: XLA's collectives between CPU devices can lock up otherwise.
        return float(metrics.loss)

    timing = train_for(
        take_step, name=config.cell, started=started, seconds=config.seconds, steps=config.steps
    )
    return on_one_device(state.params), timing


def measure(config: Config, data: Data) -> Row:
    """Train the recurrent model and measure it."""
    model = build_model(config, data.vocabulary_size)
    params, timing = train(config, model, data.train)
    with counted(f"measuring {len(data.valid):,} characters") as on_chunk:
        nats, count = text_nats(model, params, data.valid, on_chunk=on_chunk)
    return Row(
        model=f"{config.cell} {config.hidden_size} × {config.layers}",
        measured="state carried over the text",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        characters=timing.steps * config.batch_size * config.chunk_length,
        nats_per_char=nats / count,
        bits_per_char=nats / count / math.log(2),
        **timing._asdict(),
    )


def measure_transformer(config: Config) -> tuple[list[Row], dict[str, Any]]:
    """Train and measure the Transformer in a process of its own; its rows and its whole record."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "transformer.json"
        command = [sys.executable, "-m", "benchmarks.torch_transformer", "--out", str(out)]
        command += ["--seconds", str(config.seconds), "--seed", str(config.seed)]
        command += ["--tuning"] if config.tuning else []
        command += [] if config.transformer_steps is None else ["--steps", str(config.transformer_steps)]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            raise SystemExit(code)  # it has said why
        record = json.loads(out.read_text(encoding="utf-8"))
    figures, settings = record["figures"], record["settings"]
    context = settings["context"]
    ways = {
        f"context restarts every {context}": figures["restarting_nats"],
        f"sliding window of {context}, last half": figures["sliding_nats"],
    }
    shared = {name: figures[name] for name in ("parameters", "characters", *Timing._fields)}
    name = f"transformer {settings['width']} × {settings['layers']}"
    rows = [
        Row(model=name, measured=way, nats_per_char=nats, bits_per_char=nats / math.log(2), **shared)
        for way, nats in ways.items()
    ]
    return rows, record


def xla_product_gflops() -> float:
    """The rate of matrix products in XLA, on one of its devices; these share the cores' threads."""
    a, b = jax.random.normal(jax.random.key(0), (2, PRODUCT_SIZE, PRODUCT_SIZE))
    product = jax.jit(jnp.matmul)
    return product_gflops(lambda: product(a, b).block_until_ready())


def print_table(rows: list[Row]) -> None:
    """The figures side by side."""
    head = (
        "model",
        "measured with",
        "parameters",
        "steps",
        "characters",
        "seconds",
        "nats/char",
        "bits/char",
    )
    print("\n{:<20} {:<31} {:>10} {:>7} {:>12} {:>7} {:>9} {:>9}".format(*head))
    for row in rows:
        size = f"{row.parameters:>10,} {row.steps:>7,} {row.characters:>12,} {row.seconds:>7.1f}"
        print(
            f"{row.model:<20} {row.measured:<31} {size} {row.nats_per_char:>9.4f} {row.bits_per_char:>9.4f}"
        )


def run(config: Config) -> None:
    """The Transformer first, while JAX holds no threads yet; then the recurrent model, table, record."""
    check(config)
    record: dict[str, Any] = {
        "load_average_at_start": load_average(),
        "corpus": CORPUS,
        "settings": {name: value for name, value in config_record(config).items() if name != "json"},
    }
    data = load_data(tuning=config.tuning)
    print(
        f"{CORPUS}: training on {len(data.train):,} characters, measuring {len(data.valid):,}", flush=True
    )
    rows: list[Row] = []
    rates: dict[str, float] = {}
    if config.transformer:
        rows, record["transformer"] = measure_transformer(config)
        rates["torch"] = record["transformer"]["figures"]["product_gflops"]
    rows.insert(0, measure(config, data))
    rates["xla"] = xla_product_gflops()
    print_table(rows)
    print(f"\nmatrix product: {', '.join(f'{name} {rate:.0f} GFLOP/s' for name, rate in rates.items())}")
    replay = f"--steps {rows[0].steps}"
    replay += f" --transformer-steps {rows[1].steps}" if config.transformer else ""
    print(f"the same again: {replay}, with the other settings as they were")
    if config.json is not None:
        record |= {"results": [vars(row) for row in rows], "replay": replay}
        record |= {"matrix_product_gflops": rates, "environment": environment()}
        write_json(config.json, record)
        print(f"all figures in {config.json}")


if __name__ == "__main__":
    main(__doc__ or "", {"train": (Config, run)})
