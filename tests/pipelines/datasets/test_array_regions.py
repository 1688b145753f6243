"""Boxes and masks that lie in the same file as the images they belong to."""

import pickle

import numpy as np
import pandas as pd
import pytest

from convaudit.pipelines.datasets.arrays import Arrays
from convaudit.pipelines.datasets.prefetch import blocks
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.subject import from_facts
from convaudit.stages.errors import DataError

from .conftest import write_arrays

NONE = [np.nan] * 4
BOXES = np.array([[[3, 6, 9, 18], NONE], [[0, 0, 12, 4], [20, 10, 28, 24]], [NONE, NONE]])
SETTINGS = {
    "as it is": {},
    "resized": {"size": (34, 20)},
    "shorter side": {"size": 18},
    "cropped": {"crop": (21, 22)},
    "both": {"size": 20, "crop": (16, 20)},
}


def written(path, images, **more):
    content = {"images": images, "labels": np.zeros(len(images), int), "class_names": np.array(["a", "b"]), **more}
    return str(write_arrays(path, content))


def pictures():
    """White where the boxes of an image lie, black elsewhere."""
    images = np.zeros((3, 2, 24, 28), np.float32)
    for image, boxes in zip(images, BOXES, strict=True):
        for x0, y0, x1, y1 in boxes[~np.isnan(boxes).any(axis=1)].astype(int):
            image[:, y0:y1, x0:x1] = 1
    return images


@pytest.mark.parametrize("file", ["data.npz", "data.zarr"])
@pytest.mark.parametrize("what", ["boxes", "masks"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_region_covers_what_it_covered_in_the_array(tmp_path, file, what, name):
    images = pictures()
    more = {"boxes": BOXES} if what == "boxes" else {"masks": (images[:, 0] * 7).astype(np.uint8)}
    source = Arrays(path=written(tmp_path / file, images, **more), preprocessing=Preprocessing(**SETTINGS[name]))
    reader = source.reader(source.index().table)
    assert reader.has_regions
    assert reader.region(2) is None
    for position in (0, 1):
        image, region = reader.read(position), reader.region(position)
        assert (region.shape, region.dtype) == (image.shape[1:], bool)
        # Pixels that the resize mixed are on neither side for sure.
        np.testing.assert_array_equal(region[image[0] > 0.9], True)
        np.testing.assert_array_equal(region[image[0] < 0.1], False)
        assert region.any()


def test_one_box_per_image_in_whole_numbers_and_a_mask_before_a_box(tmp_path):
    images = pictures()
    masks = np.zeros((3, 24, 28), bool)
    masks[1, 5] = True
    boxes = np.array([[3, 6, 9, 18], [0, 0, 2, 2], [-1, -1, -1, -1]], np.int32)
    source = Arrays(path=written(tmp_path / "data.npz", images, boxes=boxes, masks=masks))
    table = source.index().table
    assert table["box"].tolist() == ["3 6 9 18", "0 0 2 2", ""]
    assert table["mask"].tolist() == ["", "1", ""]
    reader = source.reader(table)
    np.testing.assert_array_equal(reader.region(0), images[0, 0] > 0)
    np.testing.assert_array_equal(reader.region(1), masks[1])
    assert reader.region(2) is None


@pytest.mark.parametrize("what", ["boxes", "masks"])
def test_signals_have_spans(tmp_path, what):
    images = np.random.default_rng(0).random((3, 2, 40), dtype=np.float32)
    wanted = np.zeros((3, 40), bool)
    wanted[0, 4:11] = wanted[1, :3] = wanted[1, 30:] = True
    spans = np.array([[[4, 11], [np.nan] * 2], [[0, 3], [30, 40]], [[np.nan] * 2] * 2])
    more = {"boxes": spans} if what == "boxes" else {"masks": wanted.astype(np.float32)}
    source = Arrays(path=written(tmp_path / "data.npz", images, **more))
    reader = source.reader(source.index().table)
    for position in (0, 1):
        np.testing.assert_array_equal(reader.region(position), wanted[position])
    assert reader.region(2) is None
    (block,) = blocks(reader, range(3), batch=3, threads=2, input_shape=(2, 40))
    np.testing.assert_array_equal(block.regions, wanted)


def test_halves_of_pixels_survive_the_index(tmp_path):
    box = np.array([[0.5, 1 / 3, 20.25, 9.75]] * 3)
    source = Arrays(path=written(tmp_path / "data.npz", pictures(), boxes=box))
    table = source.index().table
    assert [float(word) for word in table["box"][1].split()] == box[0].tolist()
    y, x = np.arange(24)[:, None] + 0.5, np.arange(28) + 0.5
    inside = (x >= 0.5) & (x < 20.25) & (y >= 1 / 3) & (y < 9.75)
    np.testing.assert_array_equal(source.reader(table).region(2), inside)


def test_a_sample_elsewhere_finds_the_regions_of_its_images(tmp_path):
    images = pictures()
    ids = np.array(["x", "y", "z"])
    path = written(tmp_path / "data.npz", images, ids=ids, masks=images[:, 0] > 0, boxes=BOXES)
    source = Arrays(path=path)
    source.index().table.iloc[[1]].to_parquet(tmp_path / "images.parquet", index=False)
    reader = pickle.loads(pickle.dumps(source)).reader(pd.read_parquet(tmp_path / "images.parquet"))
    np.testing.assert_array_equal(reader.region(0), images[1, 0] > 0)


def test_another_mask_is_other_data_and_regions_are_no_slices(tmp_path):
    masks = pictures()[:, 0] > 0
    before = Arrays(path=written(tmp_path / "a.npz", pictures(), masks=masks)).index().table
    masks[0, 0, 0] = True
    after = Arrays(path=written(tmp_path / "b.npz", pictures(), masks=masks)).index().table
    assert before["content"].equals(after["content"])
    assert before["mask_content"][0] != after["mask_content"][0]
    assert before["mask_content"][1:].tolist() == after["mask_content"][1:].tolist()
    facts = {
        "class_names": ["a", "b"], "axes": ["y", "x"], "input_shape": [2, 24, 28], "mean": [0], "std": [1],
        "layers": [], "shard": 4, "batch": 2, "seed": 0,
    }  # fmt: skip
    assert from_facts(facts, after).subject.slices == {}


def test_arrays_without_regions_have_none(tmp_path):
    source = Arrays(path=written(tmp_path / "data.npz", pictures()))
    table = source.index().table
    assert not {"box", "mask", "mask_content"} & set(table.columns)
    assert not source.reader(table).has_regions


def changed(row, box):
    boxes = np.array([[3.0, 6, 9, 18]] * 3)
    boxes[row] = box
    return boxes


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"boxes": np.zeros((3, 2))}, r"boxes: expected shape \(3, 4\) or \(3, box, 4\), got \(3, 2\)"),
        ({"boxes": np.zeros((2, 4))}, r"boxes: expected shape"),
        ({"boxes": np.full((3, 4), "1")}, "boxes: expected numbers, got <U1"),
        ({"boxes": changed(1, [9, 6, 3, 18])}, r"boxes: row 1: expected x0 y0 x1 y1 with x0 < x1, y0 < y1, got \[9.0"),
        ({"boxes": changed(2, [3, np.nan, 9, 18])}, "boxes: row 2: expected x0 y0 x1 y1"),
        ({"boxes": changed(0, [3, 6, np.inf, 18])}, "boxes: row 0"),
        (
            {"masks": np.zeros((3, 28, 24))},
            r"masks: expected shape \(3, 24, 28\), as the images have, got \(3, 28, 24\)",
        ),
        ({"masks": np.zeros((3, 1, 24, 28))}, "masks: expected shape"),
        ({"masks": np.full((3, 24, 28), "x")}, "masks: expected numbers or truth values, got <U1"),
        ({"masks": np.full((3, 24, 28), np.nan)}, "masks: row 0 holds NaN"),
    ],
)
def test_a_wrong_region_is_named_before_anything_runs(tmp_path, more, words):
    with pytest.raises(DataError, match=words) as caught:
        Arrays(path=written(tmp_path / "data.npz", pictures(), **more)).index()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.path: ")


def test_a_wrong_span_of_a_signal_is_named(tmp_path):
    images = np.zeros((2, 1, 30), np.float32)
    path = written(tmp_path / "data.npz", images, boxes=np.array([[1.0, 4], [7, 7]]))
    with pytest.raises(DataError, match=r"boxes: row 1: expected start end with start < end, got \[7.0, 7.0\]"):
        Arrays(path=path).index()
