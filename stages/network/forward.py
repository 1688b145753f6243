"""One forward pass of the network over some images, and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contract import ReluRule, Subject, Target, Unit, Units
from ..errors import StageError
from .capture import locate, named_modules, watch
from .layers import check_logits
from .rules import ReluRules
from .stem import DenseStems
from .targets import target_class, unit_seed, units_seed
from .variants import Altered
from .visiting import Enough, Observer, Probe, Visitor
from .winograd import Winograd


@dataclass(frozen=True)
class Block:
    """Decoded images, as the data reader hands them over.

    Parameters
    ----------
    positions
        Position of each image in the data set.
    images
        ``(image, channel, *space)`` float32, normalised; zeros where an image is bad.
    valid
        Whether an image can be used.
    status
        Index into `convaudit.stages.specs.STATUS`.
    reasons
        Why an image is bad; ``""`` where it is not.
    regions
        Where the object lies ``(image, *space)``, nowhere for an image without a box or mask; None where the data have
        none at all.
    """

    positions: np.ndarray
    images: np.ndarray
    valid: np.ndarray
    status: np.ndarray
    reasons: tuple[str, ...]
    regions: np.ndarray | None = None

    def rows(self, rows: slice) -> Block:
        """Some of its images."""
        return self._some(rows, self.reasons[rows])

    def take(self, rows: np.ndarray) -> Block:
        """Any of its images, also several times."""
        return self._some(rows, tuple(self.reasons[row] for row in rows))

    def _some(self, rows: slice | np.ndarray, reasons: tuple[str, ...]) -> Block:
        regions = None if self.regions is None else self.regions[rows]
        return Block(self.positions[rows], self.images[rows], self.valid[rows], self.status[rows], reasons, regions)


@dataclass
class Pass:
    """The state of one forward pass that all leaves share.

    Parameters
    ----------
    block
        The images.
    images
        What the network was fed, on its device.
    labels
        Class position of each image; -1 where it has none.
    logits
        ``(image, class)``, detached; None where nobody asked for them.
    kept
        Values by layer; they belong to the graph where a gradient is asked.
    graph
        The logits in the graph; None where no gradient is asked, or no logits.
    asked
        What is to be derived by, for each target and rule.
    source
        The input in the graph; None where nobody derives by it.
    network
        What was run, to run it again.
    rules
        How gradients pass ReLUs; None where all asked is plain.
    origin
        The pass whose classes are meant by targets, and which of its images each image here is; None for this one.
    shared
        What leaves have worked out for all who see this pass.
    """

    block: Block
    images: Tensor
    labels: np.ndarray
    logits: Tensor | None
    kept: dict[str, Tensor]
    graph: Tensor | None = None
    asked: Mapping[tuple[Target, ReluRule], tuple[str, ...]] = field(default_factory=dict)
    source: Tensor | None = None
    network: Network | None = None
    rules: ReluRules | None = None
    origin: tuple[Pass, np.ndarray] | None = None
    shared: dict[Any, Any] = field(default_factory=dict)
    _derived: dict[tuple[Target, ReluRule], dict[str, Tensor]] = field(default_factory=dict)

    def target_class(self, target: Target) -> np.ndarray:
        """Class position that `target` stands for, for each image; -1 where there is none."""
        if self.origin is not None:
            first, image = self.origin
            return first.target_class(target)[image]
        return target_class(target, self.answer(), self.labels, self.block.valid)

    def answer(self) -> Tensor:
        """The logits; refused where nobody asked for them."""
        if self.logits is None:
            raise StageError("the logits were not asked for, and were not computed; ask with Ask(logits=True)")
        return self.logits

    def gradient(self, target: Target, wrt: str, rule: ReluRule) -> Tensor:
        """Derive, once per target and rule, by everything anybody has asked."""
        if wrt not in self.asked.get((target, rule), ()):
            raise StageError(f"{rule} gradient of {target!r} by {wrt!r} was not asked for; name it in asks().gradients")
        if (target, rule) not in self._derived:
            with self.rules.under(rule) if self.rules is not None else nullcontext():
                self._derived[target, rule] = self._derive(target, rule)
        return self._derived[target, rule][wrt]

    def _derive(self, target: Target, rule: ReluRule) -> dict[str, Tensor]:
        by = self.asked[target, rule]
        start, seed, bad = self._seed(target)
        sources = [self._source(name) for name in by]
        last = set(self.asked) - {(target, rule)} <= set(self._derived)
        found = torch.autograd.grad(start, sources, seed, retain_graph=not last, allow_unused=True)
        for name, gradient in zip(by, found, strict=True):
            if gradient is None:
                raise StageError(f"gradient of {target!r} by {name!r}: there is no path (a detached or no_grad part?)")
        whole = bool((~bad).all())
        return {name: gradient if whole else _blank(gradient, bad) for name, gradient in zip(by, found, strict=True)}

    def _seed(self, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """What is derived, the weight of each of its values, and the images that have no such target."""
        if isinstance(target, (Unit, Units)):
            start = self._source(target.layer)
            bad = torch.from_numpy(~self.block.valid).to(start.device)
            value = start.detach()
            seed = unit_seed(value, target) if isinstance(target, Unit) else units_seed(value, target)
            return start, seed * ~_spread(bad, start), bad
        graph = self.graph
        assert graph is not None, "gradients of classes are asked, so there are logits in a graph"
        classes = torch.from_numpy(self.target_class(target)).to(graph.device)
        # A zero row keeps a bad image, or one without a label, out of the sum.
        seed = torch.zeros_like(graph).scatter_(1, classes.clamp(min=0)[:, None], 1.0)
        if target == "contrast":
            labels = torch.from_numpy(self.target_class("label")).to(graph.device)
            seed -= torch.zeros_like(graph).scatter_(1, labels.clamp(min=0)[:, None], 1.0)
        bad = classes < 0
        return graph, seed * ~bad[:, None], bad

    def _source(self, name: str) -> Tensor:
        source = self.source if name == "input" else self.kept[name]
        assert source is not None, "asked for, so it was prepared"
        return source


def _blank(gradient: Tensor, rows: Tensor) -> Tensor:
    return gradient.masked_fill(_spread(rows, gradient), torch.nan)


def _spread(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Network:
    """The model as it is run.

    Parameters
    ----------
    model
        The model.
    state
        How to call it under its variant.
    autocast
        Element type that eligible operations compute in; None for that of the model.
    winograd
        How convolutions are computed that are not under autocast; None for PyTorch's own.
    """

    model: nn.Module
    state: Altered
    autocast: torch.dtype | None = None
    winograd: Winograd | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        if self.autocast is None:
            return check_logits(self.state.call(images), len(images))
        with torch.autocast(images.device.type, self.autocast):
            return check_logits(self.state.call(images), len(images))


def run_forward(
    network: Network, block: Block, images: Tensor, labels: np.ndarray, probe: Probe, observer: Observer
) -> Pass:
    """Run the network once.

    Parameters
    ----------
    network
        The model and how to call it.
    block
        The images as decoded.
    images
        The same ``(image, channel, *space)`` on the device, disturbed where the variant says so.
    labels
        Class position of each image.
    probe
        Where to look.
    observer
        Shown the output of each layer in ``probe.observe``.

    Raises
    ------
    StageError
        When a layer is not computed, or computed more often than its name says.
    ModelError
        When the output is not ``(image, class)``.
    """
    state = network.state
    modules = named_modules(network.model)
    places = {locate(name, modules): name for name in probe.wanted | set(state.edits)}
    source, rules = images, ReluRules() if probe.ruled else None
    visitor = Visitor(places, probe, state, observer if rules is None else rules.unseen(observer), rules)
    replaced = [place for place, name in places.items() if name in state.edits or name in probe.derived]
    with torch.enable_grad() if probe.gradients else torch.inference_mode():
        derived = any(gradient.wrt == "input" for gradient in probe.gradients)
        if derived:
            source = images.detach().requires_grad_()
        # What is entered first comes last: the rules replace what the one behind them has watched.
        with (
            network.winograd or nullcontext(),
            DenseStems() if derived else nullcontext(),
            rules or nullcontext(),
            watch(network.model, visitor, places, replaced) if places else nullcontext({}) as count,
        ):
            logits = _answer(network, source, visitor)
    visitor.check_calls(count)
    if rules is not None and not rules.calls:
        raise StageError(
            "guided backprop and deconvnet: no call of a ReLU was caught, so that they would be the plain gradient; "
            "leave them out for this network"
        )
    graph, told = (logits if probe.gradients else None), (None if logits is None else logits.detach())
    return Pass(block, images, labels, told, visitor.kept, graph, probe.asked, source, network, rules)


def _answer(network: Network, source: Tensor, visitor: Visitor) -> Tensor | None:
    """The logits; None where nobody wants them, and then no more is computed than is wanted."""
    if visitor.over():
        return None
    try:
        # The model gets a copy, since it may write into its input.
        logits = network(source.clone())
    except Enough:
        return None
    return logits if visitor.probe.logits else None


def to_device(images: np.ndarray, model: nn.Module, channels_last: bool = False) -> Tensor:
    """Bring decoded images to where the model is, in its floating point type.

    Parameters
    ----------
    images
        ``(image, channel, *space)`` float32.
    model
        Its first floating point parameter tells device and type.
    channels_last
        Whether images with two spatial axes are laid out channels last.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(like.device, like.dtype)
    last = channels_last and tensor.ndim == 4
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def names_of(positions: Sequence[int] | np.ndarray, subject: Subject, limit: int = 5) -> str:
    """Image ids for a message, the first few."""
    ids = [subject.image_id[position] for position in positions[:limit]]
    return ", ".join(ids) + (f", ... ({len(positions)} in all)" if len(positions) > limit else "")
