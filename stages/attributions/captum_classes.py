"""Finds attribution classes of Captum by name and checks how they are to be called, before anything is computed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..errors import ConfigError, did_you_mean, in_words

#: What comes out: a map of the input, or of a layer.
Kind = Literal["input", "layer"]

#: Classes that others derive from, that explain language models, or that want a whole data loader.
_UNUSABLE = ("Attribution", "DataLoader", "Gradient", "Internal", "Layer", "LimeBase", "LLM", "Neuron", "Perturbation")
_BASES = frozenset(f"{name}Attribution" for name in _UNUSABLE) | {"Attribution", "LimeBase", "LLMGradientAttribution"}
#: Captum puts the rule of these on nn.ReLU modules, and on no other spelling.
BY_MODULE = ("GuidedBackprop", "Deconvolution", "GuidedGradCam", "DeepLift")
#: Filled in by the adapter.
_MADE = ("self", "forward_func", "model", "layer", "device_ids")
_CALLED = ("self", "inputs", "target", "additional_forward_args", "return_convergence_delta", "show_progress")
_OURS = frozenset((*_MADE, *_CALLED))


def named(attribution: Any, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take a class by name, or as a node with its own ``_target_`` has become.

    Returns
    -------
    tuple
        Dotted name, and what its constructor is given.
    """
    if isinstance(attribution, partial):
        kind = attribution.func
        name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
        public = _public(name.rpartition(".")[2])
        return (public if public and find_class(public) is kind else name), {**attribution.keywords, **arguments}
    if not isinstance(attribution, str):
        raise ConfigError(f"captum.attribution: expected the name of a class, got {attribution!r}")
    return _public(attribution) or attribution, dict(arguments)


def _public(name: str) -> str | None:
    """A class that Captum offers is known by one name, however it was imported."""
    last = name.rpartition(".")[2]
    ours = name in (last, f"captum.attr.{last}")
    return f"captum.attr.{last}" if ours or hasattr(_captum(), last) else None


def _captum() -> Any:
    try:
        return importlib.import_module("captum.attr")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "captum":
            raise ConfigError(
                "captum.attribution: Captum is not installed; run pip install 'convaudit[captum]'"
            ) from None
        raise


def find_class(name: str) -> Any:
    """Find an attribution class.

    Parameters
    ----------
    name
        ``"captum.attr.IntegratedGradients"``, or the dotted name of somebody's own subclass.

    Raises
    ------
    ConfigError
        When Captum is not installed, or the name is not that of a class that explains one image at a time.
    """
    captum = _captum()
    module, _, last = name.rpartition(".")
    if module == "captum.attr":
        found = getattr(captum, last, None)
    else:
        try:
            found = getattr(importlib.import_module(module), last, None)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"captum.attribution: cannot import {name!r}: {in_words(error)}") from error
    if found is None or not _usable(found, captum):
        known = [key for key, value in vars(captum).items() if _usable(value, captum)]
        raise ConfigError(
            f"captum.attribution: {name!r} is no attribution class that can be used{did_you_mean(last, known)}"
        )
    if issubclass(found, captum.FeaturePermutation):
        raise ConfigError(
            f"captum.attribution: {name} exchanges values between the images of a batch, so that a map would depend "
            "on its neighbours; use captum.attr.FeatureAblation"
        )
    return found


def _usable(found: Any, captum: Any) -> bool:
    return isinstance(found, type) and issubclass(found, captum.Attribution) and found.__name__ not in _BASES


def kind_of(found: type) -> Kind:
    """What resolution its maps have."""
    return "layer" if issubclass(found, _captum().LayerAttribution) else "input"


def needs_layer(found: type) -> bool:
    """Whether it is made for a layer."""
    return "layer" in inspect.signature(found).parameters


def explains_unit(found: type) -> bool:
    """Whether it explains a unit of a layer rather than a class."""
    return issubclass(found, _captum().NeuronAttribution)


def takes(found: Any, name: str) -> bool:
    """Whether its ``attribute`` has a parameter of that name, or hands on what it does not know."""
    parameters = inspect.signature(found.attribute).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_call(found: Any, arguments: Mapping[str, Any], call: Mapping[str, Any], given: frozenset[str]) -> None:
    """Hold settings against the signatures of the constructor and of ``attribute``.

    Parameters
    ----------
    found
        The class.
    arguments, call
        For the constructor, and for ``attribute``.
    given
        What the adapter hands to ``attribute`` besides.

    Raises
    ------
    ConfigError
        When one is not known, or one that has no default is missing.
    """
    for field, function, values in (("arguments", found, arguments), ("call", found.attribute, call)):
        parameters = inspect.signature(function).parameters
        known = [name for name in parameters if name not in _OURS]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name in values:
            if name in _OURS or (name not in known and not open_ended):
                raise ConfigError(
                    f"captum.{field}.{name}: {found.__name__} has no such setting{did_you_mean(name, known)}"
                )
        for name, parameter in parameters.items():
            wanted = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if wanted and name in known and name not in values and name not in given:
                raise ConfigError(f"captum.{field}.{name}: {found.__name__} needs a value; set it")


def plain(value: Any) -> Any:
    """Lists, as YAML has them, become the tuples that Captum wants."""
    return tuple(plain(item) for item in value) if isinstance(value, (list, tuple)) else value
