"""Names, dimensions and units of what is stored and measured; imports neither torch nor zarr."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: What the sweep can say of one image; the position is the code stored in ``predictions/status``.
STATUS = ("ok", "missing", "empty", "truncated", "undecodable", "wrong_mode", "wrong_size", "too_large", "not_finite")

Direction = Literal["higher", "lower", "neither"]
Severity = Literal["error", "warning", "info"]
LayerKind = Literal["conv", "relu", "linear", "norm", "pool", "input", "other"]


@dataclass(frozen=True)
class ArraySpec:
    """One stored array, described before any data flows.

    Parameters
    ----------
    path
        Where it lies inside the leaf's group; ``{layer}`` stands for a layer name.
    dims
        Its axes by name, singular (``"image"``, ``"channel"``, ``"y"``, ``"x"``); ``"*space"`` stands for
        the spatial axes of the data (``y x`` or ``time``).
    dtype
        Numpy name. Floats are filled with NaN, signed integers with -1, the rest with 0.
    unit
        Physical or statistical unit; ``"1"`` for a pure number.
    meaning
        One sentence for ``docs/store.md``.
    """

    path: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str

    @property
    def fill(self) -> float | int:
        """The value of what was never measured."""
        if self.dtype.startswith("float"):
            return math.nan
        return -1 if self.dtype.startswith("int") else 0

    def sized(self, shape: tuple[int, ...], axes: tuple[str, ...] = (), **names: str) -> SizedArray:
        """Give the array its shape, its spatial axes and the names its path waits for.

        Parameters
        ----------
        shape
            Length of every axis, spatial ones included.
        axes
            Names of the spatial axes that ``"*space"`` stands for.
        **names
            What replaces ``{layer}`` and the like in the path.

        Raises
        ------
        ValueError
            When `shape` and the axes do not agree in number.
        """
        dims = tuple(name for dim in self.dims for name in (axes if dim == "*space" else (dim,)))
        if len(dims) != len(shape):
            raise ValueError(f"array {self.path}: expected {len(dims)} axes {dims}, got shape {shape}")
        return SizedArray(spec=self, path=self.path.format(**names), dims=dims, shape=tuple(map(int, shape)))


@dataclass(frozen=True)
class SizedArray:
    """An `ArraySpec` whose path and shape are known."""

    spec: ArraySpec
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayerSpec:
    """One place in the network whose values can be looked at.

    Parameters
    ----------
    name
        Dotted module name, with ``#k`` for call `k` of a module that is called more than once;
        ``<module>.functional_relu`` for a ReLU called as a function; ``<module>.input`` for an input.
    kind
        What it is.
    module
        Class name of the module, or name of the function.
    shape
        ``(channel, *space)`` or ``(feature,)`` of one image.
    upper
        Value at which the layer saturates (6 for ReLU6); None where it does not.
    """

    name: str
    kind: LayerKind
    module: str
    shape: tuple[int, ...]
    upper: float | None = None


@dataclass(frozen=True)
class Measurement:
    """A number that gates can judge.

    Parameters
    ----------
    name
        ``<stage>/<quantity>``, for instance ``"predictions/accuracy"``.
    value
        The number; NaN where it could not be measured.
    unit
        Its unit; ``"1"`` for a pure number or a share.
    direction
        Which way is better.
    n
        How many images, channels or pairs it rests on.
    path
        Stored array it was computed from.
    meaning
        The definition, in one sentence (ties, edges, metric).
    low, high
        95 % confidence bounds, where the measurement has them.
    """

    name: str
    value: float
    unit: str
    direction: Direction
    n: int
    path: str
    meaning: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something a person should know, with the evidence to look at.

    Parameters
    ----------
    code
        Stable name, ``<stage>/<kebab-case>``.
    severity
        ``"error"`` makes the audit untrustworthy or the model unfit, ``"warning"`` wants a look, ``"info"`` is context.
    title
        One line.
    detail
        What was seen, what was expected, and what to do next.
    images
        Positions in the data set of the images that show it, most telling first.
    layer, channels
        The part of the network it is about.
    """

    code: str
    severity: Severity
    title: str
    detail: str
    images: tuple[int, ...] = ()
    layer: str | None = None
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a leaf says once all its tasks are done; arrays go to Zarr, the rest to the group's attributes.

    Parameters
    ----------
    arrays
        Whole arrays by path, each declared in the leaf's ``writes``.
    measurements, findings
        Numbers for the gates and facts for people.
    notes
        JSON-able context for the report (definitions, what was sampled or skipped).
    """

    arrays: Mapping[str, Any] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def attributes(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON; NaN becomes null."""
        return {
            "measurements": [_nan_to_null(asdict(measurement)) for measurement in self.measurements],
            "findings": [asdict(finding) for finding in self.findings],
            "notes": dict(self.notes),
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Summary:
        """The inverse of `attributes`; null becomes NaN again."""
        measurements = [
            Measurement(**{**row, "value": math.nan if row["value"] is None else row["value"]})
            for row in attributes.get("measurements", ())
        ]
        findings = [
            Finding(**{**row, "images": tuple(row["images"]), "channels": tuple(row["channels"])})
            for row in attributes.get("findings", ())
        ]
        return cls({}, tuple(measurements), tuple(findings), dict(attributes.get("notes", {})))


def _nan_to_null(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
