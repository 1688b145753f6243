"""RISE through the sweep against a straightforward batched implementation of it.

ResNet-18 with seeded random weights and 100 classes, 224x224 images, the settings of the paper. The plain one is
written as the authors' code works: masks resized one by one and kept, the masked versions of an image stacked as a
whole, the network run on 100 of them at a time in PyTorch's own memory format and with the default allocator, maps of
all classes by one product. It makes its masks once for all images, as the authors do; ours draws other ones for each.
Ours gives the scores of all classes and the standard error of a map, and then renders the maps of all classes too.

"the network alone" is what bounds both: the same forwards in our memory format, allocator and batch, and nothing else.
"winograd" is `numerics.convolution=winograd`.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import numpy as np
from alternating import ask, at_once, differences, in_turn, machine, median, ratio, serve, table, timed
from settings import (
    OURS,
    PLAIN,
    TILED,
    agreeing,
    blocks,
    command_line,
    convolutions,
    difference,
    memory_format,
    parser,
    seeded,
    settled,
    subject,
    threads_tried,
)

CLASSES, GRID, KEEP = 100, 7, 0.5


def network(options: argparse.Namespace) -> Any:
    """ResNet-18, in the memory format and with the allocator that a contestant asks for."""
    return settled(options, seeded("resnet18", num_classes=CLASSES).requires_grad_(False))


def pictures(n: int) -> np.ndarray:
    """Random images, normalised: coarse, so that masks matter."""
    coarse = np.random.default_rng(1).standard_normal((n, 3, 14, 14)).astype(np.float32)
    return np.ascontiguousarray(coarse.repeat(16, axis=2).repeat(16, axis=3))


class Ours:
    """The leaf of the pipeline, as the sweep runs it, and its maps."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        from convaudit.stages.attributions.rise import Rise
        from convaudit.stages.attributions.stage import AttributionLeaf

        self.last = options.format == "channels_last"
        self.model, self.winograd = network(options), convolutions(options)
        self.subject = subject(self.model, n, options.batch, CLASSES)
        self.leaf = AttributionLeaf("rise", Rise(masks=options.masks, grid=GRID, keep=KEEP))

    def rows(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What is stored."""
        from convaudit.stages.contract import Task
        from convaudit.stages.network.sweep import run_tasks

        (outcome,) = run_tasks(
            self.model,
            [(self.leaf, Task(self.leaf.name, range(len(images))))],
            blocks(images, len(images)),
            self.subject,
            device="cpu",
            channels_last=self.last,
            winograd=self.winograd,
        )
        assert outcome.error is None, outcome.error
        return outcome.rows

    def maps(self, rows: dict[str, np.ndarray], image: int) -> np.ndarray:
        """Maps of all classes of one image."""
        from convaudit.stages.attributions.masks import render_masks

        row = {path: values[image] for path, values in rows.items()} | {"target": np.arange(CLASSES)}
        notes, _, _ = self.leaf.method.told({}, self.subject)
        return render_masks(row, notes["rendering"], self.subject.input_shape)

    def __call__(self, images: np.ndarray, parts: dict[str, float]) -> None:
        """Scores, then maps."""
        with timed(spent := {}):
            rows = self.rows(images)
        parts["scores"] = spent["wall"]
        with timed(spent := {}):
            for image in range(len(images)):
                self.maps(rows, image)
        parts["maps"] = spent["wall"]


class Plain:
    """As the authors' code works."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        import torch

        del n
        self.masks, self.batch = options.masks, options.batch
        self.format = memory_format(options)
        self.model = torch.nn.Sequential(network(options), torch.nn.Softmax(dim=1))

    def generate(self, cells: np.ndarray, shifts: tuple[np.ndarray, ...]) -> Any:
        """Resize and crop the masks one by one; the resizing is what skimage.transform.resize runs."""
        import torch
        from scipy.ndimage import zoom

        cell = -(-224 // GRID)
        factor = (GRID + 1) * cell / GRID
        masks = np.empty((len(cells), 224, 224))
        for i in range(len(cells)):
            large = zoom(cells[i].astype(np.float64), factor, order=1, mode="mirror", grid_mode=True)
            y, x = shifts[0][i], shifts[1][i]
            masks[i] = large[y : y + 224, x : x + 224]
        return torch.from_numpy(masks.reshape(-1, 1, 224, 224)).float()

    def maps(self, image: Any, masks: Any) -> Any:
        """Maps of all classes of one image."""
        import torch

        with torch.no_grad():
            stack = torch.mul(masks, image[None]).contiguous(memory_format=self.format)
            found = [self.model(stack[i : i + self.batch]) for i in range(0, len(stack), self.batch)]
            scores = torch.cat(found)
            return (scores.T @ masks.view(len(masks), -1)).view(-1, 224, 224) / len(masks) / KEEP

    def __call__(self, images: np.ndarray, parts: dict[str, float]) -> None:
        """Masks, then maps."""
        import torch

        rng = np.random.default_rng(0)
        with timed(spent := {}):
            cells = (rng.random((self.masks, GRID, GRID)) < KEEP).astype(np.float32)
            masks = self.generate(cells, tuple(rng.integers(0, 32, (2, self.masks))))
        parts["masks"] = spent["wall"]
        with timed(spent := {}):
            for image in torch.from_numpy(images):
                self.maps(image, masks)
        parts["network and maps"] = spent["wall"]


class Network:
    """Forwards alone."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        del n
        self.masks, self.batch = options.masks, options.batch
        self.model, self.winograd = network(options), convolutions(options)

    def __call__(self, images: np.ndarray, parts: dict[str, float]) -> None:
        """As many as there are masks."""
        import torch

        del parts
        one = torch.from_numpy(images[:1]).expand(self.batch, -1, -1, -1)
        batch = one.contiguous(memory_format=torch.channels_last)
        with self.winograd or nullcontext(), torch.inference_mode():
            for _ in range(len(images) * self.masks // self.batch):
                self.model(batch)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    images = pictures(options.images)
    kind = {"plain": Plain, "ours": Ours, "network": Network}[options.child]
    warm = argparse.Namespace(**vars(options) | {"masks": options.batch})
    kind(warm, 1)(images[:1], {})
    contestant = kind(options, len(images))
    parts: dict[str, float] = {}
    found: dict[str, Any] = {}
    with timed(found):
        contestant(images, parts)
    return found | {"rate": options.masks * len(images) / found["wall"], "parts": parts}


def check(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Largest difference of the maps of all classes over their largest magnitude, under the same masks."""
    import torch

    from convaudit.stages.attributions.masks import drawn

    images = pictures(options.images)
    plain = Plain(argparse.Namespace(**vars(options) | AUTHORS), len(images))
    sides = {name: Ours(argparse.Namespace(**vars(options) | side), len(images)) for name, side in WAYS.items()}
    rows = {name: ours.rows(images) for name, ours in sides.items()}
    masking = sides["direct"].leaf.method.masking(sides["direct"].subject)
    found: dict[str, dict[str, float]] = {name: {} for name in sides}
    for image, pixels in enumerate(torch.from_numpy(images)):
        masks = plain.generate(*drawn(masking, int(rows["direct"]["mask_seed"][image]), 0, options.masks))
        theirs = plain.maps(pixels, masks).double().numpy()
        for name, ours in sides.items():
            found[name][f"image {image}"] = difference(ours.maps(rows[name], image), theirs)
    return agreeing({f"maps of all classes, under the same masks, {name}": one for name, one in found.items()})


#: Ours, by how convolutions are computed.
WAYS = {"direct": OURS, "winograd": TILED}


#: The authors' batch, and PyTorch as it comes.
AUTHORS = PLAIN | {"batch": 100}


def compare(options: argparse.Namespace) -> None:
    where = machine("torch", "torchvision")
    ours, tiled = OURS | {"batch": options.batch}, TILED | {"batch": options.batch}
    sides = {
        "plain": ("plain", AUTHORS),
        "ours": ("ours", ours),
        "ours, winograd": ("ours", tiled),
        "the network alone": ("network", ours),
        "the network alone, winograd": ("network", tiled),
        "ours, default allocator": ("ours", ours | {"allocator": "default"}),
        "ours, default format": ("ours", ours | {"format": "contiguous"}),
        "plain, our batch": ("plain", AUTHORS | {"batch": options.batch}),
        "plain, our format, allocator and batch": ("plain", ours),
    }
    few = ("plain", "ours", "ours, winograd", "the network alone", "the network alone, winograd")
    chosen = sides if options.all else {name: sides[name] for name in few}
    rows: list[list[object]] = [
        [
            "threads",
            "contestant",
            "masks/s",
            "times the plain one (range)",
            "the same in CPU time",
            "seconds of the parts",
        ]
    ]
    for threads in options.threads_tried:
        contestants = {
            name: lambda side=side, threads=threads: ask(__file__, arguments(options, *side, threads))
            for name, side in chosen.items()
        }
        if threads > 1:
            for name, side in (("ours", ours), ("ours, winograd", tiled)):
                given = arguments(options, "ours", side, 1)
                contestants[f"{name}, {threads} workers"] = lambda given=given, n=threads: at_once(
                    n, lambda: ask(__file__, given)
                )
        found = in_turn(contestants, options.repeats)
        for name, rounds in found.items():
            parts = ", ".join(f"{part} {median([r['parts'][part] for r in rounds]):.2f}" for part in rounds[0]["parts"])
            rows.append(
                [threads, name, f"{median([r['rate'] for r in rounds]):.1f}", ratio(rounds, found["plain"], "rate"),
                 ratio(found["plain"], rounds, "cpu"), parts]
            )  # fmt: skip
    checked = ask(__file__, arguments(options, "check", ours, options.threads_tried[0]))
    print(
        f"{where}. {options.images} images of 224x224, {options.masks} masks each, batch {options.batch}, median of "
        f"{options.repeats} rounds.\n"
    )
    table(rows)
    print("Largest difference over largest magnitude:\n")
    differences(checked)


def arguments(options: argparse.Namespace, child: str, settings: dict[str, Any], threads: int) -> list[object]:
    passed = {name: getattr(options, name) for name in ("images", "masks")}
    return command_line({"child": child, "threads": threads, **passed, **settings})


def main() -> None:
    found = parser(__doc__, ["ours", "plain", "network", "check"], images=2)
    threads_tried(found)
    found.add_argument("--masks", type=int, default=256)
    found.add_argument("--batch", type=int, default=16)
    found.add_argument("--all", action="store_true", help="also one setting changed at a time")
    serve(found.parse_args(), compare, measure, {"check": check})


if __name__ == "__main__":
    main()
