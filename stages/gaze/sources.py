"""Which stored heatmaps are looked at, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..attributions.rendering import render
from ..contract import Stored, Subject
from ..errors import ConfigError, StageError, StoreError
from ..selectors import select_layers
from . import grids

# Everything that a method which stores scores of altered images can have stored for one image.
_SCORED = ("score", "base", "slot_score", "slot_base", "slot_class", "winner", "against", "target", "mask_seed", "used")


@dataclass(frozen=True)
class Source:
    """Stored heatmaps of one method.

    Parameters
    ----------
    leaf
        ``attributions/<method>``; of several targets the first is used.
    layer
        Selector of the one layer whose maps are used; None for a method whose maps have the input's resolution.
    cells
        Most cells along each axis that a map is pooled to.
    """

    leaf: str = "attributions/grad_cam"
    layer: str | None = "last_map"
    cells: int = 14

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ConfigError(f"gaze.source.cells: expected 1 or more, got {self.cells}")
        if not self.leaf.startswith("attributions/"):
            raise ConfigError(f"gaze.source.leaf: expected attributions/<method>, got {self.leaf!r}")

    def layer_name(self, subject: Subject) -> str | None:
        """Name of the layer.

        Raises
        ------
        ConfigError
            When the selector names several layers, or one without the data's spatial axes.
        """
        if self.layer is None:
            return None
        chosen = select_layers((self.layer,), subject.layers)
        if len(chosen) != 1 or len(chosen[0].shape) != len(subject.input_shape):
            names = ", ".join(layer.name for layer in chosen[:5])
            raise ConfigError(f"gaze.source.layer: expected one layer with spatial axes, {self.layer!r} names {names}")
        return chosen[0].name

    def places(self, subject: Subject) -> tuple[int, ...]:
        """Length of each axis of a map as it is stored or rendered."""
        name = self.layer_name(subject)
        return tuple((subject.input_shape if name is None else subject.layer(name).shape)[1:])

    def grid(self, subject: Subject) -> tuple[int, ...]:
        """Cells along each axis after pooling."""
        return tuple(min(self.cells, n) for n in self.places(subject))

    def edges(self, subject: Subject, stored: Stored) -> list[np.ndarray]:
        """Where the cells lie in the input: by receptive fields where the method noted them, else in proportion."""
        name = self.layer_name(subject)
        geometry = stored.summary(self.leaf).notes.get("rendering", {}).get("geometry", {}).get(name)
        return grids.cell_edges(subject.input_shape[1:], self.places(subject), self.grid(subject), geometry)

    def aligned(self, subject: Subject, stored: Stored) -> bool:
        """Whether it is known exactly where in the input a cell lies."""
        noted = stored.summary(self.leaf).notes.get("rendering", {}).get("geometry", {})
        return self.layer is None or self.layer_name(subject) in noted

    def heatmaps(self, stored: Stored, subject: Subject, first: int, last: int) -> Float[np.ndarray, "image ..."]:
        """Maps of the first target of some images, float64; NaN where there is none.

        Raises
        ------
        StageError
            When the method did not store them.
        """
        kind = stored.summary(self.leaf).notes.get("rendering", {}).get("kind", "")
        try:
            if self.layer is None and kind in ("windows", "masks"):
                return self._rendered(stored, subject, first, last)
            name = self.layer_name(subject)
            path = f"{self.leaf}/heatmap" if name is None else f"{self.leaf}/{name}/heatmap"
            return np.asarray(stored[path][first:last], np.float64)[:, 0]
        except StoreError as error:
            raise StageError(
                f"gaze: no heatmaps of {self.leaf} at {self.layer_name(subject) or 'the input'} are stored; name one "
                f"of its layers in gaze.source.layer, null for a method without layers ({error})"
            ) from error

    def classes(self, stored: Stored, first: int, last: int) -> Int[np.ndarray, " image"]:
        """Class that the first map of some images explains; -1 for none."""
        return np.asarray(stored[f"{self.leaf}/target"][first:last])[:, 0]

    def _rendered(self, stored: Stored, subject: Subject, first: int, last: int) -> np.ndarray:
        notes, rows = stored.summary(self.leaf).notes, {}
        for name in _SCORED:
            try:
                rows[name] = np.asarray(stored[f"{self.leaf}/{name}"][first:last])
            except StoreError:
                continue  # which of them there are depends on the method and on the number of classes
        found = []
        for row in range(last - first):
            drawn = render({name: values[row] for name, values in rows.items()}, notes, subject.input_shape)
            found.append(next(iter(drawn.values()))[0])
        return np.stack(found)
