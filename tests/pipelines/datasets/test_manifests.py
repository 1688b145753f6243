"""Tables that name images, and what every source has in common."""

import pickle

import pytest

from convaudit.pipelines.datasets.digits import Digits
from convaudit.pipelines.datasets.manifest import Manifest
from convaudit.pipelines.datasets.source import digest
from convaudit.stages.errors import ConfigError, DataError, ImageError

from .conftest import refused, write_manifest


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
def test_manifest_with_all_columns(folder, name):
    rows = {
        "path": ["cat/0.png", "ant/1.png", "zebra/2.png", "cat/gone.png"],
        "label": ["cat", "ant", "", "cat"],
        "split": ["test", "test", "test", "train"],
        "id": ["c0", "a1", "z2", "c9"],
        "camera": ["left", "right", "", "left"],
    }
    source = Manifest(path=str(write_manifest(folder, rows, name)), slices=("camera",))
    index = source.index()
    assert index.table["id"].tolist() == ["c0", "a1", "z2", "c9"]
    assert index.class_names == ("ant", "cat")
    assert index.table["label"].tolist() == [1, 0, -1, 1]
    assert index.table["camera"].tolist() == ["left", "right", "", "left"]
    assert index.table["content"].iloc[3] == ""
    with pytest.raises(ImageError, match="does not exist"):
        source.reader(index.table).read(3)
    tested = Manifest(path=source.path, split="test").index()
    assert tested.table["id"].tolist() == ["c0", "a1", "z2"]
    assert tested.class_names == ("ant", "cat")
    refused(Manifest(path=source.path, split="tset"), "did you mean 'test'")


def test_manifest_with_numbers_needs_names(folder, tmp_path):
    path = write_manifest(
        folder, {"path": ["cat/0.png", "ant/1.png", "ant/2.png"], "label": [1, 0, -1]}, "images.parquet"
    )
    refused(Manifest(path=str(path)), "whole numbers; give the names")
    index = Manifest(path=str(path), class_names=("a", "b", "c")).index()
    assert index.table["label"].tolist() == [1, 0, -1]
    assert index.table["id"].tolist() == ["cat/0.png", "ant/1.png", "ant/2.png"]
    refused(Manifest(path=str(path), class_names=("a",)), r"label 1 is outside 0\.\.0")
    elsewhere = tmp_path / "table.parquet"
    path.rename(elsewhere)
    assert digest(Manifest(path=str(elsewhere), root=str(folder), class_names=("a", "b", "c")).index().table) == digest(
        index.table
    )


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ({"file": ["a"], "label": ["x"]}, {}, r"data\.path_column: images\.csv has no column 'path'"),
        ({"path": ["a"], "labels": ["x"]}, {}, "did you mean 'labels'"),
        ({"path": ["a"], "label": ["x"]}, {"slices": ("camera",)}, "no column 'camera'"),
        ({"path": ["a"], "label": ["x"]}, {"split": "test"}, "no column 'split'"),
        ({"path": ["a", "a"], "label": ["x", "x"]}, {}, "id 'a' stands there twice"),
        ({"path": ["a", "b"], "label": ["x", "x"], "id": ["1", "1"]}, {}, "id '1' stands there twice"),
        ({"path": ["", "b"], "label": ["x", "x"]}, {}, "row 0 names no image file"),
        ({"path": ["/etc/passwd"], "label": ["x"]}, {}, "set data.root"),
        ({"path": ["a", "b", "c"], "label": ["x", "y", "x|y"]}, {}, "multi-label"),
        ({"path": ["a"], "label": ["['x']"]}, {}, "multi-label"),
        ({"path": ["a"], "label": ["dgo"]}, {"class_names": ("dog", "cat")}, "did you mean 'dog'"),
        ({"path": ["a"], "label": [""]}, {}, "no row has a label"),
        ({"path": [], "label": []}, {}, "no rows"),
        ({"path": ["gone.png"], "label": ["x"]}, {}, "none of the 1 images can be used: gone.png: the file does not"),
    ],
)
def test_manifest_mistakes(folder, rows, fields, words):
    source = Manifest(path=str(write_manifest(folder, rows)), **fields)
    refused(source, words, (DataError, ConfigError))


def test_manifest_refuses_lists_and_other_files(folder):
    path = write_manifest(folder, {"path": ["cat/0.png"], "label": [["x", "y"]]}, "images.parquet")
    refused(Manifest(path=str(path)), "multi-label data are not supported")
    (folder / "images.xlsx").write_bytes(b"x")
    refused(Manifest(path=str(folder / "images.xlsx")), r"expected a \.csv or \.parquet")
    (folder / "broken.parquet").write_bytes(b"x")
    refused(Manifest(path=str(folder / "broken.parquet")), "cannot be read as parquet")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limit": 0}, "data.limit"),
        ({"max_bad_fraction": 1.5}, "data.max_bad_fraction"),
        ({"class_names": ("a", "a")}, "twice"),
        ({"slices": ("label",)}, "data.slices"),
    ],
)
def test_common_settings_out_of_range(fields, words):
    with pytest.raises(ConfigError, match=words):
        Manifest(path="x.csv", **fields)


def test_an_anchored_source_reads_from_any_folder(folder, tmp_path, monkeypatch):
    path = write_manifest(folder.parent, {"path": ["cat/0.png", "ant/1.png"], "label": ["cat", "ant"]})
    monkeypatch.chdir(folder.parent)
    source = Manifest(path=path.name, root="images")
    table = source.index().table
    anchored = pickle.loads(pickle.dumps(source.anchored()))
    monkeypatch.chdir("/")
    assert anchored.reader(table).read(1).shape == (3, 8, 6)
    refused(source, "no such file; relative paths start at /")
    assert Digits().anchored() == Digits()
