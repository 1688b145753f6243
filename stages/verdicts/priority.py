"""In which order findings are read: what makes the others meaningless first, details of the network last."""

from __future__ import annotations

#: Codes, or beginnings of codes, from the first to be read to the last.
READING_ORDER = (
    "predictions/logit-not-finite",
    "ablation/contradiction",
    "reference/",
    "confusion/at-chance",
    "predictions/input-",
    "confusion/class-order",
    "predictions/bad-image",
    "predictions/",
    "gaze/shortcut",
    "suspects/moved-classes",
    "suspects/labels",
    "neighbors/conflicting-duplicates",
    "neighbors/leaking-duplicates",
    "neighbors/duplicates",
    "confusion/",
    "suspects/",
    "mixing/",
    "neighbors/",
    "faithfulness/",
    "filters/",
    "ablation/",
)

#: Findings after which no number of the run can be believed, whatever the gates say.
UNTRUSTWORTHY = frozenset({"predictions/logit-not-finite", "ablation/contradiction"})


def rank(code: str) -> int:
    """Place of a finding among findings of equal severity; the first beginning in `READING_ORDER` that fits decides.

    Parameters
    ----------
    code
        ``<stage>/<kebab-case>``. One that nothing fits comes last.
    """
    places = (place for place, start in enumerate(READING_ORDER) if code.startswith(start))
    return next(places, len(READING_ORDER))
