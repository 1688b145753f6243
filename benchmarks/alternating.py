"""Measures contestants in turn, each in a fresh process, and prints medians as rows of a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

_MARK = "measured "


@contextmanager
def timed(found: dict[str, float]) -> Iterator[None]:
    """Add wall and CPU seconds of a block, all threads and finished child processes included, to `found`."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    found["wall"] = found.get("wall", 0.0) + time.perf_counter() - wall
    found["cpu"] = found.get("cpu", 0.0) + _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def hand_over(found: Any) -> None:
    """Give what was measured to the process that asked."""
    print(_MARK + json.dumps(found), flush=True)


def ask(script: str, arguments: Sequence[object], environment: dict[str, str] | None = None) -> Any:
    """Run ``script arguments`` in a fresh process and return what it hands over."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        sys.exit(f"{Path(script).name} {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}")
    return json.loads(lines[-1].removeprefix(_MARK))


def at_once(n: int, asked: Callable[[], dict[str, Any]], rates: Sequence[str] = ("rate",)) -> dict[str, Any]:
    """What `n` processes measure at once, as an audit's workers run: rates added, the rest that of the first."""
    with ThreadPoolExecutor(n) as pool:
        found = list(pool.map(lambda _: asked(), range(n)))
    return found[0] | {key: sum(one[key] for one in found) for key in rates}


def in_turn(contestants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Measure all contestants `repeats` times, every second round in reverse order; results by name, by round."""
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for turn in range(repeats):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            found[name].append(contestants[name]())
            print(f"round {turn + 1} of {repeats}: {name}: {_short(found[name][-1])}", file=sys.stderr, flush=True)
    return found


def _short(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float))


def median(values: Sequence[float]) -> float:
    """Median of the rounds."""
    return statistics.median(values)


def ratio(over: Sequence[dict[str, float]], under: Sequence[dict[str, float]], key: str) -> str:
    """Median over the rounds of the quotient of two contestants, with its range."""
    quotients = [a[key] / b[key] for a, b in zip(over, under, strict=True)]
    return f"{median(quotients):.2f} ({min(quotients):.2f}-{max(quotients):.2f})"


def table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows, the first of them the heads, as a Markdown table."""
    heads, *body = [[str(cell) for cell in row] for row in rows]
    for line in (heads, ["---"] * len(heads), *body):
        print("| " + " | ".join(line) + " |")
    print()


def differences(found: dict[str, dict[str, float]]) -> None:
    """Print what was compared, result by result."""
    heads = next(iter(found.values()))
    table([["compared", *heads]] + [[key, *(f"{value:.1e}" for value in one.values())] for key, one in found.items()])


def serve(
    options: Any,
    compare: Callable[[Any], None],
    measure: Callable[[Any], Any],
    others: dict[str, Callable[[Any], Any]] | None = None,
) -> None:
    """Compare; or, in a child, set its threads and hand over what it measured or, by its name, did otherwise."""
    if options.child is None:
        compare(options)
        return
    import torch

    torch.set_num_threads(options.threads)
    hand_over((others or {}).get(options.child, measure)(options))


def machine(*libraries: str) -> str:
    """One line on processor, load, versions and date."""
    load = os.getloadavg()[0]
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{date.today().isoformat()}; {cores} cores of {_processor()}; load before the run {load:.1f}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
