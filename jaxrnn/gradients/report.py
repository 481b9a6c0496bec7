"""Table of the differences between several methods' gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.checks import check_like


class Comparison(NamedTuple):
    """One method's gradient of one leaf against the consensus."""

    leaf: str
    method: str
    error: float  # max|a − b| / max|b|
    place: tuple[int, ...]  # of the largest difference, or of the worst entry that is not within bounds
    agrees: bool


@dataclass(frozen=True)
class Report:
    """All methods against each other; ``print`` it for a table.

    The reference b of each entry is the median of the exact methods, so that the one that is wrong stands
    out; two methods that are each within half the tolerance of it are within the tolerance of each other.
    """

    title: str
    tolerance: float
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether every method agrees with the others in every leaf."""
        return all(comparison.agrees for comparison in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The largest disagreement; where all agree, the largest error."""
        return max(self.comparisons, key=lambda c: (not c.agrees, np.isnan(c.error), c.error))

    def max_errors(self) -> dict[str, float]:
        """The largest relative error of each method."""
        methods = dict.fromkeys(c.method for c in self.comparisons)
        # NumPy's maximum, of which a NaN is part.
        return {m: float(np.max([c.error for c in self.comparisons if c.method == m])) for m in methods}

    def __str__(self) -> str:
        leaves = list(dict.fromkeys(c.leaf for c in self.comparisons))
        methods = list(dict.fromkeys(c.method for c in self.comparisons))
        cells = {
            (c.leaf, c.method): f"{c.error:.1e}" + ("" if c.agrees else " !") for c in self.comparisons
        }
        rows = [["relative error", *methods]]
        rows += [[leaf, *(cells.get((leaf, method), "-") for method in methods)] for leaf in leaves]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        worst = self.worst
        place = worst.leaf + (f"[{', '.join(map(str, worst.place))}]" if worst.place else "")
        verdict = "all agree; largest error" if self.agrees else "DISAGREEMENT (!)"
        lines.append(
            f"{verdict}: {worst.error:.1e}, {worst.method}, at {place}; "
            f"tolerance of exact methods {self.tolerance:.0e}"
        )
        return "\n".join([self.title, *lines])


class GradientError(AssertionError):
    """Gradients that should be equal are not; ``report`` says which, and where."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def compare(
    title: str,
    gradients: Mapping[str, Mapping[str, Any]],
    *,
    tolerance: float = 1e-12,
    bounds: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Compare the same quantities, computed by several methods.

    The error of a method in a leaf is max|a − b| / max|b|, b being the entrywise median of the exact
    methods, of those that are finite there; where b is zero throughout, a must be too.

    Args:
      title: first line of the report.
      gradients: by method, the pytrees that it gives, by name; a method may leave names out.
      tolerance: largest relative difference between any two exact methods.
      bounds: for each method that is not exact, the largest absolute error of each entry, in the
        structure of its gradients.

    Returns:
      the report; nothing is raised.

    Raises:
      ValueError: if the pytrees of a name differ in structure or shape, or there are none.

    >>> one, other = {"w": np.ones(3)}, {"w": np.ones(3) + 1e-3}
    >>> report = compare("an example", {"a": one, "b": one, "c": other})
    >>> report.agrees, report.worst.method, report.worst.place
    (False, 'c', (0,))
    """
    bounds = bounds or {}
    _check_alike(gradients)
    named = {method: _named(trees) for method, trees in gradients.items()}
    comparisons = []
    for leaf in dict.fromkeys(name for leaves in named.values() for name in leaves):
        values = {method: leaves[leaf] for method, leaves in named.items() if leaf in leaves}
        exact = [value for method, value in values.items() if method not in bounds]
        reference = _median(exact or list(values.values()))
        for method, value in values.items():
            allowed = None
            if method in bounds:
                allowed = _named(bounds[method])[leaf]
            comparisons.append(_compare(leaf, method, value, reference, tolerance / 2, allowed))
    return Report(title, tolerance, tuple(comparisons))


def _compare(
    leaf: str,
    method: str,
    value: np.ndarray,
    reference: np.ndarray,
    tolerance: float,
    allowed: np.ndarray | None,
) -> Comparison:
    if value.size == 0:
        return Comparison(leaf, method, 0.0, (), True)
    difference = np.where(np.isfinite(value), np.abs(value - reference), np.inf)
    scale = np.max(np.abs(reference))
    ratio = difference if allowed is None else difference / np.maximum(allowed, np.finfo(float).tiny)
    place = np.unravel_index(np.argmax(ratio), ratio.shape)
    worst = float(np.max(difference))
    error = worst / scale if scale > 0 else (0.0 if worst == 0 else np.inf)
    agrees = error <= tolerance if allowed is None else bool(np.max(ratio) <= 1)
    return Comparison(leaf, method, float(error), tuple(int(i) for i in place), bool(agrees))


def _check_alike(gradients: Mapping[str, Mapping[str, Any]]) -> None:
    names = dict.fromkeys(name for trees in gradients.values() for name in trees)
    if not names:
        raise ValueError("there are no gradients to compare")
    for name in names:
        (first, expected), *others = [(m, trees[name]) for m, trees in gradients.items() if name in trees]
        for method, tree in others:
            check_like(f"{name} of {method}", expected, tree, because=f"compared with {first}")


def _median(values: Sequence[np.ndarray]) -> np.ndarray:
    """The median of the finite numbers at each place; 0 where there is none, which agrees with nothing."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.where(np.all(np.isnan(finite), axis=0), 0.0, finite)
    return np.asarray(np.nanmedian(known, axis=0))


def _named(trees: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every leaf as float64, by name: ``params.w_ih``."""
    return {
        name + jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for name, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
