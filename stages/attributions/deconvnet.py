"""Deconvnet: a signal projected down to the input, through ReLUs that see the signal, not the image (zeiler2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contract import ReluRule
from .relu_rule import RuleMethod


@dataclass(frozen=True)
class Deconvnet(RuleMethod):
    """The deconvolutional network of a logit or of a unit inside the network (section 2.1 of the paper).

    Written as a backward pass in which each ReLU cuts off the negative part of what comes back, whatever its own input
    was. Departures: where windows of a max pool overlap, what comes back to one position is added up, and not
    overwritten by the last; normalisation layers pass the signal by their derivative.

    Parameters
    ----------
    target, images, reduction, target_unit
        As in `RuleMethod`.
    """

    rule: ClassVar[ReluRule] = "deconvnet"
    unit: ClassVar[str] = "logit per network input"
    meaning: ClassVar[str] = (
        "Target projected to the input through rectified transposed layers, one value per position."
    )
