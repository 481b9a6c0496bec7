"""Does a run survive whatever ends it? Runs disturbed at a named place, or at any moment, and resumed.

    python -m benchmarks.faults --trials 3072    two to three hours; stopped, it goes on
    python -m benchmarks.faults --trials 40      two minutes

Each trial trains a small character model and, once, at a place that ``faults.at`` names or at a random
moment, kills its process, lets a write fail, tears a file or flips a bit. A fresh process then resumes the
run, and what it comes to is compared with an undisturbed one: the last state to the bit, every line of
metrics, every figure. The disturbed processes must have ended within a minute, killed or with a message.
Every fifteenth run is trained, and resumed, by two processes, one of which is disturbed, or at a random
moment one or both. A trial counts if the fault is known to have happened. Processes are forked before JAX
starts its backend, three trials at a time.
"""

import collections
import contextlib
import errno
import faulthandler
import functools
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from benchmarks.small_run import TEXT, digest, outcome, train
from experiments.harness import run as runs
from experiments.harness.distributed import local_group
from jaxrnn.training import faults

PARALLEL = 3  # trials: on two cores, as each waits at times
RANDOM = "any moment"  # the place of every fourth trial
TOGETHER, PROCESSES = 15, 2  # of so many trials, one is of so many processes
HANGS = 120  # seconds after which a run is lost
OUTLASTS = 60  # seconds after a fault in which all processes must have ended
WRONG = ("ended badly", "different", "lost")  # what trials are kept for, to be looked at
OUTCOMES = ("same", "another best, and said so", "too late", *WRONG)
FAILURES = {"no space": errno.ENOSPC, "read-only": errno.EROFS, "too many open files": errno.EMFILE}
# What was published is damaged only where checksums tell: elsewhere, that is a broken disk.
SEALED = ("checkpoint.sealed", "checkpoint.published", "checkpoint.aside")
TORN = ("checkpoint.state", "file.written", "metrics.written", *SEALED)


@dataclass(frozen=True)
class Config:
    """Disturb runs, resume them, and print what came of it."""

    trials: int = 40
    """How many, in all: those in --out count."""
    out: Path = Path("out/faults")
    """Folder of the trials' results; the same command goes on where one was stopped."""
    seed: int = 0
    """Seed of places and moments."""


class Fault(NamedTuple):
    """What happens in a trial."""

    place: str
    occurrence: int  # of the place, from 1 on
    action: str
    seed: int
    processes: int = 1
    who: tuple[int, ...] = (0,)  # the processes to which it happens


def place_of(point: str, path: Path) -> str:
    """The name of a place in tables: plain files by their name, numbered ones together."""
    if not point.startswith("file."):
        return point
    name = path.name.removesuffix(".tmp")
    if name.startswith(".picture"):
        name = "picture"
    return f"{point} {'samples/*' if path.parent.name == 'samples' else name}"


def actions(place: str) -> list[str]:
    """What can happen at a place."""
    found = ["kill", *FAILURES]
    if place.startswith(TORN):
        found.append("tear, kill")
    if place.startswith(SEALED):
        found += ["flip a bit, kill", "flip a bit"]
    return found


def disturb(fault: Fault, happened: Callable[[], None]) -> faults.Hook:
    """A hook that lets a fault happen, once, and says so first."""
    passed = 0

    def hook(point: str, path: Path) -> None:
        nonlocal passed
        if place_of(point, path) != fault.place:
            return
        passed += 1
        if passed != fault.occurrence:
            return
        if fault.action in FAILURES:
            happened()
            number = FAILURES[fault.action]
            raise OSError(number, os.strerror(number), str(path))
        what, _, kill = fault.action.partition(", ")
        if what in ("tear", "flip a bit"):
            damage(path, tear=what == "tear", seed=fault.seed)
        happened()
        if "kill" in (what, kill):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def damage(path: Path, *, tear: bool, seed: int) -> None:
    """Cut a file, or one of a folder's, short, or flip one of its bits."""
    draw = random.Random(seed)
    within = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    file = draw.choice(within or [path])
    content = bytearray(file.read_bytes())
    if not content:
        return
    if tear:  # of lines that are appended, the last
        begin = content.rfind(b"\n", 0, -1) + 1 if file.suffix == ".jsonl" else 0
        del content[draw.randrange(begin, len(content)) :]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def start(count: int, work: Callable[[int, list[str]], None], log: Path) -> list[int]:
    """Run in so many fresh processes, each given its number and its flags; returns their identifiers."""
    calls = [functools.partial(work, number, group) for number, group in enumerate(local_group(count))]
    return [forked(call, log.with_suffix(f".{number}.log"), HANGS) for number, call in enumerate(calls)]


def ended(processes: list[int]) -> list[int]:
    """Wait for processes; how each ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def forked(work: Callable[[], None], log: Path, seconds: int = 0) -> int:
    """Run in a fresh process, what it prints going to a file, and for so many seconds at most, if any are
    given; returns its identifier.
    """
    process = os.fork()
    if process:
        return process
    signal.alarm(seconds)
    if seconds:
        faulthandler.dump_traceback_later(seconds - 10)  # where it hangs
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        if code == 0 and jax.distributed.is_initialized():
            jax.distributed.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Usual(NamedTuple):
    """A run that nothing disturbs."""

    passed: list[dict[str, int]]  # by the number of its process, how often each place is
    seconds: float
    outcome: dict[str, Any]


def undisturbed(count: int, folder: Path, corpus: Path) -> Usual:
    """Train in so many processes, and take down what is done."""

    def record(number: int, group: list[str]) -> None:
        seen: list[str] = []
        try:
            with faults.hooked(lambda point, path: seen.append(place_of(point, path))):
                train(folder / "run", corpus, group, resume=False)
            (folder / "run" / "digest").write_text(digest(folder / "run"))
        finally:
            (folder / f"passed.{number}").write_text(json.dumps(collections.Counter(seen)))
            (folder / f"modules.{number}").write_text(json.dumps(sorted(sys.modules)))

    began = time.monotonic()
    codes = ended(start(count, record, folder / "undisturbed"))
    if any(codes):
        raise RuntimeError(f"an undisturbed run failed; see the logs in {folder}")
    seconds = time.monotonic() - began
    for name in set(json.loads((folder / "modules.0").read_text())) - sys.modules.keys():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)  # once, and not in every trial
    passed = [json.loads((folder / f"passed.{number}").read_text()) for number in range(count)]
    return Usual(passed, seconds, outcome(folder / "run"))


def trial(fault: Fault, folder: Path, corpus: Path, after: float | None) -> dict[str, Any]:
    """Disturb a run, resume it, and tell how each ended."""
    out, mark = folder / "run", folder / "happened"

    def disturbed(number: int, group: list[str]) -> None:
        hooked = faults.hooked(disturb(fault, mark.touch))
        with hooked if number in fault.who else contextlib.nullcontext():
            train(out, corpus, group, resume=False)

    processes = start(fault.processes, disturbed, folder / "disturbed")
    struck = 0.0
    if after is not None:
        time.sleep(after)
        struck = time.time()
        for number in fault.who:
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes[number], signal.SIGKILL)
    first = ended(processes)
    now = time.time()
    if after is not None and -signal.SIGKILL in first:
        mark.touch()
    elif mark.exists():
        struck = mark.stat().st_mtime
    resume = (out / "config.json").is_file()

    def resumed(number: int, group: list[str]) -> None:
        train(out, corpus, group, resume=resume)
        (out / "digest").write_text(digest(out))

    last = ended(start(fault.processes, resumed, folder / "resumed"))
    return {"happened": mark.exists(), "first": first, "outlasted": round(now - struck, 2), "last": last}


def orderly(fault: Fault, found: dict[str, Any], folder: Path) -> bool:
    """Whether the processes of a disturbed run ended as they should: soon, killed or with a message."""
    fine = {0, 2}
    if fault.processes > 1:  # of those that are left over, JAX ends some itself
        fine |= {1, -signal.SIGABRT}
    killed = {-signal.SIGKILL} if "kill" in fault.action else set()
    codes = enumerate(found["first"])
    logs = [log.read_text(errors="replace") for log in folder.glob("disturbed.*.log")]
    return (
        all(code in (fine | killed if number in fault.who else fine) for number, code in codes)
        and not any("Traceback" in log for log in logs)
        and found["outlasted"] < OUTLASTS
    )


def judge(fault: Fault, found: dict[str, Any], folder: Path, expected: dict[str, Any]) -> str:
    """A word for what came of a trial."""
    if any(found["last"]) or -signal.SIGALRM in found["first"]:
        return "lost"
    if not found["happened"]:
        return "lost" if any(found["first"]) else "too late"
    if not orderly(fault, found, folder):
        return "ended badly"
    got = outcome(folder / "run")
    if got == expected:
        return "same"
    warned = any("is damaged" in log.read_text() for log in folder.glob("*.log"))
    # The best checkpoint was damaged, and the run has said so: all but what was measured on it is the same.
    same = all(got[name] == expected[name] for name in ("state", "metrics"))
    return "another best, and said so" if warned and same else "different"


def planned(number: int, seed: int, usual: dict[int, Usual]) -> tuple[Fault, float | None]:
    """The fault of a trial, and after how many seconds it comes if at a random moment."""
    draw = random.Random(f"{seed} {number}")
    together = number % TOGETHER == TOGETHER // 2
    count, turn = (PROCESSES, number // TOGETHER) if together else (1, number)
    passed, seconds, _ = usual[count]
    if turn % 4 == 0:
        who = draw.choice([(0,), (1,), (0, 1)]) if together else (0,)
        return Fault(RANDOM, 0, "kill", number, count, who), draw.uniform(0, seconds)
    cases = [
        (who, place, action)
        for who, places in enumerate(passed)
        for place in sorted(places)
        for action in actions(place)
    ]
    victim, place, action = cases[(turn - turn // 4 - 1) % len(cases)]
    return Fault(place, draw.randint(1, passed[victim][place]), action, number, count, (victim,)), None


def study(config: Config) -> None:
    """Run the trials that --out lacks, and print the table."""
    if others := {line["study"] for line in results(config.out)} - {config.seed}:
        raise SystemExit(f"error: {config.out} holds trials of seed {others.pop()}; give another --out")
    corpus = (config.out / "corpus.txt").absolute()
    corpus.parent.mkdir(parents=True, exist_ok=True)
    corpus.write_text(TEXT)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA's notes on what it finds in the cache
    jax.config.update("jax_compilation_cache_dir", str(corpus.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # What the second of two processes compiles, JAX does not keep: at least it need not be fast.
    jax.config.update("jax_disable_most_optimizations", True)
    usual = {}
    for count in (1, PROCESSES):
        undisturbed(count, fresh(config.out / "compiling"), corpus)
        usual[count] = undisturbed(count, fresh(config.out / f"undisturbed_{count}"), corpus)
    done, commit = {line["trial"] for line in results(config.out)}, runs.commit()
    left = [number for number in range(config.trials) if number not in done]
    places = [len(passed) for of in usual.values() for passed in of.passed]
    print(f"{places} places, {usual[1].seconds:.1f} s a run, {len(left)} trials to do", flush=True)

    def work(share: list[int], worker: int) -> None:
        for number in share:
            fault, after = planned(number, config.seed, usual)
            folder = fresh(config.out / f"trial_{number}")
            began = time.monotonic()
            found = trial(fault, folder, corpus, after)
            result = judge(fault, found, folder, usual[fault.processes].outcome)
            line = {"trial": number, **fault._asdict(), **found, "outcome": result}
            line |= {"seconds": round(time.monotonic() - began, 2), "commit": commit}
            line |= {"study": config.seed}
            with (config.out / f"results_{worker}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            if result not in WRONG:
                shutil.rmtree(folder)

    workers = [
        forked(functools.partial(work, left[w::PARALLEL], w), config.out / f"worker_{w}.log")
        for w in range(PARALLEL)
    ]
    if any(ended(workers)):
        raise RuntimeError(f"a worker failed; see the logs in {config.out}")
    report(config)


def fresh(folder: Path) -> Path:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.absolute()


def results(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of all trials that are done."""
    for path in sorted(out.glob("results_*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


def row_of(line: dict[str, Any]) -> str:
    """What happened in a trial, as a row of the table names it."""
    row = f"{line['place']}: {line['action']}"
    if line.get("processes", 1) == 1:
        return row
    return f"{row}, in process {' and '.join(map(str, line['who']))} of {line['processes']}"


def report(config: Config) -> None:
    """Print places and actions against outcomes, and write them with what they depend on."""
    lines = list(results(config.out))
    counted = collections.Counter((row_of(line), line["outcome"]) for line in lines)
    outcomes = [what for what in OUTCOMES if what in {of["outcome"] for of in lines}]
    rows = sorted({row for row, _ in counted})
    widest = max(map(len, rows))
    print(f"{'':<{widest}}" + "".join(f"  {what}" for what in outcomes))
    for row in rows:
        cells = (f"  {counted[row, what] or '':>{len(what)}}" for what in outcomes)
        print(f"{row:<{widest}}" + "".join(cells).rstrip())
    total = {what: sum(n for (_, w), n in counted.items() if w == what) for what in outcomes}
    print(f"{'all':<{widest}}" + "".join(f"  {total[what]:>{len(what)}}" for what in outcomes))
    summary = {
        "trials": len(lines),
        "counted": sum(n for what, n in total.items() if what != "too late"),
        "outcomes": total,
        "table": {row: {w: counted[row, w] for w in outcomes if counted[row, w]} for row in rows},
        "commits": sorted({of["commit"] for of in lines}),
        "seed": config.seed,
        "seconds": sum(float(of["seconds"]) for of in lines),
        **runs.environment(),
    }
    runs.write_json(config.out / "summary.json", summary)


if __name__ == "__main__":
    study(tyro.cli(Annotated[Config, tyro.conf.arg(name="")], description=__doc__))
