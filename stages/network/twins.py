"""Private copies of a network, for other people's methods that put hooks and flags on what they explain."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import StageError
from .variants import Altered


@dataclass
class _Copies:
    """Copies of one model: as it is, and with the parameters that were drawn last."""

    state: tuple[tuple[int, int], ...]
    plain: nn.Module | None = None
    drawn: Mapping[str, Tensor] = field(default_factory=dict)
    redrawn: nn.Module | None = None


_COPIES: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()


def twin(model: nn.Module, state: Altered, images: Tensor) -> nn.Module:
    """Copy a network, once per process, so that others may write on the copy.

    Parameters
    ----------
    model
        Left as it is.
    state
        The variant under which it is run.
    images
        ``(image, channel, *space)``: what to try the copy with when it is made.

    Returns
    -------
    nn.Module
        In evaluation mode, frozen, with the parameters of the variant; its ReLU modules do not work in place, unless
        the network counts on it.

    Raises
    ------
    StageError
        When the variant changes what a layer puts out, which a copy does not know of.
    """
    if state.edits:
        raise StageError(
            f"a copy of the network cannot be run with channels of {next(iter(state.edits))} set to zero; "
            "leave methods of Captum and zennit out of it"
        )
    tensors = chain(model.parameters(), model.buffers())
    # A model that was written on since is another model.
    now = tuple((id(tensor), tensor._version) for tensor in tensors)
    copies = _COPIES.get(model)
    if copies is None or copies.state != now:
        copies = _COPIES[model] = _Copies(now)
    if not state.drawn:
        copies.plain = copies.plain if copies.plain is not None else _copied(model, {}, images)
        return copies.plain
    if copies.redrawn is None or copies.drawn is not state.drawn:
        copies.drawn, copies.redrawn = state.drawn, _copied(model, state.drawn, images)
    return copies.redrawn


def forget(model: nn.Module) -> None:
    """Drop the copies of a model, because somebody may have left hooks on them."""
    _COPIES.pop(model, None)


def _copied(model: nn.Module, drawn: Mapping[str, Tensor], images: Tensor) -> nn.Module:
    made = copy.deepcopy(model).eval().requires_grad_(False)
    tensors = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    with torch.no_grad():
        for name, value in drawn.items():
            tensors[name].copy_(value)
        before = made(images[:1].clone())
        writing = [module for module in made.modules() if getattr(module, "inplace", None) is True]
        # What hooks have been shown must not be overwritten.
        _write(writing, False)
        after = made(images[:1].clone())
    # A network may read elsewhere what a module has overwritten.
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-4, equal_nan=True):
        _write(writing, True)
    return made


def _write(modules: list[nn.Module], inplace: bool) -> None:
    for module in modules:
        module.inplace = inplace  # pyright: ignore[reportArgumentType]
