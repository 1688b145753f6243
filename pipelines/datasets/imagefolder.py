"""Images in one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...stages.errors import ConfigError, DataError, did_you_mean
from .files import FileReader
from .source import DataSource, Listing, existing, frame

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageFolder(DataSource):
    """One folder per class, with images at any depth in it; an id is the path below `path`.

    With a split the class folders lie in ``path/<split>``. Class names that hold every folder's name put the classes
    in their order; as many new names, none of them a folder's, rename the sorted folders.

    Parameters
    ----------
    path
        Folder of the class folders.
    extensions
        What ends the name of an image file, in lower case; other files are left out, and counted.
    """

    path: str
    extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices:
            raise ConfigError("data.slices: a folder of images has no extra columns; use data=manifest")

    def listing(self) -> Listing:
        """Find every image file, classes and files in sorted order."""
        root = self._root()
        folders = sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
        self._refuse_layout(root, folders)
        names, position = self._classes(folders)
        keys, labels, ignored = [], [], []
        for folder in folders:
            files = list(_files_below(root, root / folder))
            images = [key for key in files if os.path.splitext(key)[1].lower() in self.extensions]
            ignored.extend(sorted(set(files) - set(images)))
            if not images:
                raise DataError(f"data.path: {root / folder}: no image in this class folder; remove it or fill it")
            keys.extend(images)
            labels.extend([position[folder]] * len(images))
        notes: dict[str, Any] = {"ignored_files": len(ignored), "ignored_first": ignored[:_SHOWN]}
        if names != tuple(folders):
            notes["class_folders"] = {names[position[folder]]: folder for folder in folders}
        return Listing(frame(keys, keys, labels, self.split or ""), names, notes)

    def reader(self, table: pd.DataFrame) -> FileReader:
        """Reads the files of `table`."""
        return FileReader(self._root(), table["key"].tolist(), self.preprocessing)

    def _root(self) -> Path:
        root = existing(self.path, "data.path", "folder")
        if self.split is None:
            return root
        there = [item.name for item in root.iterdir() if item.is_dir()]
        if self.split not in there:
            hint = did_you_mean(self.split, sorted(there))
            raise DataError(f"data.split: {root} has no folder {self.split!r}{hint}")
        return root / self.split

    def _refuse_layout(self, root: Path, folders: list[str]) -> None:
        if not folders:
            raise DataError(f"data.path: {root}: expected one folder per class, got no folder")
        if self.split is None and {name.lower() for name in folders} <= _SPLITS:
            raise DataError(f"data.path: {root} holds splits ({', '.join(folders)}), not classes; set data.split=...")

    def _classes(self, folders: list[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """Names of the classes and the label of each folder."""
        names = self.class_names
        if names is None:
            return tuple(folders), {folder: label for label, folder in enumerate(folders)}
        strangers = [folder for folder in folders if folder not in names]
        if not strangers:
            return names, {folder: names.index(folder) for folder in folders}
        if len(strangers) == len(folders) == len(names):
            return names, {folder: label for label, folder in enumerate(folders)}
        raise DataError(
            f"data.class_names: class folder {strangers[0]!r} is not among the {len(names)} names "
            f"({len(strangers)} of {len(folders)} folders are not){did_you_mean(strangers[0], names)}"
        )


def _files_below(root: Path, folder: Path) -> Iterator[str]:
    """Paths of all visible files below a folder, relative to `root`, sorted; links are followed, circles are not."""
    found: list[str] = []
    visited: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in visited else [name for name in inner if not name.startswith(".")]
        files = [] if real in visited else files
        visited.add(real)
        found.extend((Path(place) / name).relative_to(root).as_posix() for name in files if not name.startswith("."))
    for key in found:
        if any("\ud800" <= letter <= "\udfff" for letter in key):
            raise DataError(f"data.path: file name {key.encode(errors='backslashreplace')!r} is not UTF-8; rename it")
    yield from sorted(found)
