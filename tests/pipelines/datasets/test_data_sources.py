import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from PIL import Image

from convaudit.pipelines.datasets.arrays import Arrays
from convaudit.pipelines.datasets.digits import Digits
from convaudit.pipelines.datasets.imagefolder import ImageFolder
from convaudit.pipelines.datasets.manifest import Manifest
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.datasets.source import digest
from convaudit.pipelines.datasets.torchvision import TorchvisionDataset
from convaudit.stages.errors import ConfigError, DataError, ImageError
from convaudit.stages.reference.digits import load_digits_split

RNG = np.random.default_rng(7)


def write_image(path, size=(8, 6)):
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


def write_manifest(folder, rows, name="images.csv"):
    path = folder / name
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    return path


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


def held(images, labels, **more):
    return {"images": np.asarray(images), "labels": np.asarray(labels), "class_names": np.asarray(["a", "b"]), **more}


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


def test_digits_audit_only_what_the_reference_never_saw():
    index = Digits().index()
    images, labels, is_test = load_digits_split()
    positions = [int(name.removeprefix("digit-")) for name in index.table["id"]]
    assert positions == np.flatnonzero(is_test).tolist()
    assert len(positions) == 540
    assert index.table["label"].tolist() == labels[is_test].tolist()
    assert (index.input_shape, index.axes) == ((1, 32, 32), ("y", "x"))
    np.testing.assert_array_equal(Digits().reader(index.table).read(17), images[positions[17]])
    share = np.bincount(labels[is_test]) / np.bincount(labels)
    assert np.abs(share - 0.3).max() < 0.01
    assert len(Digits(split=None).index().table) == 1797


def test_digits_are_enlarged_bilinearly():
    from sklearn.datasets import load_digits

    scans = torch.from_numpy(load_digits().images[:9]).float()[:, None] / 16
    expected = torch.nn.functional.interpolate(scans, size=(32, 32), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(load_digits_split()[0][:9], expected.numpy(), atol=1e-6)


def fake(**fields):
    arguments = {"size": 12, "image_size": [3, 16, 20], "num_classes": 4}
    return TorchvisionDataset(**({"name": "FakeData", "arguments": arguments, "class_names": tuple("abcd")} | fields))


def test_torchvision_data_sets_by_name():
    source = fake()
    index = source.index()
    assert index.input_shape == (3, 16, 20)
    assert set(index.table["label"]) <= {0, 1, 2, 3}
    assert index.table["id"].iloc[3] == "fakedata-03"
    reader = source.reader(index.table)
    np.testing.assert_array_equal(reader.read(5), source.reader(index.table).read(5))


def test_a_downloaded_data_set_is_found_and_its_names_are_used(tmp_path):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = {"data": RNG.integers(0, 256, (6, 3072), dtype=np.uint8), "labels": [3, 1, 0, 9, 4, 4]}
    for name in ("test_batch",):
        (folder / name).write_bytes(pickle.dumps(rows))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "_check_integrity", lambda *_: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        index = TorchvisionDataset(name="CIFAR10", path=str(tmp_path), arguments={"train": False}).index()
    assert index.class_names == tuple("abcdefghij")
    assert index.table["label"].tolist() == rows["labels"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "CIFAR1O", "arguments": {}}, "did you mean 'CIFAR10'"),
        ({"name": "ImageFolder", "arguments": {}}, "use data=imagefolder"),
        ({"arguments": {"sise": 3}}, "did you mean 'size'"),
        ({"arguments": {"transform": "x"}}, "data.preprocessing instead"),
        ({"name": "CIFAR10", "arguments": {}}, "needs a root folder"),
        ({"split": "test"}, "choose the split with data.arguments"),
    ],
)
def test_torchvision_settings(fields, words):
    with pytest.raises(ConfigError, match=words):
        fake(**fields)


def test_torchvision_absent_data_and_other_tasks(tmp_path):
    refused(TorchvisionDataset(name="CIFAR10", path=str(tmp_path)), r"set data\.download=true")
    refused(fake(class_names=None), "names no classes")
    refused(fake(class_names=("a", "b")), "there are 2 class names")


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
