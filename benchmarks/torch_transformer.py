"""The peer of the wall-time benchmark: nanoGPT's recipe for the CPU, a small Transformer in torch.

``benchmarks.char_lm_wall_time --transformer`` runs this module in a process of its own. The recipe is
nanoGPT's (Karpathy 2022) but for one thing: after the warm-up the learning rate stays at its highest
until the number of steps is fixed (``equal_time``), a hundred steps, and only then follows the cosine.
"""

import dataclasses
import importlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.equal_time import (
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
from experiments.harness.command_line import main
from experiments.harness.devices import cores
from experiments.harness.run import write_json
from experiments.harness.settings import Seed

EVALUATION_BATCH = 256  # windows


@dataclass(frozen=True)
class Config:
    """Train nanoGPT's small Transformer for a given time and measure it."""

    out: Path
    """File for the figures, JSON."""
    seconds: float = 90.0
    """Seconds of training."""
    steps: int | None = None
    """Take exactly this many steps instead: the replay of a run."""
    seed: Seed = 0
    """Seed of initialisation and batches."""
    tuning: bool = False
    """Train on the first nine tenths of the training part, and measure on its last tenth."""
    layers: int = 4
    """Blocks on top of each other."""
    heads: int = 4
    """Attention heads of a block."""
    width: int = 128
    """Features of a position."""
    context: int = 64
    """Characters that the model sees at once."""
    batch_size: int = 12
    """Windows in a batch, drawn anywhere in the text."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW; it decays to a tenth along a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.1
    """Decay of AdamW, for matrices only."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and beside a residual path."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        heads = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (batch, heads, time, features) each
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(x))))


class Transformer(nn.Module):
    """A decoder-only Transformer with learned positions; the output shares the embedding."""

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # The residual paths sum 2 · layers outputs; smaller ones keep the sum's variance.
                out = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.layers) if out else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (batch, time) to logits (batch, time, vocabulary)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return functional.linear(self.norm(self.blocks(x)), self.embedding.weight)


def learning_rate(config: Config, step: int, total: float) -> float:
    """Linear warm-up, plateau while the number of steps is unknown, cosine to a tenth."""
    cosine = 0.5 * (1 + math.cos(math.pi * decay_done(step, total, plateau=0)))
    return config.learning_rate * min(warmed_up(step, config.warmup_steps), 0.1 + 0.9 * cosine)


def build_optimizer(config: Config, model: Transformer) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) that decays matrices and leaves the norms' scales alone."""
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    scales = [weight for weight in model.parameters() if weight.dim() == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": scales, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )


def train(config: Config, data: Data) -> tuple[Transformer, Timing]:
    """Train on windows drawn anywhere in the text."""
    started = time.monotonic()
    torch.manual_seed(config.seed)
    model = Transformer(config, data.vocabulary_size)
    optimizer = build_optimizer(config, model)
    ids = torch.from_numpy(data.train).long()
    window = torch.arange(config.context + 1)

    def take_step(step: int, total: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, total)
        starts = torch.randint(len(ids) - config.context, (config.batch_size, 1))
        drawn = ids[starts + window]
        loss = functional.cross_entropy(model(drawn[:, :-1]).flatten(0, 1), drawn[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        return loss.item()

    timing = train_for(
        take_step, name="transformer", started=started, seconds=config.seconds, steps=config.steps
    )
    return model, timing


@torch.no_grad()
def windowed_nats(model: Transformer, ids: Tensor, context: int, stride: int) -> float:
    """Nats per character of all characters but the first, in windows that start every ``stride``.

    A window is scored in its last ``stride`` characters, the first one in all of them: each character
    counts once, with at least ``context - stride`` characters before it in its window, but for the first.
    """
    targets = len(ids) - 1
    windows = 1 + max(0, -(-(targets - context) // stride))
    places = stride * torch.arange(windows)[:, None] + torch.arange(context)
    scored = places < targets
    scored[1:, : context - stride] = False
    places = places.clamp(max=targets - 1)  # past the end nothing is scored
    nats = 0.0
    for some, mask in zip(places.split(EVALUATION_BATCH), scored.split(EVALUATION_BATCH), strict=True):
        nats += functional.cross_entropy(
            model(ids[some])[mask], ids[some + 1][mask], reduction="sum"
        ).item()
    return nats / targets


def torch_product_gflops() -> float:
    """The rate of matrix products in torch, with the threads that training uses."""
    a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE)
    return product_gflops(lambda: a @ b)


def run(config: Config) -> None:
    """Data, training, figures."""
    check_limits(config.seconds, config.steps)
    torch.set_num_threads(cores())
    # The first optimiser would import it within the time of training; loading programs is not counted.
    importlib.import_module("torch._dynamo")
    data = load_data(tuning=config.tuning)
    model, timing = train(config, data)
    valid = torch.from_numpy(data.valid).long()
    figures: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "characters": timing.steps * config.batch_size * config.context,
        **timing._asdict(),
        "restarting_nats": windowed_nats(model, valid, config.context, config.context),
        "sliding_nats": windowed_nats(model, valid, config.context, config.context // 2),
        "product_gflops": torch_product_gflops(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}
    write_json(config.out, {"figures": figures, "settings": settings})


if __name__ == "__main__":
    main(__doc__ or "", {"train": (Config, run)})
