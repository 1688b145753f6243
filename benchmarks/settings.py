"""What contestants of several benchmarks have in common: networks, images, settings, and how results are compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

SIZE = 224
#: Largest difference over largest magnitude that still counts as the same result.
TOLERANCE = 1e-4
#: PyTorch as it comes, and as we set it.
PLAIN = {"format": "contiguous", "allocator": "default"}
OURS = {"format": "channels_last", "allocator": "tuned"}
#: The same with fewer multiplications in 3x3 convolutions: `numerics.convolution=winograd`.
TILED = OURS | {"convolution": "winograd"}


def seeded(name: str, **arguments: Any) -> Any:
    """A network of torchvision with seeded random weights whose batch norms know the statistics of random images."""
    import torch
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, **arguments)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.momentum = None
    if norms:
        model.train()
        with torch.no_grad():
            model(torch.randn(16, 3, SIZE, SIZE))
    return model.eval()


def pictures(n: int) -> np.ndarray:
    """Random images, normalised."""
    return np.random.default_rng(1).standard_normal((n, 3, SIZE, SIZE), dtype=np.float32)


def memory_format(options: argparse.Namespace) -> Any:
    """The memory format that a contestant asks for."""
    import torch

    return torch.channels_last if options.format == "channels_last" else torch.contiguous_format


def laid_out(images: np.ndarray, options: argparse.Namespace) -> Any:
    """Images as a tensor in the memory format that a contestant asks for."""
    import torch

    return torch.from_numpy(images).contiguous(memory_format=memory_format(options))


def convolutions(options: argparse.Namespace) -> Any:
    """How convolutions are computed that a contestant asks for; None for PyTorch's own."""
    from convaudit.stages.network.winograd import Winograd

    return Winograd() if options.convolution == "winograd" else None


def settled(options: argparse.Namespace, model: Any) -> Any:
    """The network in the memory format, and this process with the allocator, that a contestant asks for."""
    from convaudit.pipelines.allocator import tune_allocator

    if options.allocator == "tuned":
        tune_allocator()
    return model.to(memory_format=memory_format(options))


def subject(model: Any, n: int, batch: int, classes: int = 1000) -> Any:
    """What is audited: images without labels, in one shard."""
    import torch

    from convaudit.stages.contract import Subject
    from convaudit.stages.network.layers import trace

    layers = trace(model, torch.randn(2, 3, SIZE, SIZE, dtype=next(model.parameters()).dtype))
    names, none = tuple(map(str, range(n))), ("",) * n
    space, labels = ("y", "x"), np.full(n, -1)
    return Subject(
        names, labels, none, none, tuple(map(str, range(classes))), space, (3, SIZE, SIZE), (0.0,) * 3, (1.0,) * 3,
        layers, n, batch, 0,
    )  # fmt: skip


def blocks(images: np.ndarray, batch: int) -> Iterator[Any]:
    """Images in batches, as the data reader hands them over."""
    from convaudit.stages.network.sweep import Block

    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        n = len(part)
        yield Block(np.arange(start, start + n), part, np.ones(n, bool), np.zeros(n, np.int8), ("",) * n)


def difference(mine: np.ndarray, theirs: Any) -> float:
    """Largest difference of a result over its largest magnitude."""
    theirs = np.asarray(theirs)
    assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


def agreeing(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The same differences; fails where one is above the tolerance."""
    assert all(value <= TOLERANCE for one in found.values() for value in one.values()), found
    return found


def command_line(settings: Mapping[str, Any]) -> list[object]:
    """Settings as options of a child: what is true alone, what is false not at all."""
    given: list[object] = []
    for key, value in settings.items():
        if value is not False:
            given += [f"--{key}"] if value is True else [f"--{key}", value]
    return given


def parser(doc: str | None, children: list[str], **defaults: Any) -> argparse.ArgumentParser:
    """Options that these benchmarks have in common; those of the children are not shown."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--images", type=int)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--child", choices=children, help=argparse.SUPPRESS)
    found.add_argument("--format", default=PLAIN["format"], help=argparse.SUPPRESS)
    found.add_argument("--allocator", default=PLAIN["allocator"], help=argparse.SUPPRESS)
    found.add_argument("--convolution", default="direct", help=argparse.SUPPRESS)
    found.set_defaults(**defaults)
    return found


def threads_tried(found: argparse.ArgumentParser) -> None:
    """Add the option of benchmarks that are run with several numbers of threads."""
    found.add_argument("--threads-tried", type=int, nargs="+", default=[2, 1])
    found.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
