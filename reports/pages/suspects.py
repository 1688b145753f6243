"""All label suspects with their neighbors, as many as the page may hold."""

from __future__ import annotations

from ..album import Album
from ..material import Material
from ..views import suspects

TITLE = "All label suspects"
QUESTION = "Every label that head and neighbors both speak against, the strongest first, with the nearest neighbors."
#: What the frame of the page and its tables take at most.
_FRAME_BYTES = 60_000


def applies(material: Material) -> bool:
    """Whether there are any."""
    return material.has("suspects") and bool(material.notes("suspects").get("signals", {}).get("both", 0))


def page(material: Material, album: Album, size: int) -> object:
    """Draw suspects until the bytes are spent; the rest is counted."""
    album.allow("suspects", max(0, size - _FRAME_BYTES))
    return suspects.gathered(material, album, len(material.image_ids))
