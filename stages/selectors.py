"""The grammar that names layers, classes and images everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from .errors import ConfigError, did_you_mean
from .specs import LayerSpec

_GLOB = frozenset("*?[")
_Name = TypeVar("_Name", bound=str | int)


def select_layers(selectors: str | Sequence[str], layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Choose layers by name.

    Parameters
    ----------
    selectors
        Each one of: an exact name (``"layer1.0.conv1"``; ``"layer1.0.relu#1"`` for one call of a module that is called
        several times, without ``#call`` for all of them); a glob over names (``"layer?.*.conv1"``; ``*`` crosses dots);
        ``"type:Conv2d"`` for a class of modules; ``"kind:relu"`` for a kind of layer; ``"last_conv"``, the last
        convolution in the order of the forward pass; ``"last_map"``, the last output with more than one position, which
        is what global pooling gets (in a residual network the sum, not one branch of it); ``"penultimate"``, the input
        of the last linear layer; in a network without one, whose last convolution gives the logits, what comes right
        before that.
    layers
        Everything there is, in the order of the forward pass.

    Returns
    -------
    tuple of LayerSpec
        In the order of the forward pass, each once.

    Raises
    ------
    ConfigError
        When a selector matches nothing; the text names what is close.
    """
    chosen: set[str] = set()
    for selector in _listed(selectors):
        matches = _match_layers(selector, layers)
        if not matches:
            raise ConfigError(f"layer selector {selector!r} matches nothing{_hint(selector, layers)}")
        chosen.update(matches)
    return tuple(layer for layer in layers if layer.name in chosen)


def _match_layers(selector: str, layers: Sequence[LayerSpec]) -> list[str]:
    exact = [layer.name for layer in layers if selector == layer.name]
    if exact:
        return exact
    if selector == "last_conv":
        return [layer.name for layer in layers if layer.kind == "conv"][-1:]
    if selector == "last_map":
        return [layer.name for layer in layers if math.prod(layer.shape[1:]) > 1][-1:]
    if selector == "penultimate":
        return [layer.name for layer in layers if layer.kind == "input"][-1:] or _before_last_conv(layers)
    scheme, colon, value = selector.partition(":")
    if colon and scheme == "type":
        return [layer.name for layer in layers if fnmatchcase(layer.module, value)]
    if colon and scheme == "kind":
        return [layer.name for layer in layers if layer.kind == value]
    return [layer.name for layer in layers if any(fnmatchcase(name, selector) for name in _aliases(layer.name))]


def _before_last_conv(layers: Sequence[LayerSpec]) -> list[str]:
    convs = [place for place, layer in enumerate(layers) if layer.kind == "conv"]
    return [layer.name for layer in layers[max(convs[-1] - 1, 0) : convs[-1]]] if convs else []


def _aliases(name: str) -> tuple[str, ...]:
    stem, mark, call = name.rpartition("#")
    return (name, stem) if mark and call.isdigit() else (name,)


def _hint(selector: str, layers: Sequence[LayerSpec]) -> str:
    scheme, colon, value = selector.partition(":")
    if selector == "last_conv":
        return "; the model has no convolution"
    if selector == "last_map":
        return "; no layer of the model has more than one position"
    if selector == "penultimate":
        return "; the model has no linear layer, and nothing before its last convolution"
    if colon and scheme == "type":
        return did_you_mean(value, sorted({layer.module for layer in layers}))
    if colon and scheme == "kind":
        return did_you_mean(value, sorted({layer.kind for layer in layers}))
    return did_you_mean(selector, [layer.name for layer in layers] + ["last_conv", "last_map", "penultimate"])


def select_classes(selectors: str | int | Sequence[str | int], class_names: Sequence[str]) -> tuple[int, ...]:
    """Choose classes by name or position.

    Parameters
    ----------
    selectors
        Names, positions (whole numbers), globs over names, or ``"all"``. A text that is the name of a class is that
        name, even where it looks like a number or a glob.
    class_names
        Name of each class, in the order of the logits.

    Returns
    -------
    tuple of int
        Positions in ascending order, each once.

    Raises
    ------
    ConfigError
        When a selector matches nothing; the text names what is close.
    """
    chosen: set[int] = set()
    for selector in [selectors] if isinstance(selectors, int) else _listed(selectors):
        chosen.update(_match_classes(selector, class_names))
    return tuple(sorted(chosen))


def _match_classes(selector: str | int, class_names: Sequence[str]) -> Iterable[int]:
    n_class = len(class_names)
    by_name = [i for i, name in enumerate(class_names) if name == selector]
    if by_name:
        return by_name
    if selector == "all":
        return range(n_class)
    if isinstance(selector, int) or selector.lstrip("-").isdigit():
        if 0 <= int(selector) < n_class:
            return [int(selector)]
        raise ConfigError(f"class selector {selector!r}: expected a position from 0 to {n_class - 1}")
    matches = [i for i, name in enumerate(class_names) if fnmatchcase(name, selector)] if _GLOB & set(selector) else []
    if not matches:
        raise ConfigError(f"class selector {selector!r} matches nothing{did_you_mean(selector, class_names)}")
    return matches


def select_images(
    selectors: str | Sequence[str],
    image_id: Sequence[str],
    *,
    label: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    budget: int | None = None,
) -> tuple[int, ...]:
    """Choose images by id or by what the model made of them.

    Parameters
    ----------
    selectors
        Each one of: an id (``"id:..."`` where it reads like something else); ``"all"``; ``"errors"``, where label and
        prediction differ; ``"most_confident:N"`` and ``"least_confident:N"``, ties in data order; ``"per_class:N"``,
        the first N of each label in data order.
    image_id
        Stable name of each image.
    label, predicted
        Class position of each image ``(image,)``; -1 where there is none.
    confidence
        Softmax of the predicted class ``(image,)``; NaN where there is none.
    valid
        Images that can be used ``(image,)``; all, where None. Only an id chooses one that cannot.
    budget
        How many images to return at most.

    Returns
    -------
    tuple of int
        Positions in the order in which the selectors name them, each once. What depends on the predictions may choose
        none.

    Raises
    ------
    ConfigError
        When an id is unknown, a number is missing, or a selector needs what is not given.
    """
    usable = np.ones(len(image_id), bool) if valid is None else np.asarray(valid, bool)
    facts = {"label": label, "predicted": predicted, "confidence": confidence}
    chosen: dict[int, None] = {}
    for selector in _listed(selectors):
        chosen.update(dict.fromkeys(int(i) for i in _match_images(selector, image_id, usable, facts)))
    return tuple(chosen)[:budget]


def _match_images(
    selector: str, image_id: Sequence[str], usable: np.ndarray, facts: dict[str, np.ndarray | None]
) -> Iterable[int]:
    kind, _, value = selector.partition(":")
    if selector == "all":
        return np.flatnonzero(usable)
    if selector == "errors":
        label, predicted = (_fact(facts, name, selector) for name in ("label", "predicted"))
        return np.flatnonzero(usable & (label >= 0) & (predicted >= 0) & (label != predicted))
    if kind in ("most_confident", "least_confident"):
        confidence = _fact(facts, "confidence", selector).astype(np.float64)
        ranked = np.argsort(-confidence if kind == "most_confident" else confidence, kind="stable")
        return ranked[usable[ranked] & ~np.isnan(confidence[ranked])][: _count(selector, value)]
    if kind == "per_class":
        label, count = _fact(facts, "label", selector), _count(selector, value)
        classes = np.unique(label[usable & (label >= 0)])
        return np.concatenate([np.flatnonzero(usable & (label == c))[:count] for c in classes] or [np.zeros(0, int)])
    name = value if kind == "id" else selector
    found = [i for i, known in enumerate(image_id) if known == name]
    if not found:
        words = ["all", "errors", "most_confident:N", "least_confident:N", "per_class:N"]
        raise ConfigError(f"image selector {selector!r}: no image has that id{did_you_mean(name, [*words, *image_id])}")
    return found


def _fact(facts: dict[str, np.ndarray | None], name: str, selector: str) -> np.ndarray:
    fact = facts[name]
    if fact is None:
        raise ConfigError(f"image selector {selector!r} needs the {name} of each image, which is not known here")
    return np.asarray(fact)


def _count(selector: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"image selector {selector!r}: expected a number of images after the colon, got {value!r}")
    return int(value)


def _listed(selectors: str | Sequence[_Name]) -> Sequence[str | _Name]:
    return [selectors] if isinstance(selectors, str) else selectors
