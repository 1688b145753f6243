"""What is said of a method beside each of its heatmaps; imports no torch, so that reports can use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_RANDOMISATION = {
    "passes": "passes parameter randomisation",
    "fails": "FAILS parameter randomisation: it shows much the same with random weights",
    "inconclusive": "parameter randomisation inconclusive",
    "not measured": "parameter randomisation not measured",
}


def one_line(notes: Mapping[str, Any], path: str | None = None) -> str:
    """Say in one line whether a heatmap is to be believed.

    Parameters
    ----------
    notes
        Those of the leaf ``faithfulness/<method>``; empty where it was not run.
    path
        Array path of the heatmap inside its leaf of `attributions`; None, or one that was not judged: the method's
        first.

    Returns
    -------
    str
        Without a full stop.
    """
    judged = notes.get("maps", {})
    if not judged:
        return "not tested for faithfulness"
    row = judged.get(path) or next(iter(judged.values()))
    parts = [_randomisation(row)]
    for way, better in (("deletion", "lower"), ("insertion", "higher")):
        value = row.get(way)
        if value is not None and not math.isnan(value):
            parts.append(f"{way} {value:.2f} (chance {row[f'chance_{way}']:.2f}, {better} is better)")
    for key, text in (("pointing", "points into the region in {:.0%}"), ("overlap", "overlap with the region {:.2f}")):
        if row.get(key) is not None:
            parts.append(text.format(row[key]))
    return "; ".join(parts)


def _randomisation(row: Mapping[str, Any]) -> str:
    similarity = row.get("similarity")
    said = _RANDOMISATION[row.get("randomisation", "not measured")]
    if similarity is None:
        return said
    ssim = row.get("ssim")
    return f"{said} (rank correlation {similarity:.2f}" + ("" if ssim is None else f", SSIM {ssim:.2f}") + ")"
