"""Figures and claims of a part, and how they are printed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.reports import part

VANISHED = 0.01  # a norm below it has vanished, one above its inverse exploded

Figures = dict[str, dict[str, Any]]  # by what was measured, a row each


class Claim(NamedTuple):
    """A claim of the literature, and whether the figures show it."""

    claim: str
    source: str
    shows: bool
    seen: str


Result = tuple[Figures, Callable[[Figures], list[Claim]], Callable[[], None]]  # figures, judge, plot


def print_result(figures: Figures, claims: list[Claim]) -> None:
    """The numbers of each row as a table, and the claims."""
    columns = list(dict.fromkeys(c for row in figures.values() for c in row if np.isscalar(row[c])))
    print(f"{'':<38}" + "".join(f"{column:>16}" for column in columns))
    for name, row in figures.items():
        print(f"{name:<38}" + "".join(f"{row[c]:>16.3g}" if c in row else " " * 16 for c in columns))
    for claim, source, shows, seen in claims:
        print(f"{'shows' if shows else 'DOES NOT SHOW'}: {claim} ({source}). {seen}", flush=True)


def judged(name: str, judge: Callable[[Figures], list[Claim]], figures: Figures) -> list[Claim]:
    """The claims of a part; none where figures of few draws or steps leave nothing to judge by."""
    with part(f"the claims of {name}"):
        return judge(figures)
    return []


def drawn(name: str, draw: Callable[[], None]) -> None:
    """Draw the plot of a part, if it can be drawn."""
    with part(f"the plot of {name}"):
        draw()


def listed(values: Mapping[str, Any]) -> str:
    """Names and numbers as a phrase."""
    return "; ".join(f"{name}: {value:.3g}" for name, value in values.items())
