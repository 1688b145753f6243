"""What methods have in common that change how gradients pass ReLUs: what they explain, and what they have to tell."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn.modules import activation

from ..contract import Ask, ReluRule, Subject, Target, Unit
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import Finding, LayerSpec
from .method import Facts, PixelMethod, Told, gradients
from .saliency import Reduction, reduced

if TYPE_CHECKING:
    from ..network.batch import Batch


@dataclass(frozen=True)
class RuleMethod(PixelMethod, ABC):
    """Gradient by the input under a rule for ReLUs.

    Parameters
    ----------
    target, images
        As everywhere.
    reduction
        How channels become one value per position; see `convaudit.stages.attributions.saliency.reduced`.
    target_unit
        What is explained instead of a logit: a layer's name, a channel, and a position along the spatial axes or None
        for where the channel is largest in each image. The stored class is then -1.
    """

    reduction: Reduction = "max_abs"
    target_unit: Unit | None = None

    #: Which rule.
    rule: ClassVar[ReluRule]

    def __post_init__(self) -> None:
        if self.target_unit is not None and self.target != "predicted":
            raise ConfigError(
                f"{type(self).__name__}: target {self.target!r} and target_unit {self.target_unit} are both set; "
                "leave target at 'predicted' to explain a unit"
            )

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    def targets(self, subject: Subject) -> tuple[Target, ...]:
        """The unit, or what the target says."""
        return super().targets(subject) if self.target_unit is None else (self.target_unit,)

    def asks(self, subject: Subject) -> Ask:
        """One backward pass per target to the input, under the rule.

        Raises
        ------
        ConfigError
            When the network has no ReLU, or the unit is not there.
        """
        require_relu(subject, type(self).__name__)
        if self.target_unit is not None:
            check_unit(self.target_unit, subject, type(self).__name__)
        return gradients(self.targets(subject), "input", rule=self.rule)

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Reduce the gradient that the sweep computed."""
        del subject
        return reduced(batch.gradient(target, "input", self.rule), self.reduction)

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """How many ReLUs were caught, and what passed them."""
        return {**super().facts(batch, subject), **rule_facts(batch)}

    def told(self, facts: Facts, subject: Subject) -> Told:
        """How many ReLUs were caught, and whether the rule applies to all nonlinearities."""
        notes, measurements, findings = super().told(facts, subject)
        unit = self.target_unit
        inside = {"layer": unit.layer, "channel": unit.channel, "position": unit.position} if unit else None
        more = {"rule": self.rule, **rule_notes(facts), **({"target_unit": inside} if inside else {})}
        return {**notes, **more}, measurements, (*findings, *rule_findings(facts, self.rule))


def require_relu(subject: Subject, method: str) -> None:
    """Refuse networks that a rule for ReLUs does not change.

    Raises
    ------
    ConfigError
        When there is no ReLU among the layers.
    """
    if not any(layer.kind == "relu" for layer in subject.layers):
        modules = sorted({layer.module for layer in subject.layers if hasattr(activation, layer.module)})
        raise ConfigError(
            f"{method}: the network has no ReLU among its {len(subject.layers)} layers (nonlinear modules: "
            f"{', '.join(modules) or 'none'}), so that this would be the plain gradient; use saliency"
        )


def check_unit(unit: Unit, subject: Subject, method: str) -> LayerSpec:
    """Find the layer of a unit that is explained under a rule for ReLUs.

    Raises
    ------
    ConfigError
        When there is no such layer, channel or position, or no ReLU before it.
    """
    where = f"{method}.target_unit"
    found = select_layers((unit.layer,), subject.layers)
    if len(found) != 1 or found[0].name != unit.layer:
        raise ConfigError(f"{where}.layer: expected the name of one layer, got {unit.layer!r}, which is {len(found)}")
    layer, space = found[0], found[0].shape[1:]
    if not 0 <= unit.channel < layer.shape[0]:
        raise ConfigError(f"{where}.channel: expected 0 to {layer.shape[0] - 1} in {layer.name}, got {unit.channel}")
    place = unit.position
    if place is not None and (
        len(place) != len(space) or any(not 0 <= i < n for i, n in zip(place, space, strict=True))
    ):
        raise ConfigError(
            f"{where}.position: expected a place in {space} of {layer.name}, got {place}; or leave it out"
        )
    before = subject.layers[: subject.layers.index(layer) + 1]
    if not any(other.kind == "relu" for other in before):
        raise ConfigError(
            f"{where}.layer: no ReLU comes before {layer.name}, so that this would be the plain gradient; choose a "
            "later layer"
        )
    return layer


def rule_facts(batch: Batch) -> Facts:
    """How many calls of ReLUs, and of other nonlinearities, each forward pass makes."""
    others = sorted(batch.other_calls.items())
    return {
        "relu_calls": np.array(batch.relu_calls),
        "other_names": np.array([name for name, _ in others], dtype=np.str_),
        "other_calls": np.array([count for _, count in others], dtype=np.int64),
    }


def rule_notes(facts: Facts) -> dict[str, Any]:
    """What `rule_facts` counted, by name."""
    return {"relu_calls": int(facts["relu_calls"])} if "relu_calls" in facts else {}


def rule_findings(facts: Facts, rule: ReluRule) -> tuple[Finding, ...]:
    """Warn where a rule applies to some of the nonlinearities only."""
    others: Mapping[str, int] = dict(
        zip(
            map(str, facts.get("other_names", ())),
            map(int, facts.get("other_calls", ())),
            strict=True,
        )
    )
    if not others:
        return ()
    listed = ", ".join(f"{name} {count}" for name, count in others.items())
    n, caught = sum(others.values()), int(facts["relu_calls"])
    return (
        Finding(
            "attributions/rule-partial",
            "warning",
            f"the {rule} rule applies to {caught} of {caught + n} nonlinearities",
            f"It speaks of ReLUs only; gradients pass the others as they are ({listed}), so that the map is a mixture "
            "of both. Take saliency or integrated gradients beside it.",
        ),
    )
