"""Any classification data set of torchvision, by the name of its class."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ...stages.errors import ConfigError, DataError, ImageError, did_you_mean, in_words
from .decode import check_header, classified
from .preprocessing import Preprocessing, prepare_array, prepare_picture
from .source import DataSource, Listing, Reader, frame

_OURS = ("root", "download", "transform", "target_transform", "transforms")


class DatasetReader(Reader):
    """Reads items of a data set object, one at a time: most of these classes know nothing of threads.

    Parameters
    ----------
    dataset
        Gives ``(image, label)`` by number.
    keys
        Number of each image.
    preprocessing
        How an image becomes network input.
    """

    def __init__(self, dataset: Any, keys: Sequence[str], preprocessing: Preprocessing) -> None:
        self._dataset = dataset
        self._keys = [int(key) for key in keys]
        self._preprocessing = preprocessing
        self._lock = threading.Lock()

    def read(self, position: int) -> np.ndarray:
        """Prepare what the data set gives."""
        image = self._image(position)
        if not isinstance(image, Image.Image):
            return prepare_array(image, self._preprocessing)
        check_header(image, self._preprocessing)
        try:
            return prepare_picture(image, self._preprocessing)
        except ImageError:
            raise
        except Exception as error:
            raise classified(error) from None

    def content(self, position: int) -> str:
        """Hash the decoded values, with mode and size; ``""`` where the data set fails."""
        try:
            image = self._image(position)
        except ImageError:
            return ""
        values = np.ascontiguousarray(image)
        mode = image.mode if isinstance(image, Image.Image) else values.dtype.str
        return hashlib.sha256(f"{mode}{values.shape}".encode() + values.tobytes()).hexdigest()

    def _image(self, position: int) -> Any:
        with self._lock:
            try:
                image = self._dataset[self._keys[position]][0]
                if isinstance(image, Image.Image):
                    image.load()
            except FileNotFoundError:
                raise ImageError("missing", "the file does not exist") from None
            except Exception as error:
                raise classified(error) from None
        return image.numpy() if isinstance(image, torch.Tensor) else image


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DataSource):
    """A classification data set of ``torchvision.datasets``; an id is the position in it.

    Parameters
    ----------
    name
        Name of the class, for instance ``"CIFAR10"``.
    path
        Its root folder; None for classes without one.
    arguments
        Further keyword arguments, for instance ``{"train": False}`` or ``{"split": "test"}``.
    download
        Whether torchvision may fetch what is missing.
    """

    name: str
    path: str | None = None
    arguments: Mapping[str, Any] | None = None
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None or self.slices:
            setting = "split" if self.split is not None else "slices"
            raise ConfigError(f"data.{setting}: choose the split with data.arguments, for instance {{train: false}}")
        parameters = inspect.signature(_dataset_class(self.name)).parameters
        for key in self.arguments or {}:
            if key in _OURS:
                raise ConfigError(f"data.arguments.{key}: set data.path, data.download or data.preprocessing instead")
            if key not in parameters:
                known = [item for item in parameters if item not in _OURS]
                raise ConfigError(f"data.arguments.{key}: {self.name} has no such argument{did_you_mean(key, known)}")
        if "root" in parameters and self.path is None:
            raise ConfigError(f"data.path: {self.name} needs a root folder; set data.path=...")

    def listing(self) -> Listing:
        """Read every label."""
        dataset = self._open(self.download)
        labels = _labels(dataset, self.name)
        names = self.class_names or _class_names(dataset, self.name)
        if labels and not -1 <= min(labels) <= max(labels) < len(names):
            wrong = max(labels) if max(labels) >= len(names) else min(labels)
            raise DataError(f"data.class_names: {self.name} has label {wrong}, but there are {len(names)} class names")
        width = len(str(len(labels)))
        ids = [f"{self.name.lower()}-{position:0{width}d}" for position in range(len(labels))]
        return Listing(frame(ids, [str(position) for position in range(len(labels))], labels), names)

    def reader(self, table: pd.DataFrame) -> DatasetReader:
        """Reads the items of `table`, which are on this machine by now."""
        return DatasetReader(self._open(download=False), table["key"].tolist(), self.preprocessing)

    def _open(self, download: bool) -> Any:
        root = None if self.path is None else str(Path(self.path).expanduser().absolute())
        return _opened(self.name, root, self.arguments or {}, download)


def _opened(name: str, root: str | None, arguments: Mapping[str, Any], download: bool) -> Any:
    kind = _dataset_class(name)
    parameters = inspect.signature(kind).parameters
    given: dict[str, Any] = dict(arguments)
    if "root" in parameters:
        given["root"] = root
    if "download" in parameters:
        given["download"] = download
    try:
        # Some classes print while they unpack; a report on standard output is no place for that.
        with contextlib.redirect_stdout(io.StringIO()):
            return kind(**given)
    except (RuntimeError, FileNotFoundError) as error:
        hint = "check data.path" if download or "download" not in parameters else "set data.download=true to fetch it"
        raise DataError(f"data.path: {name} is not in {root} ({in_words(error)}); {hint}") from error
    except Exception as error:
        raise DataError(f"data: torchvision cannot open {name}: {in_words(error)}") from error


def _dataset_class(name: str) -> Any:
    import torchvision.datasets as datasets

    known = [item for item in datasets.__all__ if item not in ("VisionDataset", "ImageFolder", "DatasetFolder")]
    if name not in known:
        extra = "; for folders use data=imagefolder" if name in ("ImageFolder", "DatasetFolder") else None
        raise ConfigError(f"data.name: torchvision has no data set {name!r}{extra or did_you_mean(name, known)}")
    return getattr(datasets, name)


def _labels(dataset: Any, name: str) -> list[int]:
    """Every label, from the list that most classes keep, else from the items."""
    kept = getattr(dataset, "targets", getattr(dataset, "_labels", getattr(dataset, "labels", None)))
    if kept is None or len(kept) != len(dataset):
        kept = [_item_label(dataset, position) for position in range(len(dataset))]
    return [_whole(value, name) for value in kept]


def _item_label(dataset: Any, position: int) -> Any:
    try:
        return dataset[position][1]
    except Exception as error:
        reason = in_words(error)
        raise DataError(f"data: item {position} of the data set cannot be read, nor its label: {reason}") from error


def _whole(value: Any, name: str) -> int:
    if isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise DataError(f"data.name: {name} labels an image with a {type(value).__name__}, expected one class number")


def _class_names(dataset: Any, name: str) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None)
    if not classes:
        raise DataError(f"data.class_names: {name} names no classes; give the names of all classes, in label order")
    # ImageNet lists the synonyms of each class.
    return tuple(item[0] if isinstance(item, (tuple, list)) else str(item) for item in classes)
