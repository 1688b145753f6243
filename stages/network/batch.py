"""What one leaf sees of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contract import Ask, Identity, ReluRule, Subject, Target, Variant
from ..errors import StageError, did_you_mean
from ..specs import LayerSpec
from .forward import Block, Network, Pass, run_forward, to_device
from .twins import forget, twin
from .variants import altered
from .visiting import Probe
from .winograd import Winograd

_AS_IT_IS = Identity()


class Batch:
    """What one leaf sees of a forward pass: its images, and what it asked for.

    Parameters
    ----------
    forward
        The pass, shared with other leaves.
    subject
        What is audited.
    rows
        The images of the pass that belong to the leaf's task.
    observed
        What `Leaf.observe` gave, by leaf and layer.
    """

    def __init__(
        self,
        forward: Pass,
        subject: Subject,
        rows: slice | np.ndarray = slice(None),
        observed: Mapping[tuple[str, str], Any] | None = None,
    ) -> None:
        block = forward.block
        self._pass, self._subject, self._rows, self._observed = forward, subject, rows, dict(observed or {})
        self.positions: np.ndarray = block.positions[rows]
        self.ids: tuple[str, ...] = tuple(subject.image_id[position] for position in self.positions)
        self.labels: np.ndarray = forward.labels[rows]
        self.valid: np.ndarray = block.valid[rows]
        self.status: np.ndarray = block.status[rows]
        self.reasons: tuple[str, ...] = tuple(np.array(block.reasons, object)[rows])
        #: Where the object lies ``(image, *space)``; None where the data have neither boxes nor masks.
        self.regions: np.ndarray | None = None if block.regions is None else block.regions[rows]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def images(self) -> Tensor:
        """What the network was fed, ``(image, channel, *space)``, normalised, on its device; must not be written on."""
        return self._pass.images[self._index]

    @property
    def logits(self) -> Tensor:
        """``(image, class)``, before any softmax, detached.

        Raises
        ------
        StageError
            When nobody has asked for them.
        """
        return self._pass.answer()[self._index]

    @property
    def _index(self) -> slice | Tensor:
        rows = self._rows
        return rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self._pass.images.device)

    def activation(self, layer: str) -> Tensor:
        """A kept layer's output ``(image, channel, *space)`` as it was computed, before anything overwrote it.

        Raises
        ------
        StageError
            When the leaf has not asked to keep that layer.
        """
        kept = self._pass.kept
        if layer not in kept:
            raise StageError(
                f"activation of {layer!r} was not asked for; name it in asks().keep{did_you_mean(layer, kept)}"
            )
        return kept[layer].detach()[self._index]

    def gradient(self, target: Target, wrt: str, rule: ReluRule = "plain") -> Tensor:
        """Derivative of each image's target.

        Parameters
        ----------
        target
            What is derived.
        wrt
            ``"input"`` or a layer name.
        rule
            How it passes ReLUs.

        Returns
        -------
        Tensor
            Of the shape of what is derived by; NaN for images that are bad or have no such target.

        Raises
        ------
        StageError
            When the leaf has not asked for it, or the logits do not depend on `wrt`.
        """
        return self._pass.gradient(target, wrt, rule)[self._index]

    def observed(self, leaf: str, layer: str) -> Any:
        """What ``observe`` of `leaf` returned for `layer`.

        Raises
        ------
        StageError
            When the leaf has not asked to observe that layer.
        """
        if (leaf, layer) not in self._observed:
            raise StageError(f"{leaf} was not shown {layer!r}; name it in asks().observe")
        return self._observed[leaf, layer]

    def target_class(self, target: Target) -> np.ndarray:
        """Class position that `target` stands for, for each image ``(image,)``; -1 where there is none."""
        return self._pass.target_class(target)[self._rows]

    @property
    def model(self) -> nn.Module:
        """The network itself, in evaluation mode; must not be written on, and is not what a variant makes of it."""
        return self._network.model

    def parameter(self, name: str) -> Tensor | None:
        """A parameter by its name in the model, as the variant has it, detached; None where the module has none."""
        drawn = self._network.state.drawn
        owner, _, last = name.rpartition(".")
        found = drawn[name] if name in drawn else getattr(self.model.get_submodule(owner), last)
        return None if found is None else found.detach()

    @property
    def altered(self) -> bool:
        """Whether a variant stands between `model` and what the network answers."""
        state = self._network.state
        return state.call is not self._network.model or bool(state.edits)

    @property
    def autocast(self) -> torch.dtype | None:
        """Element type that eligible operations compute in; None for that of the model."""
        return self._network.autocast

    @property
    def winograd(self) -> Winograd | None:
        """How convolutions are computed; None for PyTorch's own."""
        return self._network.winograd

    @contextmanager
    def twin(self) -> Iterator[nn.Module]:
        """A copy of the network under its variant, and with its precision, that may be written on.

        Hooks and flags have to be taken off again; where the work fails, the copy is thrown away.

        Raises
        ------
        StageError
            When the variant cannot be copied.
        """
        network = self._network
        copy = twin(network.model, network.state, self.images)
        precision = torch.autocast(self.images.device.type, network.autocast) if network.autocast else nullcontext()
        try:
            with torch.enable_grad(), precision, network.winograd or nullcontext():
                yield copy
        except BaseException:
            forget(network.model)
            raise

    @property
    def relu_calls(self) -> int:
        """How many calls of a ReLU the rules have caught in the forward pass; 0 where no rule was asked.

        Without logits, up to where it ended.
        """
        return 0 if self._pass.rules is None else self._pass.rules.calls

    @property
    def other_calls(self) -> Mapping[str, int]:
        """How many calls of nonlinearities that are no ReLU have passed the rules, by function; see `relu_calls`."""
        return {} if self._pass.rules is None else self._pass.rules.others

    @property
    def _network(self) -> Network:
        network = self._pass.network
        assert network is not None, "every pass that the sweep makes knows its network"
        return network

    def only(self, rows: np.ndarray) -> Batch:
        """The same batch for some of its images, without what was observed.

        Parameters
        ----------
        rows
            Places in this batch.
        """
        index = np.arange(len(self._pass.block.positions))[self._rows][rows]
        return Batch(self._pass, self._subject, index)

    def call(self, images: Tensor) -> Tensor:
        """Run the network, under the same variant, on any images, and look at nothing else.

        Parameters
        ----------
        images
            ``(n, channel, *space)``, as the network is fed; `n` may be any number.

        Returns
        -------
        Tensor
            Logits ``(n, class)``, detached, in the type in which the network gives them.
        """
        network = self._network
        if not network.state.edits:
            with network.winograd or nullcontext(), torch.inference_mode():
                return network(images.clone())
        return self._run(images, np.zeros(len(images), np.int64), Ask()).answer()

    def again(self, images: Tensor, ask: Ask, autocast: torch.dtype | None = None) -> Batch:
        """Run the network, under the same variant, on other versions of these images.

        What a target stands for is decided by this batch, not by what the network makes of the other versions.

        Parameters
        ----------
        images
            ``(version * image, channel, *space)``: all images of this batch in one version, then all in the next.
        ask
            What to look at; nothing can be observed.
        autocast
            Element type that eligible operations compute in, here and in what the new batch runs.

        Returns
        -------
        Batch
            One row per row of `images`.
        """
        versions, rest = divmod(len(images), max(1, len(self)))
        if rest:
            raise StageError(
                f"again: expected whole versions of {len(self)} images to look at, got {len(images)} images"
            )
        if ask.observe:
            raise StageError(f"again: nothing can be observed there, got {', '.join(ask.observe)}; keep it instead")
        rows = np.tile(np.arange(len(self._pass.block.positions))[self._rows], versions)
        return Batch(self._run(images, rows, ask, autocast), self._subject)

    def under(self, variant: Variant, ask: Ask) -> Batch:
        """Run the network under a variant on the same images.

        What a target stands for is decided by this batch: under a variant that changes the answer, a heatmap still
        explains the class that the network gave before.

        Parameters
        ----------
        variant
            The condition, in place of the one of this batch.
        ask
            What to look at; nothing can be observed.

        Raises
        ------
        StageError
            When something is to be observed, or the variant names what the model does not have.
        """
        if ask.observe:
            raise StageError(f"under: nothing can be observed, got {ask.observe}; ask to keep it")
        with altered(self._network.model, variant) as state:
            network = replace(self._network, state=state)
            fed = state.disturb(self.images, self.ids)
            rows = np.arange(len(self._pass.block.positions))[self._rows]
            return Batch(self._run(fed, rows, ask, network=network), self._subject)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` gives for these images, worked out once for all leaves that ask under the same key.

        Parameters
        ----------
        key
            Who asks and every setting that the result depends on.
        compute
            Gives the same for the same key, images and network; what it gives must not be written on.
        """
        rows = tuple(np.arange(len(self._pass.block.positions))[self._rows].tolist())
        shared = self._pass.shared
        if (key, rows) not in shared:
            shared[key, rows] = compute()
        return shared[key, rows]

    def _run(
        self,
        images: Tensor,
        rows: np.ndarray,
        ask: Ask,
        autocast: torch.dtype | None = None,
        network: Network | None = None,
    ) -> Pass:
        _check_listed(ask, self._subject)
        before, network = self._pass, network or self._network
        network = network if autocast is None else replace(network, autocast=autocast)
        found = run_forward(network, before.block.take(rows), images, before.labels[rows], Probe.union([ask]), _ignore)
        found.origin = (before, rows)
        return found


def _check_listed(ask: Ask, subject: Subject) -> None:
    """Refuse names that do not say which call is meant: a forward pass that ends early does not see the others."""
    names = {layer.name for layer in subject.layers}
    for name in () if ask.logits else Probe.union([ask]).wanted:
        if name not in names and name.removesuffix(".input") not in names:
            raise StageError(
                f"layer {name!r}: without logits, expected one of the network's layers, with the call where there are "
                f"several, as in {name + '#0'!r}{did_you_mean(name, names)}"
            )


def _ignore(_name: str, _value: Tensor) -> None:
    """Look at nothing."""


@contextmanager
def opened(
    model: nn.Module,
    block: Block,
    subject: Subject,
    ask: Ask,
    variant: Variant = _AS_IT_IS,
    observe: Callable[[LayerSpec, Tensor, Tensor], Any] | None = None,
    winograd: Winograd | None = None,
) -> Iterator[Batch]:
    """Run the network over some images and offer all that a leaf called ``""`` asked; for notebooks and tests.

    Parameters
    ----------
    model
        On the CPU or a device, in evaluation mode.
    block
        The images.
    subject
        What is audited.
    ask
        What to look at.
    variant
        The model under another condition.
    observe
        As `Leaf.observe`.
    winograd
        How convolutions are computed; None for PyTorch's own.
    """
    _check_listed(ask, subject)
    images = to_device(block.images, model)
    ids = [subject.image_id[position] for position in block.positions]
    valid = torch.from_numpy(block.valid).to(images.device)
    observed: dict[tuple[str, str], Any] = {}

    def observer(name: str, value: Tensor) -> None:
        observed["", name] = observe(subject.layer(name), value, valid) if observe else None

    with altered(model, variant) as state:
        fed = state.disturb(images, ids)
        network, labels = Network(model, state, winograd=winograd), subject.label[block.positions]
        forward = run_forward(network, block, fed, labels, Probe.union([ask]), observer)
        yield Batch(forward, subject, observed=observed)
