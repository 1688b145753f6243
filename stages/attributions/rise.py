"""RISE: what randomly masked versions of an image still score (Petsiuk, Das and Saenko 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..errors import ConfigError
from ..numerics.seeds import stable_seed
from ..specs import ArraySpec, SizedArray
from .baselines import Baseline, baseline
from .masks import Interpolation, Masking, Normalisation, drawn, interpolated, normalised, weights
from .method import Facts, Method, Told, as_array
from .scores import ScoreRows, against_classes, check_kept, score_arrays, score_documents

if TYPE_CHECKING:
    from ..network.batch import Batch

Score = Literal["probability", "logit"]

UNIT = "probability or logit"
USED = ArraySpec("used", ("image",), "int32", "mask", "How many masks were laid over each image, the first ones.")
SEED = ArraySpec("mask_seed", ("image",), "int64", "1", "What the masks of each image are drawn from.")
ERROR = ArraySpec(
    "error",
    ("image", "target"),
    "float32",
    "1",
    "Root mean square over positions of the heatmap's standard error, relative to the heatmap's range.",
)


class Moments:
    """Sums over masks that a heatmap and its standard error follow from; their size knows nothing of how many masks.

    Parameters
    ----------
    n_target
        How many heatmaps there are.
    size
        Positions of a heatmap.
    device
        Where to add up.
    """

    def __init__(self, n_target: int, size: int, device: torch.device) -> None:
        self.n_target, self.used = n_target, 0
        self._first = torch.zeros(1 + n_target, size, dtype=torch.float64, device=device)
        self._second = torch.zeros(1 + 2 * n_target, size, dtype=torch.float64, device=device)

    def add(self, masks: Float[Tensor, "mask position"], scores: Float[Tensor, "mask target"]) -> None:
        """Take in some masks and what the image scored under each."""
        scores = scores.to(masks.dtype)
        factors = torch.cat([torch.ones_like(scores[:, :1]), scores, scores.square()], dim=1).T
        self.used += len(masks)
        self._first += factors[: 1 + self.n_target] @ masks
        self._second += factors @ masks.square()

    def heatmap(self, keep: float, normalisation: Normalisation) -> Float[Tensor, "target position"]:
        """Heatmap of each target; see `normalised`."""
        return normalised(self._first[1:], self._first[0], self.used, keep, normalisation)

    def error(self, keep: float, normalisation: Normalisation) -> Float[Tensor, " target"]:
        """Root mean square of the standard error of each heatmap over its positions, relative to the heatmap's range.

        That of a mean, where sums are divided by their expectation; to first order that of a quotient of means, where
        they are divided by the coverage.
        """
        heatmap, n = self.heatmap(keep, normalisation), self.used
        squares, twice = self._second[0], self._second[1 : 1 + self.n_target]
        scored = self._second[1 + self.n_target :]
        if normalisation == "expected":
            variance = (scored - self._first[1:].square() / n) / (max(1, n - 1) * n * keep**2)
        else:
            spread = scored - 2 * heatmap * twice + heatmap.square() * squares
            variance = spread * (n / max(1, n - 1)) / self._first[0].square()
        size = heatmap.amax(dim=1) - heatmap.amin(dim=1)
        return variance.clamp(min=0).mean(dim=1).sqrt() / size


@dataclass(frozen=True)
class Rise(Method):
    """Random masks over each image, all classes at once.

    Every image has masks of its own, drawn on the CPU from the run's seed and the image's id. They go through the
    network by themselves, `Subject.batch` at a time, so that no image's result depends on its neighbours.

    Parameters
    ----------
    target, images
        As everywhere; above 100 classes, those whose scores are kept.
    masks
        Masks of an image, at most (N of the paper, which takes 4000 to 8000 for 224x224).
    grid
        Cells along every axis, before interpolation.
    keep
        Chance of a cell to be kept (p of the paper), between 0 and 1.
    score
        What is weighed: softmax probability, as in the paper, or logit.
    baseline
        What a masked pixel fades to; ``"zero"``, 0 as the network is fed, is the paper's. See
        `convaudit.stages.attributions.baselines`.
    blur
        Standard deviation of the baseline ``"blur"``, as a share of the longest spatial axis.
    interpolation
        How cells become pixels; see `convaudit.stages.attributions.masks`.
    normalisation
        ``"expected"``: sums divided by ``masks * keep``, as in the paper; ``"coverage"``: by the sum of masks at each
        position, a mean score, less noisy.
    tolerance
        Stop once `ERROR` of all targets is no larger; null: never before all masks are used.
    every
        Masks between two looks at that.
    """

    masks: int = 1024
    grid: int = 7
    keep: float = 0.5
    score: Score = "probability"
    baseline: Baseline = "zero"
    blur: float = 0.05
    interpolation: Interpolation = "reflect"
    normalisation: Normalisation = "expected"
    tolerance: float | None = None
    every: int = 128

    meaning: ClassVar[str] = "Score of the target, averaged over random masks by how much each shows of a position."
    documents: ClassVar[tuple[ArraySpec, ...]] = (*score_documents("mask", UNIT), USED, SEED, ERROR)

    def __post_init__(self) -> None:
        if self.masks < 2 or self.every < 2 or self.grid < 1:
            raise ConfigError(
                f"Rise: expected masks >= 2, every >= 2 and grid >= 1, got {self.masks}, {self.every} and {self.grid}"
            )
        if not 0 < self.keep < 1:
            raise ConfigError(f"Rise.keep: expected a chance between 0 and 1, got {self.keep}")
        if not 0 < self.blur <= 1:
            raise ConfigError(f"Rise.blur: expected above 0, at most 1, got {self.blur}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ConfigError(f"Rise.tolerance: expected a positive number or null, got {self.tolerance}")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """That of the score."""
        return self.score

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Probabilities are never below 0; a difference of them is."""
        return self.score == "logit" or self.target == "contrast"

    def targets(self, subject: Subject) -> tuple[Target, ...]:
        """Targets whose scores are kept."""
        return check_kept(super().targets(subject), subject)

    def masking(self, subject: Subject) -> Masking:
        """How masks are made for these data.

        Raises
        ------
        ConfigError
            When the grid is finer than an image.
        """
        space = tuple(subject.input_shape[1:])
        if self.grid > min(space):
            raise ConfigError(f"Rise.grid: expected at most {min(space)} cells for images of {space}, got {self.grid}")
        return Masking(space, self.grid, self.keep, self.interpolation)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """A score for each mask and class, and what the masks can be drawn from again."""
        self.masking(subject)
        n, targets = subject.n_image, self.targets(subject)
        scores = score_arrays(subject, "mask", self.masks, targets, UNIT)
        return (*scores, USED.sized((n,)), SEED.sized((n,)), ERROR.sized((n, len(targets))))

    def passes(self, subject: Subject) -> int:
        """One for each mask."""
        del subject
        return self.masks

    def asks(self, subject: Subject) -> Ask:
        """Nothing but logits."""
        del subject
        return Ask()

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Mask each image until its heatmaps have settled."""
        targets = self.targets(subject)
        against = against_classes(batch, targets)
        classes = np.stack([batch.target_class(target) for target in targets], axis=1)
        predicted = batch.target_class("predicted")
        rows = ScoreRows(batch, subject, targets, self.masks, as_scores(batch.logits, self.score).cpu().numpy())
        used = np.zeros(len(batch), np.int32)
        error = np.full(classes.shape, np.nan, np.float32)
        explorer = _Explorer(self, batch, subject)
        for place in map(int, np.flatnonzero(predicted >= 0)):
            # An image without a target has its scores too; then the prediction decides when there are enough.
            judged = np.where(classes[place] >= 0, classes[place], predicted[place])
            moments = explorer.explore(place, judged, against[place], partial(rows.put, place))
            found = as_array(moments.error(self.keep, self.normalisation))
            used[place], error[place] = moments.used, np.where(classes[place] >= 0, found, np.nan)
        seeds = np.array([self.seed(subject, name) for name in batch.ids], np.int64)
        return rows.rows() | {"used": used, "mask_seed": seeds, "error": error}

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """The heatmap, added up while the masks go by; none of them is kept."""
        classes = batch.target_class(target)[:, None]
        against = against_classes(batch, (target,))
        images = batch.images
        heatmap = torch.full((len(batch), *images.shape[2:]), torch.nan, dtype=images.dtype, device=images.device)
        explorer = _Explorer(self, batch, subject)
        known = (classes[:, 0] >= 0) & (batch.target_class("predicted") >= 0)
        for place in map(int, np.flatnonzero(known)):
            moments = explorer.explore(place, classes[place], against[place], _forget)
            heatmap[place] = moments.heatmap(self.keep, self.normalisation)[0].view(images.shape[2:]).to(images.dtype)
        return {"heatmap": heatmap}

    @staticmethod
    def seed(subject: Subject, name: str) -> int:
        """What the masks of an image are drawn from."""
        return stable_seed(subject.seed, name, "rise")

    def told(self, facts: Facts, subject: Subject) -> Told:
        """How to draw the masks again, and what to divide by."""
        del facts
        rendering = {
            "kind": "masks",
            "masks": self.masks,
            "grid": self.grid,
            "keep": self.keep,
            "interpolation": self.interpolation,
            "normalisation": self.normalisation,
            "score": self.score,
            "baseline": self.baseline,
            "blur": self.blur,
            "seed": subject.seed,
        }
        return {"rendering": rendering}, (), ()


def _forget(version: np.ndarray, scores: np.ndarray) -> None:
    """Keep nothing."""


def as_scores(logits: Float[Tensor, "image class"], score: Score) -> Float[Tensor, "image class"]:
    """Logits as they are, or their softmax; at least in single precision."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(dim=1) if score == "probability" else logits


class _Explorer:
    """Shows the images of a batch to the network through masks."""

    def __init__(self, method: Rise, batch: Batch, subject: Subject) -> None:
        self.method, self.batch, self.subject = method, batch, subject
        self.masking = method.masking(subject)
        self.images = batch.images
        device, dtype = self.images.device, self.images.dtype
        self.windows = [
            torch.from_numpy(weights(self.masking, axis).copy()).to(device, dtype).unfold(0, length, 1)
            for axis, length in enumerate(self.masking.space)
        ]
        # Fading to 0 is a product.
        ground = partial(baseline, self.images, method.baseline, subject.mean, subject.std, method.blur)
        self.ground = None if method.baseline == "zero" else ground()
        last = self.images.ndim == 4 and self.images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (max(1, subject.batch), *self.images.shape[1:])
        self.buffer = torch.empty(shape, dtype=dtype, device=device, memory_format=layout)

    @torch.no_grad()
    def explore(self, place: int, classes: np.ndarray, against: np.ndarray, put: Any) -> Moments:
        """Lay masks over one image until the heatmaps of some classes have settled, or the masks are used up.

        Parameters
        ----------
        place
            Which image of the batch.
        classes, against
            Class of each heatmap, and the class that it is held against; -1 for none.
        put
            Shown ``(which masks, their scores of all classes)`` after each round.
        """
        method, device = self.method, self.images.device
        wanted, other = (torch.from_numpy(np.asarray(part, np.int64)).to(device) for part in (classes, against))
        moments = Moments(len(classes), int(np.prod(self.masking.space)), device)
        while moments.used < method.masks:
            first = moments.used
            scores = []
            for masks, found in self._round(place, first, min(method.every, method.masks - first)):
                held = torch.where(other >= 0, found[:, other.clamp(min=0)], torch.zeros_like(found[:, wanted]))
                moments.add(masks.flatten(1), found[:, wanted] - held)
                scores.append(found)
            put(np.arange(first, moments.used), torch.cat(scores).cpu().numpy())
            if self._settled(moments):
                break
        return moments

    def _settled(self, moments: Moments) -> bool:
        tolerance = self.method.tolerance
        if tolerance is None:
            return False
        return bool((moments.error(self.method.keep, self.method.normalisation) <= tolerance).all())

    def _round(self, place: int, first: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Masks and the scores under them, as many at a time as the network likes best."""
        device = self.images.device
        cells, shifts = drawn(self.masking, self.method.seed(self.subject, self.batch.ids[place]), first, count)
        cells = torch.from_numpy(cells).to(self.images)
        offsets = [torch.from_numpy(shift).to(device) for shift in shifts]
        for start in range(0, count, len(self.buffer)):
            part = slice(start, start + len(self.buffer))
            parts = tuple(windows[offset[part]] for windows, offset in zip(self.windows, offsets, strict=True))
            masks = interpolated(cells[part], parts)
            masked = self._masked(place, masks[:, None])
            yield masks, as_scores(self.batch.call(masked), self.method.score)

    def _masked(self, place: int, masks: Tensor) -> Tensor:
        image, out = self.images[place], self.buffer[: len(masks)]
        if self.ground is None:
            return torch.mul(image, masks, out=out)
        ground = self.ground[place]
        return torch.mul(image - ground, masks, out=out).add_(ground)
