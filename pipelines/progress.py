"""What a person sees while a run works: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Row
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)
_LINE_SECONDS = 15.0


class _Rate(ProgressColumn):
    """Images, or whatever is counted, per second."""

    def render(self, task: Row) -> Text:
        """Show the rate once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")


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
        if self._progress is not None:
            self._progress.update(self._row, completed=self.done, now=now)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            rate = (self.done - self._at_start) / (self._said - self._began)
            left = (self.total - self.done) / rate if rate else float("inf")
            console.print(
                f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left, {now}"
            )

    @contextlib.contextmanager
    def shown(self) -> Iterator[Meter]:
        """Show a bar for as long as the work goes on, where there is a terminal."""
        if not console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as self._progress:
            self._row = self._progress.add_task(
                self.label, total=self.total, completed=self.done, now="", unit=self.unit
            )
            yield self
        self._progress = None
