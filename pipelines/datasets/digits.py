"""The default data: scikit-learn's handwritten digits, of which only those the reference never saw are audited."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ...stages.errors import ConfigError
from ...stages.reference.digits import CLASS_NAMES, load_digits_split
from .arrays import ArrayReader
from .source import DataSource, Listing, frame

_digits = lru_cache(maxsize=1)(load_digits_split)


@dataclass(frozen=True, kw_only=True)
class Digits(DataSource):
    """Scans of handwritten digits, one channel, enlarged bilinearly from 8x8 to 32x32, values 0..1.

    An id is the position in scikit-learn's data. Splits: ``"train"`` (70 %) and ``"test"``.
    """

    split: str | None = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices:
            raise ConfigError("data.slices: the digits have no extra columns")
        if self.class_names is not None and len(self.class_names) != len(CLASS_NAMES):
            raise ConfigError(f"data.class_names: expected {len(CLASS_NAMES)} names, got {len(self.class_names)}")

    def listing(self) -> Listing:
        """All scans, in scikit-learn's order."""
        _, labels, is_test = _digits()
        ids = [f"digit-{position:04d}" for position in range(len(labels))]
        keys = [str(position) for position in range(len(labels))]
        splits = np.where(is_test, "test", "train").tolist()
        return Listing(frame(ids, keys, labels.tolist(), splits), self.class_names or CLASS_NAMES)

    def reader(self, table: pd.DataFrame) -> ArrayReader:
        """Reads the scans of `table`."""
        images, _, _ = _digits()
        return ArrayReader(images, table["key"].tolist(), self.preprocessing)
