"""What a trained network plays: the continuation of a piece, as a picture, as sound and as MIDI."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.data.piano_rolls import LOWEST, write_midi, write_wav
from experiments.harness.plots import save
from experiments.harness.reports import part
from experiments.music.model import MusicModel, MusicParams

GIVEN, ADDED = 24, 64  # steps
DRAWS = 256  # of which the picture of what is expected is the mean
SPEED = 2.0  # steps a second
WRITERS = {".mid": write_midi, ".wav": write_wav}


def continued(
    model: MusicModel, params: MusicParams, heard: np.ndarray, length: int, seed: int
) -> np.ndarray:
    """Steps ``(length, 88)`` of bool that follow ``heard (time, 88)``, drawn key by key."""
    keys = jax.random.split(jax.random.key(seed), length)
    return np.asarray(_continued(model, params, heard.astype(np.float32), keys)) > 0


@functools.partial(jax.jit, static_argnums=0)
def _continued(model: MusicModel, params: MusicParams, heard: Any, keys: Any) -> jax.Array:
    encoder, of_encoder = model.encoder, params.encoder
    carry = encoder.initial_carry()
    carry, ys = encoder.apply(of_encoder, heard, carry)

    def step(state: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        carry, y = state
        drawn = model.draw(params, y, key)
        return encoder.step(of_encoder, carry, drawn), drawn

    return jax.lax.scan(step, (carry, ys[-1]), keys)[1]


@functools.partial(jax.jit, static_argnums=0)
def expected(model: MusicModel, params: MusicParams, piece: Any, key: jax.Array) -> jax.Array:
    """How often each key sounds among draws of every step of ``piece (time, 88)`` but the first, given the
    steps before: ``(time − 1, 88)``.
    """
    _, ys = model.encoder.apply(params.encoder, piece[:-1])
    return jnp.mean(model.draw(params, jnp.broadcast_to(ys, (DRAWS, *ys.shape)), key), axis=0)


def leave_pictures(
    folder: Path, model: MusicModel, params: MusicParams, piece: np.ndarray, seed: int
) -> None:
    """Write what the network expects of a piece, and how it goes on with it."""
    with part("piano_roll.png"):
        draw(folder / "piano_roll.png", model, params, piece, seed)
    heard = piece[:GIVEN]
    roll = np.concatenate([heard, continued(model, params, heard, ADDED, seed)])
    for suffix in WRITERS:
        with part("continuation" + suffix):
            write(folder / f"continuation{suffix}", roll)


def write(path: Path, roll: np.ndarray) -> None:
    """Write a piano roll as its file's name says, never seen half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        WRITERS[path.suffix](temporary, roll, SPEED)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def draw(path: Path, model: MusicModel, params: MusicParams, piece: np.ndarray, seed: int) -> None:
    """A piece, what is expected at each of its steps, and a continuation of its beginning."""
    piece = piece[: GIVEN + ADDED]
    foreseen = expected(model, params, piece.astype(np.float32), jax.random.key(seed))
    heard = piece[:GIVEN]
    added = continued(model, params, heard, ADDED, seed)
    rows = {
        "a test piece": piece,
        "what the network expects, from the steps before": np.concatenate([0 * piece[:1], foreseen]),
        f"its first {len(heard)} steps, and the network's own": np.concatenate([heard, added]),
    }
    keys = np.flatnonzero(piece.any(0) | np.concatenate([heard, added]).any(0))
    low, high = keys.min() - 2, keys.max() + 3
    figure, axes = plt.subplots(3, 1, figsize=(9, 8), dpi=110, layout="constrained", sharex=True)
    for (title, roll), of in zip(rows.items(), axes, strict=True):
        extent = (-0.5, len(roll) - 0.5, LOWEST + low - 0.5, LOWEST + high - 0.5)
        shown = of.imshow(
            roll[:, low:high].T.astype(float),
            origin="lower",
            aspect="auto",
            cmap="Greys",
            vmin=0,
            vmax=1,
            extent=extent,
        )
        of.set(title=title, ylabel="MIDI note")
    axes[2].axvline(len(heard) - 0.5, color="#D55E00")
    axes[2].set_xlabel("step")
    figure.colorbar(shown, ax=axes, label="probability", shrink=0.5)
    save(figure, path)
