"""The verdicts of the paper on a trained network: guided backprop fails, gradient and Grad-CAM pass."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.method import PixelMethod, gradients
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.contract import Subject
from convaudit.stages.faithfulness.stage import Faithfulness
from convaudit.stages.network.forward import Block
from convaudit.stages.network.layers import trace
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake, settle

CIFAR = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"
pytestmark = pytest.mark.skipif(
    not CIFAR.is_dir(), reason="the CIFAR-10 sample (../shared/data/cifar10) is not on this machine"
)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Guided(PixelMethod):
    """Guided backprop, written here so that the test hangs on the kernel alone."""

    signed = False
    unit = "1"
    meaning = "Guided."

    def asks(self, subject):
        return gradients(self.targets(subject), "input", rule="guided")

    def heatmap(self, batch, subject, target):
        return batch.gradient(target, "input", "guided").abs().amax(1)


@pytest.fixture(scope="module")
def world():
    spec = importlib.util.spec_from_file_location("resnet_cifar", CIFAR / "resnet_cifar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.resnet20().eval().requires_grad_(False)
    weights = torch.load(CIFAR / "resnet20.th", map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    files = [sorted(folder.iterdir())[i] for folder in sorted((CIFAR / "images").iterdir()) for i in range(2)]
    raw = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]) / 255
    images = np.moveaxis((raw - MEAN) / STD, -1, 1).astype(np.float32)
    with torch.inference_mode():
        predicted = model(torch.from_numpy(images)).argmax(1).numpy().astype(np.int32)
    n = len(files)
    subject = Subject(
        image_id=tuple(file.name for file in files), label=np.repeat(np.arange(10), 2), content=("",) * n,
        split=("",) * n, class_names=tuple("abcdefghij"), axes=("y", "x"), input_shape=(3, 32, 32), mean=tuple(MEAN),
        std=tuple(STD), layers=trace(model, torch.from_numpy(images[:2])), shard=n, batch=16, seed=0,
    )  # fmt: skip
    return model, subject, images, predicted


@pytest.mark.parametrize(
    ("method", "verdict"),
    [(Guided(), "fails"), (Saliency(), "passes"), (GradCam(), "passes")],
    ids=["guided", "gradient", "grad_cam"],
)
def test_the_verdict_is_that_of_the_paper(world, method, verdict):
    model, subject, images, predicted = world
    (leaf,) = Faithfulness({"tried": method}, images=20, steps=2, samples=0, levels=5).leaves()
    stored = StoredFake({"predictions/predicted": predicted})
    partials = []
    for task in leaf.tasks(subject, stored):
        positions = np.array(task.images)
        good = np.ones(len(positions), bool)
        block = Block(positions, images[positions], good, np.zeros(len(positions), np.int8), ("",) * len(positions))
        (outcome,) = run_tasks(model, [(leaf, task)], [block], subject, device="cpu", channels_last=False)
        assert outcome.error is None
        partials.append(outcome.partial)
    assert settle(leaf, subject, stored, partials).notes["randomisation"] == verdict
