"""The mutation study: one mistake at a time in the hand-derived derivatives, and which checks detect it.

``mutants`` makes the mistakes, ``mutation_targets`` says where, ``bench`` plants one and runs the checks. A
mistake is found if gradients, outputs or last carry of ``backward="bptt"`` then differ by more than 1e-12
from the other columns of ``jaxrnn.gradients.check``, or the contract is broken. Any other must be listed in
``equivalent_mutations``, with the reason why it changes nothing.
"""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax

from experiments.gradient_check.bench import Bench, Kind
from experiments.gradient_check.equivalent_mutations import reason
from experiments.gradient_check.mutation_targets import SUBJECTS, Mutation, seed

DTYPES = ("float64", "float32")

# The first, of equal sizes, so that few mistakes end in an error; the others for what survives it.
KINDS = (
    Kind(hidden=3, time=3, batch=(3,)),
    Kind(hidden=4, time=4, batch=(2, 2), reverse=True),
    Kind(hidden=4, time=3, batch=(2,), lengths=False, resets=False, noise=False),
    Kind(hidden=4, time=3, batch=(2,), resets=False),
    Kind(hidden=4, time=3, batch=(2,), lengths=False, reverse=True),
)
# Gates at 0 and 1, for what overflows there; tanh has no relative accuracy left to hold others to.
SATURATED = {"MinLSTM": Kind(hidden=4, time=3, batch=(2,), scale=3000.0)}


class Outcome(NamedTuple):
    """Who found a mistake."""

    how: str  # "wrong value", "wrong shape", "error", "contract"; empty if check and contract did not
    check_grads: dict[str, str]  # by dtype: FOUND, MISSED, or FALSE_ALARM


FOUND, MISSED = "found", "missed"
FALSE_ALARM = "false alarm"  # on this problem check_grads rejects the derivative without the mistake too


@functools.cache
def _bench(name: str, maker: int, kind: Kind, dtype: str) -> Bench:
    bench = Bench(SUBJECTS[name][maker](kind.hidden), kind, dtype)
    if dtype == "float64" and (found := bench.check(None)):
        raise WrongWithoutMistakeError(f"{bench.cell}: {found}, without any mistake")
    return bench


class WrongWithoutMistakeError(Exception):
    """The derivative is wrong as it stands."""


def judge(name: str, mutation: Mutation, dtypes: Collection[str] = DTYPES) -> Outcome:
    """Who finds a mistake of a subject.

    ``check`` is asked problem after problem until it finds it, then ``check_grads`` on the same problem, in
    each of the dtypes. What only the contract shows is beyond both: that takes arrays of mixed dtypes.
    """
    kinds = [*KINDS, SATURATED[name]] if name in SATURATED else KINDS
    problems = [(maker, kind) for kind in kinds for maker in range(len(SUBJECTS[name]))]
    with jax.enable_x64(True):
        for problem in problems:
            if how := _bench(name, *problem, "float64").check(mutation):
                return Outcome(
                    how, {dtype: check_grads(name, problem, mutation, dtype) for dtype in dtypes}
                )
        contract = any(
            _bench(name, maker, KINDS[0], "float64").check_contract(mutation)
            for maker in range(len(SUBJECTS[name]))
        )
    return Outcome("contract" if contract else "", {})


def check_grads(name: str, problem: tuple[int, Kind], mutation: Mutation, dtype: str) -> str:
    """The answer of ``jax.test_util.check_grads`` on one problem: FOUND, MISSED or FALSE_ALARM."""
    with jax.enable_x64(dtype == "float64"):
        if _false_alarm(name, *problem, dtype):
            return FALSE_ALARM
        return FOUND if _bench(name, *problem, dtype).check_grads(mutation) else MISSED


@functools.cache
def _false_alarm(name: str, maker: int, kind: Kind, dtype: str) -> bool:
    return _bench(name, maker, kind, dtype).check_grads(None)


@dataclasses.dataclass(frozen=True)
class Study:
    """Outcomes of all mistakes of one subject, in plain numbers and strings."""

    name: str
    seeded: int
    found: dict[str, int]  # by how
    missed: dict[str, tuple[str, ...]]  # by dtype, what changes values and check_grads does not find
    false_alarms: dict[str, int]  # by dtype, mistakes on which check_grads cannot be asked
    survivors: tuple[tuple[str, str], ...]  # what check and contract do not find, and the reason
    seconds: float  # of CPU
    wrong: str = ""  # what is wrong with the derivative as it stands; then nothing is judged

    @property
    def unexplained(self) -> list[str]:
        """Survivors without a reason."""
        return [mistake for mistake, why in self.survivors if not why]

    @property
    def in_values(self) -> int:
        """Mistakes found that change more than dtypes: those that check_grads is asked about."""
        return sum(self.found.values()) - self.found.get("contract", 0)


def study(name: str, dtypes: Collection[str] = DTYPES, *, every: int = 1) -> Study:
    """Judge all mistakes of a subject, or every k-th."""
    start = time.process_time()
    mutations = seed(name)[::every]
    try:
        outcomes = [judge(name, mutation, dtypes) for mutation in mutations]
    except WrongWithoutMistakeError as error:
        return Study(name, 0, {}, {}, {}, (), time.process_time() - start, wrong=str(error))
    judged = list(zip(mutations, outcomes, strict=True))
    said = {dtype: [(str(m), o.check_grads.get(dtype)) for m, o in judged] for dtype in dtypes}
    return Study(
        name=name,
        seeded=len(mutations),
        found=dict(Counter(outcome.how for outcome in outcomes if outcome.how)),
        missed={dtype: tuple(m for m, answer in said[dtype] if answer == MISSED) for dtype in dtypes},
        false_alarms={dtype: sum(answer == FALSE_ALARM for _, answer in said[dtype]) for dtype in dtypes},
        survivors=tuple((str(m), reason(m)) for m, outcome in judged if not outcome.how),
        seconds=time.process_time() - start,
    )


def totals(studies: Sequence[Study]) -> dict[str, int]:
    """The sums that a report needs."""
    result = {
        "mutations_seeded": sum(s.seeded for s in studies),
        "mutations_found": sum(sum(s.found.values()) for s in studies),
        "mutations_equivalent": sum(len(s.survivors) - len(s.unexplained) for s in studies),
        "mutations_unexplained": sum(len(s.unexplained) for s in studies),
        "mutations_of_dtypes_alone": sum(s.found.get("contract", 0) for s in studies),
        "mutations_of_values": sum(s.in_values for s in studies),
    }
    for dtype in sorted({dtype for s in studies for dtype in s.missed}, reverse=True):
        result[f"missed_by_check_grads_{dtype}"] = sum(len(s.missed.get(dtype, ())) for s in studies)
        result[f"false_alarms_of_check_grads_{dtype}"] = sum(s.false_alarms.get(dtype, 0) for s in studies)
    return result
