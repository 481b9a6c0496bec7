"""A study: several runs in the folders of one, continued together."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from experiments.harness import run as runs
from experiments.harness.resume import check_steps
from jaxrnn.training import processes

Settings = TypeVar("Settings", bound=Any)


def begin_study(config: Any, members: Iterable[str]) -> None:
    """Create the folder ``config.out`` of a study, or make sure that the one there can be continued.

    Raises:
      ValueError: if it is of another study, or the run of a member has taken more than ``config.steps``.
    """
    record = runs.config_record(config)
    if getattr(config, "resume_from", None) is not None:
        raise ValueError("--resume-from is for a single run; a comparison goes on with --resume")
    if processes.several():
        raise ValueError("a comparison runs in one process; train its members one by one")
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


def run_members(
    config: Settings, variants: Mapping[str, Mapping[str, Any]], run: Callable[[Settings], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The figures of a study's members, each in a folder of its own, by name.

    Args:
      config: of the study.
      variants: by the name of a member, the settings in which it differs.
      run: from the settings of a member to its figures.
    """
    begin_study(config, variants)
    results = {}
    for name, changes in variants.items():
        print(f"\n{name}", flush=True)
        results[name] = run(dataclasses.replace(member(config, config.folder / name), **changes))
    return results


def summarize(config: Any, results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print the table of a study's members, and write its ``summary.json``.

    Args:
      config: of the study.
      results: the figures of the members, by name.
      columns: the figure in each column, by its header; parameters and seconds follow.
    """
    print()
    print_table(results, {**columns, "parameters": "parameters", "seconds": "train_seconds"})
    print(f"all in {config.folder}")
    summary = {"models": results, "settings": runs.config_record(config), **runs.environment()}
    runs.write_json(config.folder / "summary.json", summary)


def print_table(results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print a line for each member: its name, and its figures in columns, by header → figure; None is
    left empty.

    >>> print_table({"lstm": {"loss": 0.25, "size": 1200}}, {"loss": "loss", "parameters": "size"})
    model         loss   parameters
    lstm        0.2500        1,200
    """
    widest = max(map(len, [*results, "model"]))
    print("".join([f"{'model':<{widest}}", *(f"{header:>13}" for header in columns)]).rstrip())
    for name, of in results.items():
        texts = [_as_text(of[figure]) for figure in columns.values()]
        print("".join([f"{name:<{widest}}", *(f"{text:>13}" for text in texts)]))


def _as_text(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:.4f}"


def check_no_study(folder: Path) -> None:
    """Raise ValueError for the folder of a study, which has no model of its own."""
    if runs.load_config(folder).get("compare"):
        members = sorted(path.parent.name for path in folder.glob("*/config.json"))
        raise ValueError(f"{folder} holds a comparison; name one of its runs: {', '.join(members)}")
