"""What each stage shows of one layer in the walk, made of what its own section is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .album import Album
from .figures import number
from .material import Limits, Material
from .views import feature_maps, filters, patches, weights

#: What each stage shows of a layer, in reading order; `Blocks` has a method of each name.
TITLES: Mapping[str, str] = {
    "weights": "Its weights",
    "filters": "Channels in trouble",
    "feature_maps": "Feature maps",
    "patches": "What excites its channels",
}
#: Rows of one layer's table.
_ROWS = 40
#: Images whose maps are shown beside each other: the first of these that the budget allows.
_IMAGES = (4, 2, 1)


class Spent:
    """There is something to show, and no byte left for it."""


@dataclass(frozen=True)
class Troubled:
    """Channels of one layer that are in trouble, and how many more there are."""

    gist: str
    rows: tuple[filters.Filter, ...]
    hidden: int


@dataclass(frozen=True)
class Weighed:
    """The weights of one convolution: what was said of them, and some of them as pictures where the budget allows."""

    gist: str
    verdict: weights.Verdict
    first: weights.Filters | None
    slices: weights.Slices | None
    budget_full: bool


@dataclass(frozen=True)
class Blocks:
    """Draws one layer for one stage; None where the stage has nothing of it.

    Parameters
    ----------
    material
        Store and config.
    album
        Its budgets, by stage, pay for the pictures.
    """

    material: Material
    album: Album

    def weights(self, name: str) -> Weighed | None:
        """The verdict on a convolution, and its filters or strongest slices."""
        row = self.weighed.get(name)
        if row is None or "audit" not in row:
            return None
        told = [row for row in self.weighed.values() if "audit" in row]
        first = weights.filters_of(self.material, name, told) if row is told[0] else None
        slices = weights.slices_of(self.material, row) if row is not told[0] else None
        cost = (first.each.size + first.together.size if first else 0) + (slices.picture.size if slices else 0)
        paid = self.album.spend("weights", cost)
        verdict = weights.verdict_of(row)
        if not paid:
            first = slices = None
        return Weighed(verdict.verdict, verdict, first, slices, budget_full=not paid)

    @cached_property
    def weighed(self) -> Mapping[str, Mapping[str, Any]]:
        """The row of each layer in the table of weights; empty where the stage did not run."""
        return {row["name"]: row for row in self.material.notes("weights").get("table", ())}

    def feature_maps(self, name: str) -> feature_maps.LayerMaps | Spent | None:
        """What the layer makes of some images: of as many as the budget allows."""
        if name not in self._mapped:
            return None
        for images in _IMAGES:
            drawn = feature_maps.layer_maps(self.material, name, images)
            if self.album.spend("feature_maps", drawn.size):
                return drawn
        return Spent()

    @cached_property
    def _mapped(self) -> frozenset[str]:
        return frozenset(self.material.layers_of("feature_maps", "map"))

    def patches(self, name: str) -> patches.LayerPatches | Spent | None:
        """Patches and projections of as many of its stored channels as the budget allows."""
        drawn = patches.layer_view(self.material, self.album, name)
        return Spent() if drawn is not None and drawn.hidden and not drawn.channels else drawn

    def filters(self, name: str) -> Troubled | None:
        """Rows of the table of channels that belong to one layer."""
        own = self._troubled.get(name, [])
        return Troubled(number(len(own)), tuple(own[:_ROWS]), max(0, len(own) - _ROWS)) if own else None

    @cached_property
    def _troubled(self) -> Mapping[str, list[filters.Filter]]:
        unlimited = replace(self.material, limits=Limits(1_000_000, 0))
        found: dict[str, list[filters.Filter]] = {}
        for row in filters.view(unlimited, self.album).filters:
            found.setdefault(row.layer, []).append(row)
        return found
