"""The layers of a network and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ..network.capture import children, locate, named_modules
from ..specs import LayerSpec


def convolutions(layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Every convolution, in the order of the forward pass; of one that is called more than once the first call."""
    first: dict[str, LayerSpec] = {}
    for layer in layers:
        if layer.kind == "conv":
            first.setdefault(module_name(layer.name), layer)
    return tuple(first.values())


def module_name(layer: str) -> str:
    """Name of the module whose call a layer is."""
    return layer.partition("#")[0]


def table(model: nn.Module, layers: Sequence[LayerSpec]) -> tuple[dict[str, Any], ...]:
    """One row per layer, in the order of the forward pass.

    Returns
    -------
    tuple of dict
        Name, kind, type, output shape of one image, and the parameters of its own: those of a module made of others are
        told with these, and shared ones with the first layer that has them. Convolutions and pools also say kernel and
        stride, convolutions groups.
    """
    modules, told = named_modules(model), set()
    rows = []
    for layer in layers:
        place = locate(layer.name, modules)
        module = modules[place.module] if place.role == "output" else None
        fresh = {id(p): p.numel() for p in _own(module) if id(p) not in told}
        told |= set(fresh)
        row = {"name": layer.name, "kind": layer.kind, "type": layer.module, "output": list(layer.shape)}
        rows.append(row | {"parameters": sum(fresh.values())} | _window(module, layer))
    return tuple(rows)


def _own(module: nn.Module | None) -> Iterator[nn.Parameter]:
    return iter(()) if module is None else module.parameters(recurse=not children(module))


def _window(module: nn.Module | None, layer: LayerSpec) -> dict[str, Any]:
    if module is None or layer.kind not in ("conv", "pool"):
        return {}
    found: dict[str, Any] = {}
    for key, name in (("kernel", "kernel_size"), ("stride", "stride")):
        value = getattr(module, name, None)
        if value is not None:
            found[key] = [value] * (len(layer.shape) - 1) if isinstance(value, int) else list(value)
    return found | ({"groups": int(module.groups)} if layer.kind == "conv" else {})  # pyright: ignore[reportArgumentType]


def parameter_count(model: nn.Module) -> int:
    """All parameters of a network, each once."""
    return sum(p.numel() for p in model.parameters())
