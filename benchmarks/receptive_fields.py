"""Receptive fields of every layer against TorchLens: time, networks that are handled, and whether the boxes are right.

224x224 images, networks of torchvision without trained weights. Time is what it takes from a network to the size,
stride and centre of all its convolutions and batch norms. What is right is decided by gradients of a copy with positive
weights and means for maxima, in double precision: a box is exact when it is the smallest around the pixels with a
gradient, larger when it holds more, wrong when a pixel with a gradient lies outside. Units lie in the middle of some
layers, in their first and last channel.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from alternating import ask, hand_over, in_turn, machine, median, table, timed

NETS = (
    *("alexnet", "vgg16", "resnet50", "resnet152", "googlenet", "inception_v3", "densenet121", "squeezenet1_1"),
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_y_400mf"),
    *("convnext_tiny", "vit_b_32", "swin_t"),
)
SIZE = 224
LAYERS = 8


def network(name: str) -> Any:
    """A network of torchvision, seeded."""
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.set_num_threads(1)
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, weights=None, **options).eval().requires_grad_(False)


def layers_of(model: Any) -> list[str]:
    """Convolutions and batch norms."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]


def units_of(model: Any) -> list[tuple[str, int, tuple[int, int]]]:
    """First and last channel in the middle of some layers."""
    import torch

    names = layers_of(model)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, LAYERS).astype(int))]
    shapes: dict[str, Any] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: out.shape}))
        for name in chosen
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, SIZE, SIZE, dtype=next(model.parameters()).dtype))
    for handle in handles:
        handle.remove()
    return [
        (name, channel, (shapes[name][2] // 2, shapes[name][3] // 2))
        for name in chosen
        for channel in (0, shapes[name][1] - 1)
    ]


def ours(model: Any) -> tuple[dict[str, float], list[Any]]:
    """Time, and boxes of all units; None where nobody can say."""
    from convaudit.stages.network.fields import map_fields
    from convaudit.stages.receptive_fields.boxes import box, group_of
    from convaudit.stages.receptive_fields.description import columns, described

    shape, found = (3, SIZE, SIZE), {}
    with timed(found):
        fields = map_fields(model, layers_of(model), shape)
        columns(list(fields.values()), shape[1:])
    boxes = []
    for name, channel, place in units_of(model):
        groups = described(fields[name], shape[1:])
        group = group_of(groups, channel) if groups else {"status": "unknown"}
        boxes.append(None if group["status"] == "unknown" else box(group, place, shape))
    return found, boxes


def torchlens(model: Any) -> tuple[dict[str, float], list[Any]]:
    """The same by TorchLens."""
    import torch
    import torchlens

    found: dict[str, float] = {}
    views = {}
    with timed(found):
        log = torchlens.trace(model, torch.zeros(1, 3, SIZE, SIZE))
        wanted = set(layers_of(model))
        for layer in log.layers:
            name = str(layer.module).rpartition(":")[0]
            if name in wanted and not layer.is_buffer:
                views[name] = layer.receptive_field
                _ = _numbers(views[name])
    return found, [_lens_box(views.get(name), place) for name, _, place in units_of(model)]


def _numbers(view: Any) -> Any:
    from torchlens.receptive_field import ReceptiveFieldError

    try:
        return view.size, view.jump, view.center0
    except ReceptiveFieldError:
        return None


def _lens_box(view: Any, place: tuple[int, int]) -> Any:
    from torchlens.receptive_field import ReceptiveFieldError

    try:
        if view is None or "unknown" in str(view.status).lower():
            return None
        if "whole" in str(view.status).lower():
            return ((0, SIZE), (0, SIZE))
        axes = [axis for axis in view.at(place).axes if axis.input_axis >= 2]
    except ReceptiveFieldError:
        return None
    return tuple((axis.clipped_start, axis.clipped_stop) for axis in axes)


def gradients(model: Any) -> list[Any]:
    """Smallest boxes around what has a gradient, in a copy in which nothing is zero by chance."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def average(
        x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, ceil_mode: bool = False, **__: Any
    ):
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)

    F.max_pool2d = average
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU)):
                setattr(module, name, nn.Softplus())
    for parameter in model.parameters():
        parameter.uniform_(0.5, 1.5).div_(parameter[0].numel() if parameter.ndim > 1 else 1)
    model = model.double()
    units = units_of(model)
    kept: dict[str, Any] = {}
    for name in {name for name, _, _ in units}:
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: kept.update({name: out}))
    image = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64).add(0.1).requires_grad_()
    model(image)
    found = []
    for name, channel, place in units:
        (gradient,) = torch.autograd.grad(kept[name][(0, channel, *place)], image, retain_graph=True)
        hit = (gradient[0] != 0).any(0).numpy()
        ends = [np.flatnonzero(hit.any(axis=1 - axis)) for axis in (0, 1)]
        found.append([(int(axis[0]), int(axis[-1]) + 1) if len(axis) else (0, 0) for axis in ends])
    return found


def measure(options: argparse.Namespace) -> None:
    """In a process of its own."""
    model = network(options.net)
    if options.contestant == "gradients":
        hand_over(gradients(model))
        return
    run = {"ours": ours, "torchlens": torchlens}[options.contestant]
    try:
        found, boxes = run(model)
    except Exception as error:  # a network that a contestant cannot handle is a result
        hand_over({"error": f"{type(error).__name__}: {error}"[:200]})
        return
    hand_over(found | {"boxes": boxes})


def judged(boxes: list[Any], truth: list[Any]) -> str:
    """Exact, larger, wrong and unknown boxes, as text."""
    counts = {"exact": 0, "larger": 0, "wrong": 0, "unknown": 0}
    for box, true in zip(boxes, truth, strict=True):
        if box is None:
            counts["unknown"] += 1
        elif [tuple(span) for span in box] == [tuple(span) for span in true]:
            counts["exact"] += 1
        else:
            inside = all(a <= c and d <= b for (a, b), (c, d) in zip(box, true, strict=True))
            counts["larger" if inside else "wrong"] += 1
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def main() -> None:
    """Compare, network by network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=list(NETS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestant", choices=("ours", "torchlens", "gradients"), help=argparse.SUPPRESS)
    parser.add_argument("--net", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        measure(options)
        return
    print(machine("torch", "torchvision", "torchlens"))
    rows: list[list[object]] = [
        ["network", "ours, s", "TorchLens, s", "ours: boxes", "TorchLens: boxes"],
    ]
    for net in options.nets:
        rows.append([net, *_compared(net, options.repeats)])
        print(" | ".join(map(str, rows[-1])), flush=True)
    table(rows)


def _compared(net: str, repeats: int) -> list[str]:
    truth = ask(__file__, ["--contestant", "gradients", "--net", net])
    contestants = {
        name: (lambda name=name: ask(__file__, ["--contestant", name, "--net", net])) for name in ("ours", "torchlens")
    }
    found = in_turn(contestants, repeats)
    times, boxes = [], []
    for name in contestants:
        if "error" in found[name][0]:
            times.append("-")
            boxes.append(found[name][0]["error"])
        else:
            times.append(f"{median([one['cpu'] for one in found[name]]):.2f}")
            boxes.append(judged(found[name][0]["boxes"], truth))
    return [*times, *boxes]


if __name__ == "__main__":
    main()
