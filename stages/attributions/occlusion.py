"""Occlusion: how much lower a class scores when a window covers a part of the image (Zeiler and Fergus 2014)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..errors import ConfigError
from ..network.incremental.recompute import Recomputation, plain_logits
from ..network.incremental.regions import Region
from ..numerics.seeds import torch_generator
from ..specs import ArraySpec, Finding, SizedArray
from .baselines import baseline
from .method import Facts, Method, Told
from .scores import ScoreRows, against_classes, check_kept, score_arrays, score_documents
from .windows import drop_map, intervals, window_bounds

if TYPE_CHECKING:
    from ..network.batch import Batch

Cover = Literal["zero", "black", "mean", "blur", "noise"]
Score = Literal["probability", "logit"]

UNIT = "probability or logit"


@dataclass(frozen=True)
class Occlusion(Method):
    """A window slides over each image; all classes are scored at once.

    Only what a window changes inside the network is computed again, exactly; where that cannot be done the network is
    run anew for every window, and a finding says why.

    Parameters
    ----------
    target, images
        As everywhere; above 100 classes, those whose scores are kept.
    window
        Pixels of the window along each axis, or along all; null for an eighth of each axis.
    stride
        Pixels from one window to the next, at most `window`; null for half a window.
    baseline
        What stands in a window: ``"zero"`` as the network is fed, which is the mean colour, as in the paper;
        ``"noise"``: standard normal, as the network is fed, drawn per image; for the others see
        `convaudit.stages.attributions.baselines`.
    blur
        Standard deviation of the baseline ``"blur"``, as a share of the longest spatial axis.
    score
        ``"probability"``, the softmax of the paper, whose drops can be compared between images and classes; or
        ``"logit"``, for a network that is so sure that covering a part does not show in its probabilities.
    """

    window: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    baseline: Cover = "zero"
    blur: float = 0.05
    score: Score = "probability"

    signed: ClassVar[bool] = True
    meaning: ClassVar[str] = "Drop of the target's score under a window, averaged over the windows that cover a pixel."
    documents: ClassVar[tuple[ArraySpec, ...]] = score_documents("window", UNIT)

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and min((value,) if isinstance(value, int) else value, default=0) < 1:
                raise ConfigError(f"Occlusion.{name}: expected at least 1 pixel, got {value}")
        if not 0 < self.blur <= 1:
            raise ConfigError(f"Occlusion.blur: expected above 0, at most 1, got {self.blur}")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """That of the score."""
        return self.score

    def targets(self, subject: Subject) -> tuple[Target, ...]:
        """Targets whose scores are kept."""
        return check_kept(super().targets(subject), subject)

    def grid(self, subject: Subject) -> tuple[list[list[int]], list[list[int]]]:
        """Starts and ends of the windows along each axis of the data.

        Raises
        ------
        ConfigError
            When a window is larger than the image, or leaves pixels uncovered.
        """
        space = tuple(subject.input_shape[1:])
        windows = _per_axis("window", self.window, [max(1, length // 8) for length in space], space)
        strides = _per_axis("stride", self.stride, [max(1, length // 2) for length in windows], space)
        for axis, length, window, stride in zip(subject.axes, space, windows, strides, strict=True):
            if window > length:
                raise ConfigError(f"Occlusion.window: expected at most {length} pixels along {axis}, got {window}")
            if stride > window:
                raise ConfigError(
                    f"Occlusion.stride: expected at most the window's {window} pixels along {axis}, got {stride}, "
                    "which would leave pixels that no window covers"
                )
        pairs = [intervals(*numbers) for numbers in zip(space, windows, strides, strict=True)]
        return [start for start, _ in pairs], [end for _, end in pairs]

    def region(self, subject: Subject) -> Region:
        """Every window, along every axis."""
        return Region(*window_bounds(*self.grid(subject)))

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """A score for each window and class."""
        return score_arrays(subject, "window", self.passes(subject), self.targets(subject), UNIT)

    def passes(self, subject: Subject) -> int:
        """One for each window."""
        return self.region(subject).start.shape[1]

    def asks(self, subject: Subject) -> Ask:
        """Nothing but logits."""
        self.grid(subject)
        return Ask()

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Scores under every window."""
        return self.work(batch, subject)[0]

    def work(self, batch: Batch, subject: Subject) -> tuple[Mapping[str, np.ndarray], Facts]:
        """Scores under every window, and in which way they were computed."""
        base = self._scores(batch.logits)
        rows = ScoreRows(batch, subject, self.targets(subject), self.passes(subject), base)
        facts = self._slide(batch, subject, lambda place, scores: rows.put(place, np.arange(len(scores)), scores))
        return rows.rows(), facts

    def _scores(self, logits: Float[Tensor, "image class"]) -> np.ndarray:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (logits.softmax(dim=1) if self.score == "probability" else logits).cpu().numpy()

    def _slide(self, batch: Batch, subject: Subject, put: Callable[[int, np.ndarray], None]) -> Facts:
        """Show ``(place in the batch, scores of every window)`` of each image that can be used."""
        region, images, covers = self.region(subject), batch.images, self._covers(batch, subject)
        plain = _reason(batch)
        recomputation = None if plain else Recomputation(batch.model, region, winograd=batch.winograd)
        wholly, used = 0, np.flatnonzero(batch.target_class("predicted") >= 0)
        for place in map(int, used):
            image, cover = images[place : place + 1], covers[place : place + 1]
            found = plain if recomputation is None else recomputation.logits(image, cover)
            if isinstance(found, str):
                wholly, plain = wholly + 1, found
                found = plain_logits(batch.call, image, cover, region, subject.batch)
            put(place, self._scores(found))
        return _facts(recomputation, len(used) - wholly, wholly, plain)

    def _covers(self, batch: Batch, subject: Subject) -> Tensor:
        images = batch.images
        if self.baseline != "noise":
            return baseline(images, self.baseline, subject.mean, subject.std, self.blur)
        shape = tuple(images.shape[1:])
        drawn = [
            torch.randn(shape, generator=torch_generator(subject.seed, name, "occlusion"), dtype=torch.float64)
            for name in batch.ids
        ]
        return torch.empty_like(images).copy_(torch.stack(drawn))

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """The rendered heatmap of one target."""
        classes, against = batch.target_class(target), against_classes(batch, (target,))[:, 0]
        base, (start, end) = self._scores(batch.logits), self.grid(subject)
        space = tuple(subject.input_shape[1:])
        found = np.full((len(batch), *space), np.nan)

        def put(place: int, scores: np.ndarray) -> None:
            drop = (base[place] - scores.astype(np.float64)).T
            if classes[place] >= 0:
                other = 0.0 if against[place] < 0 else drop[against[place]]
                found[place] = drop_map((drop[classes[place]] - other)[None], start, end, space)[0]

        self._slide(batch, subject, put)
        return {"heatmap": torch.from_numpy(found).to(batch.images)}

    def told(self, facts: Facts, subject: Subject) -> Told:
        """Where the windows lie, and how what is under them was computed."""
        start, end = self.grid(subject)
        rendering = {"kind": "windows", "start": start, "end": end, "score": self.score, "baseline": self.baseline}
        piecewise, wholly = int(facts.get("sum:piecewise", 0)), int(facts.get("sum:wholly", 0))
        recomputation: dict[str, Any] = {"piecewise": piecewise, "wholly": wholly}
        if "share" in facts:
            recomputation["share"] = float(facts["share"])
        findings = ()
        if "reason" in facts:
            recomputation["reason"] = str(facts["reason"])
            findings = (_finding(recomputation["reason"], piecewise, wholly),)
        return {"rendering": rendering, "recomputation": recomputation}, (), findings


def _per_axis(name: str, value: int | tuple[int, ...] | None, default: list[int], space: tuple[int, ...]) -> list[int]:
    if value is None:
        return default
    values = [value] * len(space) if isinstance(value, int) else list(value)
    if len(values) != len(space):
        raise ConfigError(f"Occlusion.{name}: expected {len(space)} numbers, one per spatial axis, got {values}")
    return values


def _reason(batch: Batch) -> str:
    """Why the network has to be run anew for every window, as far as the batch tells."""
    if batch.altered:
        return "the network runs under a variant"
    return "the network runs under autocast" if batch.autocast is not None else ""


def _facts(recomputation: Recomputation | None, piecewise: int, wholly: int, reason: str) -> Facts:
    facts = {"sum:piecewise": np.array(piecewise), "sum:wholly": np.array(wholly)}
    scheme = None if recomputation is None else recomputation.scheme
    if recomputation is not None and scheme is not None:
        facts["share"] = np.array(scheme.effort.share if recomputation.pieces else 1.0)
        if scheme.spread.lost_at is not None and not reason:
            reason = f"from the operation {scheme.spread.lost_at} on, which is not known to keep changes in their place"
    return facts | ({"reason": np.array(reason)} if reason and piecewise + wholly else {})


def _finding(reason: str, piecewise: int, wholly: int) -> Finding:
    count = f"{wholly} of {piecewise + wholly} images" if wholly else "a part of the network"
    return Finding(
        "attributions/occlusion-recomputed-wholly",
        "info",
        f"Occlusion was recomputed wholly: {reason}",
        f"For {count}, every window costs as much as a forward pass. The scores are the same; only time is lost.",
    )
