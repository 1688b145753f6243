"""Unfinished and sealed work below the `work` folder, and how it gets into a run.

::

    lock                        held by the driver of a run
    attempts/<fingerprint>.<token>/
        group/                  the leaf's Zarr group, being written by workers
        partials/<task>.npz     partial results, one file a task
        done.npy                which tasks are finished; written by the driver alone
    sealed/<fingerprint>/       a finished group; never changed again
    sealed/<fingerprint>.json   what it depends on, and the digest of its bytes

A resumed attempt is renamed to the new driver's token, so that a worker whose driver died writes where nobody looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..stages.errors import StoreError
from ..stages.specs import SizedArray, Summary
from . import store
from .fingerprint import hashed

_FOLDERS = ("attempts", "sealed", "jobs")


@dataclass
class Attempt:
    """A leaf's work between its first task and its seal.

    Parameters
    ----------
    path
        Its folder.
    done
        Which tasks are finished. Shape ``(task,)``.
    """

    path: Path
    done: np.ndarray

    @property
    def group(self) -> Path:
        """Folder of the Zarr group."""
        return self.path / "group"

    def partial_path(self, task: int) -> Path:
        """File of one task's partial result."""
        return self.path / "partials" / f"{task:06d}.npz"

    def mark(self, task: int) -> None:
        """Remember that a task has finished with all that it writes."""
        self.done[task] = True
        temporary = self.path / "done.tmp.npy"
        np.save(temporary, self.done)
        temporary.replace(self.path / "done.npy")

    def partials(self) -> Partials:
        """The partial results in task order, read as they are asked for."""
        paths = (self.partial_path(task) for task in range(len(self.done)))
        return Partials([path for path in paths if path.exists()])


class Partials(Sequence[dict[str, np.ndarray]]):
    """Partial results on disk: the driver's memory must not grow with the number of tasks.

    Parameters
    ----------
    paths
        Their files.
    keep
        Bytes that are kept once read, since many are folded key by key; the rest is read again each time.
    """

    def __init__(self, paths: Sequence[Path], keep: int = 256 << 20) -> None:
        self._paths, self._left = paths, keep
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, at: int) -> dict[str, np.ndarray]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, np.ndarray]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
        if isinstance(at, slice):
            return [self[one] for one in range(len(self))[at]]
        at = range(len(self))[at]
        if at in self._kept:
            return self._kept[at]
        partial = read_partial(self._paths[at])
        size = sum(array.nbytes for array in partial.values())
        if size <= self._left:
            self._left -= size
            self._kept[at] = partial
        return partial


def write_partial(path: Path, partial: Mapping[str, np.ndarray]) -> None:
    """Keep one task's partial result; whole or not at all."""
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **partial)  # pyright: ignore[reportArgumentType]
    temporary.replace(path)


def read_partial(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_partial` kept."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


class Workspace:
    """The `work` folder.

    Parameters
    ----------
    root
        Its path; made where absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.token = secrets.token_hex(6)
        self._new = not root.exists()
        self._make()

    def _make(self) -> None:
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second driver out; the lock goes with the process, however it ends.

        Raises
        ------
        StoreError
            When another driver works here.
        """
        with (self.root / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{self.root}: another run works here; wait for it, or set work=... apart") from error
            self._make()
            try:
                yield
            finally:
                self._remove_unused()

    def _remove_unused(self) -> None:
        """Take away a folder that this run made and left empty: it failed before there was any work to keep."""
        ours = {path.name for path in self.root.iterdir()} == {*_FOLDERS, "lock"}
        if self._new and ours and not any(any((self.root / name).iterdir()) for name in _FOLDERS):
            shutil.rmtree(self.root)

    def sealed(self, fingerprint: Mapping[str, Any]) -> tuple[Path, str] | None:
        """Folder and content digest of finished work, or None."""
        name = hashed(fingerprint)
        path, record = self.root / "sealed" / name, self.root / "sealed" / f"{name}.json"
        if not (path.is_dir() and record.is_file()):
            return None
        return path, json.loads(record.read_text())["digest"]

    def attempt(
        self, leaf: str, fingerprint: Mapping[str, Any], tasks: int, arrays: Sequence[SizedArray], shard: int
    ) -> Attempt:
        """Go on with a leaf's unfinished work, or begin it."""
        name = hashed(fingerprint)
        path = self.root / "attempts" / f"{name}.{self.token}"
        for older in sorted((self.root / "attempts").glob(f"{name}.*"), key=lambda item: item.stat().st_mtime):
            if not path.exists() and _resumable(older, tasks):
                older.rename(path)
            else:
                shutil.rmtree(older)
        if path.exists():
            return Attempt(path, np.load(path / "done.npy"))
        (path / "partials").mkdir(parents=True)
        store.allocate(path / "group", leaf, arrays, shard)
        attempt = Attempt(path, np.zeros(tasks, dtype=bool))
        np.save(path / "done.npy", attempt.done)
        return attempt

    def seal(self, attempt: Attempt, leaf: str, fingerprint: Mapping[str, Any], summary: Summary) -> tuple[Path, str]:
        """Complete a leaf's group and put it where it is never changed again; return its folder and digest."""
        store.finish(attempt.group, summary)
        digest = store.digest(attempt.group)
        name = hashed(fingerprint)
        path, record = self.root / "sealed" / name, self.root / "sealed" / f"{name}.json"
        record.write_text(
            json.dumps({"leaf": leaf, "digest": digest, "fingerprint": fingerprint}, indent=1, sort_keys=True)
        )
        if path.exists():
            shutil.rmtree(path)
        attempt.group.rename(path)
        shutil.rmtree(attempt.path)
        return path, digest

    def clean(self) -> int:
        """Remove unfinished work and forgotten jobs; return how many folders and files went."""
        stray = [*(self.root / "attempts").iterdir(), *(self.root / "jobs").iterdir()]
        for path in stray:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return len(stray)


def _resumable(path: Path, tasks: int) -> bool:
    done = path / "done.npy"
    return done.is_file() and (path / "group" / "zarr.json").is_file() and len(np.load(done)) == tasks


def publish_stage(folder: Path, stage: str, leaves: Mapping[str, Path], failures: Mapping[str, str]) -> None:
    """Put a stage's sealed leaves, and the reasons of its failed ones, into a run's folder.

    Parameters
    ----------
    folder
        ``run/store`` or ``run/checks``.
    stage
        The noun.
    leaves
        Sealed folder of each finished leaf of the stage.
    failures
        Reason of each failed leaf of the stage.
    """
    temporary = folder / f".{stage}.{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    if stage not in {*leaves, *failures}:
        store.write_root(temporary)
    for leaf, path in leaves.items():
        shutil.copytree(path, _inside(temporary, leaf), copy_function=_link_or_copy, dirs_exist_ok=True)
    for leaf, reason in failures.items():
        store.write_failure(_inside(temporary, leaf), leaf, reason)
    replace(temporary, folder / f"{stage}.zarr")


def _inside(folder: Path, leaf: str) -> Path:
    return folder / leaf.partition("/")[2]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def replace(new: Path, old: Path) -> None:
    """Move a folder onto another, which a plain rename refuses."""
    trash = old.with_name(f".{old.name}.{secrets.token_hex(4)}")
    if old.exists():
        old.rename(trash)
    new.rename(old)
    shutil.rmtree(trash, ignore_errors=True)
