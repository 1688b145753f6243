"""Integrated gradients: gradients along a straight path from a baseline to the image (sundararajan2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, Measurement, SizedArray
from .baselines import Baseline, baseline
from .method import Facts, PixelMethod, Told, as_array, gradients, scaled

if TYPE_CHECKING:
    from ..network.batch import Batch

Quadrature = Literal["gauss_legendre", "midpoint", "trapezoid"]

CHANGE = ArraySpec(
    "change",
    ("image", "target"),
    "float32",
    "logit",
    "Logit of the image less logit of the baseline: what a map sums to.",
)
GAP = ArraySpec(
    "gap", ("image", "target"), "float32", "logit", "Sum of the map less change: 0 where there are steps enough."
)
#: Images named by a finding.
SHOWN = 12


def nodes(quadrature: Quadrature, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the path is looked at, and with what weight.

    The paper adds up the right ends of equal steps (eq. 3); the rules here need fewer points for the same gap.

    Parameters
    ----------
    quadrature
        ``"gauss_legendre"``; ``"midpoint"`` of equal steps; ``"trapezoid"`` between points that include both ends.
    steps
        Number of points.

    Returns
    -------
    tuple
        Points in 0..1, 0 being the baseline, and weights that add up to 1; both ``(step,)`` float64.
    """
    if quadrature == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if quadrature == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


def on_the_path(
    start: Float[Tensor, "image channel *space"], way: Float[Tensor, "image channel *space"], points: np.ndarray
) -> Float[Tensor, "version*image channel *space"]:
    """The images at some points between `start` and ``start + way``, version by version, in their memory format."""
    images = torch.cat([start] * len(points))
    for version, point in zip(images.split(len(start)), points.tolist(), strict=True):
        version.add_(way, alpha=point)
    return images


def explained(batch: Batch, logits: Float[Tensor, "image class"], target: Target) -> Float[Tensor, " image"]:
    """What a target stands for, in logits that may come from other versions of the batch's images.

    Returns
    -------
    Float[Tensor, " image"]
        float64; NaN for images without such a target.
    """
    classes = torch.from_numpy(batch.target_class(target)).to(logits.device)
    value = logits.double()
    found = value.gather(1, classes.clamp(min=0)[:, None])[:, 0]
    if target == "contrast":
        labels = torch.from_numpy(batch.target_class("label")).to(logits.device)
        found = found - value.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return found.masked_fill(classes < 0, torch.nan)


@dataclass(frozen=True)
class IntegratedGradients(PixelMethod):
    """Integrated gradients.

    Parameters
    ----------
    target, images
        As everywhere.
    baseline
        Where the path begins: see `convaudit.stages.attributions.baselines.Baseline`.
    blur
        Standard deviation of the baseline ``"blur"``, as a share of the longest spatial axis.
    steps
        Gradients per image.
    quadrature
        At which points: see `nodes`.
    tolerance
        Median of the gap's share of the change above which it is a finding.
    """

    baseline: Baseline = "zero"
    blur: float = 0.05
    steps: int = 32
    quadrature: Quadrature = "gauss_legendre"
    tolerance: float = 0.05

    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = "Mean gradient on the way from the baseline, times the way, summed over channels."
    recalls: ClassVar[tuple[str, ...]] = ("change", "gap")

    def __post_init__(self) -> None:
        least = 2 if self.quadrature == "trapezoid" else 1
        if self.steps < least:
            raise ConfigError(f"integrated_gradients.steps: expected at least {least}, got {self.steps}")
        if not 0 < self.blur <= 1:
            raise ConfigError(f"integrated_gradients.blur: expected above 0, at most 1, got {self.blur}")
        if not self.tolerance > 0:
            raise ConfigError(f"integrated_gradients.tolerance: expected above 0, got {self.tolerance}")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Map, scale, what the map should add up to, and by how much it fails."""
        shape = (subject.n_image, len(self.targets(subject)))
        return (*super().writes(subject), CHANGE.sized(shape), GAP.sized(shape))

    def passes(self, subject: Subject) -> int:
        """One for each step."""
        del subject
        return self.steps

    def asks(self, subject: Subject) -> Ask:
        """Nothing: the gradients are taken elsewhere than at the image."""
        del subject
        return Ask()

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Walk the path once for all targets."""
        targets = self.targets(subject)
        found, start = self._shared(batch, subject, targets)
        heatmap, scale = scaled(np.stack([as_array(one) for one in found], axis=1))
        before = batch.call(start)
        change = torch.stack([explained(batch, batch.logits, t) - explained(batch, before, t) for t in targets], dim=1)
        total = torch.stack([one.flatten(1).sum(1) for one in found], dim=1)
        return {"heatmap": heatmap, "scale": scale, "change": as_array(change), "gap": as_array(total - change)}

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Walk the path, once for all targets."""
        targets = self.targets(subject)
        targets = targets if target in targets else (target,)
        return self._shared(batch, subject, targets)[0][targets.index(target)]

    def _shared(self, batch: Batch, subject: Subject, targets: tuple[Target, ...]) -> tuple[list[Tensor], Tensor]:
        return batch.once((repr(self), targets), lambda: self._integrated(batch, subject, targets))

    def _integrated(self, batch: Batch, subject: Subject, targets: tuple[Target, ...]) -> tuple[list[Tensor], Tensor]:
        """One map per target in double precision, and where the paths began."""
        images = batch.images
        start = baseline(images, self.baseline, subject.mean, subject.std, self.blur)
        way = images - start
        shape = (len(images), *images.shape[2:])
        found = [torch.zeros(shape, dtype=torch.float64, device=images.device) for _ in targets]
        for points, weights in self._chunks(max(1, subject.batch // max(1, len(images)))):
            again = batch.again(on_the_path(start, way, points), gradients(targets, "input"))
            for total, target in zip(found, targets, strict=True):
                for gradient, weight in zip(again.gradient(target, "input").split(len(images)), weights, strict=True):
                    total += weight * (gradient * way).sum(1)
        return found, start

    def _chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        points, weights = nodes(self.quadrature, self.steps)
        for first in range(0, self.steps, size):
            yield points[first : first + size], weights[first : first + size]

    def told(self, facts: Facts, subject: Subject) -> Told:
        """How far the maps are from adding up, over all images and targets."""
        del subject
        notes: dict[str, Any] = {"adds_up_to": "logit of the image less logit of the baseline, but for the gap"}
        if "gap" not in facts:
            return notes, (), ()
        gap, change = (np.abs(facts[key].astype(np.float64)) for key in ("gap", "change"))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(gap == 0, 0.0, gap / change)
        known = share[~np.isnan(share)]
        middle = float(np.median(known)) if len(known) else float("nan")
        measured = Measurement(
            "gap",
            middle,
            "1",
            "lower",
            len(known),
            "gap",
            "Median over images and targets of |sum of the map - change| / |change|, change being the logit of the "
            "image less the logit of the baseline.",
        )
        return notes, (measured,), (self._incomplete(share, middle),) if middle > self.tolerance else ()

    def _incomplete(self, share: np.ndarray, middle: float) -> Finding:
        worst = np.nanmax(share, axis=1, initial=-1.0)
        order = np.argsort(-worst, kind="stable")[:SHOWN]
        return Finding(
            "attributions/incomplete",
            "warning",
            f"integrated gradients miss {middle:.1%} of the logit's change in the middle of all images",
            f"Expected at most {self.tolerance:.1%} with {self.steps} {self.quadrature} steps from the baseline "
            f"{self.baseline!r}; use more steps.",
            tuple(int(image) for image in order if worst[image] > self.tolerance),
        )


# The base class has described the map in this class's words.
IntegratedGradients.documents = (*IntegratedGradients.documents, CHANGE, GAP)
