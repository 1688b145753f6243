"""What a person sees while a run works."""

import io

import pytest
from rich.console import Console

from convaudit.pipelines import progress


@pytest.mark.parametrize(
    ("done", "total", "seconds", "expected"),
    [
        (0, 540, 3.0, ""),
        (256, 540, 0.0, ""),
        (256, 512, 2.0, "128 images/s, 2 s left"),
        (5, 10, 2.0, "2.5 images/s, 2 s left"),
        (100, 60_100, 10.0, "10 images/s, 1 h 40 min left"),
        (100, 3_100, 10.0, "10 images/s, 5 min left"),
        (50_000, 50_000, 10.0, "5,000 images/s, 0 s left"),
    ],
)
def test_pace(done, total, seconds, expected):
    assert progress.pace(done, total, seconds, "images") == expected


def shown(monkeypatch, total: int, done: int = 0, terminal: bool = True) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80, highlight=False, soft_wrap=True)
    monkeypatch.setattr(progress, "console", console)
    clock = iter(range(100, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.Meter("sweep", total, "images", done).shown() as meter:
        for start in range(done, total, 256):
            meter.advance(min(256, total - start), f"images {start}-{start + 255}")
            if meter._progress is not None:
                meter._progress.refresh()
    return stream.getvalue()


def test_a_terminal_shows_rate_time_left_and_the_shard_in_hand(monkeypatch):
    text = shown(monkeypatch, 1024)
    assert "images/s" in text
    assert "s left" in text
    assert "images 256-511" in text


def test_a_resumed_run_counts_its_own_rate_only(monkeypatch):
    text = shown(monkeypatch, 100_512, done=100_000, terminal=False)
    rates = [int(word) for line in text.splitlines() for word in [line.split(", ")[-3].split()[0]]]
    assert rates
    assert max(rates) <= 26, text


def test_nothing_to_do_shows_nothing(monkeypatch):
    assert shown(monkeypatch, 0) == ""
