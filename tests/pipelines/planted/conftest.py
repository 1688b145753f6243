"""Whole audits of models and data in which a fault was planted: each has to find it, say so, and never pass it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file, save_file

from convaudit.pipelines import run as runs
from convaudit.pipelines.store import RunStore
from convaudit.stages.specs import Finding

WHOLE = ("cluster=inprocess", "tracking=none", "numerics.batch=64", "numerics.shard=256")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Outcome:
    """What an audit left behind."""

    run: Path
    verdict: dict

    @property
    def store(self) -> RunStore:
        return RunStore(self.run)

    @property
    def page(self) -> str:
        return (self.run / "report.html").read_text()

    @property
    def findings(self) -> dict[str, Finding]:
        store = self.store
        done = [leaf for leaf in store.leaves() if store.failure(leaf) is None]
        return {found.code: found for leaf in done for found in store.summary(leaf).findings}

    @property
    def gates(self) -> dict[str, str]:
        return {gate["name"]: gate["status"] for gate in self.verdict["gates"]}

    def value(self, name: str) -> float:
        return {m.name: m.value for m in self.store.summary(name.split("/")[0]).measurements}[name]

    def order(self) -> list[str]:
        """Codes of the findings as they stand on the page."""
        body = self.page[self.page.index('<section id="findings"') :]
        places = {code: body.find(str(escape(found.title))) for code, found in self.findings.items()}
        assert min(places.values(), default=0) >= 0, places
        return sorted(places, key=lambda code: places[code])


@pytest.fixture
def audited(configure, tmp_path) -> Callable[..., Outcome]:
    def audit(*overrides: str, small: tuple[str, ...] = WHOLE) -> Outcome:
        notes = runs.audit(configure(tmp_path, *overrides, small=small))
        assert json.loads((tmp_path / "run" / "verdict.json").read_text())["verdict"] == notes["verdict"]
        return Outcome(tmp_path / "run", dict(notes))

    return audit


@pytest.fixture
def planted(digits, tmp_path) -> Callable[..., str]:
    """Override for a copy of the default weights that a function has changed."""

    def plant(change: Callable[[dict[str, torch.Tensor]], None]) -> str:
        weights = {name: value.clone() for name, value in load_file(digits.weights).items()}
        change(weights)
        save_file(weights, tmp_path / "planted.safetensors")
        return f"model.checkpoint={tmp_path / 'planted.safetensors'}"

    return plant


@pytest.fixture
def given(digits, tmp_path) -> Callable[..., tuple[str, ...]]:
    """Overrides for an npz file of digits that a function has changed."""

    def give(change: Callable[[dict[str, np.ndarray]], None], n: int = 540) -> tuple[str, ...]:
        with np.load(digits.data) as stored:
            held = {"images": stored["images"][:n].copy(), "labels": stored["labels"][:n].copy()}
        held["class_names"] = np.array(DIGITS)
        change(held)
        np.savez(tmp_path / "given.npz", **held)
        return ("data=arrays", f"data.path={tmp_path / 'given.npz'}")

    return give
