"""What a person sees while a run works: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as Row
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)
_LINE_SECONDS = 15.0
_BAR_WIDTH = 20  # the whole line fits 80 columns


def pace(done: float, total: float, seconds: float, unit: str) -> str:
    """Say how fast it goes and how long it will take: ``"1,171 images/s, 12 s left"``; nothing before there is a rate.

    Parameters
    ----------
    done
        How much was done in `seconds`.
    total
        How much there was to do then, done or not.
    seconds
        Time it took.
    unit
        Of what.
    """
    if not done or seconds <= 0:
        return ""
    rate = done / seconds
    left = round((total - done) / rate)
    hours, minutes = left // 3600, left // 60 % 60
    time_left = f"{hours} h {minutes} min" if hours else f"{minutes} min" if left >= 120 else f"{left} s"
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    return f"{shown} {unit}/s, {time_left} left"


class _Pace(ProgressColumn):
    """Rate and time left, from what this run has done."""

    def render(self, task: Row) -> Text:
        """Show them from the first finished piece on."""
        first = task.fields["first"]
        total = (task.total or 0) - first
        return Text(pace(task.completed - first, total, task.fields["seconds"], task.fields["unit"]))


class Meter:
    """Counts what is done and says so.

    Parameters
    ----------
    label
        What is being done.
    total
        How much there is.
    unit
        Of what: images, tasks.
    done
        How much an earlier run has finished.
    """

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._at_start = done
        self._began = self._said = time.monotonic()
        self._progress: Progress | None = None

    def advance(self, count: int, now: str) -> None:
        """Count `count` more; `now` names the piece that was finished last."""
        self.done += count
        seconds = time.monotonic() - self._began
        if self._progress is not None:
            self._progress.update(self._row, completed=self.done, now=now, seconds=seconds)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            told = pace(self.done - self._at_start, self.total - self._at_start, seconds, self.unit)
            console.print(f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {told}, {now}")

    @contextlib.contextmanager
    def shown(self) -> Iterator[Meter]:
        """Show a bar for as long as the work goes on, where there is a terminal."""
        if not (console.is_terminal and self.total):
            yield self
            return
        name = TextColumn("{task.description}")
        # A bar of a single piece would stand at nothing until it is over.
        columns = (SpinnerColumn(), name, TimeElapsedColumn()) if self.total == 1 else (
            name, BarColumn(_BAR_WIDTH), MofNCompleteColumn(), _Pace(), TextColumn("{task.fields[now]}"),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as shown:
            self._progress = shown
            self._row = shown.add_task(
                self.label, total=self.total, completed=self.done, now="", unit=self.unit, first=self.done, seconds=0.0
            )
            yield self
        self._progress = None
