"""Which pixels every layer can see, from how the network is put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stored, Subject, Task, settings
from ..specs import ArraySpec, Finding, Measurement, SizedArray, Summary
from .boxes import STATUS

if TYPE_CHECKING:
    from torch import nn

PER_AXIS = ("layer", "axis")
SIZE = ArraySpec("size", PER_AXIS, "float64", "pixels", "Side of the field, over all channels; NaN: unknown.")
STRIDE = ArraySpec("stride", PER_AXIS, "float64", "pixels", "From one cell to the next; NaN: no cell has a place.")
CENTRE = ArraySpec("centre", PER_AXIS, "float64", "pixels", "Middle of the field of cell 0; 0: middle of pixel 0.")
LOCAL = ArraySpec("local", PER_AXIS, "float64", "pixels", "As size, without what is pooled and spread over the map.")
BEFORE = ArraySpec("before", PER_AXIS, "float64", "pixels", "As local, of a convolution's input; NaN: none, unknown.")
CODE = ArraySpec("status", ("layer",), "int8", "code", f"What is known, as a position in {list(STATUS)}.")
_ARRAYS = (SIZE, STRIDE, CENTRE, LOCAL, BEFORE, CODE)


@dataclass(frozen=True)
class TheoreticalLeaf(Leaf):
    """Receptive fields by arithmetic over the traced network."""

    inspects: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = _ARRAYS

    @property
    def name(self) -> str:
        """Stage and part."""
        return "receptive_fields/theoretical"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per layer, in the order of the forward pass."""
        n, axes = len(subject.layers), len(subject.input_shape) - 1
        return tuple(spec.sized((n, axes) if spec.dims == PER_AXIS else (n,)) for spec in _ARRAYS)

    def inspect(self, model: nn.Module, task: Task, subject: Subject, stored: Stored) -> Result:
        """Follow what is seen through the network."""
        del task, stored
        from ..network.fields import map_fields
        from .description import clashes, columns, described, reasons

        names = [layer.name for layer in subject.layers]
        space = subject.input_shape[1:]
        fields = map_fields(model, names, subject.input_shape)
        text = {
            "groups": {name: described(fields[name], space) for name in names},
            "reasons": reasons(fields),
            "clashes": clashes(fields),
        }
        encoded = np.frombuffer(json.dumps(text).encode(), np.uint8)
        return Result(partial=columns([fields[name] for name in names], space) | {"text": encoded})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Say what cannot be known, what disagrees, and where the field already covers the image."""
        del stored
        (seen,) = partials
        arrays = {spec.path: np.asarray(seen[spec.path]) for spec in _ARRAYS}
        text = json.loads(np.asarray(seen["text"]).tobytes())
        covered = covered_layers(arrays["before"], subject)
        notes = {
            "layers": [layer.name for layer in subject.layers],
            "axes": list(subject.axes),
            "groups": text["groups"],
            "reasons": text["reasons"],
            "covered": covered,
            "definition": (
                "The smallest box that holds every pixel which can change a cell, as if the image went on: a cell at "
                "the border sees what of it lies in the image. Whole: something pooled over all of the image reaches "
                "every cell."
            ),
        }
        findings = (*_misaligned(text["clashes"]), *_unknown(text["reasons"], subject), *_covered(covered, subject))
        return Summary(arrays, _measurements(arrays, covered, subject), findings, notes)


def covered_layers(before: np.ndarray, subject: Subject) -> list[str]:
    """Convolutions whose input already sees all of the image along every axis (Richter et al. 2021).

    Parameters
    ----------
    before
        Field of each layer's input ``(layer, axis)``; NaN: none, or unknown.
    subject
        What is audited.
    """
    beyond = np.all(before >= np.array(subject.input_shape[1:]), axis=1)
    return [
        layer.name
        for layer, flag in zip(subject.layers, beyond, strict=True)
        if flag and layer.kind == "conv" and len(layer.shape) > 1
    ]


def _measurements(arrays: Mapping[str, np.ndarray], covered: list[str], subject: Subject) -> tuple[Measurement, ...]:
    status = arrays["status"]
    convolutions = sum(layer.kind == "conv" for layer in subject.layers)
    return (
        Measurement(
            "receptive_fields/unknown_layers",
            float((status == STATUS.index("unknown")).mean()) if len(status) else np.nan,
            "1",
            "lower",
            len(status),
            "receptive_fields/theoretical/status",
            "Share of layers of which nobody can say what they see.",
        ),
        Measurement(
            "receptive_fields/covered_convolutions",
            len(covered) / convolutions if convolutions else np.nan,
            "1",
            "neither",
            convolutions,
            "receptive_fields/theoretical/before",
            "Share of convolutions whose input already sees the image from end to end along every axis.",
        ),
    )


def _misaligned(clashes: Mapping[str, Sequence[str]]) -> list[Finding]:
    return [
        Finding(
            "receptive_fields/misaligned-branches",
            "warning",
            f"branches that meet before {layers[0]} look at different places",
            f"{how}. Expected equal strides and centres; what is added or laid side by side there comes from shifted "
            f"places. {len(layers)} layers follow from it. Look at the paddings of the branches.",
            layer=layers[0],
        )
        for how, layers in clashes.items()
    ]


def _unknown(reasons: Mapping[str, str], subject: Subject) -> list[Finding]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if len(subject.layer(name).shape) > 1:
            by_reason.setdefault(reason, []).append(name)
    return [
        Finding(
            "receptive_fields/unknown",
            "info",
            f"nobody can say what {len(names)} layers see",
            f"The first is {names[0]}: {reason}. Their boxes are the whole image.",
            layer=names[0],
        )
        for reason, names in by_reason.items()
    ]


def _covered(covered: Sequence[str], subject: Subject) -> list[Finding]:
    if not covered:
        return []
    total = sum(layer.kind == "conv" for layer in subject.layers)
    lengths = " x ".join(map(str, subject.input_shape[1:]))
    return [
        Finding(
            "receptive_fields/covers-input",
            "info",
            f"{len(covered)} of {total} convolutions get an input that already sees all {lengths} pixels",
            f"From {covered[0]} on nothing new of the image comes into view; such layers often add little. Smaller "
            "strides, fewer layers or larger images would use them.",
            layer=covered[0],
        )
    ]
