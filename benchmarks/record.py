"""Record of a benchmark: its figures with machine, versions and commit, and a chart beside them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.harness.run import config_record, environment, write_json


def check_json(path: Path | None) -> None:
    """Raise ValueError if figures could not be written to a path, before any time is spent."""
    if path is not None and (path.suffix != ".json" or path.is_dir()):
        raise ValueError(f"--json {path} must be a file that ends in .json")


def load_average() -> float:
    """Over the last minute; other work on the machine spoils times."""
    return round(os.getloadavg()[0], 2)


def publish(
    config: Any,
    figures: dict[str, Any],
    draw: Callable[[Path], None],
    *,
    load: float,
    peers: tuple[str, ...] = (),
) -> None:
    """Write ``config.json`` and the chart beside it, if the user asked for a file.

    Args:
      config: the benchmark's settings, with a field ``json``.
      figures: what was measured.
      draw: makes the chart.
      load: the load average before measuring.
      peers: packages whose versions are recorded too.
    """
    if config.json is None:
        return
    settings = {name: value for name, value in config_record(config).items() if name != "json"}
    record = {"settings": settings, "load_average_at_start": load, **figures}
    write_json(config.json, record | {"environment": environment(*peers)})
    chart = config.json.with_suffix(".png")
    draw(chart)
    print(f"all figures in {config.json}, chart in {chart}")
