"""Zarr v3 groups on disk: allocate, write rows, finish and read; the only module that imports zarr.

One group per leaf. It holds the leaf's arrays and, as attributes, what the leaf measured and found. Nothing in it tells
when, where or by whom it was written, so equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from ..stages.errors import StoreError, did_you_mean
from ..stages.specs import SizedArray, Summary

# Several Blosc threads write the blocks of one chunk in the order in which they happen to finish.
numcodecs.blosc.use_threads = False

SCHEMA = 1
#: Folders of a run that hold groups: what looks at images first, what is computed from that.
FOLDERS = ("store", "checks")
_COMPRESSOR = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
CHUNK_ROWS = 16
WHOLE_CHUNK_BYTES = 1 << 20


def group_path(leaf: str) -> str:
    """Place of a leaf's group inside its folder: ``predictions.zarr`` or ``attributions.zarr/grad_cam``."""
    stage, _, method = leaf.partition("/")
    return f"{stage}.zarr/{method}".rstrip("/")


def allocate(path: Path, leaf: str, arrays: Sequence[SizedArray], shard: int) -> None:
    """Create a leaf's group and all its arrays, filled with what stands for missing.

    Parameters
    ----------
    path
        Folder of the group; made.
    leaf
        Name of the leaf, kept as an attribute.
    arrays
        What the leaf declares to write.
    shard
        Rows, along an ``image`` axis, that one task writes at once.
    """
    group = zarr.create_group(store=str(path), zarr_format=3, overwrite=True)
    group.attrs.update({"leaf": leaf, "schema": SCHEMA, "status": "unfinished"})
    for array in arrays:
        chunks, shards = _layout(array, shard)
        group.create_array(
            name=array.path,
            shape=array.shape,
            dtype=array.spec.dtype,
            chunks=chunks,
            shards=shards,
            compressors=_COMPRESSOR,
            fill_value=array.spec.fill,
            dimension_names=array.dims,
            attributes={"unit": array.spec.unit, "meaning": array.spec.meaning},
        )


def _layout(array: SizedArray, shard: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunk and shard shapes: a task's rows are one shard, so that no two tasks ever write one file."""
    whole = tuple(max(1, length) for length in array.shape)
    if not array.dims or array.dims[0] != "image":
        return whole, None
    row_bytes = math.prod(whole[1:]) * np.dtype(array.spec.dtype).itemsize
    if row_bytes * shard <= WHOLE_CHUNK_BYTES or shard % CHUNK_ROWS:
        return (shard, *whole[1:]), None
    return (CHUNK_ROWS, *whole[1:]), (shard, *whole[1:])


def write_rows(path: Path, rows: Mapping[str, np.ndarray], start: int) -> None:
    """Write a task's rows into arrays that were allocated before.

    Raises
    ------
    StoreError
        When an array is unknown, or the rows would share a file with another task's.
    """
    with _writing(path) as group:
        for name, values in rows.items():
            array = _array(group, name, path)
            unit = (array.shards or array.chunks)[0]
            stop = start + len(values)
            if start % unit or (stop % unit and stop != array.shape[0]):
                raise StoreError(f"{path.name}/{name}: rows {start}:{stop} are not aligned to the {unit} of one file")
            array[start:stop] = values


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """Open a group so that chunks equal to the fill are written too: a missing file means that nobody was there."""
    with zarr.config.set({"array.write_empty_chunks": True}):
        yield zarr.open_group(str(path), mode="r+")


def finish(path: Path, summary: Summary) -> None:
    """Write a leaf's whole arrays and its summary, mark the group complete and remove litter of killed writers."""
    with _writing(path) as group:
        for name, values in summary.arrays.items():
            array = _array(group, name, path)
            values = np.asarray(values)
            if values.shape != array.shape:
                raise StoreError(f"{path.name}/{name}: expected shape {array.shape}, got {values.shape}")
            array[...] = values
        group.attrs.update(_plain(summary.attributes()) | {"status": "complete"})
    for litter in path.rglob("*.partial"):
        litter.unlink()


def write_failure(path: Path, leaf: str, reason: str) -> None:
    """Leave a group that says why its leaf failed, so that the report shows it."""
    group = zarr.create_group(store=str(path), zarr_format=3, overwrite=True)
    group.attrs.update({"leaf": leaf, "schema": SCHEMA, "status": "failed", "reason": reason})


def write_root(path: Path) -> None:
    """Make the group that holds the methods of one stage."""
    zarr.create_group(store=str(path), zarr_format=3, overwrite=False)


def digest(path: Path) -> str:
    """Sha256 over the names and bytes of every file below `path`."""
    total = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        total.update(file.relative_to(path).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def open_array(path: Path, name: str) -> Any:
    """Open one array of a user's Zarr group for reading.

    Raises
    ------
    StoreError
        When there is no such group or array.
    """
    try:
        group = zarr.open_group(str(path), mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{path}: expected a Zarr group, got {error}") from error
    return _array(group, name, path)


def _array(group: Any, name: str, path: Path) -> Any:
    try:
        return group[name]
    except KeyError as error:
        known = [key for key, _ in group.members(max_depth=None)]
        raise StoreError(f"{path}: no array is called {name!r}{did_you_mean(name, known)}") from error


class StoreView:
    """Read-only view of leaves wherever their groups lie.

    Parameters
    ----------
    paths
        Folder of each leaf's group.
    failures
        Reason of each leaf that failed.
    """

    def __init__(self, paths: Mapping[str, Path], failures: Mapping[str, str] | None = None) -> None:
        self._paths = dict(paths)
        self._failures = dict(failures or {})
        self._groups: dict[str, Any] = {}

    def __getitem__(self, path: str) -> Any:
        """Open the array at ``<leaf>/<path in its group>``."""
        parts = path.split("/")
        for depth in (2, 1):
            leaf = "/".join(parts[:depth])
            if leaf in self._paths and len(parts) > depth:
                return _array(self._group(leaf), "/".join(parts[depth:]), Path(leaf))
        raise StoreError(f"no stored leaf holds {path!r}{did_you_mean(parts[0], self._paths)}")

    def _group(self, leaf: str) -> Any:
        if leaf not in self._paths:
            raise StoreError(f"leaf {leaf!r} is not stored{did_you_mean(leaf, self._paths)}")
        if leaf not in self._groups:
            self._groups[leaf] = zarr.open_group(str(self._paths[leaf]), mode="r")
        return self._groups[leaf]

    def group(self, leaf: str) -> Path:
        """Folder of a finished leaf's group."""
        return self._paths[leaf]

    def leaves(self) -> tuple[str, ...]:
        """Every leaf that was run or tried, by name."""
        return tuple(sorted({*self._paths, *self._failures}))

    def arrays(self, leaf: str) -> tuple[str, ...]:
        """Full paths of a leaf's arrays; none where it failed."""
        if leaf in self._failures:
            return ()
        members = self._group(leaf).members(max_depth=None)
        return tuple(sorted(f"{leaf}/{name}" for name, item in members if isinstance(item, zarr.Array)))

    def summary(self, leaf: str) -> Summary:
        """What `leaf` measured and found."""
        if leaf in self._failures:
            return Summary()
        return Summary.from_attributes(dict(self._group(leaf).attrs))

    def failure(self, leaf: str) -> str | None:
        """Why `leaf` failed; None where it did not."""
        return self._failures.get(leaf)


class RunStore(StoreView):
    """Everything one run has written.

    Parameters
    ----------
    run
        The run's folder, with ``store/`` and ``checks/`` in it.

    Raises
    ------
    StoreError
        When there is no run, or a group is unfinished.
    """

    def __init__(self, run: Path) -> None:
        self.path = Path(run)
        if not (self.path / "store" / "subject.json").is_file():
            raise StoreError(
                f"{run}: expected a run with store/subject.json; run `convaudit` or `convaudit sweep` first"
            )
        paths, failures = {}, {}
        for leaf, path, attributes in _leaf_groups(self.path):
            if attributes.get("status") == "failed":
                failures[leaf] = str(attributes["reason"])
            elif attributes.get("status") == "complete":
                paths[leaf] = path
            else:
                raise StoreError(f"{path}: the group is unfinished; run `convaudit` again to complete it")
        super().__init__(paths, failures)

    def images(self) -> pd.DataFrame:
        """The index of the images: id, key, label, split, content and slice columns."""
        return pd.read_parquet(self.path / "store" / "images.parquet")

    def subject(self) -> dict[str, Any]:
        """What was audited: classes, axes, layers, model, data and numerics."""
        return dict(self._subject)

    @cached_property
    def _subject(self) -> dict[str, Any]:
        return json.loads((self.path / "store" / "subject.json").read_text())


def _leaf_groups(run: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Find each leaf's group below a run, with its attributes."""
    for folder in FOLDERS:
        for path in sorted((run / folder).glob("*.zarr")):
            for candidate in (path, *sorted(path.iterdir())):
                metadata = candidate / "zarr.json"
                if metadata.is_file():
                    attributes = json.loads(metadata.read_text()).get("attributes", {})
                    if "leaf" in attributes:
                        yield attributes["leaf"], candidate, attributes


def _plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, tuples and NaN into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
