"""Data sets of every kind, small enough to write for each test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

from convaudit.stages.errors import DataError

RNG = np.random.default_rng(7)


def write_image(path: Path, size=(8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("zebra", "ant", "cat"):
        for number in range(4):
            write_image(root / name / f"{number}.png")
    write_image(root / "cat" / "more" / "deep.PNG")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    return root


def refused(source, words, kind=DataError):
    with pytest.raises(kind, match=words) as caught:
        source.index()
    assert "\n" not in str(caught.value)


def write_manifest(folder, rows, name="images.csv"):
    path = folder / name
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    return path


def write_arrays(path, content):
    if path.suffix == ".npz":
        np.savez(path, **content)
        return path
    group = zarr.create_group(store=str(path), zarr_format=3)
    for name, values in content.items():
        if values.dtype.kind == "U":
            group.create_array(name=name, shape=values.shape, dtype=str)[...] = values.astype(object)
        else:
            group.create_array(name=name, data=values, chunks=(3, *values.shape[1:]))
    return path
