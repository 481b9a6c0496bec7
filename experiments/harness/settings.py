"""Settings that experiments share, and how a field of settings says which values it takes.

A field's check is part of its type (``steps: Count``); ``command_line.main`` runs the checks of all fields
before any work is done.
"""

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from jaxrnn.checks import as_integer, as_number, check_fraction, check_positive
from jaxrnn.decoding.beam import MOST_PENALTY

Kind = TypeVar("Kind", bound=type)


def check_above_zero(name: str, value: float) -> None:
    """Raise ValueError unless a number is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def check_zero_or_more(name: str, value: float) -> None:
    """Raise ValueError unless a number is 0 or more."""
    if (number := as_number(value)) is None or not number >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless a number can count something in memory."""
    check_positive(name, value)
    if value >= 2**31:
        raise ValueError(f"{name} must be below 2**31, got {value}")


def check_seed(name: str, value: int) -> None:
    """Raise ValueError unless a number can seed a key."""
    if (seed := as_integer(value)) is None or not 0 <= seed < 2**32:
        raise ValueError(f"{name} must be 0 or more and below 2**32, got {value}")


def check_length_penalty(name: str, value: float) -> None:
    """Raise ValueError for a length penalty that the beam search does not take."""
    if not 0 <= value <= MOST_PENALTY:
        raise ValueError(f"{name} must lie in [0, {MOST_PENALTY}], got {value}")


Count = Annotated[int, check_count]
Fraction = Annotated[float, check_fraction]
Positive = Annotated[float, check_above_zero]
Seed = Annotated[int, check_seed]
Optimizer = Literal["adam", "muon"]
LengthPenalty = Annotated[float, check_length_penalty]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(kind: Kind) -> Kind:
    """A frozen dataclass of keywords, whose own fields come before inherited ones in its ``--help``.

    >>> @settings
    ... class Train(TrainingSettings):
    ...     corpus: str = "stdlib"
    >>> list(Train.__dataclass_fields__)[:2], Train(steps=5).steps
    (['corpus', 'batch_size'], 5)
    """
    made: Any = dataclass(frozen=True, kw_only=True)(kind)
    names = [name for base in made.__mro__ for name in inspect.get_annotations(base)]
    made.__dataclass_fields__ = {name: made.__dataclass_fields__[name] for name in dict.fromkeys(names)}
    return made


def check(config: Any) -> None:
    """Raise ValueError, naming the field, unless every field has a value that its type allows; None passes.

    >>> check(TrainingSettings(steps=0))
    Traceback (most recent call last):
        ...
    ValueError: steps must be a positive integer, got 0
    """
    for name, annotation in typing.get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for part in (annotation, *typing.get_args(annotation)):
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None:
                    _check_value(name, each, part)


def check_saved(kind: type, saved: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, unless settings read from JSON are of the types of a dataclass.

    >>> check_saved(TrainingSettings, {"steps": "9"})
    Traceback (most recent call last):
        ...
    ValueError: steps must be int, got '9'
    """
    hints = typing.get_type_hints(kind)
    for name, value in saved.items():
        if name in hints and not _is_of(value, hints[name]):
            expected = getattr(hints[name], "__name__", None) or str(hints[name]).replace("typing.", "")
            raise ValueError(f"{name} must be {expected}, got {value!r:.60}")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type of settings."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is_of(each, parts[0]) for each in value)
    if parts:  # a union
        return any(_is_of(value, part) for part in parts)
    kinds = {float: (int, float), Path: (str, Path)}.get(hint, (hint,))
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def _check_value(name: str, value: Any, annotation: Any) -> None:
    known = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal and value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
    for check_one in filter(callable, getattr(annotation, "__metadata__", ())):
        check_one(name, value)


@settings
class RunSettings:
    """Settings of whatever leaves a folder behind."""

    out: Path | None = None
    """Folder of the run; by default out/<experiment>/<date-time>."""
    resume: bool = False
    """Continue the run in --out: what is done is not done again."""

    @property
    def folder(self) -> Path:
        """The folder of the run, which is known once the command line is read."""
        if self.out is None:
            raise ValueError("expected --out DIR, the folder of the run, got None")
        return self.out


@settings
class TrainingSettings(RunSettings):
    """Settings of training."""

    batch_size: Count = 64
    """Examples of a step."""
    steps: Count = 1000
    """Training steps."""
    optimizer: Optimizer = "adam"
    """Rule that moves the parameters; muon needs fewer steps, each of which takes longer."""
    learning_rate: Positive = 2e-3
    """Highest learning rate; it decays to a hundredth along a cosine."""
    warmup_steps: Annotated[int, check_zero_or_more] = 100
    """Steps over which the learning rate rises."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    clip_value: Positive | None = None
    """Largest magnitude of a gradient's entries; None does not clip."""
    evaluate_every: Count = 500
    """Steps between measurements on the validation data."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; they also fall every 30 seconds, and with each measurement."""
    keep: Count = 2
    """Checkpoints that stay: the latest ones, and the best besides."""
    resume_from: Annotated[int, check_zero_or_more] | None = None
    """Continue the run in --out from the checkpoint of this step; later ones are deleted."""
    grace_seconds: Positive = 30.0
    """After SIGTERM or another signal the run is saved; what takes longer than this is given up."""
    skip_bad_steps: Annotated[int, check_zero_or_more] = 0
    """Batches that are skipped, at most, because loss or gradient are not finite; each time training goes
    on from the last checkpoint."""
    devices: Count | None = None
    """Devices over which batches are split; by default as many as pay off."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, of several that train together (see experiments/README.md)."""
    num_processes: Count | None = None
    """How many processes train together."""
    process_id: Annotated[int, check_zero_or_more] | None = None
    """Number of this process, from 0 on."""
    cluster_detection_method: Literal["auto", "slurm", "ompi", "mpi4py", "gcetpu", "gketpu"] | None = None
    """Where JAX finds these three by itself; auto looks everywhere but in mpi4py, in Kubernetes too."""
    seed: Seed = 0
    """Seed of every random draw."""
    tensorboard: bool = False
    """Also write events for TensorBoard."""
