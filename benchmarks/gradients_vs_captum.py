"""SmoothGrad and integrated gradients of a sweep against Captum's NoiseTunnel and IntegratedGradients.

ResNet-18 with seeded random weights, 224x224 images, 8 samples and 16 steps. Captum is called as its users call it, one
call per batch, in the default memory format and in a process with the default allocator; "Captum, chunked" bounds how
many images it works on at once, and "Captum, our settings" lends it channels_last and our allocator besides. "ours, two
workers" is two processes of one thread at once, as an audit runs on two cores; "ours, bfloat16" is the same under
autocast, whose rank correlation with full precision is printed; "ours, winograd" is `numerics.convolution=winograd`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
    subject,
    threads_tried,
)
from sweep_vs_peers import network

SAMPLES, LEVEL, STEPS = 8, 0.15, 16
METHODS = ("smooth_grad", "integrated_gradients")
#: Images that go through the network at once, of ours and of Captum in chunks.
PASS = 16


def method(name: str, short: bool = False) -> Any:
    """One of ours, for the predicted class, summed over channels with its sign; `short`: in bfloat16."""
    from convaudit.stages.attributions.autocast import Autocast
    from convaudit.stages.attributions.integrated_gradients import IntegratedGradients
    from convaudit.stages.attributions.saliency import Saliency
    from convaudit.stages.attributions.smooth_grad import SmoothGrad

    smooth = SmoothGrad(method=Saliency(reduction="sum"), samples=SAMPLES, level=LEVEL)
    found = IntegratedGradients(steps=STEPS) if name == "integrated_gradients" else smooth
    return Autocast(method=found, every=PASS) if short else found


class Ours:
    """A sweep with one leaf."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        self.options = options
        self.model = network(options).requires_grad_(False)
        self.winograd = convolutions(options)
        self.subject = subject(self.model, n, max(PASS, options.batch))
        #: Rank correlation of each method's maps with those in full precision, where they were compared.
        self.agreement: dict[str, float] = {}

    def __call__(self, name: str, images: np.ndarray) -> np.ndarray:
        """What is stored: shapes in half precision, and scales."""
        from convaudit.stages.attributions.stage import Attributions
        from convaudit.stages.contract import Task
        from convaudit.stages.network.sweep import run_tasks

        (leaf,) = Attributions({name: method(name, self.options.bfloat16)}).leaves()
        jobs = [(leaf, Task(leaf.name, range(len(images))))]
        last = self.options.format == "channels_last"
        (outcome,) = run_tasks(
            self.model, jobs, blocks(images, self.options.batch), self.subject, device="cpu", channels_last=last,
            winograd=self.winograd,
        )  # fmt: skip
        assert outcome.error is None, outcome.error
        if self.options.bfloat16:
            self.agreement[name] = float(np.nanmean(outcome.rows["agreement"]))
        return outcome.rows["heatmap"][:, 0] * outcome.rows["scale"][:, 0, None, None]

    def exact(self, name: str, images: np.ndarray) -> np.ndarray:
        """The maps before they are stored."""
        from convaudit.stages.contract import Ask
        from convaudit.stages.network.batch import opened

        maps = []
        for block in blocks(images, self.options.batch):
            with opened(self.model, block, self.subject, Ask(), winograd=self.winograd) as batch:
                maps.append(method(name).maps(batch, self.subject, "predicted")["heatmap"].numpy())
        return np.concatenate(maps)


class Captum:
    """Captum, one call per batch."""

    def __init__(self, options: argparse.Namespace, n: int) -> None:
        from captum.attr import IntegratedGradients, NoiseTunnel, Saliency

        del n
        self.options = options
        self.model, self.format = network(options), memory_format(options)
        self.tunnel, self.path = NoiseTunnel(Saliency(self.model)), IntegratedGradients(self.model)

    def __call__(self, name: str, images: np.ndarray) -> np.ndarray:
        """Maps, summed over channels."""
        import torch

        like = next(self.model.parameters())
        maps = []
        for start in range(0, len(images), self.options.batch):
            batch = torch.from_numpy(images[start : start + self.options.batch]).to(like.dtype)
            batch = batch.contiguous(memory_format=self.format)
            with torch.no_grad():
                target = self.model(batch).argmax(1)
            maps.append(getattr(self, name)(batch, target).sum(1).detach().numpy())
        return np.concatenate(maps)

    def smooth_grad(self, batch: Any, target: Any) -> Any:
        """Its level is one number for all images."""
        size = LEVEL * float(batch.amax() - batch.amin())
        part = {"nt_samples_batch_size": max(1, PASS // len(batch))} if self.options.chunked else {}
        return self.tunnel.attribute(batch, target=target, nt_samples=SAMPLES, stdevs=size, abs=False, **part)

    def integrated_gradients(self, batch: Any, target: Any) -> Any:
        """Gauss-Legendre and a baseline of zeros are its defaults."""
        part = {"internal_batch_size": max(PASS, len(batch))} if self.options.chunked else {}
        return self.path.attribute(batch, target=target, n_steps=STEPS, **part)


class Lent:
    """In the place of ``torch.normal``, our noise for one batch in the order in which Captum draws."""

    def __init__(self, images: Any, ids: tuple[str, ...]) -> None:
        self.images, self.ids, self.sample = images, ids, 0

    def __call__(self, _mean: float, std: Any) -> Any:
        """Noise for as many samples of each image as are wanted."""
        import torch

        from convaudit.stages.attributions.smooth_grad import noise, spread

        samples = range(self.sample, self.sample + len(std) // len(self.ids))
        self.sample = samples.stop
        size = LEVEL * spread(self.images)
        shape = tuple(self.images.shape[1:])
        drawn = [noise(self.ids, shape, 0, sample, self.images) * size for sample in samples]
        return torch.stack(drawn, dim=1).flatten(0, 1)


def check(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Largest difference of each result over its largest magnitude; fails where it is above the tolerance.

    As in `sweep_vs_peers.check`, single precision is compared in one memory format and in passes of the same size:
    otherwise a few values fall on the other side of a ReLU's zero, and the gradient itself jumps. Double precision is
    compared across formats, against a single call of Captum. With winograd single precision is shown without being
    held to the tolerance, for the same reason.
    """
    tiled, wide = argparse.Namespace(**vars(options) | TILED), {"double": True, "format": "contiguous"}
    found = {
        "float32, both in channels_last": compared(options, {"chunked": True}),
        "float64, Captum in one call, default format": compared(options, wide),
        "float64, ours with winograd, Captum in one call": compared(tiled, wide),
    }
    return agreeing(found) | {"float32, ours with winograd": compared(tiled, {"chunked": True})}


def compared(options: argparse.Namespace, theirs: dict[str, Any]) -> dict[str, float]:
    """Of both methods, on one small batch."""
    import torch

    images = pictures(4)
    both = vars(options) | {"double": theirs.get("double", False), "batch": len(images)}
    ours = Ours(argparse.Namespace(**both), len(images))
    captum = Captum(argparse.Namespace(**both | theirs), len(images))
    found = {}
    for name in METHODS:
        exact = ours.exact(name, images)
        normal = torch.normal
        like = next(ours.model.parameters()).dtype
        torch.normal = Lent(torch.from_numpy(images).to(like), ours.subject.image_id)
        try:
            found[name] = difference(exact, captum(name, images))
        finally:
            torch.normal = normal
        assert difference(ours(name, images), exact) <= 2**-11, "stored in half precision, and no worse than that"
    return found


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Images per second and CPU seconds of each method."""
    images = pictures(options.images)
    contestant = (Captum if options.child == "captum" else Ours)(options, len(images))
    found: dict[str, float] = {}
    for name in METHODS:
        warm = contestant if options.child == "captum" else Ours(options, options.batch)
        warm(name, images[: options.batch])
        spent: dict[str, float] = {}
        with timed(spent):
            contestant(name, images)
        found |= {name: len(images) / spent["wall"], f"{name}/cpu": spent["cpu"] / len(images)}
    agreement = contestant.agreement if isinstance(contestant, Ours) else {}
    return found | {f"{name}/agreement": value for name, value in agreement.items()}


def compare(options: argparse.Namespace) -> None:
    """Print the tables."""
    where = machine("torch", "torchvision", "captum")
    sides = {
        "Captum": ("captum", PLAIN),
        "ours": ("ours", OURS),
        "ours, winograd": ("ours", TILED),
        "Captum, chunked": ("captum", PLAIN | {"chunked": True}),
        "Captum, our settings": ("captum", OURS | {"chunked": True}),
    }
    rows: list[list[object]] = [
        ["threads", "contestant", "method", "images/s", "times Captum (range)", "the same in CPU time"]
    ]
    for threads in options.threads_tried:
        contestants = {
            name: lambda side=side, threads=threads: ask(__file__, arguments(options, *side, threads))
            for name, side in sides.items()
        }
        if threads > 1:
            contestants |= as_workers(options, threads)
        found = in_turn(contestants, options.repeats)
        for key in METHODS:
            for name, rounds in found.items():
                rate = f"{median([one[key] for one in rounds]):.2f}"
                faster = ratio(rounds, found["Captum"], key)
                rows.append([threads, name, key, rate, faster, ratio(found["Captum"], rounds, f"{key}/cpu")])
            short = f"ours, bfloat16, {threads} workers"
            if short in found:
                agreement = found[short][0][f"{key}/agreement"]
                print(f"{key} in bfloat16: rank correlation with float32 {agreement:.4f}\n")
    checked = ask(__file__, arguments(options, "check", OURS, options.threads_tried[0]))
    print(
        f"{where}. {options.images} images of 224x224, batch {options.batch}, {SAMPLES} samples, {STEPS} steps, "
        f"median of {options.repeats} rounds.\n"
    )
    table(rows)
    print("Largest difference over largest magnitude, Captum being lent our noise:\n")
    differences(checked)


def as_workers(options: argparse.Namespace, n: int) -> dict[str, Callable[[], dict[str, float]]]:
    """Contestants of one thread a process, as many at once as others have threads."""
    sides = {"ours": OURS, "ours, winograd": TILED, "ours, bfloat16": OURS | {"bfloat16": True}}

    def together(given: list[object]) -> Callable[[], dict[str, float]]:
        return lambda: at_once(n, lambda: ask(__file__, given), METHODS)

    return {f"{name}, {n} workers": together(arguments(options, "ours", side, 1)) for name, side in sides.items()}


def arguments(options: argparse.Namespace, child: str, settings: dict[str, Any], threads: int) -> list[object]:
    """The command line of a child."""
    passed = {name: getattr(options, name) for name in ("images", "batch")}
    return command_line({"child": child, "threads": threads, **passed, **settings})


def main() -> None:
    """Compare, or be one of the children that are measured."""
    found = parser(__doc__, ["ours", "captum", "check"], images=32)
    threads_tried(found)
    found.add_argument(
        "--batch", type=int, default=8, help="of a call; 8 take 6 GB of Captum, which takes all steps at once"
    )
    found.add_argument("--chunked", action="store_true", help=argparse.SUPPRESS)
    found.add_argument("--bfloat16", action="store_true", help=argparse.SUPPRESS)
    found.add_argument("--double", action="store_true", help=argparse.SUPPRESS)
    serve(found.parse_args(), compare, measure, {"check": check})


if __name__ == "__main__":
    main()
