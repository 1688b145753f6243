"""Guided backpropagation: a gradient that ReLUs stop where they are closed or it is negative (springenberg2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contract import ReluRule
from .relu_rule import RuleMethod


@dataclass(frozen=True)
class GuidedBackprop(RuleMethod):
    """Guided backpropagation of a logit or of a unit inside the network (section 3.4 of the paper).

    All spellings of a ReLU count, those with an upper limit too; no module is touched. Known to look much the same
    whatever the weights of the later layers are (adebayo2018).

    Parameters
    ----------
    target, images, reduction, target_unit
        As in `RuleMethod`.
    """

    rule: ClassVar[ReluRule] = "guided"
    unit: ClassVar[str] = "logit per network input"
    meaning: ClassVar[str] = "Gradient by the input that ReLUs stop where it is negative, one value per position."
