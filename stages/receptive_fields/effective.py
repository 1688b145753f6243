"""Which pixels some units look at: the gradients by the image, against what they could see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Ask, Gradient, Leaf, Partial, Result, Stored, Subject, Task, Unit, settings
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, Measurement, SizedArray, Summary
from .boxes import box, group_of
from .spread import outside, spread, support

if TYPE_CHECKING:
    from ..network.batch import Batch

THEORETICAL = "receptive_fields/theoretical"
WEIGHT = ArraySpec(
    "weight",
    ("layer", "*space"),
    "float32",
    "1",
    "Mean share of the magnitude of the gradient at each pixel, over units at the middle of the layer.",
)
SPREAD = ArraySpec(
    "spread", ("layer", "axis"), "float64", "pixels", "Standard deviation of that weight; NaN: no gradient."
)
MIDDLE = ArraySpec("middle", ("layer", "axis"), "float64", "pixels", "Mean of that weight; 0: middle of pixel 0.")
SUPPORT = ArraySpec(
    "support", ("layer", "axis", "end"), "int32", "pixels", "First pixel with weight and the one after the last."
)
BOX = ArraySpec("box", ("layer", "axis", "end"), "int32", "pixels", "What these units can see, cut to the image.")
OUTSIDE = ArraySpec("outside", ("layer",), "float64", "1", "Largest share of a unit's weight outside its box.")
UNITS = ArraySpec("units", ("layer",), "int64", "1", "Gradients behind that, one per image and unit.")
SILENT = ArraySpec("silent", ("layer",), "int64", "1", "Gradients left out: zero throughout, or not finite.")
_ARRAYS = (WEIGHT, SPREAD, MIDDLE, SUPPORT, BOX, OUTSIDE, UNITS, SILENT)
#: Rounding leaves less than this outside.
_LEAK = 1e-6


@dataclass(frozen=True)
class EffectiveLeaf(Leaf):
    """Gradients of some units in the middle of some layers.

    Parameters
    ----------
    layers
        Layer selectors.
    most, channels, images
        How many layers, channels and images at most.
    """

    layers: tuple[str, ...]
    most: int
    channels: int
    images: int

    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = _ARRAYS

    @property
    def name(self) -> str:
        """Stage and part."""
        return "receptive_fields/effective"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the units can see."""
        return (THEORETICAL,)

    def chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        """The layers that are measured, in the order of the forward pass.

        Raises
        ------
        ConfigError
            When a selector names no layer, or none with spatial axes.
        """
        named = select_layers(self.layers, subject.layers)
        maps = [layer for layer in named if len(layer.shape) == len(subject.input_shape)]
        if not maps:
            raise ConfigError(f"receptive_fields.layers: none of {', '.join(self.layers)} has spatial axes")
        return tuple(maps[place] for place in _evenly(len(maps), self.most))

    def units(self, layer: LayerSpec) -> tuple[Unit, ...]:
        """Units in the middle of a layer."""
        position = tuple(length // 2 for length in layer.shape[1:])
        return tuple(Unit(layer.name, channel, position) for channel in _evenly(layer.shape[0], self.channels))

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per measured layer."""
        n, space = len(self.chosen(subject)), subject.input_shape[1:]
        shapes = {"axis": len(space), "end": 2, "layer": n}
        return tuple(
            spec.sized((n, *space), subject.axes) if spec is WEIGHT else spec.sized(tuple(shapes[d] for d in spec.dims))
            for spec in _ARRAYS
        )

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """Images spread over the data set, by shard."""
        del stored
        chosen = _evenly(subject.n_image, self.images)
        parts = [tuple(image for image in chosen if image in shard) for shard in subject.shards()]
        return [Task(self.name, part, start=part[0]) for part in parts if part]

    def asks(self, subject: Subject) -> Ask:
        """The derivative of every unit by the image."""
        return Ask(
            gradients=tuple(Gradient(unit, "input") for layer in self.chosen(subject) for unit in self.units(layer))
        )

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Add up where each unit looks, in shares."""
        del task
        valid = np.asarray(batch.valid, bool)
        total, silent = {}, {}
        for place, layer in enumerate(self.chosen(subject)):
            for unit in self.units(layer):
                gradient = batch.gradient(unit, "input").detach().double().abs().sum(1).cpu().numpy()[valid]
                mass = gradient.sum(tuple(range(1, gradient.ndim)), keepdims=True)
                key = f"{place}:{unit.channel}"
                # A gradient that overflowed has no shares, and makes its layer unknown.
                with np.errstate(invalid="ignore"):
                    total[key] = np.divide(gradient, mass, out=np.zeros_like(gradient), where=mass > 0).sum(0)
                silent[f"silent:{key}"] = np.array((~(mass > 0)).sum())
        return Result(partial=total | silent | {"images": np.array(valid.sum())})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Hold what is looked at against what can be seen."""
        layers = self.chosen(subject)
        groups = stored.summary(THEORETICAL).notes.get("groups", {})
        seen = [groups.get(layer.name, ()) for layer in layers]
        rows = [self._row(place, own, partials, subject) for place, own in enumerate(seen)]
        arrays = {spec.path: np.array([row[spec.path] for row in rows]).astype(spec.dtype) for spec in _ARRAYS}
        notes = {
            "layers": [layer.name for layer in layers],
            "images": list(_evenly(subject.n_image, self.images)),
            "positions": {layer.name: list(self.units(layer)[0].position or ()) for layer in layers},
            "definition": (
                "Gradients of units in the middle of a layer by the image: their magnitudes, summed over colours, in "
                "shares, averaged over images and units. The spread is the standard deviation of that weight."
            ),
        }
        return Summary(arrays, _measurements(arrays), _leaks(layers, arrays["outside"]), notes)

    def _row(
        self, place: int, groups: Sequence[Mapping[str, Any]], partials: Sequence[Partial], subject: Subject
    ) -> dict[str, Any]:
        space = subject.input_shape[1:]
        weight, leaks, boxes, silent = np.zeros(space), [], [], 0
        for unit in self.units(self.chosen(subject)[place]):
            key = f"{place}:{unit.channel}"
            own = np.sum([part[key] for part in partials], axis=0) if partials else np.zeros(space)
            silent += sum(int(part[f"silent:{key}"]) for part in partials)
            whole = tuple((0, length) for length in space)
            seen = box(group_of(groups, unit.channel), unit.position or (), subject.input_shape) if groups else whole
            leaks.append(outside(own, seen))
            boxes.append(seen)
            weight += own
        images = sum(int(part["images"]) for part in partials)
        units = images * len(boxes) - silent
        middle, deviation = spread(weight)
        ends = np.array(boxes)
        return {
            "weight": weight / units if units else np.full(space, np.nan),
            "spread": deviation,
            "middle": middle,
            "support": support(weight),
            "box": np.stack([ends[..., 0].min(0), ends[..., 1].max(0)], axis=-1),
            "outside": np.nanmax(leaks) if np.isfinite(leaks).any() else np.nan,
            "units": units,
            "silent": silent,
        }


def _evenly(n: int, most: int) -> tuple[int, ...]:
    """Positions spread over `n`, first and last among them where there is more than one."""
    return tuple(dict.fromkeys(np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()))


def _measurements(arrays: Mapping[str, np.ndarray]) -> tuple[Measurement, ...]:
    return (
        Measurement(
            "receptive_fields/outside_box",
            float(np.nanmax(arrays["outside"])) if np.isfinite(arrays["outside"]).any() else np.nan,
            "1",
            "lower",
            int(arrays["units"].sum()),
            "receptive_fields/effective/outside",
            "Largest share of a unit's gradient that lies outside the box that it can see; 0 but for rounding.",
        ),
    )


def _leaks(layers: Sequence[LayerSpec], shares: np.ndarray) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            "receptive_fields/outside-box",
            "error",
            f"units of {layer.name} depend on pixels outside their receptive field",
            f"{share:.2%} of a gradient lies outside the box; expected none. The arithmetic has missed a path: do not "
            "trust boxes of this network.",
            layer=layer.name,
        )
        for layer, share in zip(layers, shares, strict=True)
        if share > _LEAK
    )
