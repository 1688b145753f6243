"""What each stage shows of one layer in the walk, made of what its own section is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from .album import Album
from .figures import number
from .material import Limits, Material
from .views import filters

#: What each stage shows of a layer, in reading order; `Blocks` has a method of each name.
TITLES: Mapping[str, str] = {
    "filters": "Channels in trouble",
}
#: Rows of one layer's table.
_ROWS = 40


@dataclass(frozen=True)
class Troubled:
    """Channels of one layer that are in trouble, and how many more there are."""

    gist: str
    rows: tuple[filters.Filter, ...]
    hidden: int


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
