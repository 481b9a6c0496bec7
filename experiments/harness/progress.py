"""Progress bars on a terminal, plain lines elsewhere."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingBar:
    """Loss, rate and time left of a training run."""

    def __init__(self, steps: int, unit: str, progress: Progress | None) -> None:
        self.steps = steps
        self.unit = unit
        self.progress = progress
        self.last = (math.nan, math.nan)
        if progress is not None:
            self.task = progress.add_task("training", total=steps, status="")

    def update(self, step: int, loss: float, rate: float) -> None:
        """Show the loss and the items per second at a step."""
        self.last = (loss, rate)
        if self.progress is not None:
            status = f"loss {loss:z.3f} {self.unit}, {rate:,.0f}/s"
            self.progress.update(self.task, completed=step, status=status)

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """Leave a line with the figures of an evaluation."""
        loss, rate = self.last
        shown = "  ".join(f"{name} {value:z.4f}" for name, value in figures.items())
        line = f"step {step:>6}/{self.steps}  loss {loss:z.4f}  {shown}  {rate:,.0f}/s"
        if self.progress is None:
            print(line, flush=True)
        else:
            self.progress.print(line)


@contextmanager
def training_bar(steps: int, unit: str) -> Iterator[TrainingBar]:
    """A bar over the steps of training."""
    if not sys.stdout.isatty():
        yield TrainingBar(steps, unit, None)
        return
    with Progress(
        "{task.description}",
        BarColumn(),
        "{task.completed}/{task.total}",
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ) as progress:
        yield TrainingBar(steps, unit, progress)


@contextmanager
def counted(description: str, *, stderr: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told (done, total); a line with the description where there is no terminal.

    On standard error where standard output is for results alone.
    """
    stream = sys.stderr if stderr else sys.stdout
    if not stream.isatty():
        print(description, file=stream, flush=True)
        yield lambda done, total: None
        return
    with Progress(console=Console(stderr=stderr), transient=True) as progress:
        task = progress.add_task(description)
        yield lambda done, total: progress.update(task, completed=done, total=total)
