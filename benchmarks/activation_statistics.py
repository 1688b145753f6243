"""What the statistics of every channel cost on top of a bare forward pass: ResNet-50 at 224x224, random weights.

One process; all contestants see the same images in turn, round after round, and CPU time is compared, so that a busy
machine does little harm. The bare forward runs in inference mode, in channels_last, with the audit's allocator and in
batches as an audit picks them; one task of the audit is one shard of 256 images. "Plain hooks" notes the same as the
first of ours with one forward hook per convolution and the obvious calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from alternating import in_turn, machine, median, ratio, table, timed
from torch import Tensor, nn
from torchvision.models import resnet50

from convaudit.pipelines.allocator import tune_allocator
from convaudit.pipelines.fingerprint import Numerics
from convaudit.stages.activations.stage import Activations
from convaudit.stages.contract import Subject, Task
from convaudit.stages.network.layers import trace
from convaudit.stages.network.sweep import Block, run_tasks

SIDE = 224
OURS = {
    "convolutions: fired, mean, max, top-9": (Activations(layers=("kind:conv",), statistics=()), 0.15),
    "convolutions and ReLUs: and variance": (Activations(statistics=("variance",)), 0.60),
    "convolutions and ReLUs: all that is stored by default": (Activations(), None),
}
NOTHING: Any = None  # nothing stored is read
BARE, PLAIN = "bare forward", "plain hooks, convolutions: fired, mean, max, top-9"


def network() -> nn.Module:
    """ResNet-50 whose batch norms know the statistics of random images."""
    torch.manual_seed(0)
    model = resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, SIDE, SIDE))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def subject(model: nn.Module, n: int) -> Subject:
    """What is audited, with the batch that an audit picks."""
    layers = trace(model, torch.randn(2, 3, SIDE, SIDE))
    batch = Numerics().fitted(max(int(np.prod(layer.shape)) for layer in layers)).batch
    assert batch is not None, "fitted() fills it in"
    names, none, classes = tuple(map(str, range(n))), ("",) * n, tuple(map(str, range(1000)))
    mean, std, axes = (0.0,) * 3, (1.0,) * 3, ("y", "x")
    return Subject(names, np.full(n, -1), none, none, classes, axes, (3, SIDE, SIDE), mean, std, layers, n, batch, 0)


class Contest:
    """The network and its images, and everyone who runs it."""

    def __init__(self, n: int) -> None:
        self.model, self.n = network(), n
        self.subject = subject(self.model, n)
        self.images = np.random.default_rng(1).standard_normal((n, 3, SIDE, SIDE), dtype=np.float32)

    def blocks(self) -> Iterator[Block]:
        """The images in batches, as a reader hands them over."""
        for start in range(0, self.n, self.subject.batch):
            images = self.images[start : start + self.subject.batch]
            k = len(images)
            yield Block(np.arange(start, start + k), images, np.ones(k, bool), np.zeros(k, np.int8), ("",) * k)

    def bare(self) -> None:
        """The network alone."""
        with torch.inference_mode():
            for block in self.blocks():
                self.model(torch.from_numpy(block.images).contiguous(memory_format=torch.channels_last))

    def audited(self, leaf: Activations) -> Any:
        """The sweep with one leaf."""
        (outcome,) = run_tasks(
            self.model,
            [(leaf, Task(leaf.name, range(self.n)))],
            self.blocks(),
            self.subject,
            device="cpu",
            channels_last=True,
        )
        assert outcome.partial is not None, outcome.error
        return leaf.finish([outcome.partial], self.subject, NOTHING).arrays

    def plain(self) -> dict[str, dict[str, Tensor]]:
        """Forward hooks that call what comes to mind first."""
        notes: dict[str, dict[str, Tensor]] = {}
        handles = [
            module.register_forward_hook(_hook(notes.setdefault(name, {})))
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d)
        ]
        self.bare()
        for handle in handles:
            handle.remove()
        return notes


def _hook(note: dict[str, Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        peak, position = output.flatten(2).max(2)
        fired, total = (peak > 0).sum(0), output.mean((2, 3)).sum(0)
        start = int(note.get("n", torch.tensor(0)))
        image = torch.arange(start, start + len(peak))[:, None].expand_as(peak)
        rows = {"value": peak, "position": position, "image": image}
        if note:
            fired, total = note["fired"] + fired, note["total"] + total
            rows = {key: torch.cat([note[key], row]) for key, row in rows.items()}
        best = rows["value"].topk(min(9, len(rows["value"])), dim=0).indices
        note.update({key: row.gather(0, best) for key, row in rows.items()})
        note.update(n=torch.tensor(start + len(peak)), fired=fired, total=total)

    return hook


def agree(contest: Contest) -> None:
    """Hold ours against plain hooks.

    Raises
    ------
    AssertionError
        When they differ.
    """
    arrays, notes = contest.audited(OURS[next(iter(OURS))][0]), contest.plain()
    for name, note in notes.items():
        np.testing.assert_array_equal(arrays[f"{name}/fired"], note["fired"])
        np.testing.assert_allclose(arrays[f"{name}/mean"], note["total"] / contest.n, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(arrays[f"{name}/top_value"], note["value"].T[:, :9])
        np.testing.assert_array_equal(arrays[f"{name}/max"], note["value"][0])


def measured(work: Callable[[], Any]) -> Callable[[], dict[str, float]]:
    """Time one call."""

    def run() -> dict[str, float]:
        found: dict[str, float] = {}
        with timed(found):
            work()
        return found

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="images of one round; an audit's task has 256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--without", nargs="*", default=(), choices=("plain", "default"), help="contestants to leave out"
    )
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(options.threads)
    print(machine("torch", "torchvision", "numpy"), end="\n\n")
    contest = Contest(options.images)
    work: dict[str, Callable[[], Any]] = {BARE: contest.bare}
    for name, (leaf, goal) in OURS.items():
        if goal is not None or "default" not in options.without:
            work[name] = lambda leaf=leaf: contest.audited(leaf)
    if "plain" not in options.without:
        work[PLAIN] = contest.plain
        agree(contest)
    found = in_turn({name: measured(call) for name, call in work.items()}, options.repeats)
    print(f"{options.images} images in batches of {contest.subject.batch}, {options.threads} thread(s)\n")
    rows: list[tuple[object, ...]] = [
        ("contestant", "CPU s", "times the bare forward, CPU (range)", "wall (range)", "goal")
    ]
    for name, rounds in found.items():
        goal = OURS[name][1] if name in OURS else None
        wanted = "" if goal is None else f"at most {1 + goal:.2f}"
        seconds = f"{median([r['cpu'] for r in rounds]):.2f}"
        rows.append((name, seconds, *(ratio(rounds, found[BARE], key) for key in ("cpu", "wall")), wanted))
    table(rows)


if __name__ == "__main__":
    main()
