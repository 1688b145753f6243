"""Networks, images and subjects small enough to compute by hand; every test uses these."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convaudit.stages.contract import Subject
from convaudit.stages.network.layers import trace
from convaudit.stages.network.sweep import Block

N_CLASS = 5
#: Not square, and no two lengths alike, so that a transposed axis cannot pass.
SHAPE_2D = (3, 12, 9)
SHAPE_1D = (2, 24)


class ConvNet(nn.Module):
    """Conv-BN-ReLU twice; the ReLUs write in place, so that a hook that does not copy sees the wrong values."""

    input_shape = SHAPE_2D

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, (3, 2))
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU(inplace=True)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, N_CLASS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc(self.gap(x).flatten(1))


class Stem(nn.Module):
    """A convolution followed by a ReLU that is only called, in place, its result ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        F.relu(x, inplace=True)
        return x


class FunctionalNet(nn.Module):
    """ReLU in many spellings: as a function, in place, as a clamp, and one module called twice."""

    input_shape = SHAPE_2D

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.conv2 = nn.Conv2d(6, 7, 3, stride=2)
        self.conv3 = nn.Conv2d(7, 7, 3, padding=1)
        self.conv4 = nn.Conv2d(7, 8, (3, 2))
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(8, 10)
        self.fc2 = nn.Linear(10, N_CLASS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.stem(x)))
        x = self.relu(self.conv3(x))
        x = torch.relu(self.conv4(x)).mean((2, 3))
        return self.fc2(self.fc1(x).clamp(min=0))


class Residual(nn.Module):
    """A block that adds in place onto what its last layer gave."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.conv2(out)
        out += identity
        return self.relu(out)


class ResidualNet(nn.Module):
    """Two residual blocks with ReLU6, and dropout, which gives back its input when evaluated."""

    input_shape = SHAPE_2D

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.block1 = Residual(6)
        self.block2 = Residual(6)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, N_CLASS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(F.relu6(self.conv(x))))
        return self.fc(self.drop(x.mean((2, 3))))


class SignalNet(nn.Module):
    """A network for one-dimensional signals."""

    input_shape = SHAPE_1D

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 6, 5, padding=2)
        self.bn1 = nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 8, 3)
        self.fc = nn.Linear(8, N_CLASS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        return self.fc(torch.relu_(self.conv2(x)).mean(2))


def _seeded(kind: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                # Statistics of a fresh layer would make it the identity.
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval().requires_grad_(False)


def conv_net(seed: int = 0) -> nn.Module:
    """Conv-BN-ReLU, in evaluation mode, frozen; input `SHAPE_2D`."""
    return _seeded(ConvNet, seed)


def functional_net(seed: int = 0) -> nn.Module:
    """ReLU as a function, and a module that is called twice; input `SHAPE_2D`."""
    return _seeded(FunctionalNet, seed)


def residual_net(seed: int = 0) -> nn.Module:
    """Residual blocks with ``out += identity`` and ReLU6; input `SHAPE_2D`."""
    return _seeded(ResidualNet, seed)


def signal_net(seed: int = 0) -> nn.Module:
    """One-dimensional convolutions; input `SHAPE_1D`."""
    return _seeded(SignalNet, seed)


ALL = {"conv": conv_net, "functional": functional_net, "residual": residual_net, "signal": signal_net}


def tiny_images(model: nn.Module, n: int = 6, seed: int = 0) -> np.ndarray:
    """Random network input ``(image, channel, *space)`` float32."""
    return np.random.default_rng(seed).standard_normal((n, *model.input_shape), np.float32)


def tiny_subject(model: nn.Module, n: int = 6, seed: int = 0, shard: int = 4, batch: int = 2) -> Subject:
    """A data set of `n` images as planning sees it; image 1 has no label where there are more than three."""
    label = np.random.default_rng(seed + 1).integers(0, N_CLASS, n)
    if n > 3:
        label[1] = -1
    like = next(model.parameters())
    shape = model.input_shape
    return Subject(
        image_id=tuple(f"image-{i:03d}" for i in range(n)),
        label=label,
        content=tuple(f"{i:064x}" for i in range(n)),
        split=("test",) * n,
        class_names=("ant", "bee", "cat", "dog", "elk"),
        axes=("y", "x") if len(shape) == 3 else ("time",),
        input_shape=shape,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        layers=trace(model, torch.zeros(2, *shape, dtype=like.dtype)),
        shard=shard,
        batch=batch,
        seed=seed,
    )


def tiny_blocks(images: np.ndarray, batch: int = 2, bad: tuple[int, ...] = (), start: int = 0) -> Iterator[Block]:
    """Images in batches; those at positions `bad` are zeros, with status 4 (undecodable)."""
    for a in range(0, len(images), batch):
        positions = np.arange(a, min(a + batch, len(images))) + start
        valid = ~np.isin(positions, bad)
        pixels = np.where(valid.reshape(-1, *[1] * (images.ndim - 1)), images[a : a + batch], np.float32(0))
        status = np.where(valid, 0, 4).astype(np.int8)
        yield Block(positions, pixels, valid, status, tuple("" if ok else "cannot be decoded" for ok in valid))
