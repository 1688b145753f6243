"""Images that a table names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ...stages.errors import ConfigError, DataError, did_you_mean, in_words
from .files import FileReader
from .regions import Regions, mask_contents, parse_boxes
from .source import DataSource, Listing, existing, frame

_SEPARATORS = re.compile(r"[|;,]")
_WHOLE = re.compile(r"-?\d+(\.0)?")


@dataclass(frozen=True, kw_only=True)
class Manifest(DataSource):
    """A CSV or Parquet file with one row per image; a row whose file is missing stays, as a bad image.

    Labels are class names, or whole numbers where `class_names` gives the names; an empty label or -1 means none.

    Parameters
    ----------
    path
        The table: ``.csv`` or ``.parquet``.
    root
        Folder that image paths start at; None: the folder of the table.
    path_column, label_column, split_column, id_column
        Names of its columns. Without a split column there are no splits, without an id column the path is the id.
    box_column, mask_column
        Columns that say where the object lies, if there are any: boxes ``"x0 y0 x1 y1"`` in pixels of the file, several
        with ``;`` between them; path of an image file that is not 0 where the object is. Empty for images without.
    """

    path: str
    root: str | None = None
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    id_column: str = "id"
    box_column: str = "box"
    mask_column: str = "mask"

    def listing(self) -> Listing:
        """Read the table."""
        rows = _read_table(existing(self.path, "data.path", "file"))
        for setting in ("path_column", "label_column"):
            self._require(rows, setting, getattr(self, setting))
        for name in self.slices:
            self._require(rows, "slices", name)
        if self.split is not None:
            self._require(rows, "split_column", self.split_column)
        keys = _keys(_texts(rows, self.path_column), self._folder())
        ids = _texts(rows, self.id_column) if self.id_column in rows else keys
        splits = _texts(rows, self.split_column) if self.split_column in rows else ""
        names, labels = _labels(_texts(rows, self.label_column), self.class_names)
        slices = {name: _texts(rows, name) for name in self.slices}
        return Listing(frame(ids, keys, labels, splits, slices | self._located(rows)), names)

    def reader(self, table: pd.DataFrame) -> FileReader:
        """Reads the files of `table`."""
        keys, regions = table["key"].tolist(), None
        if "box" in table or "mask" in table:
            boxes, masks = ([*table[name]] if name in table else [""] * len(keys) for name in ("box", "mask"))
            regions = Regions(self._folder(), keys, boxes, masks, self.preprocessing)
        return FileReader(self._folder(), keys, self.preprocessing, regions)

    def _located(self, rows: pd.DataFrame) -> dict[str, list[str]]:
        """Columns of the index that say where the object lies, checked; none where the table has none."""
        found: dict[str, list[str]] = {}
        if self.box_column in rows and self.box_column not in self.slices:
            found["box"] = _texts(rows, self.box_column)
            for number, text in enumerate(found["box"]):
                parse_boxes(text, number)
        if self.mask_column in rows and self.mask_column not in self.slices:
            texts = _texts(rows, self.mask_column)
            found["mask"] = [_keys([text], self._folder())[0] if text else "" for text in texts]
            found["mask_content"] = mask_contents(self._folder(), found["mask"])
        return found

    def _folder(self) -> Path:
        if self.root is not None:
            return existing(self.root, "data.root", "folder")
        return existing(self.path, "data.path", "file").parent

    def _require(self, rows: pd.DataFrame, setting: str, column: str) -> None:
        if column not in rows:
            known = [str(name) for name in rows.columns]
            raise ConfigError(
                f"data.{setting}: {Path(self.path).name} has no column {column!r}{did_you_mean(column, known)}"
            )


def _read_table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif suffix in (".parquet", ".pq"):
            rows = pd.read_parquet(path)
        else:
            raise DataError(f"data.path: {path}: expected a .csv or .parquet file")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"data.path: {path}: cannot be read as {suffix[1:]}: {in_words(error)}") from error
    if rows.empty:
        raise DataError(f"data.path: {path}: the table has no rows")
    return rows


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    """A column as text; what is missing is ``""``."""
    values = rows[column].tolist()
    for number, value in enumerate(values):
        if isinstance(value, (list, tuple, dict, set, np.ndarray)):
            raise DataError(
                f"data.path: row {number} has {len(value)} values in column {column!r}; "
                "multi-label data are not supported, give one value per image"
            )
    return ["" if value is None or value is pd.NA or value != value else str(value).strip() for value in values]


def _keys(paths: Sequence[str], root: Path) -> list[str]:
    """Paths relative to the root."""
    keys = []
    for number, path in enumerate(paths):
        if not path:
            raise DataError(f"data.path: row {number} names no image file")
        if Path(path).is_absolute():
            if not Path(path).is_relative_to(root):
                raise DataError(f"data.path: row {number}: {path} does not lie below {root}; set data.root")
            path = Path(path).relative_to(root).as_posix()
        keys.append(PurePosixPath(path).as_posix())
    return keys


def _labels(texts: list[str], class_names: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names and the label of each row."""
    written = sorted({text for text in texts if text not in ("", "-1")})
    _refuse_multi_label(written, class_names or ())
    if class_names is None:
        if not written:
            raise DataError("data.class_names: no row has a label, so the names of the classes must be given")
        if all(_WHOLE.fullmatch(text) for text in written):
            raise DataError("data.class_names: labels are whole numbers; give the names of all classes, in their order")
        class_names = tuple(written)
    position = {name: label for label, name in enumerate(class_names)}
    known = {text: _label(text, position) for text in {*written, "", "-1"}}
    return class_names, [known[text] for text in texts]


def _label(text: str, position: dict[str, int]) -> int:
    """The label a text stands for: a name first, a number second."""
    if text in position:
        return position[text]
    if text in ("", "-1"):
        return -1
    if _WHOLE.fullmatch(text):
        label = int(float(text))
        if 0 <= label < len(position):
            return label
        raise DataError(f"data.path: label {text} is outside 0..{len(position) - 1}, the range of data.class_names")
    raise DataError(f"data.path: label {text!r} is not among data.class_names{did_you_mean(text, position)}")


def _refuse_multi_label(written: list[str], class_names: Sequence[str]) -> None:
    known = {*written, *class_names}
    for text in written:
        parts = [part.strip() for part in _SEPARATORS.split(text.strip("[](){}"))]
        if text not in class_names and ((len(parts) > 1 and all(part in known for part in parts)) or text[0] in "[{"):
            raise DataError(f"data.path: label {text!r} names several classes; multi-label data are not supported")
