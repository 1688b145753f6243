"""The network under a changed condition; what was changed is undone when the context ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from ..contract import Ablate, Identity, Perturb, Randomise, Variant
from ..errors import StageError, did_you_mean
from ..numerics.seeds import numpy_generator, stable_seed

# So many power iterations settle the vectors of a spectral norm.
_SETTLING = 20
#: Takes a layer's output and gives the one the network shall go on with.
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Altered:
    """How to run the network under a variant.

    Parameters
    ----------
    call
        What to call instead of the model; it calls the model's own modules, hooks and all.
    edits
        By layer name, what becomes of its output.
    disturb
        What becomes of the input ``(image, channel, *space)`` of the images with those ids.
    drawn
        Parameters and buffers that `call` uses instead of the model's own, by their name in the model.
    """

    call: Callable[[Tensor], Tensor]
    edits: Mapping[str, Edit] = field(default_factory=dict)
    disturb: Callable[[Tensor, Sequence[str]], Tensor] = lambda images, _ids: images
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


@contextmanager
def altered(model: nn.Module, variant: Variant) -> Iterator[Altered]:
    """Offer the model under a variant.

    Parameters
    ----------
    model
        Neither it nor its parameters are written on.
    variant
        The condition.

    Raises
    ------
    StageError
        When the variant names what the model does not have.
    """
    match variant:
        case Identity():
            yield Altered(model)
        case Ablate(layer, channels):
            yield Altered(model, {layer: _silence(layer, channels)})
        case Randomise(layers, seed):
            drawn = redrawn(model, layers, seed)
            yield Altered(lambda images: torch.func.functional_call(model, drawn, (images,)), drawn=drawn)
        case Perturb(noise, seed):
            yield Altered(model, disturb=lambda images, ids: perturbed(images, ids, noise, seed))
        case _:
            raise StageError(f"no such model variant: {variant!r}")


def _silence(layer: str, channels: tuple[int, ...]) -> Edit:
    def edit(value: Tensor) -> Tensor:
        wrong = [channel for channel in channels if not 0 <= channel < value.shape[1]]
        if wrong:
            raise StageError(f"ablate {layer}: expected channels 0 to {value.shape[1] - 1}, got {wrong[0]}")
        keep = torch.ones(value.shape[1], dtype=torch.bool, device=value.device)
        keep[list(channels)] = False
        # Not a product: an infinite or undefined activation would come out as NaN.
        return torch.where(keep.view(-1, *[1] * (value.ndim - 2)), value, torch.zeros((), dtype=value.dtype))

    return edit


def redrawn(model: nn.Module, layers: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Draw the parameters of some modules anew, each by its own ``reset_parameters``.

    Parameters
    ----------
    model
        Left as it is: copies are drawn.
    layers
        Dotted module names (``#call`` is ignored: calls share their parameters); a module made of others means all of
        them, ``""`` the whole model.
    seed
        Each module draws from (seed, its name), so that what one becomes does not depend on the others in `layers`.

    Returns
    -------
    dict
        New parameters and buffers by their name in the model, on its device.

    Raises
    ------
    StageError
        When a module is not there, or has parameters but no ``reset_parameters``.
    """
    modules = dict(model.named_modules())
    drawn: dict[str, Tensor] = {}
    for layer in layers:
        name = layer.partition("#")[0]
        if name not in modules:
            raise StageError(f"randomise: the model has no module {name!r}{did_you_mean(name, modules)}")
        inner = {".".join(filter(None, (name, part))): module for part, module in modules[name].named_modules()}
        computed = tuple(f"{part}.parametrizations." for part, module in inner.items() if is_parametrized(module))
        owners = {p: module for p, module in inner.items() if _own_state(module) and not f"{p}.".startswith(computed)}
        if not owners:
            raise StageError(
                f"randomise: module {name!r} ({type(modules[name]).__name__}) has no parameters to draw anew"
            )
        for part, module in owners.items():
            drawn |= {f"{part}.{key}".lstrip("."): value for key, value in _reset(part, module, seed).items()}
    return drawn


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, and those that its parametrised weights are computed from."""
    named = [*module.named_parameters(), *module.named_buffers()]
    inside = "parametrizations." if is_parametrized(module) else "."
    own = {key: tensor for key, tensor in named if "." not in key or key.startswith(inside)}
    return own if any(isinstance(tensor, nn.Parameter) for tensor in own.values()) else {}


def _reset(name: str, module: nn.Module, seed: int) -> dict[str, Tensor]:
    if not callable(getattr(module, "reset_parameters", None)):
        raise StageError(f"randomise: module {name!r} ({type(module).__name__}) has no reset_parameters()")
    # Drawn on the CPU, where a seed means the same numbers on every machine.
    twin = copy.deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(stable_seed(seed, name, "randomise"))
        _redraw(name, twin)
    before = _own_state(module)
    device = next(iter(before.values())).device
    return {
        key: value.detach().to(device).contiguous(memory_format=_format(before[key]))
        for key, value in _own_state(twin).items()
    }


def _redraw(name: str, twin: nn.Module) -> None:
    """Draw a module anew, also where its weights are computed from others, which a plain reset would leave."""
    if is_parametrized(twin):
        _redraw_parametrised(name, twin)
        return
    twin.reset_parameters()  # pyright: ignore[reportCallIssue]
    for hook in twin._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            weight = getattr(twin, hook.name)
            getattr(twin, f"{hook.name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
            getattr(twin, f"{hook.name}_v").copy_(weight)


def _redraw_parametrised(name: str, twin: nn.Module) -> None:
    # The copy shares its class with the module, so that the parametrisation must not be taken off it.
    tied = tuple(twin.get_submodule("parametrizations")._modules)
    plain: Any = object.__new__(type(twin).__bases__[0])
    plain.__dict__.update(copy.deepcopy(twin.__dict__))
    del plain._modules["parametrizations"]
    for key in tied:
        plain._parameters[key] = nn.Parameter(getattr(twin, key).detach().clone(), requires_grad=False)
    plain.reset_parameters()
    for key, value in (*plain._parameters.items(), *plain._buffers.items()):
        if key in tied:
            try:
                setattr(twin, key, value.detach())  # a Parameter would be registered, not set
            except NotImplementedError as error:
                raise StageError(
                    f"randomise: {key} of module {name!r} is parametrised without a right_inverse, so that nothing "
                    "can be drawn for it"
                ) from error
        elif value is not None:
            getattr(twin, key).copy_(value)
    twin.train()
    for _ in range(_SETTLING):
        for key in tied:
            getattr(twin, key)


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def perturbed(images: Tensor, ids: Sequence[str], noise: float, seed: int) -> Tensor:
    """Add Gaussian noise to the network's input.

    Parameters
    ----------
    images
        ``(image, channel, *space)``, normalised.
    ids
        Stable name of each image: the same image gets the same noise in every batch.
    noise
        Standard deviation, in units of the normalised input.
    seed
        Root of the random numbers.
    """
    shape = tuple(images.shape[1:])
    drawn = [numpy_generator(seed, name, "perturb").standard_normal(shape, np.float32) for name in ids]
    return images + noise * torch.from_numpy(np.stack(drawn)).to(images)
