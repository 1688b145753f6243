"""Which channels do no work, how surely, why, and what it would change to do without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...stages.filters.causes import in_words
from ..album import Album
from ..figures import number
from ..material import Material

TITLE = "Filters"
QUESTION = "Which channels do no work of their own, and why?"
#: Kinds of trouble as the table has them, the gravest first.
_GRAVEST = ("dead", "saturated", "constant", "duplicate", "near_zero", "rare", "dormant")
_NUMBERS = ("norm", "bias", "gamma", "beta", "outgoing", "twin", "cosine")
_COLUMNS = ("layer", "channel", "trouble", "rate", "bound", "score", "cause", "alive_behind", "repeated", *_NUMBERS)


@dataclass(frozen=True)
class LayerTroubles:
    """How many channels of one layer are in which trouble."""

    layer: str
    channels: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """A cell as text, and the number it is sorted by; NaN for unknown."""

    text: str
    value: float


@dataclass(frozen=True)
class Filter:
    """A channel in trouble.

    Parameters
    ----------
    layer, channel, trouble
        Which, and what is wrong with it.
    rate, bound, score
        Share of images on which it fires, upper end of that share's interval, and its part of the layer's mean
        magnitude; NaN where it stands for no ReLU.
    fired, at_most
        Rate and bound in words.
    cause
        Why, in words.
    behind
        Whether it is alive behind the sum that it flows into; empty where there is none, or nobody knows.
    without
        What it changes to switch it off.
    gamma, beta, norm, outgoing
        Scale and shift of its norm, norms of the weights in front and behind; NaN for none or unknown.
    """

    layer: str
    channel: int
    trouble: str
    rate: float
    bound: float
    score: float
    fired: str
    at_most: str
    cause: str
    behind: str
    without: Cell
    gamma: float
    beta: float
    norm: float
    outgoing: float


@dataclass(frozen=True)
class FiltersView:
    """Troubles by layer, and the channels that have one, the gravest first.

    Parameters
    ----------
    troubles, definitions
        What can be wrong, and what that means.
    layers, well
        Layers with troubles, and how many have none.
    filters, hidden
        The table, and how many rows there was no room for.
    n
        Channels that were looked at.
    doubt, grave
        What has to be settled before any of this is looked at.
    images
        How many images the rates rest on; None where that is not noted.
    has_behind, has_norm
        Whether a channel flows into a sum, and whether one has a norm.
    """

    troubles: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]
    layers: tuple[LayerTroubles, ...]
    well: int
    filters: tuple[Filter, ...]
    hidden: int
    n: int
    doubt: str
    grave: bool
    images: int | None
    has_behind: bool
    has_norm: bool


def view(material: Material, album: Album) -> FiltersView:
    """Gather what the section shows; it has no pictures."""
    del album
    notes = material.notes("filters")
    table = _Table(notes, {name: material.array(f"filters/{name}") for name in _COLUMNS}, _switched(material))
    layer, trouble = table.columns["layer"].astype(int), table.shown()
    ill = np.flatnonzero(trouble > 0)
    gravity = np.array([_GRAVEST.index(word) if word in _GRAVEST else -1 for word in table.troubles])
    ill = ill[np.lexsort((table.columns["channel"][ill], layer[ill], gravity[trouble[ill]]))]
    rows = ill[: material.limits.rows]
    layers = [_layer(table.names[at], trouble[layer == at], len(table.troubles)) for at in np.unique(layer[layer >= 0])]
    troubled = tuple(row for row in layers if any(row.counts))
    doubt, filters = notes.get("doubt", {}), tuple(table.row(int(row)) for row in rows)
    return FiltersView(
        troubles=tuple(word.replace("_", " ") for word in table.troubles[1:]),
        definitions=tuple((word.replace("_", " "), str(text)) for word, text in notes.get("definitions", {}).items()),
        layers=troubled,
        well=len(layers) - len(troubled),
        filters=filters,
        hidden=len(ill) - len(rows),
        n=len(layer),
        doubt=str(doubt.get("text", "")),
        grave=bool(doubt.get("grave")),
        images=notes.get("n"),
        has_behind=any(row.behind for row in filters),
        has_norm=any(not math.isnan(row.gamma) for row in filters),
    )


def _layer(name: str, trouble: np.ndarray, kinds: int) -> LayerTroubles:
    counts = np.bincount(trouble[trouble >= 0], minlength=kinds)
    return LayerTroubles(name, len(trouble), tuple(int(count) for count in counts[1:]))


def _switched(material: Material) -> Mapping[tuple[str, int], Cell] | None:
    """What was measured by switching single channels off; None where nobody did."""
    if not material.has("ablation"):
        return None
    cases = [case for case in material.notes("ablation").get("cases", ()) if not case["joint"]]
    return {(case["layer"], case["channels"][0]): _change(case) for case in cases}


def _change(case: Mapping[str, Any]) -> Cell:
    answers = f"{number(case['flipped'])} of {number(case['n'])} answers"
    if case["change"] is None:
        return Cell(f"{answers}, accuracy unknown", math.nan)
    points = 100 * case["change"]
    return Cell(f"{points:+.2f} points, {answers}" if case["flipped"] else "nothing", points)


class _Table:
    """The columns of the audit and what their codes mean."""

    def __init__(
        self,
        notes: Mapping[str, Any],
        columns: Mapping[str, np.ndarray],
        switched: Mapping[tuple[str, int], Cell] | None,
    ) -> None:
        self.columns, self._switched = columns, switched
        self.names, self.troubles, self._causes, self._kinds, self._off_at = (
            [str(word) for word in notes.get(key, ())] for key in ("layers", "troubles", "causes", "kinds", "off_at")
        )
        self._added: Sequence[Sequence[Any] | None] = notes.get("added", ())
        self._summands = self._in_trouble()
        self._n: int | None = notes.get("n")

    def _in_trouble(self) -> dict[tuple[str, int], list[str]]:
        """For each channel behind a sum its summands that are in trouble, in the order of the forward pass."""
        found: dict[tuple[str, int], list[str]] = {}
        for at in np.flatnonzero(self.columns["trouble"] > 0):
            added, channel = self._added[int(self.columns["layer"][at])], int(self.columns["channel"][at])
            if added is not None:
                trouble = self.troubles[int(self.columns["trouble"][at])].replace("_", " ")
                told = f"{trouble} is {self.names[int(self.columns['layer'][at])]} {channel}"
                found.setdefault((str(added[0]), int(added[1]) + channel), []).append(told)
        return found

    def shown(self) -> np.ndarray:
        """Code of each channel's trouble, 0 where the ReLU made of it tells the same."""
        return np.where(self.columns["repeated"] == 1, 0, self.columns["trouble"].astype(int))

    def row(self, at: int) -> Filter:
        """One row of the table."""
        value = {name: float(self.columns[name][at]) for name in ("rate", "bound", "score", *_NUMBERS)}
        place, channel = int(self.columns["layer"][at]), int(self.columns["channel"][at])
        trouble, fires = self.troubles[int(self.columns["trouble"][at])], self._kinds[place] == "relu"
        rate, bound = (value[name] if fires else math.nan for name in ("rate", "bound"))
        return Filter(
            layer=self.names[place],
            channel=channel,
            trouble=trouble.replace("_", " "),
            rate=rate,
            bound=bound,
            score=value["score"],
            fired=self._fired(rate),
            at_most=self._at_most(rate, bound),
            cause=self._cause(place, channel, self._causes[int(self.columns["cause"][at])], value),
            behind=self._behind(place, int(self.columns["alive_behind"][at])),
            without=self._without(place, channel, trouble),
            gamma=value["gamma"],
            beta=value["beta"],
            norm=value["norm"],
            outgoing=value["outgoing"],
        )

    def _cause(self, place: int, channel: int, cause: str, value: Mapping[str, float]) -> str:
        summands = self._summands.get((self.names[place], channel), ()) if cause == "several" else ()
        return f"a sum, of which {', '.join(summands)}" if summands else in_words(cause, value)

    def _fired(self, rate: float) -> str:
        if math.isnan(rate) or not self._n:
            return "" if math.isnan(rate) else number(rate)
        return f"{number(round(rate * self._n))} of {number(self._n)}"

    def _at_most(self, rate: float, bound: float) -> str:
        if math.isnan(bound):
            return ""
        rule = f" (3/{self._n})" if self._n and rate == 0 else ""
        return f"< {100 * bound:.3g} %{rule}" if rate == 0 else f"{100 * bound:.3g} %"

    def _behind(self, place: int, alive: int) -> str:
        added, word = self._added[place], {1: "alive", 0: "silent"}.get(alive)
        return f"{word} at {added[0]}" if added is not None and word else ""

    def _without(self, place: int, channel: int, trouble: str) -> Cell:
        if trouble == "dead" and self._kinds[place] == "relu":
            return Cell("nothing: zero already, no run needed", 0.0)
        if self._switched is None:
            return Cell("not measured", math.nan)
        return self._switched.get((self._off_at[place], channel), Cell("not run", math.nan))
