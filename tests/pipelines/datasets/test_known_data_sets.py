"""The digits, and data sets of torchvision by name."""

import pickle

import numpy as np
import pytest
import torch

from convaudit.pipelines.datasets.digits import Digits
from convaudit.pipelines.datasets.torchvision import TorchvisionDataset
from convaudit.stages.errors import ConfigError
from convaudit.stages.reference.digits import load_digits_split

from .conftest import RNG, refused


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
