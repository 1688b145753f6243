"""From the units of single tasks to the arrays of all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contract import Partial
from ..errors import StageError
from ..receptive_fields.boxes import STATUS
from ..specs import SizedArray, Summary
from .judgements import Shown, findings, measurements, notes
from .plan import Plan
from .stimuli import first_convolution

_PICTURES = ("field", "span", "size", "projection", "peak")


class Gathered:
    """The stage's arrays while they are filled.

    Parameters
    ----------
    plan
        What is shown.
    sizes
        Every array.
    rules
        How projections were made.
    """

    def __init__(self, plan: Plan, sizes: Sequence[SizedArray], rules: Sequence[str]) -> None:
        self.plan, self.rules = plan, rules
        self.arrays = {array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in sizes}
        self.crop = "crop" if len(plan.subject.axes) == 2 else "signal"
        self.stem = first_convolution(plan.subject).name
        self.outside = [
            np.full((len(channels), plan.wanted.rank, len(rules)), np.nan) for channels in self.plan.channels
        ]
        self.finite = [np.ones(outside.shape, bool) for outside in self.outside]
        self.n = 0

    def add(self, part: Partial) -> None:
        """Put the units of one task into their places."""
        layers, slots, ranks = part["row"].T
        for at in np.unique(layers):
            own = layers == at
            name, index = self.plan.tops[at].layer.name, (slots[own], ranks[own])
            for key in _PICTURES:
                if f"{name}/{key}" in self.arrays:
                    self.arrays[f"{name}/{key}"][index] = part[key][own]
            self.arrays[f"{name}/{self.crop}"][index] = part["crop"][own]
            self.outside[at][index] = part["outside"][own]
            self.finite[at][index] = part["finite"][own]
        self.arrays[f"{self.stem}/cosine"][tuple(part["stem"].T)] = part["cosine"]
        self.n += len(layers)

    def summary(self) -> Summary:
        """The arrays, with what is known of all channels, and what they say.

        Raises
        ------
        StageError
            When units are missing.
        """
        if self.n != len(self.plan.units):
            raise StageError(
                f"patches: {len(self.plan.units) - self.n} of {len(self.plan.units)} units are missing: an image that "
                "the first sweep could read could not be read again"
            )
        known = self.plan.known()
        for name, tops in known.items():
            if f"{name}/class" in self.arrays:
                favourite, share, n, chance = tops.selectivity
                self.arrays |= {
                    f"{name}/class": favourite.astype(np.int32),
                    f"{name}/class_share": share,
                    f"{name}/class_n": n.astype(np.int64),
                    f"{name}/chance": chance,
                }
        layers = [self._shown(at) for at in range(len(self.plan.tops))]
        best = self.arrays[f"{self.stem}/cosine"][:, 0]
        total = self.plan.wanted.total
        left_out = sum(int(tops.shows.any(1).sum()) for tops in self.plan.tops) - sum(map(len, self.plan.channels))
        has_relu = any(layer.kind == "relu" for layer in self.plan.subject.layers)
        asked = () if has_relu else ("deconvnet", "guided")
        return Summary(
            self.arrays,
            measurements(layers, best, self.stem),
            findings(layers, self.rules or asked, has_relu, total),
            notes(layers, self.rules, self._no_cosine(best), left_out, total),
        )

    def _shown(self, at: int) -> Shown:
        tops, channels = self.plan.tops[at], self.plan.channels[at]
        name = tops.layer.name
        fields: tuple[str, ...] = ()
        if channels:
            self.arrays[f"{name}/channel"][: len(channels)] = channels
            field = self.arrays[f"{name}/field"][: len(channels)]
            fields = tuple(STATUS[code] for code in field.max(axis=1, initial=0))
        missed = [channel for channel in self.plan.asked.get(name, ()) if channel not in channels]
        return Shown(tops, channels, tuple(missed), self.outside[at], self.finite[at], fields)

    def _no_cosine(self, best: np.ndarray) -> str:
        if np.isfinite(best).any():
            return ""
        if not self.plan.stem:
            return f"not measured: what excites {self.stem} is not stored, or nothing does"
        return f"not measured: {self.stem} is no plain convolution, or its filters or patches are zero"
