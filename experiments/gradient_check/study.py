"""The study: its settings, its parts, its files.

Read on in ``agreement`` and ``precision``; for mutations in ``mutations``, ``bench``, ``subjects``,
``mutation_targets`` and ``mutants``; then in ``report``.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.gradient_check import mutations
from experiments.gradient_check.agreement import agreement
from experiments.gradient_check.precision import STEPS, error_growth, step_sizes
from experiments.gradient_check.processes import Part, compute
from experiments.gradient_check.report import finish
from experiments.gradient_check.subjects import MASKED_STEP, SUBJECTS, subject_of
from experiments.harness import run as runs
from experiments.harness.settings import Seed
from jaxrnn.cells.table import CELLS

QUICK_CELLS = ("lstm", "gru")
GROWTH_CELLS = ("elman", "lstm")
# Other names that --cells takes: a cell's class, and those of studies before there was the table.
OTHER_NAMES = {subject_of(name): name for name in reversed(CELLS)} | {
    "Elman tanh": "elman",
    "Elman relu": "elman-relu",
    "Elman sigmoid": "elman-sigmoid",
    "GRU after": "gru",
    "GRU before": "gru-before",
}


@dataclass(frozen=True)
class Config:
    """Compute every gradient in every way, and see what mistakes would be found."""

    quick: bool = False
    """Two cells, two options, every tenth mutation."""
    cells: tuple[str, ...] = ()
    """Names of the cells to study, as jaxrnn/cells/table.py has them; none for all."""
    seed: Seed = 0
    """Seed of parameters, inputs and directions."""
    out: Path | None = None
    """Folder of the study; by default out/gradient_check/<date-time>."""
    resume: bool = False
    """Continue the study in --out; parts that are done are not done again."""


def study_command(config: Config) -> None:
    """Plan the parts, share them among processes, gather the results."""
    parts = plan(config)
    out = config.out or runs.default_directory("gradient_check")
    runs.check_out(out, resume=config.resume, checkpoints=False)
    # Parts that other code computed are not mixed with new ones.
    record = runs.config_record(config) | {"commit": runs.environment()["commit"]}
    if config.resume:
        runs.check_same_config(runs.load_config(out), record, out)
    else:
        runs.create(out, record, fill=lambda folder: (folder / "parts").mkdir(exist_ok=True))
    results = compute(parts, out)
    wrong = finish(out, results)
    if wrong:
        print("\n".join(wrong))
        raise SystemExit(1)


def plan(config: Config) -> dict[str, Part]:
    """The parts of the study by name, the longest first.

    Raises:
      ValueError: for cells that are not in the table.
    """
    names = [OTHER_NAMES.get(name, name) for name in config.cells]
    if unknown := set(names) - set(CELLS):
        raise ValueError(f"cells: known are {', '.join(CELLS)}; got {', '.join(sorted(unknown))}")
    cells = names or (QUICK_CELLS if config.quick else tuple(CELLS))
    subjects = {MASKED_STEP, *map(subject_of, cells)}
    seed, quick = config.seed, config.quick
    lengths = (10, 30, 100, 300) if quick else (10, 30, 100, 300, 1000, 3000, 10_000)
    parts: dict[str, Part] = {}
    for subject in SUBJECTS:
        if subject in subjects:
            parts[f"mutations {subject}"] = (mistakes, (subject, 10 if quick else 1), {})
    for cell in cells:
        parts[f"agreement {cell}"] = (agreement, (cell, seed), {"quick": quick})
    for cell in ["lstm"] if quick else GROWTH_CELLS:
        parts[f"growth {cell}"] = (error_growth, (cell, lengths, seed), {})
    parts["steps lstm"] = (step_sizes, ("lstm", STEPS, seed), {})
    return parts


def mistakes(subject: str, every: int) -> dict[str, Any]:
    """The outcome of every k-th mistake in a derivative, as JSON can hold it."""
    return dataclasses.asdict(mutations.study(subject, every=every))
