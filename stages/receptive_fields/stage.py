"""What every layer can see of the image, and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contract import Leaf, Stage
from ..errors import ConfigError
from .effective import EffectiveLeaf
from .theoretical import TheoreticalLeaf


@dataclass(frozen=True)
class ReceptiveFields(Stage):
    """Receptive fields of all layers by arithmetic, and of some by gradients.

    Parameters
    ----------
    layers
        Layer selectors; of what they name, layers with spatial axes are measured.
    most
        Layers that are measured at most, spread over the depth of the network.
    channels
        Channels of each, spread over all.
    images
        Images that gradients are taken for, spread over the data set.
    """

    layers: tuple[str, ...] = ("kind:conv",)
    most: int = 6
    channels: int = 4
    images: int = 8

    name: ClassVar[str] = "receptive_fields"

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("receptive_fields.layers: expected at least one layer selector, got none")
        for key in ("most", "channels", "images"):
            if getattr(self, key) < 1:
                raise ConfigError(f"receptive_fields.{key}: expected 1 or more, got {getattr(self, key)}")

    def leaves(self) -> tuple[Leaf, ...]:
        """What can be seen, then what is looked at."""
        return TheoreticalLeaf(), EffectiveLeaf(tuple(self.layers), self.most, self.channels, self.images)
