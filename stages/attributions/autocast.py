"""Any method with the network in a shorter number format, and how far its maps then rank positions otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from ..contract import Subject, Target
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, Measurement, SizedArray
from .method import Facts, LayerMethod, PixelMethod, Told, as_array
from .wrapper import Wrapper

if TYPE_CHECKING:
    from ..network.batch import Batch

AGREEMENT = ArraySpec(
    "agreement",
    ("image", "target"),
    "float32",
    "1",
    "Spearman's rank correlation of the map with the one without autocast, the lowest over layers; NaN where the two "
    "were not compared, or one is the same everywhere.",
)


def rank_correlation(
    first: Float[np.ndarray, "image ..."], second: Float[np.ndarray, "image ..."]
) -> Float[np.ndarray, " image"]:
    """Spearman's rank correlation of two heatmaps of each image, equal values sharing their mean rank.

    Returns
    -------
    Float[np.ndarray, " image"]
        -1 to 1; NaN where one of the two is the same everywhere or is not finite.
    """
    flat = [heatmap.reshape(len(heatmap), -1).astype(np.float64) for heatmap in (first, second)]
    ranks = [rankdata(one, axis=1) for one in flat]
    ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    size = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        found = (ranks[0] * ranks[1]).sum(axis=1) / np.where(size > 0, size, np.nan)
    return np.where(np.isfinite(flat[0]).all(axis=1) & np.isfinite(flat[1]).all(axis=1), found, np.nan)


@dataclass(frozen=True, kw_only=True)
class Autocast(Wrapper):
    """Another method with the network under autocast.

    Eligible operations (convolutions, matrix products) compute in the shorter format; targets are decided without it.
    A derivative in float16 is not rescaled, so that small ones vanish: the agreement tells.

    Parameters
    ----------
    target, images
        As everywhere.
    method
        The `Method` that is run.
    dtype
        The shorter format.
    every
        Images at multiples of this position are also computed without autocast, and compared.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    every: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ConfigError(f"Autocast.every: expected at least 1, got {self.every}")

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """As the inner method."""
        return self.method.signed

    @property
    def conserves(self) -> bool:  # type: ignore[override]
        """As the inner method, up to rounding."""
        return self.method.conserves

    @property
    def unit(self) -> str:  # type: ignore[override]
        """As the inner method's."""
        return self.method.unit

    @property
    def meaning(self) -> str:  # type: ignore[override]
        """As the inner method's."""
        return self.method.meaning

    @property
    def documents(self) -> tuple[ArraySpec, ...]:  # type: ignore[override]
        """What the inner method writes, and how far it agrees."""
        return (*self.method.documents, AGREEMENT)

    @property
    def recalls(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner method reads again, and how far it agrees."""
        return (*self.method.recalls, AGREEMENT.path)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """What the inner method writes, and how far it agrees."""
        shape = (subject.n_image, len(self.targets(subject)))
        return (*self.inner.writes(subject), AGREEMENT.sized(shape))

    def _under(self, batch: Batch, subject: Subject) -> Batch:
        return batch.again(batch.images, self.inner.asks(subject), autocast=getattr(torch, self.dtype))

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """The inner method's maps under autocast."""
        return self.inner.maps(self._under(batch, subject), subject, target)

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """The inner method's rows under autocast, and how far they agree."""
        return self.work(batch, subject)[0]

    def work(self, batch: Batch, subject: Subject) -> tuple[Mapping[str, np.ndarray], Facts]:
        """The inner method's work under autocast, and how far it agrees."""
        under = self._under(batch, subject)
        rows, facts = self.inner.work(under, subject)
        return {**rows, AGREEMENT.path: self._agreement(batch, under, subject)}, facts

    def _agreement(self, batch: Batch, under: Batch, subject: Subject) -> np.ndarray:
        inner, targets = self.inner, self.targets(subject)
        found = np.full((len(batch), len(targets)), np.nan, np.float32)
        # By position, so that the choice does not depend on where batches are cut.
        chosen = np.flatnonzero((batch.positions % self.every == 0) & batch.valid)
        if not len(chosen):
            return found
        short, whole = under.only(chosen), batch.only(chosen)
        whole = whole.again(whole.images, inner.asks(subject))
        for column, target in enumerate(targets):
            maps, exact = (inner.maps(one, subject, target) for one in (short, whole))
            each = [rank_correlation(as_array(maps[path]), as_array(exact[path])) for path in exact]
            found[chosen, column] = np.min(each, axis=0)
        return found

    def told(self, facts: Facts, subject: Subject) -> Told:
        """What the inner method tells, and how far its maps agree with those in full precision."""
        notes, measurements, findings = self.inner.told(facts, subject)
        known = facts[AGREEMENT.path][~np.isnan(facts[AGREEMENT.path])].astype(np.float64)
        mean, worst = (float(known.mean()), float(known.min())) if len(known) else (float("nan"), float("nan"))
        said = (
            f"Spearman's rank correlation of maps under {self.dtype} autocast with those without, "
            f"every {self.every}th image"
        )
        more = (
            Measurement("agreement", mean, "1", "higher", len(known), AGREEMENT.path, f"{said}: mean."),
            Measurement("worst_agreement", worst, "1", "higher", len(known), AGREEMENT.path, f"{said}: lowest."),
        )
        idle = (self._idle(len(known)),) if len(known) and worst == 1 else ()
        told: dict[str, Any] = {**notes, "autocast": self.dtype, "rendering": self._rendering(notes)}
        if len(known):
            told["agreement"] = {"mean": mean, "worst": worst, "n": len(known), "meaning": f"{said}."}
        return told, (*measurements, *more), (*findings, *idle)

    def _rendering(self, notes: Mapping[str, Any]) -> Any:
        if "rendering" in notes:
            return notes["rendering"]
        kinds = {LayerMethod: "layer", PixelMethod: "pixels"}
        return {"kind": next((kind for base, kind in kinds.items() if isinstance(self.core, base)), "none")}

    def _idle(self, compared: int) -> Finding:
        return Finding(
            "attributions/autocast-idle",
            "info",
            f"{self.dtype} autocast changed the order of no position in {compared} compared maps",
            "Autocast leaves networks in double precision as they are, and those without convolutions or matrix "
            "products; leave it out.",
        )
