"""What a worker process does with a task: build the model once, decode, sweep, write.

Only a path to the job travels with a task; the model is loaded here from its file and kept, never pickled.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ..stages.contract import Leaf, Result, Subject, Task
from ..stages.errors import AuditError, ClusterError
from . import store
from .allocator import tune_allocator
from .datasets.prefetch import blocks
from .datasets.source import DataSource
from .fingerprint import Numerics
from .models.source import ResolvedModel
from .workspace import Attempt, write_partial


@dataclass(frozen=True)
class Job:
    """Everything the tasks of one map have in common; pickled once to a file in the work folder.

    Parameters
    ----------
    leaves
        The leaves by name.
    tasks
        Each leaf's tasks.
    attempts
        Folder of each leaf's attempt.
    stored
        Folder of every finished leaf's group.
    subject, table
        What is audited; `table` is the file of the image index.
    model, data
        Where model and images come from; None where no task looks at images.
    numerics
        Threads, device and format; the subject knows the batch.
    """

    leaves: Mapping[str, Leaf]
    tasks: Mapping[str, Sequence[Task]]
    attempts: Mapping[str, Path]
    stored: Mapping[str, Path]
    subject: Subject
    table: Path
    model: ResolvedModel | None
    data: DataSource | None
    numerics: Numerics

    @property
    def channels_last(self) -> bool:
        """Whether image tensors lie in memory with their channels last; only images with two axes can."""
        return self.numerics.memory_format == "channels_last" and len(self.subject.axes) == 2


@dataclass(frozen=True)
class TaskReport:
    """What the driver hears of a task; the rest is on disk.

    Parameters
    ----------
    seconds
        Wall time.
    images
        Images looked at.
    errors
        Reason by leaf, for each leaf that failed here.
    events
        ``(code, detail)`` of what made the bytes depend on this machine's state.
    """

    seconds: float
    images: int
    errors: Mapping[str, str] = field(default_factory=dict)
    events: tuple[tuple[str, str], ...] = ()


@contextlib.contextmanager
def fixed_arithmetic(numerics: Numerics) -> Iterator[None]:
    """Compute with the threads and the rounding that the config names, whatever the process was started with.

    Convolutions on a GPU neither choose their kernel by stopwatch nor round to TF32, and sums have a fixed order where
    torch has such a kernel; it warns where it has none.
    """
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(numerics.threads)
    if numerics.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with (
            threadpool_limits(numerics.threads),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)


@lru_cache(maxsize=2)
def _job(path: str) -> Job:
    try:
        with open(path, "rb") as file:
            return pickle.load(file)  # written by this run's driver into the work folder
    except FileNotFoundError as error:
        raise ClusterError(
            f"cluster: a worker cannot see {path}; driver and workers must share the work folder"
        ) from error


_built: dict[tuple[str, str, bool], Any] = {}


def _model(job: Job) -> Any:
    """Build the model once per process; what tells models apart is the digest of their weights, not the job."""
    import torch

    assert job.model is not None, "tasks that look at the model come with it"
    key = (job.model.digest, job.numerics.device, job.channels_last)
    if key not in _built:
        _built.clear()
        model = job.model.build().to(job.numerics.device)
        _built[key] = model.to(memory_format=torch.channels_last) if job.channels_last else model
    return _built[key]


@lru_cache(maxsize=1)
def _winograd() -> Any:
    """One per process, since it keeps what it has made of the weights."""
    from ..stages.network.winograd import Winograd

    return Winograd()


@lru_cache(maxsize=1)
def _reader(path: str) -> Any:
    job = _job(path)
    assert job.data is not None, "tasks with images come with data"
    return job.data.reader(pd.read_parquet(job.table))


def sweep(path: str, positions: range | tuple[int, ...], names: Mapping[str, int]) -> TaskReport:
    """Run the tasks of several leaves that look at the same images.

    Parameters
    ----------
    path
        File of the job.
    positions
        The images.
    names
        Position of the task in each leaf's list, by ``leaf`` or ``leaf@task`` where a leaf has several.
    """
    from ..stages.network.sweep import run_tasks

    began = time.perf_counter()
    job = _job(path)
    tune_allocator()
    chosen = [(key.partition("@")[0], number) for key, number in names.items()]
    with fixed_arithmetic(job.numerics):
        decoded = blocks(
            _reader(path), positions, job.subject.batch, max(1, job.numerics.threads), job.subject.input_shape
        )
        outcomes = run_tasks(
            _model(job),
            [(job.leaves[leaf], job.tasks[leaf][number]) for leaf, number in chosen],
            decoded,
            job.subject,
            device=job.numerics.device,
            channels_last=job.channels_last,
            winograd=_winograd() if job.numerics.convolution == "winograd" else None,
        )
    errors: dict[str, str] = {}
    events: list[tuple[str, str]] = []
    for (leaf, number), outcome in zip(chosen, outcomes, strict=True):
        events.extend((event.code, event.detail) for event in outcome.events)
        error = outcome.error or _keep(job, leaf, number, outcome.rows, outcome.partial)
        if error:
            errors[leaf] = error
    return TaskReport(time.perf_counter() - began, len(positions), errors, tuple(dict.fromkeys(events)))


def compute(path: str, leaf: str, number: int) -> TaskReport:
    """Run one task that looks at no images."""
    began = time.perf_counter()
    job = _job(path)
    task = job.tasks[leaf][number]
    view = store.StoreView({**job.stored, leaf: Attempt(job.attempts[leaf], np.zeros(0, bool)).group})
    with fixed_arithmetic(job.numerics):
        try:
            result = _without_images(job, job.leaves[leaf], task, view)
        except Exception as error:
            return TaskReport(time.perf_counter() - began, 0, {leaf: describe(leaf, error)})
    failed = _keep(job, leaf, number, result.rows, result.partial)
    return TaskReport(time.perf_counter() - began, 0, {leaf: failed} if failed else {})


def _without_images(job: Job, leaf: Leaf, task: Task, view: store.StoreView) -> Result:
    if leaf.inspects:
        return leaf.inspect(_model(job), task, job.subject, view)
    return leaf.compute(task, job.subject, view)


def _keep(job: Job, leaf: str, number: int, rows: Mapping[str, Any], partial: Mapping[str, Any] | None) -> str | None:
    """Write what a task gave; return why it could not be written."""
    attempt = Attempt(job.attempts[leaf], np.zeros(0, bool))
    try:
        store.write_rows(attempt.group, rows, job.tasks[leaf][number].start)
        if partial is not None:
            write_partial(attempt.partial_path(number), partial)
    except (AuditError, OSError) as error:
        return describe(leaf, error)
    return None


def describe(leaf: str, error: BaseException) -> str:
    """One line on an exception: convaudit's own words as they are, others with their type and where they came from."""
    text = " ".join(str(error).split())
    if isinstance(error, AuditError):
        return text
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    where = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame else ""
    return f"{leaf}: {type(error).__name__}: {text}{where}"
