"""Guided Grad-CAM: guided backpropagation where Grad-CAM says that the class is (selvaraju2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..errors import ConfigError
from .grad_cam import GradCam
from .method import Facts, PixelMethod, Told, as_array, gradients
from .placement import place_notes
from .relu_rule import require_relu, rule_facts, rule_findings, rule_notes
from .rendering import render
from .saliency import Reduction, reduced

if TYPE_CHECKING:
    from ..network.batch import Batch


def guided_grad_cam(
    guided: Float[Tensor, "image channel *space"], heatmap: Float[Tensor, "image ..."], reduction: Reduction
) -> Float[Tensor, "image ..."]:
    """Multiply a guided gradient with a Grad-CAM map of the same resolution.

    Parameters
    ----------
    guided
        Gradient by the input under the guided rule.
    heatmap
        Grad-CAM, not negative, interpolated to the resolution of the input.
    reduction
        How channels become one value per position.
    """
    return reduced(guided * heatmap[:, None], reduction)


@dataclass(frozen=True)
class GuidedGradCam(PixelMethod):
    """Guided Grad-CAM (section 3.2 of the paper).

    Grad-CAM is interpolated linearly between the centres of its cells' receptive fields, where the paper stretches the
    map over the image; where those are not known, so do we, and the notes say why.

    Parameters
    ----------
    target, images
        As everywhere.
    layer
        Selector of the one layer of Grad-CAM.
    reduction
        How channels become one value per position; see `convaudit.stages.attributions.saliency.reduced`.
    """

    layer: str = "last_map"
    reduction: Reduction = "max_abs"

    unit: ClassVar[str] = "squared logit per network input"
    meaning: ClassVar[str] = "Guided gradient by the input times interpolated Grad-CAM, one value per position."

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    @property
    def _cam(self) -> GradCam:
        return GradCam(self.target, "all", (self.layer,))

    def _name(self, subject: Subject) -> str:
        chosen = self._cam.chosen(subject)
        if len(chosen) != 1:
            raise ConfigError(f"GuidedGradCam.layer: expected one layer, got {', '.join(one.name for one in chosen)}")
        return chosen[0].name

    def asks(self, subject: Subject) -> Ask:
        """What Grad-CAM asks, and one backward pass per target to the input under the guided rule."""
        require_relu(subject, type(self).__name__)
        self._name(subject)
        cam, guided = self._cam.asks(subject), gradients(self.targets(subject), "input", rule="guided")
        return Ask(keep=cam.keep, gradients=(*cam.gradients, *guided.gradients))

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Multiply what the sweep computed."""
        guided = batch.gradient(target, "input", "guided")
        path = f"{self._name(subject)}/heatmap"
        coarse = self._cam.maps(batch, subject, target)[path]
        notes = {"rendering": self._placed(self._cam.facts(batch, subject), subject)}
        fine = render({path: as_array(coarse)}, notes, subject.input_shape)[path]
        return guided_grad_cam(guided, torch.from_numpy(fine).to(guided), self.reduction)

    def _placed(self, facts: Facts, subject: Subject) -> dict[str, Any]:
        return {"kind": "layer", **place_notes(facts, [self._name(subject)])}

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """How many ReLUs were caught, and what Grad-CAM has to tell."""
        return {**super().facts(batch, subject), **self._cam.facts(batch, subject), **rule_facts(batch)}

    def told(self, facts: Facts, subject: Subject) -> Told:
        """How many ReLUs were caught, where Grad-CAM's weights come from, and how it was laid over the image."""
        notes, measurements, findings = super().told(facts, subject)
        cam, _, _ = self._cam.told(facts, subject)
        more = {"alignment": place_notes(facts, [self._name(subject)]), "weights": cam["weights"], **rule_notes(facts)}
        return {**notes, **more}, measurements, (*findings, *rule_findings(facts, "guided"))
