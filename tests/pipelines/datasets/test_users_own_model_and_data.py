"""A real checkpoint and real images in the forms people have them."""

from pathlib import Path

import pytest
import torch

from convaudit.pipelines.datasets.imagefolder import ImageFolder
from convaudit.pipelines.datasets.prefetch import blocks
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.pipelines.models.python import PythonModel

CIFAR = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the CIFAR-10 sample (../shared/data/cifar10) is not on this machine")
def test_1627_of_2000_cifar_images_are_right(tmp_path):
    factory, weights = CIFAR / "resnet_cifar.py", CIFAR / "resnet20.th"
    model = PythonModel(file=str(factory), factory="resnet20", checkpoint=str(weights)).resolve(tmp_path).build()
    settings = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    source = ImageFolder(path=str(CIFAR / "images"), preprocessing=settings)
    index = source.index()
    labels = torch.tensor(index.table["label"].tolist())
    right = 0
    with torch.inference_mode():
        for block in blocks(source.reader(index.table), range(len(labels)), 50, 1, index.input_shape):
            assert block.valid.all()
            right += int((model(torch.from_numpy(block.images)).argmax(1) == labels[block.positions]).sum())
    assert (len(labels), right) == (2000, 1627)
