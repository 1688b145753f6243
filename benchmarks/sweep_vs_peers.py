"""One fused sweep against the same results from Captum, pytorch-grad-cam and a forward with hooks, one after another.

ResNet-18 with seeded random weights, 224x224 images: logits, GAP features, per-channel statistics of every
convolution and ReLU, saliency, and Grad-CAM at two layers; with ``--rules`` guided backpropagation and deconvnet too.
The peers are called as their users call them, in their default memory format and in a process with the default
allocator; "peers, our settings" lends them ours. "winograd" is `numerics.convolution=winograd`. Grad-CAM is
pytorch-grad-cam's or, with ``--cams captum``, Captum's.
"""

from __future__ import annotations

import argparse
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
    pictures,
    seeded,
    settled,
    subject,
    threads_tried,
)

LAYERS = ("layer3", "layer4")
#: Our name, Captum's, and how a gradient passes ReLUs.
MAPS = {"saliency": ("Saliency", "plain")}
RULES = {"guided_backprop": ("GuidedBackprop", "guided"), "deconvnet": ("Deconvolution", "deconvnet")}


def network(options: argparse.Namespace) -> Any:
    """ResNet-18, in the precision, the memory format and with the allocator that a contestant asks for."""
    model = seeded("resnet18")
    return settled(options, model.double() if options.double else model)


def maps(options: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    """Heatmaps at the resolution of the input."""
    return MAPS | RULES if options.rules else MAPS


def leaves(options: argparse.Namespace) -> list[Any]:
    """What the sweep computes."""
    from convaudit.stages.activations.stage import Activations
    from convaudit.stages.attributions.deconvnet import Deconvnet
    from convaudit.stages.attributions.grad_cam import GradCam
    from convaudit.stages.attributions.guided_backprop import GuidedBackprop
    from convaudit.stages.attributions.saliency import Saliency
    from convaudit.stages.attributions.stage import Attributions
    from convaudit.stages.features.stage import Features
    from convaudit.stages.predictions.stage import Predictions

    methods: dict[str, Any] = {"saliency": Saliency(), "grad_cam": GradCam(layers=LAYERS)}
    if options.rules:
        methods |= {"guided_backprop": GuidedBackprop(), "deconvnet": Deconvnet()}
    stages = [Predictions(), Features(("penultimate", "last_conv")), Activations(), Attributions(methods)]
    return [leaf for stage in stages for leaf in stage.leaves()]


class Sweep:
    """Ours."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        from convaudit.stages.contract import Task

        self.last = options.format == "channels_last"
        self.batch = options.batch
        self.model, self.winograd = network(options).requires_grad_(False), convolutions(options)
        self.subject = subject(self.model, n, options.batch)
        chosen = [leaf for leaf in leaves(options) if leaf.name not in options.without]
        self.jobs = [(leaf, Task(leaf.name, range(n))) for leaf in chosen]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every array of every leaf."""
        from convaudit.stages.network.sweep import run_tasks

        outcomes = run_tasks(
            self.model, self.jobs, blocks(images, self.batch), self.subject, device="cpu", channels_last=self.last,
            winograd=self.winograd,
        )  # fmt: skip
        assert not any(outcome.error for outcome in outcomes), [outcome.error for outcome in outcomes]
        arrays = {f"{outcome.leaf}/{path}": rows for outcome in outcomes for path, rows in outcome.rows.items()}
        for (leaf, _), outcome in zip(self.jobs, outcomes, strict=True):
            if leaf.name == "activations":
                arrays |= leaf.finish([outcome.partial], self.subject, None).arrays
        return arrays


class Peers:
    """Captum, pytorch-grad-cam and hooks."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        from captum import attr
        from pytorch_grad_cam import GradCAM

        del n
        self.batch = options.batch
        self.format = memory_format(options)
        self.model = network(options)
        self.maps = {name: getattr(attr, theirs)(self.model) for name, (theirs, _) in maps(options).items()}
        self.layer_cams = {name: attr.LayerGradCam(self.model, getattr(self.model, name)) for name in LAYERS}
        self.cams: dict[str, Any] = {}
        self.raw: dict[str, list[np.ndarray]] = {}
        if options.cams == "pytorch-grad-cam":
            self.cams = {name: GradCAM(self.model, [getattr(self.model, name)]) for name in LAYERS}
        if options.raw:
            for name, cam in self.cams.items():
                cam.get_cam_image = self._noting(name, cam.get_cam_image)
        self.parts = dict.fromkeys(("forward with hooks", *self.maps, "Grad-CAM"), 0.0)

    def _noting(self, name: str, method: Any) -> Any:
        def get_cam_image(*args: Any, **kwargs: Any) -> np.ndarray:
            heatmap = method(*args, **kwargs)
            self.raw.setdefault(name, []).append(np.maximum(heatmap, 0))
            return heatmap

        return get_cam_image

    def __call__(self, images: np.ndarray) -> dict[str, Any]:
        """The same results, without variance, minimum, mean magnitude and the best images of each channel."""
        import torch

        found: dict[str, list[np.ndarray]] = {}
        statistics = Statistics()
        for start in range(0, len(images), self.batch):
            batch = torch.from_numpy(images[start : start + self.batch]).to(next(self.model.parameters()).dtype)
            batch = batch.contiguous(memory_format=self.format)
            for key, value in self._batch(batch, statistics).items():
                found.setdefault(key, []).append(value)
        return {key: np.concatenate(rows) for key, rows in found.items()} | {"statistics": statistics.total}

    def _batch(self, images: Any, statistics: Statistics) -> dict[str, np.ndarray]:
        spent: dict[str, float] = {}
        with timed(spent):
            rows, predicted = statistics.forward(self.model, images)
        self.parts["forward with hooks"] += spent["wall"]
        for name, method in self.maps.items():
            with timed(spent := {}):
                gradient = method.attribute(images.clone().requires_grad_(), target=predicted)
                rows[name] = gradient.detach().abs().amax(1).numpy()
            self.parts[name] += spent["wall"]
        with timed(spent := {}):
            for name in LAYERS:
                rows[f"cam/{name}"] = self._cam(name, images, predicted)
        self.parts["Grad-CAM"] += spent["wall"]
        return rows

    def _cam(self, name: str, images: Any, predicted: Any) -> np.ndarray:
        if self.cams:
            return self.cams[name](images, targets=None)
        heatmap = self.layer_cams[name].attribute(images, target=predicted, relu_attributions=True)
        heatmap = heatmap.detach().squeeze(1).numpy()
        self.raw.setdefault(name, []).append(heatmap)
        return heatmap


class Statistics:
    """What a user's hooks note of each convolution and ReLU."""

    def __init__(self) -> None:
        self.total: dict[str, dict[str, Any]] = {}

    def forward(self, model: Any, images: Any) -> tuple[dict[str, np.ndarray], Any]:
        """Logits and features of a batch, and its predicted classes."""
        import torch

        calls: dict[str, int] = {}
        features: dict[str, Any] = {}
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ReLU)):
                handles.append(module.register_forward_hook(self._hook(name, calls, features)))
        with torch.no_grad():
            logits = model(images)
        for handle in handles:
            handle.remove()
        # The input of the last layer is the mean of the last ReLU.
        rows = {"logit": logits, "penultimate": features["layer4.1.relu#1"], "last_conv": features["layer4.1.conv2#0"]}
        return {key: value.numpy() for key, value in rows.items()}, logits.argmax(1)

    def _hook(self, name: str, calls: dict[str, int], features: dict[str, Any]) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            call = calls.get(name, 0)
            calls[name] = call + 1
            peak, mean = output.amax((2, 3)), output.mean((2, 3))
            features[f"{name}#{call}"] = mean
            so_far = self.total.setdefault(f"{name}#{call}", {"n": 0, "fired": 0, "mean": 0.0, "max": peak[0]})
            so_far["n"] += len(peak)
            so_far["fired"] += (peak > 0).sum(0)
            so_far["mean"] += mean.sum(0)
            so_far["max"] = so_far["max"].maximum(peak.amax(0))

        return hook


def measure(options: argparse.Namespace) -> dict[str, Any]:
    images = pictures(options.images)
    contestant = (Peers if options.child == "peers" else Sweep)(options, len(images))
    warm = Sweep(options, options.batch) if options.child == "ours" else contestant
    warm(images[: options.batch])
    parts = getattr(contestant, "parts", {})
    parts.update(dict.fromkeys(parts, 0.0))
    found: dict[str, Any] = {}
    with timed(found):
        contestant(images)
    found["rate"] = len(images) / found["wall"]
    return found | {"parts": {name: len(images) / seconds for name, seconds in parts.items()}}


def check(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Largest difference of each result over its largest magnitude; fails where it is above the tolerance.

    In single precision both sides use one memory format: in two formats sums round differently, which puts a few
    values on the other side of a ReLU's zero or of a max pool's tie, and then the gradient itself jumps (the peers
    differ from themselves in the same way). Double precision is compared across the formats that are measured. With
    winograd the same holds.
    """
    tiled = argparse.Namespace(**vars(options) | TILED)
    same, across = {"format": options.format}, {"format": "contiguous"}
    found = {
        "float32, both in channels_last": compared(options, same | {"double": False}),
        "float64, ours in channels_last, peers in contiguous": compared(options, across | {"double": True}),
        "float64, ours with winograd, peers in contiguous": compared(tiled, across | {"double": True}),
    }
    return agreeing(found) | {
        "float32, ours in channels_last, peers in contiguous": compared(options, across),
        "float32, ours with winograd, peers in channels_last": compared(tiled, same),
    }


def compared(options: argparse.Namespace, peers_settings: dict[str, Any]) -> dict[str, float]:
    images = pictures(2 * options.batch)
    options = argparse.Namespace(**vars(options) | {"raw": True, "double": peers_settings.get("double", False)})
    ours = Sweep(options, len(images))
    peers = Peers(argparse.Namespace(**vars(options) | peers_settings), len(images))
    mine, theirs = ours(images), peers(images)
    found = {}
    for name, (_, rule) in maps(options).items():
        exact = _gradient(ours, images, rule)
        scale = mine[f"attributions/{name}/scale"][:, 0, None, None]
        stored = mine[f"attributions/{name}/heatmap"][:, 0] * scale
        assert difference(stored, exact) <= 2**-11, "stored in half precision, and no worse than that"
        found[name] = difference(exact, theirs[name])
    return found | {
        "logit": difference(mine["predictions/logit"], theirs["logit"]),
        "features": max(
            difference(mine["features/fc.input"], theirs["penultimate"]),
            difference(mine["features/layer4.1.conv2"], theirs["last_conv"]),
        ),
        "statistics": max(_statistics(mine, theirs["statistics"])),
        "Grad-CAM": max(
            difference(mine[f"attributions/grad_cam/{name}/heatmap"][:, 0], np.concatenate(peers.raw[name]))
            for name in LAYERS
        ),
    }


def _statistics(mine: dict[str, np.ndarray], theirs: dict[str, dict[str, Any]]) -> list[float]:
    found = []
    for name, total in theirs.items():
        layer = name if f"{name}/mean" in mine else name.partition("#")[0]
        found += [
            difference(mine[f"{layer}/fired"], total["fired"]),
            difference(mine[f"{layer}/mean"], total["mean"] / total["n"]),
            difference(mine[f"{layer}/max"], total["max"]),
        ]
    return found


def _gradient(ours: Sweep, images: np.ndarray, rule: Any) -> np.ndarray:
    """One of our gradients before it is stored in half precision."""
    from convaudit.stages.contract import Ask, Gradient
    from convaudit.stages.network.batch import opened

    ask = Ask(gradients=(Gradient("predicted", "input", rule),))
    found = []
    for block in blocks(images, ours.batch):
        with opened(ours.model, block, ours.subject, ask, winograd=ours.winograd) as batch:
            found.append(batch.gradient("predicted", "input", rule).abs().amax(1).numpy())
    return np.concatenate(found)


def compare(options: argparse.Namespace) -> None:
    where = machine("torch", "torchvision", "captum", "grad-cam")
    sides = {
        "peers": ("peers", PLAIN),
        "ours": ("ours", OURS),
        "ours, winograd": ("ours", TILED),
        "ours, default allocator": ("ours", OURS | {"allocator": "default"}),
        "ours, default format": ("ours", OURS | {"format": "contiguous"}),
        "peers, our settings": ("peers", OURS),
    }
    chosen = sides if options.all else {name: sides[name] for name in ("peers", "ours", "ours, winograd")}
    rows: list[list[object]] = [
        [
            "threads",
            "contestant",
            "images/s",
            "times the peers (range)",
            "the same in CPU time",
            "images/s of the parts",
        ]
    ]
    for threads in options.threads_tried:
        contestants = {
            name: lambda side=side, threads=threads: ask(__file__, arguments(options, *side, threads))
            for name, side in chosen.items()
        }
        if threads > 1:
            for name, side in (("ours", OURS), ("ours, winograd", TILED)):
                given = arguments(options, "ours", side, 1)
                contestants[f"{name}, {threads} workers"] = lambda given=given, n=threads: at_once(
                    n, lambda: ask(__file__, given)
                )
        found = in_turn(contestants, options.repeats)
        for name, rounds in found.items():
            parts = ", ".join(f"{part} {median([r['parts'][part] for r in rounds]):.0f}" for part in rounds[0]["parts"])
            rows.append(
                [threads, name, f"{median([r['rate'] for r in rounds]):.1f}", ratio(rounds, found["peers"], "rate"),
                 ratio(found["peers"], rounds, "cpu"), parts]
            )  # fmt: skip
    found = ask(__file__, arguments(options, "check", OURS, options.threads_tried[0]))
    print(f"{where}. {options.images} images of 224x224, batch {options.batch}, median of {options.repeats} rounds.")
    print(f"Grad-CAM of the peers: {options.cams}.\n")
    table(rows)
    print("Largest difference over largest magnitude:\n")
    differences(found)


def arguments(options: argparse.Namespace, child: str, settings: dict[str, str], threads: int) -> list[object]:
    passed = {name: getattr(options, name) for name in ("images", "batch", "cams", "rules")}
    return command_line({"child": child, "threads": threads, **passed, **settings})


def main() -> None:
    found = parser(__doc__, ["ours", "peers", "check"], images=128, repeats=5)
    threads_tried(found)
    found.add_argument("--batch", type=int, default=32)
    found.add_argument("--rules", action="store_true", help="guided backpropagation and deconvnet too")
    found.add_argument("--cams", choices=["pytorch-grad-cam", "captum"], default="pytorch-grad-cam")
    found.add_argument("--all", action="store_true", help="also one setting changed at a time")
    found.add_argument("--without", nargs="*", default=[], help=argparse.SUPPRESS)
    found.add_argument("--double", action="store_true", help=argparse.SUPPRESS)
    found.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    serve(found.parse_args(), compare, measure, {"check": check})


if __name__ == "__main__":
    main()
