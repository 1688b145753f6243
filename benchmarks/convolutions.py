"""3x3 convolutions on tiles (`numerics.convolution=winograd`) against PyTorch's own, layer by layer and as a network.

Every kind of 3x3 layer of ResNet-18, then ResNet-18 and VGG-16 as they are swept: forward, and forward and backward by
the input. channels_last, tuned allocator, one thread, one process; both take turns, and the smallest CPU time of the
rounds counts, since other programs only add to it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from alternating import machine, table
from settings import OURS, difference, laid_out, pictures, seeded, settled

#: Channels and length of the maps.
LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7), (64, 112))


def seconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Smallest CPU time of each, taking turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            found[name].append(time.process_time() - began)
    return {name: min(times) for name, times in found.items()}


def layer(channels: int, length: int, options: argparse.Namespace) -> list[object]:
    """One row."""
    import torch
    from torch.nn import functional as F

    from convaudit.stages.network.tiled import Kernel, convolve
    from convaudit.stages.network.winograd import worth

    shape, last = (options.images, channels, length, length), torch.channels_last
    image = torch.randn(shape).contiguous(memory_format=last)
    weight = (torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)).contiguous(memory_format=last)
    kernel = Kernel(weight).forward
    ways = {
        "direct": lambda: F.conv2d(image, weight, padding=1),
        "tiles": lambda: convolve(image, kernel, None, (1, 1)),
    }
    with torch.inference_mode():
        found = seconds(ways, options.repeats)
        exact = F.conv2d(image.double(), weight.double(), padding=1)
        error = difference(ways["tiles"]().numpy(), exact.numpy())
    served = "yes" if worth(channels, channels, (length, length)) else "no"
    return [f"{channels} channels, {length}x{length}", *told(found), f"{error:.0e}", served]


def told(found: dict[str, float]) -> list[str]:
    """Milliseconds, and how many times as fast."""
    direct, tiles = found["direct"], found["tiles"]
    return [f"{1e3 * direct:.1f}", f"{1e3 * tiles:.1f}", f"{direct / tiles:.2f}"]


def network(name: str, options: argparse.Namespace) -> list[list[object]]:
    """Two rows."""
    import torch

    from convaudit.stages.network.stem import DenseStems
    from convaudit.stages.network.winograd import Winograd, census

    model = settled(options, seeded(name).requires_grad_(False))
    images, mode = laid_out(pictures(options.images), options), Winograd()

    def forward(how: Any) -> Any:
        with how, torch.inference_mode():
            return model(images)

    def both(how: Any) -> Any:
        with how, DenseStems():
            source = images.clone().requires_grad_()
            logits = model(source)
        return torch.autograd.grad(logits.amax(1).sum(), source)[0]

    count, rows = census(model, images[:1]), []
    for what, run in (("forward", forward), ("forward and backward", both)):
        ways = {"direct": lambda run=run: run(nullcontext()), "tiles": lambda run=run: run(mode)}
        found = seconds(ways, options.repeats)
        error = difference(ways["tiles"]().numpy(), ways["direct"]().numpy())
        served = f"{count['served']} of {count['convolutions']}"
        rows.append([f"{name}, {what}", *told(found), f"{error:.0e}", served])
    return rows


def main() -> None:
    """Print the tables."""
    import torch

    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--images", type=int, default=16)
    found.add_argument("--repeats", type=int, default=9)
    found.add_argument("--nets", nargs="*", default=["resnet18", "vgg16"], help="names in torchvision.models")
    options = argparse.Namespace(**vars(found.parse_args()) | OURS)
    torch.set_num_threads(1)
    settled(options, torch.nn.Identity())
    print(f"{machine('torch', 'torchvision')}. {options.images} images, smallest of {options.repeats} rounds.\n")
    heads = ["direct, ms", "tiles, ms", "times as fast", "difference over largest", "served"]
    table([["layer", *heads], *(layer(*shape, options) for shape in LAYERS)])
    table([["network", *heads], *(row for name in options.nets for row in network(name, options))])


if __name__ == "__main__":
    main()
