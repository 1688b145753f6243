"""Where the network looks over the whole data set, and whether a class hangs on something at the border."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..contract import Leaf, Stage
from ..errors import ConfigError, did_you_mean
from .candidates import Limits
from .classes import ClassesLeaf
from .clustering import ClustersLeaf
from .confirmation import ConfirmationLeaf
from .patches import PatchesLeaf
from .shortcuts import ShortcutsLeaf
from .sources import Source

# Maps that show where evidence lies, without the edges that gradients by the input pick up.
_PREFERRED = ("grad_cam", "cam", "layer_cam", "grad_cam_plus_plus", "occlusion")
# Classes of fewer right images have no mean worth comparing.
_LEAST = 10


@dataclass(frozen=True)
class Gaze(Stage):
    """Stored heatmaps, gathered over classes, errors and groups of images.

    Parameters
    ----------
    methods
        The configured attribution methods by name; where there are none, `source` and `layer` are taken at their word.
    source
        Which of them is looked at, of several targets the first; None for Grad-CAM or its kin, else for the first one.
    layer
        Selector of the one layer whose maps are used, for a method that has several; None for its last.
    cells
        Most cells along each axis that a heatmap is pooled to.
    pairs
        Confused pairs at most.
    clusters, cluster_images
        Groups per class, and images per class that are grouped, at most.
    shortcut_cells
        Cells along each axis of the grid whose border is searched for shortcuts; its square for signals.
    share, ratio, deviations
        What makes a class, or a group of its heatmaps, a candidate: the share of its evidence in one border cell, by
        how much that exceeds the mean of the other classes as a ratio, and in standard deviations.
    candidates
        Candidates that are tried on the network at most.
    images, others
        Images of the class that are covered, and of other classes that are pasted onto, at most.
    effect
        Share of these that has to change for a shortcut.
    """

    methods: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    layer: str | None = None
    cells: int = 14
    pairs: int = 12
    clusters: int = 5
    cluster_images: int = 200
    shortcut_cells: int = 4
    share: float = 0.15
    ratio: float = 5.0
    deviations: float = 3.0
    candidates: int = 4
    images: int = 48
    others: int = 96
    effect: float = 0.1

    name: ClassVar[str] = "gaze"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.ratio < 1 or self.deviations < 0:
            raise ConfigError(
                f"gaze.share, gaze.ratio, gaze.deviations: expected 0 < share <= 1, ratio of 1 or more and no negative "
                f"deviations, got {self.share}, {self.ratio} and {self.deviations}"
            )
        self.leaves()

    def leaves(self) -> tuple[Leaf, ...]:
        """From heatmaps to what the network does without what they point at."""
        source = self._source()
        limits = Limits(self.share, self.ratio, self.deviations, _LEAST)
        shortcuts = ShortcutsLeaf(source, self.shortcut_cells, self.candidates, limits)
        return (
            ClassesLeaf(source, self.pairs),
            ClustersLeaf(source, self.clusters, self.cluster_images),
            shortcuts,
            PatchesLeaf(self.candidates, self.images),
            ConfirmationLeaf(shortcuts, self.images, self.others, self.effect),
        )

    def _source(self) -> Source:
        name = self.source or next((kin for kin in _PREFERRED if kin in self.methods), next(iter(self.methods), ""))
        name = name.removeprefix("attributions/")
        if not self.methods:
            return Source(f"attributions/{name or 'grad_cam'}", self.layer, self.cells)
        if name not in self.methods:
            raise ConfigError(f"gaze.source: {name!r} is not configured{did_you_mean(name, self.methods)}")
        method = self.methods[name]
        at_layers = any("{layer}" in array.path for array in method.documents)
        layers = getattr(getattr(method, "method", method), "layers", ("last_map",))
        return Source(f"attributions/{name}", (self.layer or layers[-1]) if at_layers else None, self.cells)
