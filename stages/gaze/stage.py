"""Where the network looks over the whole data set, and whether a class hangs on something at the border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contract import Leaf, Stage
from ..errors import ConfigError
from .candidates import Limits
from .classes import ClassesLeaf
from .clustering import ClustersLeaf
from .confirmation import ConfirmationLeaf
from .patches import PatchesLeaf
from .shortcuts import ShortcutsLeaf
from .sources import Source

# Classes of fewer right images have no mean worth comparing.
_LEAST = 10


@dataclass(frozen=True)
class Gaze(Stage):
    """Stored heatmaps, gathered over classes, errors and groups of images.

    Parameters
    ----------
    source
        ``attributions/<method>`` whose heatmaps are looked at; of several targets the first.
    layer
        Selector of the one layer whose maps are used; None for a method whose maps have the input's resolution.
    cells
        Most cells along each axis that a heatmap is pooled to.
    pairs
        Confused pairs at most.
    clusters, cluster_images
        Groups per class, and images per class that are grouped, at most.
    shortcut_cells
        Cells along each axis of the grid whose border is searched for shortcuts.
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

    source: str = "attributions/grad_cam"
    layer: str | None = "last_map"
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
        source = Source(self.source, self.layer, self.cells)
        limits = Limits(self.share, self.ratio, self.deviations, _LEAST)
        shortcuts = ShortcutsLeaf(source, self.shortcut_cells, self.candidates, limits)
        return (
            ClassesLeaf(source, self.pairs),
            ClustersLeaf(source, self.clusters, self.cluster_images),
            shortcuts,
            PatchesLeaf(self.candidates, self.images),
            ConfirmationLeaf(shortcuts, self.images, self.others, self.effect),
        )
