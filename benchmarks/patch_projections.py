"""What the projections of single units cost in a deep network: ResNet-50 at 224x224, random weights.

Units of ReLUs spread over the depth, one in each of a batch's images, under the deconvnet and the guided rule. Each
unit has a copy of its image to itself. Compared are a forward pass to the logits, one that ends at the unit's layer,
and one forward pass for each image with the gradients of all its units one after another, as it could be done where
several units share an image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from activation_statistics import SIDE, network, subject
from alternating import in_turn, machine, median, ratio, table, timed

from convaudit.pipelines.allocator import tune_allocator
from convaudit.stages.contract import Ask, Gradient, ReluRule, Unit, Units
from convaudit.stages.network.batch import Batch, opened
from convaudit.stages.network.forward import Block

RULES: tuple[ReluRule, ...] = ("deconvnet", "guided")
WHOLE, ENDS, SHARED = "to the logits", "ends at the unit's layer", "one forward for each image, its units in turn"


def units(batch: Batch, layers: int) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Layers spread over the depth, with one unit for each image."""
    relus = [layer for layer in batch._subject.layers if layer.kind == "relu"]
    chosen = [relus[(2 * at + 1) * len(relus) // (2 * layers)] for at in range(layers)]
    draw = np.random.default_rng(0)
    return [
        (layer.name, tuple(tuple(int(draw.integers(n)) for n in layer.shape) for _ in range(len(batch))))
        for layer in chosen
    ]


def copies(batch: Batch, wanted: list, logits: bool) -> list[torch.Tensor]:
    """Gradients layer by layer, each image with its one unit."""
    found = []
    for layer, places in wanted:
        target = Units(layer, places)
        ask = Ask(gradients=tuple(Gradient(target, "input", rule) for rule in RULES), logits=logits)
        again = batch.again(batch.images, ask)
        found += [again.gradient(target, "input", rule) for rule in RULES]
    return found


def in_sequence(batch: Batch, wanted: list) -> list[torch.Tensor]:
    """Gradients image by image, unit after unit."""
    rows = []
    for row in range(len(batch)):
        part = batch.only(np.array([row]))
        targets = [Unit(layer, places[row][0], places[row][1:]) for layer, places in wanted]
        ask = Ask(gradients=tuple(Gradient(t, "input", rule) for t in targets for rule in RULES), logits=False)
        again = part.again(part.images, ask)
        rows.append([again.gradient(target, "input", rule) for target in targets for rule in RULES])
    return [torch.cat(each) for each in zip(*rows, strict=True)]


def main() -> None:
    """Measure in turn, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()
    heading, model = machine("torch", "torchvision"), network()
    n = options.images
    block = Block(
        np.arange(n),
        np.random.default_rng(0).standard_normal((n, 3, SIDE, SIDE), np.float32),
        np.ones(n, bool),
        np.zeros(n, np.int8),
        ("",) * n,
    )
    with opened(model, block, subject(model, n), Ask()) as batch:
        wanted = units(batch, options.layers)
        ways: dict[str, Callable[[], list[torch.Tensor]]] = {
            WHOLE: lambda: copies(batch, wanted, logits=True),
            ENDS: lambda: copies(batch, wanted, logits=False),
            SHARED: lambda: in_sequence(batch, wanted),
        }
        compare(ways)
        found = in_turn({name: lambda way=way: measured(way) for name, way in ways.items()}, options.repeats)
    print(f"{heading}\n{options.layers * n} units, {options.threads} thread(s), {options.repeats} rounds\n")
    rows: list[list[object]] = [["way", "CPU ms a unit", "times to the logits (range)"]]
    for name, each in found.items():
        cost = 1000 * median([one["cpu"] for one in each]) / (options.layers * n)
        rows.append([name, f"{cost:.0f}", ratio(each, found[WHOLE], "cpu")])
    table(rows)


def measured(way: Callable[[], list[torch.Tensor]]) -> dict[str, float]:
    """Seconds of one run."""
    found: dict[str, float] = {}
    with timed(found):
        way()
    return found


def compare(ways: dict[str, Callable[[], list[torch.Tensor]]]) -> None:
    """Hold the ways' results against each other; also warms up."""
    whole, ends, shared = (ways[name]() for name in (WHOLE, ENDS, SHARED))
    same = all(a.equal(b) for a, b in zip(whole, ends, strict=True))
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(whole, shared, strict=True))
    print(f"ends at the unit's layer: {'equal to the bit' if same else 'NOT EQUAL'}; image by image: {apart:.1e}\n")


if __name__ == "__main__":
    main()
