"""Training a network that foretells which keys sound, and measuring it beside models without memory.

The figure is −log p(x_{t+1} | x_1 … x_t) in nats, summed over steps 2 … T of all pieces and divided by
their number, as in Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent
networks for sequence modeling".
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from experiments.data.batches import EVERY, side_by_side
from experiments.data.harmony import harmony
from experiments.data.piano_rolls import (
    KEYS,
    Pieces,
    jsb_chorales,
    read_folder,
    read_mat,
    transposed,
)
from experiments.harness.fit import fit, load, report
from experiments.harness.progress import counted
from experiments.harness.run import DIGEST, load_settings
from experiments.harness.settings import (
    Count,
    Fraction,
    Positive,
    TrainingSettings,
    check_zero_or_more,
    settings,
)
from experiments.harness.task import Loss, Sums, Task, evaluate, past_its_best
from experiments.music.model import MusicModel
from experiments.music.playing import leave_pictures
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.encoder import Encoder

LANES = 32  # pieces side by side in an evaluation
NAMED = {"harmony": harmony, "jsb_chorales": jsb_chorales}


@settings
class Train(TrainingSettings):
    """Train a network on pieces, and let it continue one."""

    data: str = "harmony"
    """harmony (chords drawn by rules; no download), jsb_chorales, a FILE.mat with traindata, validdata and
    testdata, or a folder of MIDI files."""
    steps_per_beat: Count = 1
    """Steps into which a beat of a MIDI file is cut."""
    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 128
    """Hidden units of each layer."""
    chord_size: Count | None = 64
    """Hidden units by which a key knows the lower ones of its step. None: keys are independent, given the
    steps before."""
    dropout: Fraction = 0.5
    """Probability that a feature of the state is dropped where it is read out; notes never are."""
    transpose: Annotated[int, check_zero_or_more] = 6
    """Semitones, up or down, by which training pieces are shifted at random at most."""
    window: Count = 96
    """Steps of a training sequence; of a longer piece, some part."""
    batch_size: Count = 16
    """Pieces of a step."""
    steps: Count = 1500
    """Most training steps; it ends early once validation no longer improves."""
    learning_rate: Positive = 6e-3
    evaluate_every: Count = 100


class Batch(NamedTuple):
    """Pieces side by side, every step to be foretold from those before; lanes left over have length 0."""

    inputs: np.ndarray  # (time, batch, 88) float32
    lengths: np.ndarray  # (batch,)
    targets: np.ndarray  # (time, batch, 88) float32


def load_data(config: Train) -> Pieces:
    """The pieces that the settings name.

    Raises:
      ValueError: for an unknown name, or what cannot be read.
    """
    if config.data in NAMED:
        return NAMED[config.data]()
    path = Path(config.data)
    if not path.exists():
        raise ValueError(f"data {config.data!r} is neither a file, a folder nor one of {', '.join(NAMED)}")
    pieces = read_folder(path, config.steps_per_beat) if path.is_dir() else read_mat(path)
    if missing := [name for name, of in pieces._asdict().items() if not of]:
        raise ValueError(f"{config.data} has no piece of two steps or more for the {missing[0]} part")
    return pieces


def train_command(config: Train) -> None:
    """Train, measure on the test part, and continue one of its pieces."""
    data = load_data(config)
    sizes = ", ".join(f"{len(of):,} {name}" for name, of in data._asdict().items())
    print(f"{config.data}: {sizes} pieces; run in {config.folder}", flush=True)
    model = build_model(config)
    task = build_task(config, data, model)
    fitted = fit(config, task)
    found = {
        f"{name}_nats": evaluate(task, fitted.params, batches(of))["loss"]
        for name, of in (("valid", data.valid), ("test", data.test))
    }
    with counted("fitting models without memory"):
        found |= without_memory(data)
    print(f"\ntest, nats a step: network {found['test_nats']:.4f}", end="")
    print(f", logistic regression on the step before {found['logistic_nats']:.4f}", end="")
    print(f", each key as often as in training {found['frequencies_nats']:.4f}")
    leave_pictures(fitted.out, model, fitted.params, data.test[0], config.seed)
    title = f"{config.cell} {config.hidden_size} on {config.data}"
    report(fitted, found, title=title, packages=("scikit-learn",))


def build_model(config: Train) -> MusicModel:
    """The model that the settings ask for."""
    cells = [CELLS[config.cell](config.hidden_size)] * config.layers
    encoder = Encoder(cells, in_features=KEYS, backward="bptt")
    return MusicModel(encoder, keys=KEYS, chord_size=config.chord_size, dropout=config.dropout)


@functools.lru_cache  # the same function for equal models, which compiles once
def chord_loss(model: MusicModel) -> Loss:
    """The negative log-likelihood of all keys at a step."""

    def loss(params: Any, batch: Batch, key: Any) -> Sums:
        logits = model.apply(params, batch.inputs, batch.targets, lengths=batch.lengths, key=key)
        nats = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, batch.targets), axis=-1)
        known = jnp.arange(len(nats))[:, None] < batch.lengths
        return {"loss": (jnp.sum(jnp.where(known, nats, 0)), jnp.sum(known))}

    return loss


def build_task(config: Train, data: Pieces, model: MusicModel) -> Task:
    """The likelihood of every step of a piece, given those before."""

    def batch(position: int, lanes: slice = EVERY) -> Batch:
        random = np.random.default_rng([config.seed, position])
        chosen = []
        for index in random.integers(len(data.train), size=config.batch_size):
            start = random.integers(max(1, len(data.train[index]) - config.window))
            shift = int(random.integers(-config.transpose, config.transpose + 1))
            chosen.append((data.train[index][start : start + config.window + 1], shift))
        rolls = [transposed(roll, shift) for roll, shift in chosen[lanes]]
        return together(rolls, config.window, len(rolls))

    rolls = b"".join(np.packbits(roll).tobytes() for part in data for roll in part)
    return Task(
        init=model.init,
        loss=chord_loss(model),
        batch=batch,
        valid=lambda: batches(data.valid),
        unit="nats per step",
        items=("steps", config.batch_size * config.window),
        record={"data" + DIGEST: hashlib.sha256(rolls).hexdigest()},
        stop=past_its_best,
    )


def together(rolls: Sequence[np.ndarray], time: int, lanes: int) -> Batch:
    """Piano rolls as a batch of so many steps."""
    lengths = np.zeros(lanes, np.int32)
    lengths[: len(rolls)] = [len(roll) - 1 for roll in rolls]
    inputs, targets = (
        side_by_side([roll[side].astype(np.float32) for roll in rolls], time, lanes, 0)
        for side in (np.s_[:-1], np.s_[1:])
    )
    return Batch(inputs, lengths, targets)


def batches(rolls: Sequence[np.ndarray]) -> Iterable[Batch]:
    """Every piece once, whole; all batches have the shape of the longest."""
    time = max(map(len, rolls)) - 1
    starts = range(0, len(rolls), LANES)
    return (together(rolls[start : start + LANES], time, LANES) for start in starts)


def without_memory(data: Pieces) -> dict[str, float]:
    """The test figure of keys that sound as often as in training, and of a logistic regression of each key
    on the step before.
    """
    sides = np.s_[:-1], np.s_[1:]
    before, after = (np.concatenate([roll[side] for roll in data.train]) for side in sides)
    seen, heard = (np.concatenate([roll[side] for roll in data.test]) for side in sides)
    often = (after.sum(0) + 1) / (len(after) + 2)  # so that none is 0
    chances = np.tile(often, (len(heard), 1))
    frequencies = nats(chances, heard)
    for key in range(KEYS):
        if 0 < after[:, key].sum() < len(after):
            regression = LogisticRegression(max_iter=1000).fit(before, after[:, key])
            chances[:, key] = regression.predict_proba(seen)[:, 1]
    return {"frequencies_nats": frequencies, "logistic_nats": nats(chances, heard)}


def nats(chances: np.ndarray, heard: np.ndarray) -> float:
    """−log p of what was heard, a step."""
    return float(-np.log(np.where(heard, chances, 1 - chances)).sum(1).mean())


def load_run(folder: Path) -> tuple[Train, MusicModel, Any]:
    """The settings and the best model of a run."""
    config = load_settings(folder, Train)
    model = build_model(config)
    return config, model, load(folder, config, model.init)
