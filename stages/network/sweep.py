"""Runs the tasks of many leaves over the same images: one forward per batch and model variant, shared by all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contract import Ask, Leaf, Observe, Partial, Result, Subject, Task, Variant
from ..errors import AuditError, ModelError, StageError
from ..specs import SizedArray
from .batch import Batch
from .forward import Block, Network, Pass, names_of, run_forward, to_device
from .layers import refuse
from .variants import altered
from .visiting import Probe
from .winograd import Winograd

__all__ = ["Block", "Event", "Outcome", "run_tasks"]


@dataclass(frozen=True)
class Event:
    """Something that happened on the way and belongs into the record.

    Parameters
    ----------
    code
        Stable name: ``"batch-halved"``.
    detail
        What happened, in one line.
    """

    code: str
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Parameters
    ----------
    leaf
        Name of the leaf.
    task
        The task.
    rows
        By array path, one row per image of the task, in its order; empty where it failed.
    partial
        Partial results of its batches, folded in order.
    error
        One line that says why it failed; None where it did not.
    events
        What the record should show.
    """

    leaf: str
    task: Task
    rows: dict[str, np.ndarray]
    partial: Partial | None
    error: str | None
    events: tuple[Event, ...] = ()


def run_tasks(
    model: nn.Module,
    jobs: Sequence[tuple[Leaf, Task]],
    blocks: Iterable[Block],
    subject: Subject,
    *,
    device: str | torch.device,
    channels_last: bool,
    winograd: Winograd | None = None,
) -> list[Outcome]:
    """Run tasks that look at images.

    Parameters
    ----------
    model
        On `device` and in evaluation mode. Nothing is written on it.
    jobs
        Leaves with one of their tasks each.
    blocks
        Batches of images; each is used for every task that names any of its images, and always as a whole, so that
        the bits do not depend on who else takes part.
    subject
        What is audited.
    device
        Where to compute.
    channels_last
        Memory format of images with two spatial axes.
    winograd
        How convolutions are computed; None for PyTorch's own.

    Returns
    -------
    list of Outcome
        In the order of `jobs`.

    Raises
    ------
    ModelError
        When the model cannot be looked into, or is elsewhere.
    """
    refuse(model)
    _check_device(model, torch.device(device))
    runs = [_Run(leaf, task, subject) for leaf, task in jobs]
    limits: dict[Variant, int] = {}
    for block in blocks:
        images = to_device(block.images, model, channels_last)
        for variant in dict.fromkeys(run.task.variant for run in runs):
            group = [run for run in runs if run.task.variant == variant and run.wants(block)]
            if group:
                _Sweep(model, subject, variant, group, limits, winograd).block(block, images)
    return [run.outcome() for run in runs]


def _check_device(model: nn.Module, device: torch.device) -> None:
    for name, parameter in model.named_parameters():
        there = parameter.device
        if there.type != device.type or (device.index is not None and there.index != device.index):
            raise ModelError(f"parameter {name}: expected on {device}, got {there}; move the model there first")


def one_line(leaf: str, error: BaseException) -> str:
    """What went wrong, on one line: convaudit's own words as they are, others with leaf and type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AuditError) else f"{leaf}: {type(error).__name__}: {text}"


@dataclass
class _Run:
    """One job on its way."""

    leaf: Leaf
    task: Task
    subject: Subject
    ask: Ask = field(default_factory=Ask)
    sizes: dict[str, SizedArray] = field(default_factory=dict)
    positions: list[np.ndarray] = field(default_factory=list)
    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    partial: Partial | None = None
    error: str | None = None
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.ask = self.leaf.asks(self.subject)
            self.sizes = {array.path: array for array in self.leaf.writes(self.subject)}
            if self.task.images is None:
                raise StageError(f"{self.leaf.name}: a task without images was handed to the sweep")
            for name in (*self.ask.observe, *self.ask.keep, *(g.wrt for g in self.ask.gradients)):
                if name != "input":
                    self.subject.layer(name)
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        self.error = self.error or one_line(self.leaf.name, error)

    def wants(self, block: Block) -> bool:
        return self.error is None and bool(self.members(block).any())

    def members(self, block: Block) -> np.ndarray:
        images = self.task.images
        assert images is not None, "checked when the run was made"
        if isinstance(images, range) and images.step == 1:
            return (block.positions >= images.start) & (block.positions < images.stop)
        return np.isin(block.positions, np.asarray(images, np.int64))

    def commit(self, positions: np.ndarray, result: Result) -> None:
        """Add what a batch gave."""
        try:
            if result.partial is not None:
                first = self.partial
                self.partial = result.partial if first is None else self.leaf.combine(first, result.partial)
        except Exception as error:
            self.fail(error)
            return
        self.positions.append(positions)
        for path, rows in result.rows.items():
            self.rows.setdefault(path, []).append(rows)

    def outcome(self) -> Outcome:
        rows: dict[str, np.ndarray] = {}
        if self.error is None:
            try:
                rows = self._ordered()
            except StageError as error:
                self.fail(error)
        partial = self.partial if self.error is None else None
        return Outcome(
            self.leaf.name,
            self.task,
            rows if self.error is None else {},
            partial,
            self.error,
            tuple(dict.fromkeys(self.events)),
        )

    def _ordered(self) -> dict[str, np.ndarray]:
        images = np.asarray(self.task.images, np.int64)
        seen = np.concatenate(self.positions) if self.positions else np.zeros(0, np.int64)
        missing = np.setdiff1d(images, seen)
        if len(missing) or len(seen) != len(np.unique(seen)):
            where = f"{self.leaf.name}: the batches did not hold each image of the task once"
            raise StageError(f"{where}: {len(missing)} of {len(images)} missing, {len(seen)} seen")
        row_of = dict(zip(seen.tolist(), range(len(seen)), strict=True))
        order = [row_of[position] for position in images.tolist()]
        whole = {path: np.concatenate(parts) for path, parts in self.rows.items()}
        for path, rows in whole.items():
            if len(rows) != len(seen):
                raise StageError(
                    f"{self.leaf.name}/{path}: expected rows from every batch ({len(seen)}), got {len(rows)}"
                )
        return whole if order == list(range(len(seen))) else {path: rows[order] for path, rows in whole.items()}


@dataclass
class _Sweep:
    """One model variant over one block."""

    model: nn.Module
    subject: Subject
    variant: Variant
    runs: list[_Run]
    limits: dict[Variant, int]
    winograd: Winograd | None

    def block(self, block: Block, images: Tensor) -> None:
        pieces = [slice(0, len(block.positions))]
        while pieces and self.alive:
            rows, *rest = self._cut(pieces.pop(0))
            pieces[:0] = rest
            results = self._try(block.rows(rows), images[rows])
            if results is None:
                self._shrink(block, rows)
                pieces.insert(0, rows)
            else:
                for run, positions, result in results:
                    run.commit(positions, result)

    @property
    def alive(self) -> list[_Run]:
        return [run for run in self.runs if run.error is None]

    def _shrink(self, block: Block, rows: slice) -> None:
        # The failed attempt is out of reach by now, so that its memory is free for smaller ones.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        n = rows.stop - rows.start
        if n == 1:
            where = names_of(block.positions[rows], self.subject)
            self._fail(StageError(f"out of memory with a single image ({where}); ask for fewer layers or smaller ones"))
        self.limits[self.variant] = max(1, n - 1)

    def _cut(self, rows: slice) -> list[slice]:
        """Halve until a piece is small enough for what has gone through before."""
        n = rows.stop - rows.start
        if n <= self.limits.get(self.variant, n):
            return [rows]
        for run in self.alive:
            run.events.append(Event("batch-halved", f"out of memory: a batch of {n} images was computed in two halves"))
        middle = rows.start + (n + 1) // 2
        return [*self._cut(slice(rows.start, middle)), *self._cut(slice(middle, rows.stop))]

    def _fail(self, error: BaseException) -> None:
        for run in self.alive:
            run.fail(error)

    def _try(self, block: Block, images: Tensor) -> list[tuple[_Run, np.ndarray, Result]] | None:
        """Compute one piece; None when memory ran out, and then nothing was changed."""
        try:
            return self._compute(block, images)
        except torch.OutOfMemoryError:
            return None

    def _compute(self, block: Block, images: Tensor) -> list[tuple[_Run, np.ndarray, Result]]:
        views = {id(run): _view(run, block, images.device) for run in self.alive if run.wants(block)}
        runs = [run for run in self.alive if id(run) in views]
        if not runs:
            return []
        watching = _Observers(runs, views, self.subject)
        forward = self._forward(block, images, runs, watching)
        if forward is None:
            return []
        results = []
        for run in runs:
            if run.error is None:
                view = views[id(run)]
                batch = Batch(forward, self.subject, view.rows, watching.seen[id(run)])
                result = _process(run, batch)
                if result is not None:
                    results.append((run, batch.positions, result))
        return results

    def _forward(self, block: Block, images: Tensor, runs: list[_Run], watching: _Observers) -> Pass | None:
        ids = [self.subject.image_id[position] for position in block.positions]
        labels = np.asarray(self.subject.label)[block.positions]
        probe = Probe.union([run.ask for run in runs])
        try:
            with altered(self.model, self.variant) as state:
                fed = state.disturb(images, ids)
                network = Network(self.model, state, winograd=self.winograd)
                return run_forward(network, block, fed, labels, probe, watching)
        except torch.OutOfMemoryError:
            raise
        except AuditError as error:
            self._fail(error)
        except Exception as error:
            where = f"the model failed on images {names_of(block.positions, self.subject)} ({self.variant})"
            self._fail(ModelError(f"{where}: {one_line('', error).removeprefix(': ')}"))
        return None


@dataclass(frozen=True)
class _View:
    """Which images of a piece belong to a run."""

    rows: slice | np.ndarray
    index: slice | Tensor
    valid: Tensor


def _view(run: _Run, block: Block, device: torch.device) -> _View:
    rows = np.flatnonzero(run.members(block))
    valid = torch.from_numpy(block.valid[rows]).to(device)
    if len(rows) == rows[-1] - rows[0] + 1:
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        return _View(part, part, valid)
    return _View(rows, torch.from_numpy(rows).to(device), valid)


class _Observers:
    """Shows layers to the leaves that want them, while the forward runs."""

    def __init__(self, runs: list[_Run], views: Mapping[int, _View], subject: Subject) -> None:
        self.seen: dict[int, dict[tuple[str, str], Any]] = {id(run): {} for run in runs}
        self.views = views
        self.layers = {layer.name: layer for layer in subject.layers}
        self.watchers: dict[str, list[_Run]] = {}
        self.looks: dict[int, Observe] = {}
        for run in runs:
            try:
                self.looks[id(run)] = run.leaf.observer(subject, run.partial)
            except Exception as error:
                run.fail(error)
                continue
            for name in dict.fromkeys(run.ask.observe):
                self.watchers.setdefault(name, []).append(run)

    def __call__(self, name: str, value: Tensor) -> None:
        for run in self.watchers.get(name, ()):
            if run.error is None:
                view = self.views[id(run)]
                try:
                    found = self.looks[id(run)](self.layers[name], value[view.index], view.valid)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    run.fail(error)
                else:
                    self.seen[id(run)][run.leaf.name, name] = found


def _process(run: _Run, batch: Batch) -> Result | None:
    try:
        result = run.leaf.process(batch, run.task, run.subject)
        rows = {path: _checked(run, path, rows, batch) for path, rows in result.rows.items()}
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        run.fail(error)
        return None
    return Result(rows, result.partial)


def _checked(run: _Run, path: str, rows: np.ndarray, batch: Batch) -> np.ndarray:
    """Hold rows against what the leaf said it writes, and blank those of bad images."""
    where = f"{run.leaf.name}/{path}"
    if path not in run.sizes:
        raise StageError(f"{where}: a task wrote it, but writes() does not declare it")
    size = run.sizes[path]
    if not isinstance(rows, np.ndarray):
        raise StageError(f"{where}: expected a numpy array, got {type(rows).__name__}")
    shape, dtype = (len(batch), *size.shape[1:]), np.dtype(size.spec.dtype)
    if rows.shape != shape or rows.dtype != dtype:
        raise StageError(f"{where}: expected {dtype} {shape}, got {rows.dtype} {rows.shape}")
    if path in run.leaf.covers_invalid or batch.valid.all():
        return rows
    rows = rows.copy()
    rows[~batch.valid] = size.spec.fill
    return rows
