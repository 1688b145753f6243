"""The table of channels without the limit that the report sets to it."""

from __future__ import annotations

from dataclasses import replace

from ..album import Album
from ..material import Limits, Material
from ..views import filters

TITLE = "All channels in trouble"
QUESTION = "Every channel that the report's table has room for or not."
#: What one row costs at most, names of layers of the usual length.
_ROW_BYTES = 800


def applies(material: Material) -> bool:
    """Whether there is a table."""
    return material.has("filters")


def page(material: Material, album: Album, size: int) -> object:
    """Draw the section's own view with as many rows as the page may hold."""
    album.allow("filters", size // 4)
    rows = max(1, (size - size // 4) // _ROW_BYTES)
    return filters.view(replace(material, limits=Limits(rows, material.limits.pictures)), album)
