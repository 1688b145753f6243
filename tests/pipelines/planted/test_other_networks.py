"""Networks of the user's own: signals, images that are not square, and a real one with dead channels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from .conftest import WHOLE

CIFAR = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"

NETS = """
from torch import nn


class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 9, padding=4)
        self.norm = nn.BatchNorm1d(8)
        self.act = nn.ReLU()
        self.deep = nn.Sequential(nn.Conv1d(8, 12, 9, stride=2), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.deep(self.act(self.norm(self.conv(x)))).mean(-1))


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, padding=2)
        self.deep = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.deep(self.conv(x)).mean((-2, -1)))
"""


def waves(shape: tuple[int, ...], n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Waves along the last axis of one of three frequencies, in noise."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % 3
    time = np.arange(shape[-1]) / shape[-1]
    phase = rng.uniform(0, 2 * np.pi, n)
    wave = np.sin(2 * np.pi * (3 * (1 + label))[:, None] * time + phase[:, None])
    wave = wave.reshape(n, *(1,) * (len(shape) - 1), shape[-1])
    return (0.5 + 0.3 * wave + rng.normal(0, 0.03, (n, *shape))).clip(0, 1).astype(np.float32), label


def own_model(folder: Path, factory: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Train the user's network on the user's arrays; overrides for both."""
    images, label = waves(shape)
    np.savez(folder / "own.npz", images=images, labels=label, class_names=np.array(["low", "middle", "high"]))
    (folder / "nets.py").write_text(NETS)
    spec = importlib.util.spec_from_file_location("planted_nets", folder / "nets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(module, factory)()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        fed, wanted = torch.from_numpy((images - 0.5) / 0.25), torch.from_numpy(label)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(fed), wanted).backward()
            optimizer.step()
    torch.save({"state_dict": model.state_dict()}, folder / "own.pt")
    return (
        "model=python",
        f"model.file={folder / 'nets.py'}",
        f"model.factory={factory}",
        f"model.checkpoint={folder / 'own.pt'}",
        "data=arrays",
        f"data.path={folder / 'own.npz'}",
        "data.preprocessing.mean=[0.5]",
        "data.preprocessing.std=[0.25]",
    )


@pytest.mark.parametrize(("factory", "shape"), [("Signals", (2, 96)), ("Wide", (3, 14, 40))])
def test_signals_and_images_that_are_not_square_go_all_the_way(factory, shape, audited, tmp_path):
    outcome = audited(*own_model(tmp_path, factory, shape), small=WHOLE)
    assert not outcome.verdict["failures"]
    assert outcome.value("predictions/accuracy") > 0.9
    store = outcome.store
    assert store["attributions/saliency/heatmap"].shape == (120, 1, *shape[1:])
    asked = set(outcome.page.split('<section id="')[1:])
    named = {text.split('"')[0] for text in asked}
    assert {"predictions", "attributions", "neighbors", "embeddings", "filters", "activations", "thumbnails"} <= named
    assert "could not be drawn" not in outcome.page
    assert outcome.page.count("<img") + outcome.page.count("<svg") + outcome.page.count("<use") > 10
    assert outcome.verdict["verdict"] in ("PASS", "WARN")


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the CIFAR-10 sample (../shared/data/cifar10) is not on this machine")
def test_a_real_network_has_its_dead_channels_told_in_one_finding(audited):
    outcome = audited(
        "model=python",
        f"model.file={CIFAR / 'resnet_cifar.py'}",
        "model.factory=resnet20",
        f"model.checkpoint={CIFAR / 'resnet20.th'}",
        "data=imagefolder",
        f"data.path={CIFAR / 'images'}",
        "data.preprocessing.mean=[0.485,0.456,0.406]",
        "data.preprocessing.std=[0.229,0.224,0.225]",
        "stages=[filters]",
    )
    dead = outcome.findings["filters/dead"]
    assert dead.title == "18 of 688 channels, in 11 layers, never fired"
    assert outcome.order() == ["filters/dead", "filters/dormant", "weights/near-zero"]
    assert outcome.value("predictions/accuracy") == 1627 / 2000
