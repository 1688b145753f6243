"""What can be derived in a forward pass, by what, and how the derivative passes ReLUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a gradient passes a ReLU: see `convaudit.stages.network.rules`.
ReluRule = Literal["plain", "guided", "deconvnet"]


@dataclass(frozen=True)
class Unit:
    """A value inside the network that can be derived instead of a logit.

    Parameters
    ----------
    layer
        Name of the layer.
    channel
        Which of its channels.
    position
        Where along the spatial axes; None for where the channel is largest in each image, the first of several.
    """

    layer: str
    channel: int
    position: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Units:
    """Values inside the network that can be derived instead of logits: in each image another one of the same layer.

    Parameters
    ----------
    layer
        Name of the layer.
    places
        Channel and position along the spatial axes, ``(channel, *position)``, for each image of the forward pass.
    """

    layer: str
    places: tuple[tuple[int, ...], ...]


#: What is derived: ``"predicted"``, ``"label"``, a class position, ``"rank:k"`` (the class with the k-th largest logit,
#: counted from 0), ``"contrast"`` (predicted minus label, for images that are wrong), a unit, or one for each image.
Target = str | int | Unit | Units


@dataclass(frozen=True)
class Gradient:
    """A derivative asked of the network.

    Parameters
    ----------
    target
        What is derived.
    wrt
        ``"input"`` or a layer name: by what.
    rule
        How it passes ReLUs.
    """

    target: Target
    wrt: str
    rule: ReluRule = "plain"
