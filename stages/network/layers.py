"""Lists what can be looked at in a network, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from ..errors import ModelError
from ..specs import LayerKind, LayerSpec
from .capture import Place, Seen, children, watch
from .functional import ReluCall

_NORMS = (
    batchnorm._BatchNorm,
    instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_POOLS = (
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._LPPoolNd,
    nn.FractionalMaxPool2d,
)


@dataclass(frozen=True)
class Anatomy:
    """What one forward pass has shown of a network.

    Parameters
    ----------
    layers
        Everything that can be looked at, in the order of the forward pass.
    n_logit
        Number of logits.
    """

    layers: tuple[LayerSpec, ...]
    n_logit: int


def trace(model: nn.Module, images: Tensor) -> tuple[LayerSpec, ...]:
    """List everything in a network that can be looked at; see `examine`."""
    return examine(model, images).layers


def examine(model: nn.Module, images: Tensor) -> Anatomy:
    """Run a network once and list its layers.

    Listed are the output of every module that is called (those made of others, such as a residual block, are of
    kind ``"other"``), every ReLU called as a function, and the input of the last linear layer; not what does not
    have one row per image.

    Parameters
    ----------
    model
        In evaluation mode. Nothing is written on it.
    images
        ``(image, channel, *space)``, on the model's device, as the network expects them; any values.

    Raises
    ------
    ModelError
        When the model cannot be looked into: TorchScript, ``torch.compile``, training mode, an output that is not
        ``(image, class)``, or no convolution.
    """
    refuse(model)
    seen: list[tuple[Place, LayerSpec]] = []

    def visit(at: Seen) -> None:
        if at.value.ndim >= 2 and at.value.shape[0] == images.shape[0]:
            kind, upper = _kind(at)
            seen.append((at.place, LayerSpec("", kind, _made_by(at), tuple(at.value.shape[1:]), upper)))

    with torch.inference_mode(), watch(model, visit) as count:
        logits = model(images.clone())
    layers = [replace(spec, name=place.name(count[place.module, place.role] > 1)) for place, spec in _listed(seen)]
    _check_layers(layers)
    return Anatomy(tuple(layers), check_logits(logits, images.shape[0]).shape[1])


def _listed(seen: list[tuple[Place, LayerSpec]]) -> list[tuple[Place, LayerSpec]]:
    inputs = [place for place, spec in seen if spec.kind == "input"]
    return [(place, spec) for place, spec in seen if spec.kind != "input" or place == inputs[-1]]


def _check_layers(layers: list[LayerSpec]) -> None:
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"two layers of the model are called {twice[0]!r}; rename that module")
    if not any(layer.kind == "conv" for layer in layers):
        raise ModelError(
            f"the model has no convolution among its {len(layers)} layers; expected a convolutional network"
        )


def check_logits(output: Any, n_image: int) -> Tensor:
    """Refuse what is not one row of logits per image.

    Raises
    ------
    ModelError
        When `output` is not a tensor ``(image, class)`` of floating point numbers.
    """
    if not isinstance(output, Tensor):
        raise ModelError(f"the model's output: expected a tensor (image, class), got {type(output).__name__}")
    if output.ndim != 2 or output.shape[0] != n_image or not output.is_floating_point():
        got = f"{tuple(output.shape)} of {output.dtype}"
        raise ModelError(f"the model's output: expected ({n_image} images, classes) of floats, got {got}")
    return output


def refuse(model: nn.Module) -> None:
    """Refuse models that hooks cannot look into.

    Raises
    ------
    ModelError
        With the name of the module and what to do.
    """
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is TorchScript, whose inside hooks cannot see; give the Python module instead")
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ModelError(f"{where} is compiled, hooks would be compiled away; give the module before torch.compile")
        if module.training:
            raise ModelError(f"{where} is in training mode; call eval() on the model")


def _kind(at: Seen) -> tuple[LayerKind, float | None]:
    source = at.source
    if isinstance(source, ReluCall):
        return "relu", source.upper
    if at.place.role == "input":
        return "input", None
    if children(source):
        return "other", None
    if isinstance(source, nn.Hardtanh):
        return ("relu", float(source.max_val)) if source.min_val == 0 else ("other", None)
    if isinstance(source, nn.Threshold):
        return "relu" if source.threshold == 0 and source.value == 0 else "other", None
    kinds: list[LayerKind] = [kind for kind, fits in _MODULES if fits(source)]
    return kinds[0] if kinds else "other", None


_MODULES: tuple[tuple[LayerKind, Callable[[nn.Module], bool]], ...] = (
    ("conv", lambda module: isinstance(module, conv._ConvNd)),
    ("relu", lambda module: isinstance(module, nn.ReLU)),
    ("linear", lambda module: isinstance(module, nn.Linear)),
    ("norm", lambda module: isinstance(module, _NORMS)),
    ("pool", lambda module: isinstance(module, _POOLS)),
)


def _made_by(at: Seen) -> str:
    return at.source.function if isinstance(at.source, ReluCall) else _class_name(at.source)


def _class_name(module: nn.Module) -> str:
    # A parametrised module gets a class of its own, made on the fly from the one it was.
    kind = type(module)
    return (kind.__mro__[1] if hasattr(module, "parametrizations") else kind).__name__
