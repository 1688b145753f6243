"""What a data set is: an index made before anything runs, and a reader that any process can build from it."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ...stages.errors import ConfigError, DataError, ImageError, did_you_mean
from .preprocessing import Preprocessing
from .regions import REGION_COLUMNS
from .sampling import stratified_sample

#: Columns of every index; whatever else it has, but for regions, are slices.
COLUMNS = ("id", "key", "label", "split", "content")
_AXES = {2: ("time",), 3: ("y", "x")}
_SHOWN = 3


@dataclass(frozen=True)
class Listing:
    """What a source knows before it has opened an image.

    Parameters
    ----------
    table
        Columns id, key, label (-1 where there is none), split and slices; one row per image, in stable order.
    class_names
        Name of each class, in label order.
    notes
        What was left out or renamed, as JSON.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """The images of one audit.

    Parameters
    ----------
    table
        Columns id, key, label, split, content (sha256 of the image's bytes; ``""`` where there are none) and slices.
    class_names
        Name of each class, in label order.
    axes
        Spatial axes: ``("y", "x")`` or ``("time",)``.
    input_shape
        ``(channel, *space)`` of the first readable image once prepared.
    mean, std
        Normalisation per channel: network input = (value - mean) / std.
    notes
        What was sampled, left out or renamed, as JSON.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    axes: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Reader(ABC):
    """Gives images by their position in an index; any number of threads may ask at once."""

    @abstractmethod
    def read(self, position: int) -> np.ndarray:
        """Network input ``(channel, *space)``, float32, normalised.

        Raises
        ------
        ImageError
            When this image cannot be used.
        """

    @abstractmethod
    def content(self, position: int) -> str:
        """Sha256 of the image's stored bytes, as hex; ``""`` where there are none."""

    @property
    def has_regions(self) -> bool:
        """Whether any image comes with a box or mask."""
        return False

    def region(self, position: int) -> np.ndarray | None:
        """Where the object lies in the network's input ``space``, bool; None for an image without box or mask."""
        del position
        return None


@dataclass(frozen=True, kw_only=True)
class DataSource(ABC):
    """Where images come from; its fields are the Hydra node ``data``.

    Parameters
    ----------
    preprocessing
        How an image becomes network input.
    class_names
        Names of the classes in the order of the logits; None takes those of the data.
    split
        The split that is audited; None audits all.
    slices
        Extra columns by which results can be told apart.
    limit
        At most so many images are audited, the same share of every class; None audits all.
    sample_seed
        Decides which; an image's own id and this number, nothing else.
    max_bad_fraction
        Share of unusable images, 0 to 1, above which the run fails.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] | None = None
    split: str | None = None
    slices: tuple[str, ...] = ()
    limit: int | None = None
    sample_seed: int = 0
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit: expected at least 1 image, got {self.limit}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction: expected a share from 0 to 1, got {self.max_bad_fraction}")
        repeated = first_repeated(self.class_names or ())
        if repeated is not None:
            raise ConfigError(f"data.class_names: {repeated!r} stands there twice")
        taken = [name for name in self.slices if name in (*COLUMNS, *REGION_COLUMNS)]
        if taken:
            raise ConfigError(f"data.slices: {taken[0]!r} is a column of its own; name extra columns only")

    @abstractmethod
    def listing(self) -> Listing:
        """Every image there is.

        Raises
        ------
        DataError
            When the data cannot be found or understood.
        """

    @abstractmethod
    def reader(self, table: pd.DataFrame) -> Reader:
        """What reads the images of `table`, an index of this source; cheap to make."""

    def anchored(self) -> Self:
        """The same source with absolute paths, for processes that started in another folder."""
        paths = {name: getattr(self, name, None) for name in ("path", "root")}
        return replace(self, **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items() if path})

    def index(self) -> Index:
        """List the images, choose split and sample, hash every image, and look at the first readable one.

        Raises
        ------
        DataError
            When there are no images, none can be read, or ids are not unique.
        """
        listing = self.listing()
        table, notes = self._chosen(listing.table)
        if table.empty:
            raise DataError("data: there are no images")
        repeated = first_repeated(table["id"])
        if repeated is not None:
            raise DataError(f"data: id {repeated!r} stands there twice; ids name images and must be unique")
        reader = self.reader(table)
        table.insert(4, "content", _contents(reader, len(table)))
        shape = _first_shape(reader, table)
        mean, std = self.preprocessing.per_channel(shape[0])
        return Index(table, listing.class_names, _AXES[len(shape)], shape, mean, std, {**listing.notes, **notes})

    def _chosen(self, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Rows of the split that is audited, and of those a sample; with what was left out."""
        notes: dict[str, Any] = {"split": self.split, "limit": self.limit}
        if self.split is not None:
            there = sorted({str(name) for name in table["split"] if name})
            table = table.loc[(table["split"] == self.split).to_numpy()]
            if table.empty:
                raise DataError(f"data.split: no image is in split {self.split!r}{did_you_mean(self.split, there)}")
        notes["in_split"] = len(table)
        if self.limit is not None and self.limit < len(table):
            table = table.iloc[stratified_sample(table["id"], table["label"], self.limit, self.sample_seed)]
        notes["audited"] = len(table)
        more = [name for name in table.columns if name not in COLUMNS]
        return table.loc[:, ["id", "key", "label", "split", *more]].reset_index(drop=True), notes


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that stands there a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def frame(
    ids: Sequence[str],
    keys: Sequence[str],
    labels: Iterable[int],
    splits: Sequence[str] | str = "",
    slices: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Put the columns of a listing together; one split may stand for all rows."""
    splits = [splits] * len(ids) if isinstance(splits, str) else list(splits)
    columns = {
        "id": pd.Series(list(ids), dtype=object),
        "key": pd.Series(list(keys), dtype=object),
        "label": np.asarray(list(labels), dtype=np.int64),
        "split": pd.Series(splits, dtype=object),
    }
    return pd.DataFrame({**columns, **{name: pd.Series(list(v), dtype=object) for name, v in (slices or {}).items()}})


def existing(path: str, setting: str, kind: str) -> Path:
    """The absolute path of a file or folder of the user's.

    Parameters
    ----------
    path
        As the user gave it.
    setting
        Its full key, for the message.
    kind
        ``"folder"``, ``"file"`` or ``"file or folder"``.

    Raises
    ------
    DataError
        When it is not there.
    """
    found = Path(path).expanduser().absolute()
    there = {"folder": found.is_dir(), "file": found.is_file()}.get(kind, found.exists())
    if not there:
        raise DataError(f"{setting}: {found}: no such {kind}; relative paths start at {Path.cwd()}")
    return found


def digest(table: pd.DataFrame) -> str:
    """Sha256 over ids, labels, splits, contents and slices of an index, as hex; where it lies plays no part."""
    total = hashlib.sha256()
    names = [name for name in table.columns if name != "key"]
    total.update(json.dumps(names).encode())
    for row in zip(*(table[name].tolist() for name in names), strict=True):
        total.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return total.hexdigest()


def _contents(reader: Reader, number: int) -> list[str]:
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(reader.content, range(number), chunksize=64))


def _first_shape(reader: Reader, table: pd.DataFrame) -> tuple[int, ...]:
    """Shape of the first image that can be used."""
    reasons: list[str] = []
    for position in range(len(table)):
        try:
            return tuple(reader.read(position).shape)
        except ImageError as error:
            if len(reasons) < _SHOWN:
                reasons.append(f"{table['id'].iloc[position]}: {error.reason}")
    raise DataError(f"data: none of the {len(table)} images can be used: {'; '.join(reasons)}")
