"""What cannot be attributed is refused in one line before the sweep, or recorded image by image; never passed over."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from convaudit.pipelines.store import RunStore

from .conftest import call

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, n=5, pick=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, n)
        self.pick = pick

    def forward(self, x):
        logits = self.fc(self.relu(self.conv(x)).mean((2, 3)))
        return logits if self.pick is None else self.pick(logits)

def plain():
    torch.manual_seed(0)
    return Net()

def many():
    return Net(120)

def pair():
    return Net(pick=lambda logits: (logits, logits))

def mapping():
    return Net(pick=lambda logits: {"logits": logits})

def nothing():
    return Net(pick=lambda logits: None)

def map_of_logits():
    return Net(pick=lambda logits: logits[:, :, None])

def without_convolution():
    return nn.Sequential(nn.Flatten(), nn.Linear(12 * 10, 5))

def reused():
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )

def bright_is_infinite():
    # Not finite for an image whose mean is above 0.9, and for no other.
    net = plain()
    inner = net.forward
    def forward(x):
        mean = x.mean((1, 2, 3))
        return inner(x) + torch.where(mean > 0.9, torch.tensor(float("inf")), torch.tensor(0.0))[:, None]
    net.forward = forward
    return net
"""
OWN = ("model=python", "model.file=net.py", "model.own_weights=true")
SMALL = ("tracking=none", "cluster=inprocess", "numerics.batch=4", "numerics.shard=8")
N = 10


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Networks, and images with labels, without, and none at all."""
    (tmp_path / "net.py").write_text(NETWORK)
    images = np.random.default_rng(0).random((N, 1, 12, 10), np.float32) * 0.5
    images[3] = 1.0
    labels = np.arange(N) % 5
    names = np.array(["ant", "bee", "cat", "dog", "elk"])
    np.savez(tmp_path / "images.npz", images=images, labels=labels, class_names=names)
    np.savez(tmp_path / "bare.npz", images=images, labels=np.full(N, -1), class_names=names)
    np.savez(tmp_path / "partly.npz", images=images, labels=np.where(np.arange(N) == 4, -1, labels), class_names=names)
    np.savez(tmp_path / "none.npz", images=images[:0], labels=labels[:0], class_names=names)
    many = np.array([f"class {i}" for i in range(120)])
    np.savez(tmp_path / "many.npz", images=images, labels=labels, class_names=many)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*words: str, factory: str = "plain", data: str = "images") -> list[str]:
    return [*OWN, f"model.factory={factory}", "data=arrays", f"data.path={data}.npz", *SMALL, *words]


def refused(folder: Path, message: str, *words: str, **what: str) -> None:
    before = sorted(folder.rglob("*"))
    ended = call(*arguments(*words, **what))
    assert ended.code == 2, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert re.search(message, ended.err), ended.err
    assert "this is a defect" not in ended.err
    assert not (folder / "run").exists(), "nothing was swept"
    left = [path for path in folder.rglob("*") if not {"__pycache__", ".work"} & set(path.parts)]
    assert sorted(left) == before


def method(name: str, **settings: object) -> list[str]:
    """Overrides that configure one method."""
    return [
        f"attributions=[{name}]",
        *(f"attributions.methods.{name}.{key}={value}" for key, value in settings.items()),
    ]


WRONG = [
    (method("grad_cam", layers="[conf]"), r"attributions/grad_cam: layer selector 'conf'.*did you mean 'conv'"),
    (method("grad_cam", layers="[fc]"), r"fc has 0 spatial axes"),
    (method("grad_cam", layers="[]"), r"expected at least one layer selector"),
    (method("grad_cam", layers="conv"), r"layers: expected a list in brackets, got 'conv'"),
    (method("saliency", target="5"), r"attributions/saliency: .*target 5: expected a class from 0 to 4"),
    (method("saliency", target="-1"), r"target -1: expected a class from 0 to 4"),
    (method("saliency", target="bea"), r"target 'bea' is no class; did you mean 'bee'"),
    (method("saliency", target="predictd"), r"target 'predictd' is no class; did you mean 'predicted'"),
    (method("saliency", target="'top:6'"), r"target 'top:6': expected top:1 to top:5"),
    (method("saliency", target="'top:0'"), r"target 'top:0': expected top:1 to top:5"),
    (method("saliency", target="'top:x'"), r"target 'top:x': expected top:1 to top:5"),
    (
        method("saliency", target="1.5"),
        r"saliency\.target: expected text or an integer, got 1\.5",
    ),
    (
        method("saliency", target="null"),
        r"saliency\.target: expected text or an integer, got None",
    ),
    (method("saliency", reduction="max"), r"attributions\.methods\.saliency\.reduction: .*'max'"),
    (["attributions=[saliency]", "attributions.methods.saliency.images=some"], r"images: .*'all' or 'wrong'.*'some'"),
    (method("captum", attribution="GradientShop"), r"GradientShop' is no attribution class.*'GradientShap'"),
    (method("captum", layer="conv"), r"captum\.layer: expected null"),
    (method("captum", attribution="GuidedGradCam", layer="conf", call="{}"), r"did you mean 'conv'|no such setting"),
    (method("captum", target="contrast"), r"attributions/captum: .*one class at a time"),
    (method("lrp", rule="epsilom"), r"attributions\.methods\.lrp\.rule: .*'epsilom'"),
    (method("lrp", epsilon="0"), r"lrp\.epsilon: expected above 0"),
    (["attributions=[]"], r"attributions"),
    (["+attributions.methods.mine={_target_: convaudit.stages.attributions.stage.Attributions, methods: {}}"], r"none"),
    (["+attributions.methods.mine=3"], r"expected attribution methods with a _target_, got mine=3"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words[-2:])[-90:] for words, _ in WRONG])
def test_a_wrong_setting_is_refused_before_the_sweep(words, message, folder):
    refused(folder, message, *words)


@pytest.mark.parametrize("data", ["bare", "partly"])
@pytest.mark.parametrize(
    "words",
    [
        method("saliency", target="label"),
        method("grad_cam", target="contrast"),
        ["attributions=[saliency]", "attributions.methods.saliency.images=wrong"],
    ],
    ids=lambda words: words[-1],
)
def test_what_needs_labels_is_refused_without(words, data, folder):
    n = N if data == "bare" else 1
    wanted = rf"{n} of {N} images have no label" if "images" not in words[-1] else "needs labels"
    refused(folder, rf"attributions/\w+: .*{wanted}.*use ", *words, data=data)


def test_all_classes_are_refused_where_they_are_too_many(folder):
    message = r"attributions/saliency: .*'all': expected at most 100 classes, got 120; use 'top:5'"
    refused(folder, message, *method("saliency", target="all"), factory="many", data="many")
    refused(folder, r"expected top:1 to top:100", *method("saliency", target="'top:101'"), factory="many", data="many")


MODELS = {
    "pair": r"the model's output: expected a tensor \(image, class\), got tuple",
    "mapping": r"the model's output: expected a tensor \(image, class\), got dict",
    "nothing": r"the model's output: expected a tensor \(image, class\), got NoneType",
    "map_of_logits": r"the model's output: expected \(\d+ images, classes\) of floats, got \(2, 5, 1\)",
    "without_convolution": r"the model has no convolution among its \d+ layers",
}


@pytest.mark.parametrize("factory", MODELS)
def test_a_model_that_gives_no_logits_is_refused(factory, folder):
    refused(folder, MODELS[factory], "attributions=[saliency,grad_cam,cam]", factory=factory)


def test_a_network_that_a_method_cannot_serve_is_refused(folder):
    message = r"attributions/captum: .*needs modules that are called once, and 1#0"
    words = ["attributions=[captum]", "attributions.methods.captum.attribution=DeepLift"]
    refused(folder, message, *words, "~attributions.methods.captum.call", factory="reused")


def test_no_images_are_refused(folder):
    refused(folder, r"none\.npz|no image", data="none")


def test_logits_that_are_not_finite_are_recorded_image_by_image(folder):
    names = ("saliency", "grad_cam", "captum", "lrp", "integrated_gradients", "gradient_input")
    ended = call(*arguments(f"attributions=[{','.join(names)}]", "stages=[attributions]", factory="bright_is_infinite"))
    assert "this is a defect" not in ended.err, ended
    store = RunStore(folder / "run")
    for name in names:
        leaf = f"attributions/{name}"
        assert store.failure(leaf) is None, store.failure(leaf)
        paths = [path for path in store.arrays(leaf) if path.endswith("heatmap")]
        assert paths
        for path in paths:
            rows = np.asarray(store[path][:], float).reshape(N, -1)
            assert np.isnan(rows[3]).all(), path
            assert np.isfinite(np.delete(rows, 3, axis=0)).all(), path
        told = {finding.code: finding for finding in store.summary(leaf).findings}
        assert told["attributions/not-finite"].images == (3,), name
        assert store[f"{leaf}/target"][3, 0] == -1


def test_nothing_but_wrong_images_when_all_are_right_is_empty_and_said(folder):
    # A network that sees nothing: its prediction is class 0 for all, and so are the labels here.
    with np.load("images.npz") as held:
        np.savez("right.npz", images=held["images"], labels=np.zeros(N, int), class_names=held["class_names"])
    source = Path("net.py").read_text() + (
        "\ndef always_ant():\n    net = plain()\n    with torch.no_grad():\n        net.fc.weight.zero_()\n"
        "        net.fc.bias.copy_(torch.arange(5.0).flip(0))\n    return net\n"
    )
    Path("net.py").write_text(source)
    words = ["attributions=[saliency]", "attributions.methods.saliency.images=wrong", "stages=[attributions]"]
    ended = call(*arguments(*words, factory="always_ant", data="right"))
    assert ended.code in (0, 1), ended
    store = RunStore(folder / "run")
    assert store.failure("attributions/saliency") is None
    assert np.isnan(np.asarray(store["attributions/saliency/scale"][:])).all()
    assert (np.asarray(store["attributions/saliency/target"][:]) == -1).all()


def test_a_method_that_fails_on_the_way_loses_itself_alone(folder):
    source = Path("net.py").read_text() + (
        "\nclass Chooses(Net):\n    def forward(self, x):\n        x = self.relu(self.conv(x))\n"
        "        return self.fc((x if x.sum() > -1 else -x).mean((2, 3)))\n\ndef chooses():\n    return Chooses()\n"
    )
    Path("net.py").write_text(source)
    ended = call(*arguments("attributions=[saliency,lrp]", "stages=[attributions]", factory="chooses"))
    assert ended.code != 0, ended
    store = RunStore(folder / "run")
    assert store.failure("attributions/saliency") is None
    assert "cannot be traced into one graph" in str(store.failure("attributions/lrp"))
    assert "cannot be traced" in (folder / "run" / "report.html").read_text()
