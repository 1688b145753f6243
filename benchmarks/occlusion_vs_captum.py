"""Occlusion, exact, by computing again what a window changes, against Captum at its best `perturbations_per_eval`.

224x224 images, a window of 16 pixels every 8 (729 windows), seeded random weights, the predicted class. Captum is
called as its users call it, in a process with the default allocator and memory format; of its batch sizes the fastest
counts. Both give the map of mean drops of a logit, which is compared; ours has the scores of all 1,000 classes, too.
"winograd" is `numerics.convolution=winograd`.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import numpy as np
from alternating import ask, at_once, in_turn, machine, median, ratio, serve, table, timed
from settings import (
    OURS,
    PLAIN,
    SIZE,
    TILED,
    agreeing,
    command_line,
    convolutions,
    difference,
    laid_out,
    parser,
    pictures,
    seeded,
    settled,
)

WINDOW, STRIDE = 16, 8


def prepared(options: argparse.Namespace) -> Any:
    """The network in the memory format, and the process with the allocator, that a contestant asks for."""
    return settled(options, seeded(options.net).requires_grad_(False))


def windows() -> Any:
    """Every window."""
    from convaudit.stages.attributions.windows import intervals, window_bounds
    from convaudit.stages.network.incremental.regions import Region

    start, end = intervals(SIZE, WINDOW, STRIDE)
    return Region(*window_bounds([start, start], [end, end])), ([start, start], [end, end])


class Ours:
    """Scores of all windows and classes, and the rendered map."""

    def __init__(self, options: argparse.Namespace) -> None:
        from convaudit.stages.network.incremental.recompute import Recomputation

        self.options, self.model = options, prepared(options)
        self.region, self.bounds = windows()
        self.winograd = convolutions(options)
        self.recomputation = Recomputation(self.model, self.region, winograd=self.winograd)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """One map ``(image, y, x)``."""
        import torch

        from convaudit.stages.attributions.windows import drop_map

        maps = []
        for image in laid_out(images, self.options).split(1):
            with self.winograd or nullcontext(), torch.inference_mode():
                base = self.model(image)[0].numpy()
            logits = self.recomputation.logits(image, torch.zeros_like(image))
            assert not isinstance(logits, str), logits
            top = int(base.argmax())
            drop = (base[top] - logits[:, top].numpy())[None]
            maps.append(drop_map(drop, *self.bounds, (SIZE, SIZE))[0])
        return np.stack(maps)

    def share(self) -> float:
        """Multiplications, over those of running the whole network for every window."""
        return self.recomputation.scheme.effort.share


class Anew(Ours):
    """The whole network for every window, with our settings: what incremental inference is up against."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Nothing but the logits."""
        import torch

        from convaudit.stages.network.incremental.recompute import plain_logits

        parts = laid_out(images, self.options).split(1)
        with self.winograd or nullcontext(), torch.inference_mode():
            rows = [plain_logits(self.model, part, torch.zeros_like(part), self.region) for part in parts]
        return torch.stack(rows).numpy()

    def share(self) -> float:
        """All of them."""
        return 1.0


class Captum:
    """One map from Captum."""

    def __init__(self, options: argparse.Namespace) -> None:
        from captum.attr import Occlusion

        self.options, self.model = options, prepared(options)
        self.occlusion = Occlusion(self.model)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """One map ``(image, y, x)``."""
        import torch

        maps = []
        for image in laid_out(images, self.options).split(1):
            with torch.no_grad():
                top = int(self.model(image).argmax())
                found = self.occlusion.attribute(
                    image,
                    (3, WINDOW, WINDOW),
                    strides=(3, STRIDE, STRIDE),
                    target=top,
                    perturbations_per_eval=self.options.together,
                )
            maps.append(found[0, 0].numpy())
        return np.stack(maps)

    def share(self) -> float:
        """All of them."""
        return 1.0


CONTESTANTS = {"ours": Ours, "anew": Anew, "captum": Captum}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image of one contestant, after it has seen the first image once where that is cheap."""
    contestant = CONTESTANTS[options.child](options)
    images = pictures(options.images)
    if options.child == "ours":
        contestant(images[:1])
    else:
        contestant.model(laid_out(images[:1], options))
    found: dict[str, Any] = {}
    with timed(found):
        maps = contestant(images)
    seconds = found["wall"] / len(images)
    first = maps[0].astype(float).tolist() if options.keep else None
    return found | {"rate": 1 / seconds, "cpu": found["cpu"] / len(images), "share": contestant.share(), "map": first}


def compare(options: argparse.Namespace) -> None:
    """Print the table; fail where the maps differ."""
    where = machine("torch", "torchvision", "captum")
    heads = ["network", "contestant", "s/image", "times Captum (range)", "in CPU time", "share of multiplications"]
    rows: list[list[object]] = [heads]
    differences = []
    for net in options.nets:
        best, tried = _best(options, net)
        sides = {
            f"Captum, {best} at a time": ("captum", PLAIN | {"together": best}),
            "ours": ("ours", OURS),
            "ours, winograd": ("ours", TILED),
            "whole network anew, our settings": ("anew", OURS),
            "whole network anew, winograd": ("anew", TILED),
        }
        if options.all:
            sides["Captum, our settings"] = ("captum", OURS | {"together": best})
        contestants = {
            name: lambda side=side, net=net: ask(__file__, _arguments(options, net, *side))
            for name, side in sides.items()
        }
        if options.threads > 1:
            for name, side in (("ours", OURS), ("ours, winograd", TILED)):
                given = _arguments(argparse.Namespace(**vars(options) | {"threads": 1}), net, "ours", side)
                contestants[f"{name}, {options.threads} workers"] = lambda given=given: at_once(
                    options.threads, lambda: ask(__file__, given)
                )
        found = in_turn(contestants, options.repeats)
        peer = found[f"Captum, {best} at a time"]
        theirs = np.array(peer[0]["map"])
        maps = {name: difference(np.array(found[name][0]["map"]), theirs) for name in ("ours", "ours, winograd")}
        agreed = ", ".join(f"{name} {value:.1g}" for name, value in agreeing({"maps": maps})["maps"].items())
        differences.append(f"{net}: {agreed} ({tried})")
        for name, rounds in found.items():
            rows.append(
                [net, name, f"{median([1 / r['rate'] for r in rounds]):.1f}", ratio(rounds, peer, "rate"),
                 ratio(peer, rounds, "cpu"), f"{rounds[0]['share']:.3f}"]
            )  # fmt: skip
    print(f"{where}. {options.images} images of {SIZE}x{SIZE}, {options.threads} threads, {options.repeats} rounds.\n")
    table(rows)
    print("Largest difference of the maps over their largest value: " + "; ".join(differences))


def _best(options: argparse.Namespace, net: str) -> tuple[int, str]:
    """Captum's fastest `perturbations_per_eval`, on a few windows: what counts is the time per window."""
    seconds = {}
    for together in options.together_tried:
        given = _arguments(options, net, "probe", PLAIN | {"together": together})
        seconds[together] = ask(__file__, given)["wall"]
    tried = ", ".join(f"{together}: {value:.2f}" for together, value in seconds.items())
    return min(seconds, key=lambda together: seconds[together]), f"Captum's seconds per 64 windows, by batch: {tried}"


def probe(options: argparse.Namespace) -> dict[str, float]:
    """Seconds that Captum takes for 64 windows."""
    import torch

    contestant = Captum(options)
    image = laid_out(pictures(1), options)
    step = SIZE // 8
    found: dict[str, float] = {}
    with torch.no_grad():
        contestant.model(image)
        with timed(found):
            contestant.occlusion.attribute(
                image, (3, step, step), strides=(3, step, step), target=0, perturbations_per_eval=options.together
            )
    return found


def _arguments(options: argparse.Namespace, net: str, child: str, side: dict[str, Any]) -> list[object]:
    passed = {"child": child, "net": net, "images": options.images, "threads": options.threads}
    return command_line(passed | side | {"keep": child not in ("probe", "anew")})


def main() -> None:
    found = parser(__doc__, [*CONTESTANTS, "probe"], images=2, repeats=1)
    found.add_argument("--nets", nargs="+", default=["resnet18", "vgg16"], help="names in torchvision.models")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--together-tried", type=int, nargs="+", default=[1, 4, 8, 16])
    found.add_argument("--all", action="store_true", help="also lend Captum our memory format and allocator")
    found.add_argument("--net", help=argparse.SUPPRESS)
    found.add_argument("--together", type=int, default=1, help=argparse.SUPPRESS)
    found.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    serve(found.parse_args(), compare, measure, {"probe": probe})


if __name__ == "__main__":
    main()
