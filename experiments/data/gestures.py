"""Videos of a person who tells a story, and the phase of the gesture at every frame.

Madeo, Lima & Peres 2013, "Gesture unit segmentation using support vector machines": 32 features a frame,
velocities and accelerations of both hands and wrists; five phases. The letter of a video is a person's, its
number a story's.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.corpora import RemoteFile, fetch, read_text

PHASES = {"D": "rest", "P": "preparation", "S": "stroke", "H": "hold", "R": "retraction"}
FEATURES = 32
_URL = (
    "https://raw.githubusercontent.com/Fmelle/Gesture-Phase-Segmentation/"
    "78dd0d6ce1050740faf3252d6af81a9714d1dbe1/data_files/processed/"
)
GESTURE_PHASE = {
    video: RemoteFile(f"{video}_va3.csv", f"{_URL}{video}_va3.csv", digest)
    for video, digest in (
        ("a1", "a9caf290dbf9c0ba112b273a3af2377c2ba061d25ba7eeab835e32552f66747d"),
        ("a2", "3f921cab6fc8395b26ec772874583fe4eb211e15f856b6bfb45627cf4620fa48"),
        ("a3", "0ef1ae696b179eccfdfc85cdaf6abcf83ff95209060e94185d0b9dfbbed765d3"),
        ("b1", "fc530377ccf5da9fb8d82df04806d853afe988cc3dfead00608696a4a321875b"),
        ("b3", "011a99aa42d984a9ad5f31e191fd6b9f6c4e72ae75c63e804c5e8905b896d115"),
        ("c1", "4f4fe22b7839f696ee0fa8cd50aa6ae8082224db6ddb0767c5d405aa3d98ea42"),
        ("c3", "032dd63b2a5ca1a0b21bfa3feae06cc09bb9f9cf2d4254c621f87cfff3186c42"),
    )
}
TRAINING, VALIDATION, TEST = ("a1", "b1", "c1"), ("a2",), ("a3", "b3", "c3")


class Video(NamedTuple):
    """Features of every frame, and its phase."""

    frames: np.ndarray  # (time, FEATURES) float32, ``standardized``
    phases: np.ndarray  # (time,) int32, numbers of ``PHASES``
    name: str


def video(name: str) -> Video:
    """One of the seven videos."""
    return read_video(fetch("gesture_phase", GESTURE_PHASE[name]), name)


def read_video(path: Path, name: str) -> Video:
    """A video from a file: a header, then 32 numbers and a phase's letter a line.

    Raises:
      ValueError: for anything else.
    """
    letters = list(PHASES)
    frames, phases = [], []
    for number, line in enumerate(io.StringIO(read_text(path)), start=1):
        *values, phase = line.strip().split(",")
        if number == 1 or not line.strip():
            continue
        try:
            frames.append(np.array(values, np.float32))
            phases.append(letters.index(phase))
        except ValueError:
            frames.append(np.zeros(0, np.float32))
        if frames[-1].shape != (FEATURES,):
            raise ValueError(
                f"{path}, line {number}: expected {FEATURES} numbers and one of {', '.join(letters)}"
            )
    if not frames:
        raise ValueError(f"{path} holds no frame")
    return Video(standardized(np.array(frames)), np.array(phases, np.int32), name)


def standardized(frames: np.ndarray) -> np.ndarray:
    """Features with mean 0 and variance 1 over the video, fast motions compressed as by a logarithm.

    Each video by itself, without its labels: people, and cameras, differ in scale. It takes the whole
    video, so that a network which reads forward has a hint of what comes.
    """
    compressed = np.arcsinh(frames / (np.median(np.abs(frames), axis=0) + 1e-9))
    deviation = compressed.std(axis=0)
    return ((compressed - compressed.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(
        np.float32
    )


def pieces(video: Video, size: int, stride: int) -> list[Video]:
    """Overlapping pieces of so many frames, the last of which may be shorter."""
    starts = range(0, max(1, len(video.phases) - size + stride), stride)
    return [
        Video(video.frames[start : start + size], video.phases[start : start + size], video.name)
        for start in starts
    ]
