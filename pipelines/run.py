"""One audit from config to verdict, and its parts as DVC runs them.

`audit` does everything; `sweep`, `check` and `report` do the same work for the stages of a DVC pipeline, where the
results of earlier stages are taken from the run's folder as they are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..reports.build import PAGES, build_pages, build_report
from ..stages.contract import Leaf
from ..stages.errors import ConfigError, DataError, StoreError, did_you_mean
from ..stages.verdicts.junit import junit
from . import subject as subjects
from .config import Config, as_yaml
from .engine import Session, adopt, check_asks, execute
from .models.source import ResolvedModel
from .plan import Plan, make_plan
from .progress import console
from .reference import trained_checkpoint
from .store import FOLDERS, RunStore
from .workspace import Workspace, publish_stage

#: Config keys that say where and by whom, not what; the report is the same without them.
_NOT_EVIDENCE = ("run", "work", "cluster", "tracking")


def audit(config: Config) -> Mapping[str, Any]:
    """Run every selected stage and what it reads, then verdict and report; return the verdict's notes.

    Raises
    ------
    AuditError
        When there is nothing to judge: no data, no model, too many bad images.
    """
    plan = make_plan(_without_reference(config), [*_wanted(config), "verdicts"])
    _perform(config, plan, plan, renewed=FOLDERS)
    _write(config.run / "config.yaml", as_yaml(config.resolved))
    return report(config)


def sweep(config: Config) -> None:
    """Run only the stages that look at the model and read no other stage; write ``run/store``."""
    stages = _without_reference(config)
    everything = make_plan(stages, _wanted(config))
    wanted = _stages_of(everything.leaves)
    plan = make_plan(stages, [name for name in wanted if in_store(stages[name].leaves())])
    _say_failures(_perform(config, plan, everything, renewed=("store",)))


def _perform(config: Config, plan: Plan, checked: Plan, renewed: Sequence[str]) -> Session:
    """Run a plan on model and data; `checked` is what must fit them before anything runs."""
    workspace = Workspace(config.work)
    with workspace.locked():
        withdraw_verdict(config.run)
        index = config.data.index()
        config.cluster.prepare(len(index.table))
        model = resolve_model(config, workspace)
        audited = subjects.examine(config, index, model)
        check_asks(checked, audited)
        began = time.perf_counter()
        with Session(config, workspace, audited, model) as session:
            console.print(_opening(config, session))
            execute(session, plan, stop=refuse_bad_images)
        _publish_stages(session, plan, renewed=renewed)
        _write_timings(config.run, session.timings, time.perf_counter() - began)
    return session


def check(config: Config, stage: str) -> None:
    """Run one stage on what `run` holds already; write ``run/checks/<stage>.zarr``.

    Raises
    ------
    ConfigError
        When there is no such stage.
    StoreError
        When something it reads is not there.
    """
    stages = _without_reference(config)
    if stage not in stages:
        raise ConfigError(f"check: no stage is called {stage!r}{did_you_mean(stage, stages)}")
    workspace = Workspace(config.work)
    with workspace.locked():
        given = RunStore(config.run)
        whole = make_plan(stages, [*_wanted(config), stage])
        plan = _only(whole, stage)
        audited = subjects.from_run(config.run)
        looks = any(leaf.sweeps or leaf.inspects for leaf in plan.leaves.values())
        model = resolve_model(config, workspace) if looks else None
        began = time.perf_counter()
        with Session(config, workspace, audited, model) as session:
            # What the stage reads of itself is computed on the way.
            adopt(session, {need for name in plan.leaves for need in plan.needs[name]} - set(plan.leaves), given)
            execute(session, plan)
        _publish_stages(session, plan, renewed=())
        timings = {name: row for name, row in session.timings.items() if name in plan.leaves}
        _write_timings(config.run, timings, time.perf_counter() - began, keep=True)
    _say_failures(session, plan.leaves)


def report(config: Config) -> Mapping[str, Any]:
    """Write verdict, JUnit XML, report and its pages from what `run` holds; return the verdict's notes."""
    store = RunStore(config.run)
    if "verdicts" not in store.leaves():
        raise StoreError(f"{config.run}: there is no verdict; run `convaudit check verdicts` first")
    reason = store.failure("verdicts")
    notes = dict(store.summary("verdicts").notes) if reason is None else _unjudged(reason)
    evidence = {key: value for key, value in config.resolved.items() if key not in _NOT_EVIDENCE}
    _renew(config.run / PAGES, build_pages(store, evidence, config.report))
    _write(config.run / "report.html", build_report(store, evidence, config.report))
    _write(config.run / "junit.xml", junit(notes))
    _write(config.run / "verdict.json", json.dumps(notes, indent=1, sort_keys=True) + "\n")
    return notes


def _unjudged(reason: str) -> dict[str, Any]:
    """Notes of a verdict that could not be reached."""
    failures = [{"leaf": "verdicts", "reason": reason}]
    return {
        "verdict": "ERROR", "gates": [], "failures": failures, "error_findings": 0, "accuracy": None, "reason": reason,
    }  # fmt: skip


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _renew(folder: Path, texts: Mapping[str, str]) -> None:
    """Write a folder of files whole, so that none of an earlier run stays in it."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    _remove(temporary)
    temporary.mkdir(parents=True)
    for name, text in texts.items():
        (temporary / name).write_text(text, encoding="utf-8")
    _remove(folder)
    temporary.replace(folder)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def withdraw_verdict(run: Path) -> None:
    """Remove the last verdict before anything runs: one that a crash leaves behind would be read as tonight's."""
    _remove(run / PAGES)
    for name in ("verdict.json", "junit.xml", "report.html", "nightly.html"):
        (run / name).unlink(missing_ok=True)


def resolve_model(config: Config, workspace: Workspace) -> ResolvedModel:
    """Find the model's weights; the default model trains them on its first run."""
    source = config.model
    if getattr(source, "needs_reference", False):
        source = dataclasses.replace(source, checkpoint=str(trained_checkpoint(config, workspace)))
    return source.resolve(config.work)


def in_store(leaves: Iterable[Leaf]) -> bool:
    """Whether a stage's results lie in ``run/store``; else in ``run/checks``.

    They do where all its leaves look at the model and read no other stage.
    """
    return all((leaf.sweeps or leaf.inspects) and set(_stages_of(leaf.reads)) <= {_stage(leaf.name)} for leaf in leaves)


def _wanted(config: Config) -> list[str]:
    """Name the stages that were asked for, and predictions: no verdict without the images that could not be used."""
    return ["predictions", *config.selected]


def _without_reference(config: Config) -> dict[str, Any]:
    if "reference" in config.selected:
        raise ConfigError("stages: reference runs by itself where the model needs it; take it out of the list")
    return {name: stage for name, stage in config.stages.items() if name != "reference"}


def _stage(leaf: str) -> str:
    return leaf.partition("/")[0]


def _stages_of(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_stage(name) for name in names))


def _only(plan: Plan, stage: str) -> Plan:
    """Keep one stage's leaves of a plan, with what they need."""
    leaves = {name: leaf for name, leaf in plan.leaves.items() if name.partition("/")[0] == stage}
    return Plan(leaves, plan.needs)


def refuse_bad_images(session: Session) -> None:
    """Stop where more images are bad than the data set's owner allows.

    Raises
    ------
    DataError
        With the first of them and the file that lists all.
    """
    if "predictions" not in session.stored:
        return
    status = np.asarray(session.view()["predictions/status"][:])
    bad = np.flatnonzero(status > 0)
    allowed = session.config.data.max_bad_fraction
    if len(bad) <= allowed * len(status):
        return
    rows = session.view().summary("predictions").notes["bad"]
    listing = session.config.work / "bad_images.json"
    listing.write_text(json.dumps(rows, indent=1) + "\n")
    first = "; ".join(f"{row['id']}: {row['reason']}" for row in rows[:3])
    raise DataError(
        f"data: {len(bad)} of {len(status)} images are bad, more than data.max_bad_fraction={allowed} allows: "
        f"{first}{'; ...' if len(rows) > 3 else ''} (all in {listing})"
    )


def _opening(config: Config, session: Session) -> str:
    subject = session.audited.subject
    shape = " x ".join(str(length) for length in subject.input_shape)
    return (
        f"auditing {subject.n_image:,} images ({shape}, {subject.n_class} classes), "
        f"{len(subject.layers)} layers, batch {subject.batch}, {config.numerics.threads} torch thread(s) a task"
        f"{_told(session.audited.facts['numerics'])}"
    )


def _told(numerics: Mapping[str, Any]) -> str:
    """Which convolutions are not PyTorch's."""
    found = numerics.get("winograd")
    return f", {found['served']} of {found['convolutions']} convolutions by Winograd" if found else ""


def _publish_stages(session: Session, plan: Plan, renewed: Sequence[str]) -> None:
    """Put everything finished, and every failure, into the run; `renewed` folders keep nothing else."""
    run = session.config.run
    stages = {
        stage: [leaf for leaf in plan.leaves.values() if _stage(leaf.name) == stage]
        for stage in _stages_of(plan.leaves)
    }
    folders = {stage: run / ("store" if in_store(leaves) else "checks") for stage, leaves in stages.items()}
    if renewed:
        session.audited.write(run / "store")
    kept = {folder / f"{stage}.zarr" for stage, folder in folders.items()}
    for path in [path for folder in renewed for path in (run / folder).glob("*.zarr")]:
        if path not in kept:
            shutil.rmtree(path)
    for stage, leaves in stages.items():
        stored = {leaf.name: session.stored[leaf.name] for leaf in leaves if leaf.name in session.stored}
        failures = {leaf.name: session.failures[leaf.name] for leaf in leaves if leaf.name in session.failures}
        publish_stage(folders[stage], stage, stored, failures)


def _say_failures(session: Session, names: Sequence[str] | Mapping[str, Leaf] | None = None) -> None:
    failed = {name: reason for name, reason in session.failures.items() if names is None or name in names}
    for reason in failed.values():
        console.print(f"failed: {reason}", style="bold")


def _write_timings(run: Path, timings: Mapping[str, Any], seconds: float, keep: bool = False) -> None:
    """Note how long things took, for tonight's page; never part of the evidence."""
    path = run / "timings.json"
    before = json.loads(path.read_text()) if keep and path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(before | dict(timings) | {"total": {"seconds": seconds}}, indent=1, sort_keys=True) + "\n")
