"""Runs the leaves of a plan: skips what is sealed, maps the tasks of the rest, folds, seals.

The leaves that are ready together and look at images share one pass over the data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pickle
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..stages.contract import Leaf, Task
from ..stages.errors import ConfigError, StoreError
from ..stages.specs import Finding, Summary
from . import worker
from .config import Config
from .executors import Executor, Inprocess
from .fingerprint import leaf_fingerprint
from .models.source import ResolvedModel
from .plan import Plan
from .progress import Meter, console
from .store import RunStore, StoreView, digest
from .subject import Audited
from .workspace import Attempt, Workspace

_numbers = itertools.count()


@dataclass
class Session:
    """One driver's work: what it audits, and what it has so far.

    Parameters
    ----------
    config, workspace, audited, model
        What to do, where, on what; `model` is None where nothing looks at images.
    stored, digests
        Folder and content digest of every finished leaf.
    failures
        Reason of every leaf that failed.
    timings
        For each leaf: seconds, images per second, tasks, and whether it was sealed before.
    """

    config: Config
    workspace: Workspace
    audited: Audited
    model: ResolvedModel | None = None
    stored: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    _executor: Executor | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def executor(self) -> Executor:
        """Start the cluster on first use; it stays until the session is closed."""
        if self._executor is None:
            opened = self.config.cluster.open(self.audited.subject.n_image, self.config.numerics.threads)
            self._executor = self._open.enter_context(opened)
        return self._executor

    def __enter__(self) -> Session:
        """Do nothing yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the cluster."""
        self._open.close()

    def view(self) -> StoreView:
        """Show what is finished."""
        return StoreView(self.stored, self.failures)


@dataclass
class _Work:
    """One leaf between plan and seal."""

    leaf: Leaf
    fingerprint: Mapping[str, Any]
    tasks: Sequence[Task]
    attempt: Attempt
    events: set[tuple[str, str]] = field(default_factory=set)
    seconds: float = 0.0


def check_asks(plan: Plan, audited: Audited) -> None:
    """Let every leaf say what it writes and asks, so that a wrong layer or target stops the run before it begins.

    Raises
    ------
    ConfigError
        What the leaf says about its settings.
    """
    for name, leaf in plan.leaves.items():
        try:
            leaf.writes(audited.subject)
            leaf.asks(audited.subject)
        except ConfigError as error:
            raise error if str(error).startswith(name) else ConfigError(f"{name}: {error}") from error


def execute(session: Session, plan: Plan, stop: Callable[[Session], None] | None = None) -> None:
    """Run every leaf of a plan; one that fails is recorded, and so are those that need it.

    Parameters
    ----------
    session
        Where results are gathered.
    plan
        What to run.
    stop
        Called after each pass over the images; what it raises ends the run, with finished work kept.
    """
    waiting = [name for name in plan.leaves if name not in session.stored]
    while waiting:
        settled = {*session.stored, *session.failures}
        ready = [name for name in waiting if settled.issuperset(plan.needs[name])]
        waiting = [name for name in waiting if name not in ready]
        blocked = {name: _blocked(name, plan, session) for name in ready}
        session.failures |= {name: reason for name, reason in blocked.items() if reason}
        fresh = [name for name in ready if not blocked[name] and not _reuse(session, plan, name)]
        sweeping = [name for name in fresh if plan.leaves[name].sweeps]
        _run(session, plan, sweeping, "sweep")
        if sweeping and stop is not None:
            stop(session)
        for name in fresh:
            if name not in sweeping:
                _run(session, plan, [name], name)


def _blocked(name: str, plan: Plan, session: Session) -> str | None:
    failed = [need for need in plan.needs[name] if need in session.failures]
    if not failed or plan.forgives(name):
        return None
    return f"{name}: not run, since it reads {failed[0]}, which failed"


def _fingerprint(session: Session, plan: Plan, name: str) -> dict[str, Any]:
    leaf = plan.leaves[name]
    reads = {need: session.digests.get(need, "failed: " + session.failures.get(need, "")) for need in plan.needs[name]}
    return leaf_fingerprint(leaf.config, type(leaf).__module__, leaf.sweeps, session.audited.digest, reads)


def _reuse(session: Session, plan: Plan, name: str) -> bool:
    found = session.workspace.sealed(_fingerprint(session, plan, name))
    if found is None:
        return False
    session.stored[name], session.digests[name] = found
    session.timings[name] = {"seconds": 0.0, "images_per_second": None, "tasks": 0, "from_cache": True}
    return True


def _run(session: Session, plan: Plan, names: Sequence[str], label: str) -> None:
    """Run leaves together from first task to seal."""
    works = [work for name in names if (work := _begin(session, plan, name))]
    if not works:
        return
    job, payloads, function = _write_job(session, works), _payloads(works), _function(works)
    total = sum(_weight(payload) for payload in payloads)
    finished = sum(_weight(payload) for payload in _payloads(works, unfinished_only=False)) - total
    if finished:
        tasks = [f"{int(work.attempt.done.sum())} of {len(work.tasks)} tasks of {work.leaf.name}" for work in works]
        console.print(f"resume: {', '.join(tasks)} are finished")
    unit = "images" if function is worker.sweep else "tasks"
    began = time.perf_counter()
    with Meter(label, total + finished, unit, finished).shown() as meter:
        _map(session, works, function, [(str(job), *payload) for payload in payloads], meter)
    seconds = time.perf_counter() - began
    for work in works:
        if work.leaf.name not in session.failures:
            work.seconds = seconds
            _seal(session, work, total / seconds if unit == "images" and total else None)
    job.unlink()
    job.with_suffix(".parquet").unlink()


def _begin(session: Session, plan: Plan, name: str) -> _Work | None:
    leaf, subject = plan.leaves[name], session.audited.subject
    try:
        fingerprint = _fingerprint(session, plan, name)
        tasks = list(leaf.tasks(subject, session.view()))
        attempt = session.workspace.attempt(name, fingerprint, len(tasks), leaf.writes(subject), subject.shard)
    except ConfigError:
        raise
    except Exception as error:
        session.failures[name] = worker.describe(name, error)
        return None
    return _Work(leaf, fingerprint, tasks, attempt)


def _write_job(session: Session, works: Sequence[_Work]) -> Path:
    jobs = session.workspace.root / "jobs"
    # Processes remember jobs by path, and one process may see several sessions: no path is used twice.
    path = jobs / f"{session.workspace.token}.{next(_numbers)}.pkl"
    table = path.with_suffix(".parquet")
    session.audited.table.to_parquet(table, index=False)
    job = worker.Job(
        leaves={work.leaf.name: work.leaf for work in works},
        tasks={work.leaf.name: work.tasks for work in works},
        attempts={work.leaf.name: work.attempt.path.resolve() for work in works},
        stored={name: path.resolve() for name, path in session.stored.items()},
        subject=session.audited.subject,
        table=table.resolve(),
        model=session.model,
        data=session.config.data.anchored(),
        numerics=session.config.numerics,
    )
    path.write_bytes(pickle.dumps(job))
    return path.resolve()


def _function(works: Sequence[_Work]) -> Callable[..., worker.TaskReport]:
    return worker.sweep if works[0].leaf.sweeps else worker.compute


def _payloads(works: Sequence[_Work], unfinished_only: bool = True) -> list[tuple[Any, ...]]:
    """Unite the tasks that look at the same images; tasks without images stand alone."""
    shared: dict[Any, dict[str, int]] = {}
    alone: list[tuple[Any, ...]] = []
    for work in works:
        for number, task in enumerate(work.tasks):
            if unfinished_only and work.attempt.done[number]:
                continue
            if task.images is None:
                alone.append((work.leaf.name, number))
            else:
                shared.setdefault(task.images, {})[f"{work.leaf.name}@{number}"] = number
    return [*shared.items(), *alone]


def _weight(payload: tuple[Any, ...]) -> int:
    """Images of a pass, or one for a task without."""
    return 1 if isinstance(payload[0], str) else len(payload[0])


def _map(
    session: Session,
    works: Sequence[_Work],
    function: Callable[..., worker.TaskReport],
    payloads: Sequence[tuple[Any, ...]],
    meter: Meter,
) -> None:
    by_name = {work.leaf.name: work for work in works}
    executor = session.executor() if len(payloads) > 1 or function is worker.sweep else Inprocess()
    for position, report in executor.map(function, payloads):
        payload = payloads[position]
        tasks = _tasks_of(payload)
        if isinstance(report, BaseException):
            reason = f"{_where(payload)}: {worker.describe(next(iter(tasks))[0], report)}"
            session.failures |= {name: reason for name, _ in tasks}
            continue
        for name, number in tasks:
            by_name[name].events.update(report.events)
            if name in report.errors:
                session.failures.setdefault(name, report.errors[name])
            else:
                by_name[name].attempt.mark(number)
        meter.advance(_weight(payload[1:]), _where(payload))


def _tasks_of(payload: tuple[Any, ...]) -> list[tuple[str, int]]:
    _, first, second = payload
    if isinstance(first, str):
        return [(first, second)]
    return [(key.partition("@")[0], number) for key, number in second.items()]


def _where(payload: tuple[Any, ...]) -> str:
    _, first, second = payload
    if isinstance(first, str):
        return f"{first} task {second}"
    return f"images {first[0]}-{first[-1]}"


def _seal(session: Session, work: _Work, rate: float | None) -> None:
    """Fold a leaf's partial results in task order and make its group final."""
    name = work.leaf.name
    view = StoreView({**session.stored, name: work.attempt.group}, session.failures)
    began = time.perf_counter()
    try:
        with worker.fixed_arithmetic(session.config.numerics):
            summary = work.leaf.finish(work.attempt.partials(), session.audited.subject, view)
        summary = _with_events(summary, sorted(work.events), name)
        path, digest = session.workspace.seal(work.attempt, name, work.fingerprint, summary)
    except Exception as error:
        session.failures[name] = worker.describe(name, error)
        return
    session.stored[name], session.digests[name] = path, digest
    seconds = work.seconds + time.perf_counter() - began
    session.timings[name] = {
        "seconds": seconds, "images_per_second": rate, "tasks": len(work.tasks), "from_cache": False
    }  # fmt: skip


def _with_events(summary: Summary, events: Iterable[tuple[str, str]], name: str) -> Summary:
    """Add a finding for whatever keeps the bytes from being the same next time."""
    findings = tuple(
        Finding(
            f"{name.partition('/')[0]}/{code}", "warning", f"{name}: {detail}", "This run is not byte-reproducible."
        )
        for code, detail in events
    )
    return dataclasses.replace(summary, findings=(*summary.findings, *findings))


def adopt(session: Session, names: Iterable[str], given: RunStore) -> None:
    """Take leaves from a run's folder as they are, as a stage that runs by itself does.

    Raises
    ------
    StoreError
        When a leaf is neither there nor known to have failed.
    """
    for name in names:
        failed = given.failure(name)
        if failed:
            session.failures[name] = failed
            continue
        if name not in given.leaves():
            raise StoreError(f"{given.path}: {name} is missing; run `convaudit sweep` and the checks before it first")
        session.stored[name] = given.group(name)
        session.digests[name] = digest(given.group(name))
