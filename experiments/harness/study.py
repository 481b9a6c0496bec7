"""A study: several runs in the folders of one, continued together."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from experiments.harness import run as runs
from experiments.harness.loop import check_steps

Settings = TypeVar("Settings", bound=Any)


def begin_study(config: Any, members: Iterable[str]) -> None:
    """Create the folder ``config.out`` of a study, or make sure that the one there can be continued.

    Raises:
      ValueError: if it is of another study, or the run of a member has taken more than ``config.steps``.
    """
    record = runs.config_record(config)
    if not config.resume:
        runs.create(config.folder, record, fill=lambda folder: None)
        return
    runs.check_same_config(runs.load_config(config.folder), record, config.folder)
    for name in members:
        check_steps(config.folder / name, config.steps)
    runs.write_json(config.folder / "config.json", record)


def member(config: Settings, folder: Path) -> Settings:
    """The settings of a study's run in a folder, continued if it was begun."""
    return dataclasses.replace(config, out=folder, resume=(folder / "config.json").is_file())
