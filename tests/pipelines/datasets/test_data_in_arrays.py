"""Images and signals in npz files and Zarr groups."""

import numpy as np
import pytest

from convaudit.pipelines.datasets.arrays import Arrays
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.datasets.source import digest
from convaudit.stages.errors import ImageError

from .conftest import RNG, refused, write_arrays


def held(images, labels, **more):
    return {"images": np.asarray(images), "labels": np.asarray(labels), "class_names": np.asarray(["a", "b"]), **more}


@pytest.mark.parametrize("name", ["data.npz", "data.zarr"])
@pytest.mark.parametrize("shape", [(7, 2, 6, 5), (7, 3, 11)])
def test_arrays_of_images_and_signals(tmp_path, name, shape):
    images = RNG.random(shape, dtype=np.float32)
    images[4, 0, 1] = np.nan
    ids = np.asarray([f"scan {number}" for number in range(7)])
    path = write_arrays(tmp_path / name, held(images, [0, 1, 1, -1, 0, 1, 0], ids=ids))
    source = Arrays(path=str(path), preprocessing=Preprocessing(mean=(0.25,), std=(0.5,)))
    index = source.index()
    assert index.table["id"].tolist() == ids.tolist()
    assert index.table["label"].tolist() == [0, 1, 1, -1, 0, 1, 0]
    assert (index.axes, index.input_shape) == (("y", "x") if len(shape) == 4 else ("time",), shape[1:])
    assert index.mean == (0.25,) * shape[1]
    reader = source.reader(index.table)
    for position in (6, 0, 3):
        np.testing.assert_allclose(reader.read(position), (images[position] - 0.25) / 0.5, rtol=1e-6)
    with pytest.raises(ImageError) as caught:
        reader.read(4)
    assert caught.value.code == "not_finite"


def test_npz_and_zarr_have_the_same_digest(tmp_path):
    content = held(RNG.integers(0, 256, (5, 1, 4, 3), dtype=np.uint8), [0, 1, 0, 1, 1])
    tables = [Arrays(path=str(write_arrays(tmp_path / name, content))).index().table for name in ("a.npz", "a.zarr")]
    assert digest(tables[0]) == digest(tables[1])
    assert tables[0]["id"].iloc[2] == "row-000002"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((3, 4))}, "expected images"),
        ({"images": np.zeros((3, 32, 32, 3))}, "channels last"),
        ({"images": np.zeros((0, 1, 4, 4)), "labels": np.zeros(0, int)}, "no images"),
        ({"labels": np.zeros((3, 2), int)}, "multi-label"),
        ({"labels": np.zeros(2, int)}, "expected 3 labels"),
        ({"labels": np.zeros(3)}, "regression"),
        ({"labels": np.asarray([0, 1, 2])}, r"label 2 is outside -1\.\.1"),
        ({"labels": np.asarray([0, -2, 1])}, "label -2 is outside"),
        ({"ids": np.asarray(["a", "b"])}, "expected 3 ids"),
        ({"ids": np.asarray(["a", "b", "a"])}, "'a' stands there twice"),
        ({"labels": None}, "expected an array 'labels'"),
        ({"class_names": None}, r"data\.class_names"),
        ({"images": np.full((3, 1, 4, 4), np.nan)}, "none of the 3 images can be used"),
    ],
)
def test_arrays_mistakes(tmp_path, changes, words):
    content = held(np.zeros((3, 1, 4, 4), np.float32), [0, 1, 0]) | changes
    path = write_arrays(tmp_path / "data.npz", {name: values for name, values in content.items() if values is not None})
    refused(Arrays(path=str(path)), words)


def test_arrays_refuse_pickles_and_broken_files(tmp_path):
    np.savez(tmp_path / "objects.npz", images=np.asarray([{}, {}], dtype=object), labels=np.zeros(2, int))
    refused(Arrays(path=str(tmp_path / "objects.npz")), "pickled objects")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04junk")
    refused(Arrays(path=str(tmp_path / "broken.npz")), "damaged")
    (tmp_path / "other").mkdir()
    refused(Arrays(path=str(tmp_path / "other")), "expected a Zarr group")
    refused(Arrays(path=str(tmp_path / "none.npz")), "no such file")
