"""One folder per class: names, splits, bad files, and a limit."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from convaudit.pipelines.datasets.imagefolder import ImageFolder
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.datasets.source import digest
from convaudit.stages.errors import ImageError

from .conftest import refused, write_image


def test_folders_are_classes_in_sorted_order(folder):
    index = ImageFolder(path=str(folder)).index()
    assert index.class_names == ("ant", "cat", "zebra")
    assert index.table["id"].tolist()[3:9] == [
        "ant/3.png",
        "cat/0.png",
        "cat/1.png",
        "cat/2.png",
        "cat/3.png",
        "cat/more/deep.PNG",
    ]
    assert index.table["label"].tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert list(index.table.columns) == ["id", "key", "label", "split", "content"]
    assert (index.axes, index.input_shape, index.mean, index.std) == (("y", "x"), (3, 8, 6), (0.0,) * 3, (1.0,) * 3)
    assert index.notes["ignored_files"] == 1
    json.dumps(dict(index.notes))


def test_bad_files_stay_in_the_index_with_the_hash_of_what_there_is(folder):
    (folder / "ant" / "0.png").write_bytes(b"")
    (folder / "ant" / "1.png").write_bytes(b"junk")
    source = ImageFolder(path=str(folder))
    index = source.index()
    assert len(index.table) == 13
    assert index.input_shape == (3, 8, 6)
    reader = source.reader(index.table)
    codes = []
    for position in (0, 1):
        with pytest.raises(ImageError) as caught:
            reader.read(position)
        codes.append(caught.value.code)
    assert codes == ["empty", "undecodable"]
    assert len(set(index.table["content"])) == 13


def test_digest_follows_content_and_labels_but_not_the_place(folder, tmp_path):
    first = digest(ImageFolder(path=str(folder)).index().table)
    moved = folder.rename(tmp_path / "elsewhere")
    assert digest(ImageFolder(path=str(moved)).index().table) == first
    with (moved / "ant" / "2.png").open("ab") as stream:
        stream.write(b" ")
    assert digest(ImageFolder(path=str(moved)).index().table) != first


def test_a_reader_made_elsewhere_from_pickle_and_parquet_reads_the_same(folder, tmp_path):
    source = ImageFolder(path=str(folder), preprocessing=Preprocessing(size=5))
    index = source.index()
    index.table.to_parquet(tmp_path / "images.parquet", index=False)
    table = pd.read_parquet(tmp_path / "images.parquet")
    assert digest(table) == digest(index.table)
    again = pickle.loads(pickle.dumps(source)).reader(table)
    for position in (0, 7, 12):
        np.testing.assert_array_equal(again.read(position), source.reader(index.table).read(position))


def test_class_names_put_folders_in_the_order_of_the_logits_or_rename_them(folder):
    ordered = ImageFolder(path=str(folder), class_names=("zebra", "yak", "cat", "ant")).index()
    assert ordered.class_names == ("zebra", "yak", "cat", "ant")
    assert sorted(set(zip(ordered.table["id"].str[:3], ordered.table["label"], strict=True))) == [
        ("ant", 3),
        ("cat", 2),
        ("zeb", 0),
    ]
    renamed = ImageFolder(path=str(folder), class_names=("Ameise", "Katze", "Zebra")).index()
    assert renamed.table["label"].tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert renamed.notes["class_folders"] == {"Ameise": "ant", "Katze": "cat", "Zebra": "zebra"}
    refused(
        ImageFolder(path=str(folder), class_names=("ant", "cats", "zebra")), "'cat' is not among.*did you mean 'cats'"
    )


def test_splits_are_folders(folder, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    folder.rename(root / "val")
    (root / "train" / "ant").mkdir(parents=True)
    refused(ImageFolder(path=str(root)), r"holds splits \(train, val\), not classes; set data\.split")
    refused(ImageFolder(path=str(root), split="vla"), "did you mean 'val'")
    assert set(ImageFolder(path=str(root), split="val").index().table["split"]) == {"val"}
    refused(ImageFolder(path=str(root), split="train"), "no image in this class folder")


def test_nothing_to_read_is_told(folder, tmp_path):
    refused(ImageFolder(path=str(tmp_path / "none")), "no such folder")
    (tmp_path / "bare").mkdir()
    refused(ImageFolder(path=str(tmp_path / "bare")), "one folder per class, got no folder")
    for path in folder.rglob("*.[pP][nN][gG]"):
        path.write_bytes(b"junk")
    refused(ImageFolder(path=str(folder)), "none of the 13 images can be used: ant/0.png: is not an image")


def test_links_in_a_circle_end(folder):
    (folder / "ant" / "self").symlink_to(folder / "ant", target_is_directory=True)
    assert len(ImageFolder(path=str(folder)).index().table) == 13


def test_a_limit_keeps_shares_and_hangs_on_ids_alone(folder):
    for number in range(4, 40):
        write_image(folder / "ant" / f"{number}.png")
    source = ImageFolder(path=str(folder), limit=15)
    index = source.index()
    assert np.bincount(index.table["label"]).tolist() == [12, 2, 1]
    assert index.notes | {"limit": 15, "in_split": 49, "audited": 15} == index.notes
    assert index.table["id"].tolist() == sorted(index.table["id"])
    other = ImageFolder(path=str(folder), limit=15, sample_seed=1).index()
    assert other.table["id"].tolist() != index.table["id"].tolist()
    kept = set(index.table["id"])
    renamed = ImageFolder(path=str(folder), limit=15, class_names=("zebra", "cat", "ant")).index()
    assert set(renamed.table["id"]) == kept
