"""Boxes and masks go the way of their images."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from convaudit.pipelines.datasets.manifest import Manifest
from convaudit.pipelines.datasets.prefetch import blocks
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.datasets.regions import box_mask, parse_boxes
from convaudit.pipelines.subject import from_facts
from convaudit.stages.errors import ConfigError, DataError

BOX = (9, 6, 25, 18)
SETTINGS = {
    "as it is": {},
    "resized": {"size": (20, 34)},
    "shorter side": {"size": 18},
    "cropped": {"crop": (21, 30)},
    "both": {"size": 24, "crop": (20, 22)},
}


def _white_in(box, size=(40, 30)):
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), box)
    return picture


@pytest.fixture
def folder(tmp_path):
    for name, box in (("a", BOX), ("b", (0, 0, 12, 30)), ("c", (20, 10, 40, 20))):
        _white_in(box).save(tmp_path / f"{name}.png")
    Image.fromarray((np.asarray(_white_in(BOX).convert("L")) > 0).astype(np.uint8) * 3).save(tmp_path / "mask.png")
    return tmp_path


def _source(folder, preprocessing=None, **columns):
    rows = {"path": ["a.png", "b.png", "c.png"], "label": ["x", "y", "x"], **columns}
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    given = Preprocessing(**(preprocessing or {}))
    return Manifest(path=str(folder / "images.csv"), preprocessing=given)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_box_covers_what_it_covered_in_the_file(folder, name):
    source = _source(folder, SETTINGS[name], box=["9 6 25 18", "0,0,12,30", ""])
    index = source.index()
    reader = source.reader(index.table)
    assert reader.has_regions
    assert reader.region(2) is None
    for position in (0, 1):
        image = reader.read(position)
        region = reader.region(position)
        assert region.shape == image.shape[1:]
        assert region.dtype == bool
        assert region.any()
        # Pixels that the resize mixed are on neither side for sure.
        np.testing.assert_array_equal(region[image[0] > 0.9], True)
        np.testing.assert_array_equal(region[image[0] < 0.1], False)


def test_a_mask_is_a_file_and_counts_where_there_is_a_box_too(folder):
    source = _source(folder, SETTINGS["both"], box=["", "0 0 1 1", ""], mask=["mask.png", "mask.png", ""])
    reader = source.reader(source.index().table)
    image = reader.read(0)
    for position in (0, 1):
        region = reader.region(position)
        np.testing.assert_array_equal(region[image[0] > 0.9], True)
        np.testing.assert_array_equal(region[image[0] < 0.1], False)


def test_a_region_turns_with_its_photograph(folder):
    picture = _white_in(BOX)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "a.png", exif=exif)
    turned = {name: _source(folder, {"exif": name == "turned"}, box=["9 6 25 18", "", ""]) for name in ("turned", "no")}
    for name, source in turned.items():
        reader = source.reader(pd.DataFrame(source.listing().table))
        image = reader.read(0)
        assert image.shape == ((3, 40, 30) if name == "turned" else (3, 30, 40))
        np.testing.assert_array_equal(reader.region(0), image[0] > 0.5)


def test_several_boxes_and_halves_of_pixels():
    assert parse_boxes(" 1 2 3 4 ; 0.5,0,2,2.6;", 0) == ((1, 2, 3, 4), (0.5, 0, 2, 2.6))
    assert parse_boxes("", 0) == ()
    marked = box_mask(((0.5, 0, 2, 2.6), (3, 3, 9, 9)), 4, 5)
    want = np.zeros((4, 5), bool)
    want[:2, :2] = want[2, :2] = want[3, 3:] = True
    np.testing.assert_array_equal(marked, want)


@pytest.mark.parametrize("text", ["1 2 3", "3 2 1 4", "1 2 x 4", "1 2 nan 4", "1 2 3 4 5"])
def test_a_wrong_box_is_named_before_anything_runs(folder, text):
    with pytest.raises(DataError, match=r"data.box_column: row 1: expected 'x0 y0 x1 y1'"):
        _source(folder, box=["", text, ""]).index()


def test_a_missing_mask_is_named_before_anything_runs(folder):
    with pytest.raises(DataError, match=r"data.mask_column: row 2: gone.png: the file does not exist"):
        _source(folder, mask=["", "mask.png", "gone.png"]).index()


def test_a_mask_of_another_size_is_refused(folder):
    Image.new("L", (30, 40)).save(folder / "mask.png")
    source = _source(folder, mask=["mask.png", "", ""])
    with pytest.raises(DataError, match=r"expected 30x40 pixels as the image has, got 40x30"):
        source.reader(source.index().table).region(0)


def test_another_mask_is_other_data(folder):
    source = _source(folder, mask=["mask.png", "", ""])
    before = source.index().table
    Image.new("L", (40, 30), 1).save(folder / "mask.png")
    after = source.index().table
    assert before["content"].equals(after["content"])
    assert before["mask_content"][0] != after["mask_content"][0]
    assert before["mask_content"][1] == ""


def test_regions_are_no_slices(folder):
    source = _source(folder, box=["9 6 25 18", "", ""], mask=["mask.png", "", ""])
    table = source.index().table
    facts = {
        "class_names": ["x", "y"], "axes": ["y", "x"], "input_shape": [3, 30, 40], "mean": [0], "std": [1],
        "layers": [], "shard": 4, "batch": 2, "seed": 0,
    }  # fmt: skip
    assert from_facts(facts, table).subject.slices == {}
    with pytest.raises(ConfigError, match=r"data.slices: 'box' is a column of its own"):
        Manifest(path=source.path, slices=("box",))


def test_batches_carry_regions_beside_their_images(folder):
    source = _source(folder, {"mean": (0.5,), "std": (0.5,)}, box=["9 6 25 18", "", "20 10 40 20"])
    reader = source.reader(source.index().table)
    first, second = blocks(reader, range(3), batch=2, threads=2, input_shape=(3, 30, 40))
    np.testing.assert_array_equal(first.regions[0], first.images[0, 0] > 0)
    assert not first.regions[1].any()
    np.testing.assert_array_equal(second.regions[0], second.images[0, 0] > 0)
    (folder / "c.png").unlink()
    (block,) = blocks(reader, range(2, 3), batch=2, threads=1, input_shape=(3, 30, 40))
    assert not block.valid.any()
    assert not block.regions.any()
    plain = _source(folder)
    (block,) = blocks(plain.reader(plain.listing().table), range(2), batch=2, threads=1, input_shape=(3, 30, 40))
    assert block.regions is None
