"""The study: part after part, each measured, judged and plotted.

Read on in ``networks``, then in ``jacobians``, ``gates``, ``clipping``, ``truncation`` and ``cost``.
"""

import time
from collections.abc import Callable
from pathlib import Path

from experiments.gradient_flow import clipping, cost, gates, jacobians, report, truncation
from experiments.gradient_flow.report import Result
from experiments.gradient_flow.settings import Config
from experiments.harness import run as runs


def study_command(config: Config) -> None:
    """Measure part after part."""
    parts, record = plan(config), runs.config_record(config)
    out = config.out or runs.default_directory("gradient_flow")
    runs.check_out(out, resume=None)
    runs.create(out, record, fill=lambda folder: None)
    summary, about = {}, {"settings": record, **runs.environment()}
    for name, measure in parts.items():
        print(f"\n{name}", flush=True)
        started = time.monotonic()
        figures, judge, plot = measure(config, out)
        seconds = time.monotonic() - started
        claims = report.judged(name, judge, figures)
        summary[name] = {"seconds": seconds, "claims": [c._asdict() for c in claims], "figures": figures}
        runs.write_json(out / "summary.json", {"parts": summary, **about})
        report.print_result(figures, claims)
        report.drawn(name, plot)
    print(f"\nall in {out}")


def plan(config: Config) -> dict[str, Callable[[Config, Path], Result]]:
    """The parts that the settings ask for, by name.

    Raises:
      ValueError: for a time too short to plot.
    """
    parts: dict[str, Callable[[Config, Path], Result]] = {
        part.__name__.rpartition(".")[2]: part.measure
        for part in (jacobians, gates, clipping, truncation, cost)
    }
    if config.time < 8:
        raise ValueError(f"time must be 8 or more, got {config.time}")
    return parts if config.part == "all" else {config.part: parts[config.part]}
