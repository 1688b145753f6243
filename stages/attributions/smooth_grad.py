"""SmoothGrad and its kin: what a method says on average, or how much it wavers, when noise is added to the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Subject, Target
from ..errors import ConfigError, StageError
from ..numerics.seeds import torch_generator
from ..specs import ArraySpec, SizedArray
from .method import SCALE, Facts, LayerMethod, Told, as_array, scaled
from .wrapper import Wrapper

if TYPE_CHECKING:
    from ..network.batch import Batch

#: ``"mean"``: SmoothGrad (smilkov2017); ``"square"``: mean of the squares, SmoothGrad-squared (hooker2019);
#: ``"variance"``: VarGrad (adebayo2018).
Statistic = Literal["mean", "square", "variance"]

_SAID = {"mean": "Mean", "square": "Mean square", "variance": "Variance"}


def noise(
    ids: Sequence[str], shape: tuple[int, ...], seed: int, sample: int, like: Tensor
) -> Float[Tensor, "image channel *space"]:
    """Draw standard normal noise, for each image from a stream of its own.

    Parameters
    ----------
    ids
        Names of the images.
    shape
        ``(channel, *space)``.
    seed
        Root of every random number.
    sample
        Which of an image's samples.
    like
        Tells type and device; numbers are drawn in single precision on the CPU, so that they are the same everywhere.
    """
    drawn = [torch.randn(shape, generator=torch_generator(seed, name, f"smooth_grad:{sample}")) for name in ids]
    return torch.stack(drawn).to(like)


def spread(images: Float[Tensor, "image channel *space"]) -> Float[Tensor, "image ..."]:
    """Largest less smallest value of each image, of a shape that multiplies images."""
    flat = images.flatten(1)
    return (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (images.ndim - 1))


@dataclass
class Moments:
    """Mean, and sum of squared distances from it, of maps that come one by one (welford1962), in double precision."""

    count: int = 0
    mean: Any = 0.0
    scatter: Any = 0.0

    def add(self, value: Float[Tensor, "image ..."]) -> None:
        """Take in one more map of each image."""
        value = value.double()
        self.count += 1
        away = value - self.mean
        self.mean = self.mean + away / self.count
        self.scatter = self.scatter + away * (value - self.mean)

    def get(self, statistic: Statistic) -> Float[Tensor, "image ..."]:
        """Mean, mean square, or variance with the number of maps in the denominator."""
        variance = self.scatter / self.count
        return {"mean": self.mean, "variance": variance, "square": self.mean**2 + variance}[statistic]


@dataclass
class _Found:
    """Moments by target and array path, and what the first sample told."""

    moments: dict[Target, dict[str, Moments]] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(Wrapper):
    """A statistic of another method's maps over noisy versions of each image.

    The paper adds noise in proportion to the range of each image, and so does this. What is averaged are the maps of
    `method` as they are: in the paper these are gradients with a sign, before any channel or magnitude is taken.

    Parameters
    ----------
    target, images
        As everywhere; the target is that of the image without noise.
    method
        The `Method` whose maps are smoothed.
    statistic
        What becomes of the maps: see `Statistic`.
    samples
        Noisy versions per image.
    level
        Standard deviation of the noise as a share of the image's range, all channels together.
    """

    statistic: Statistic = "mean"
    samples: int = 16
    level: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 2 if self.statistic == "variance" else 1
        if self.samples < least:
            raise ConfigError(f"SmoothGrad.samples: expected at least {least}, got {self.samples}")
        if not 0 < self.level < np.inf:
            raise ConfigError(f"SmoothGrad.level: expected above 0, got {self.level}")

    def passes(self, subject: Subject) -> int:
        """Those of the inner method for each sample."""
        return self.samples * self.method.passes(subject)

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """As the inner method, while squares have no sign."""
        return self.statistic == "mean" and self.method.signed

    @property
    def unit(self) -> str:  # type: ignore[override]
        """As the inner method's, or its square."""
        return self.method.unit if self.statistic == "mean" else f"({self.method.unit})²"

    @property
    def meaning(self) -> str:  # type: ignore[override]
        """In words."""
        return f"{_SAID[self.statistic]} over noisy images of: {self.method.meaning}"

    @property
    def documents(self) -> tuple[ArraySpec, ...]:  # type: ignore[override]
        """Maps at the resolution at which the inner method makes them."""
        dims = ("image", "target", "*space")
        if isinstance(self.core, LayerMethod):
            return (ArraySpec("{layer}/heatmap", dims, "float32", self.unit, f"{self.meaning} At layer resolution."),)
        meaning = f"{self.meaning} Times scale; largest magnitude: 1."
        return (ArraySpec("heatmap", dims, "float16", self.unit, meaning), SCALE)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One map per layer, or one at input resolution with its scale."""
        first, *scale = self.documents
        shape = (subject.n_image, len(self.targets(subject)))
        if isinstance(self.core, LayerMethod):
            layers = self.core.chosen(subject)
            return tuple(first.sized((*shape, *at.shape[1:]), subject.axes, layer=at.name) for at in layers)
        return (first.sized((*shape, *subject.input_shape[1:]), subject.axes), scale[0].sized(shape))

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """The statistic of the inner method's maps, for one target."""
        targets = self.targets(subject)
        moments = self._shared(batch, subject, targets if target in targets else (target,)).moments[target]
        return {path: one.get(self.statistic) for path, one in moments.items()}

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """All targets from the same noisy versions."""
        return self.work(batch, subject)[0]

    def work(self, batch: Batch, subject: Subject) -> tuple[Mapping[str, np.ndarray], Facts]:
        """All targets from the same noisy versions, and what the inner method tells of the first of these."""
        targets = self.targets(subject)
        found = self._shared(batch, subject, targets)
        rows: dict[str, np.ndarray] = {}
        for path in found.moments[targets[0]]:
            maps = [as_array(found.moments[target][path].get(self.statistic)) for target in targets]
            rows[path] = np.stack(maps, axis=1)
        if not isinstance(self.core, LayerMethod):
            rows["heatmap"], rows["scale"] = scaled(rows["heatmap"])
        return rows, found.facts

    def _shared(self, batch: Batch, subject: Subject, targets: tuple[Target, ...]) -> _Found:
        """All statistics of the same maps are worked out together."""
        key = ("smooth_grad", repr(self.inner), self.samples, self.level, targets)
        return batch.once(key, lambda: self._sampled(batch, subject, targets))

    def _sampled(self, batch: Batch, subject: Subject, targets: tuple[Target, ...]) -> _Found:
        """Run the inner method on every noisy version; memory does not grow with their number."""
        inner, found = self.inner, _Found({target: {} for target in targets})
        asked = inner.asks(subject)
        for first, noisy in self._noisy(batch, subject):
            again = batch.again(noisy, asked)
            for target in targets:
                for path, maps in self._maps(again, subject, target).items():
                    moments = found.moments[target].setdefault(path, Moments())
                    for version in maps.split(len(batch)):
                        moments.add(version)
            if first == 0:
                found.facts = inner.facts(again.only(np.arange(len(batch))), subject)
        return found

    def _maps(self, again: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        maps = self.inner.maps(again, subject, target)
        wanted = {size.path for size in self.writes(subject)} - {"scale"}
        if set(maps) != wanted:
            raise StageError(
                f"SmoothGrad of {type(self.core).__name__}: expected maps {sorted(wanted)}, got {sorted(maps)}"
            )
        return maps

    def _noisy(self, batch: Batch, subject: Subject) -> Iterator[tuple[int, Tensor]]:
        """The first sample of each chunk and its images, as many versions as a batch may hold."""
        images = batch.images
        size = self.level * spread(images)
        versions = max(1, subject.batch // max(1, len(batch)))
        for first in range(0, self.samples, versions):
            samples = range(first, min(first + versions, self.samples))
            noisy = torch.cat([images] * len(samples))
            for version, sample in zip(noisy.split(len(batch)), samples, strict=True):
                version.add_(noise(batch.ids, tuple(images.shape[1:]), subject.seed, sample, images).mul_(size))
            yield first, noisy

    def told(self, facts: Facts, subject: Subject) -> Told:
        """What the inner method tells, as far as it is about what is stored here."""
        notes, measurements, findings = self.inner.told(facts, subject)
        kind = "layer" if isinstance(self.core, LayerMethod) else "pixels"
        rendering = notes.get("rendering", {"kind": kind}) if kind == "layer" else {"kind": kind}
        written = {size.path for size in self.writes(subject)}
        kept = tuple(measurement for measurement in measurements if measurement.path in written)
        said = f"Gaussian, standard deviation {self.level} of the range of each image, {self.samples} samples"
        return {**notes, "noise": said, "rendering": rendering}, kept, findings
