"""Where the evidence for a class lies in its images, by every method, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...stages.faithfulness.wording import one_line
from .. import findings, rasters
from ..album import Album, Evidence, Frame
from ..heatmaps import WINNER, Source
from ..material import Material

TITLE = "Attributions"
QUESTION = "Which places of an image speak for the class?"
#: Classes with a gallery, those of them that are not folded, and methods side by side.
MOST_CLASSES, _UNFOLDED, _MOST_COLUMNS = 40, 3, 12
#: Classes besides the prediction whose heatmaps an image is shown with.
_MOST_TARGETS = 12
#: Images that a finding must share a class of, to be about that class.
_SHARED = 2
_TARGETS = {
    "predicted": "the prediction",
    "label": "the label",
    "contrast": "the prediction, against the label",
}
_PLACES = {
    "pixels": "pixel by pixel",
    "layer": "by receptive fields",
    "windows": "where the windows lay",
    "masks": "where the masks lay",
}


@dataclass(frozen=True)
class Column:
    """One heatmap of every image, and what to know of it.

    Parameters
    ----------
    method, layer
        What it is.
    target
        What it explains.
    place, caveat
        How it is laid over the image, and why it may lie off it; `caveat` is empty where it does not.
    remark, verdict, fails
        What the stage faithfulness says of the method, the part of it that stands above each map, and whether that
        is bad; empty where it was not asked.
    """

    method: str
    layer: str
    target: str
    place: str
    caveat: str
    remark: str
    verdict: str
    fails: bool


@dataclass(frozen=True)
class Line:
    """One image of a class.

    Parameters
    ----------
    reason
        Why it was chosen.
    evidence
        What it is.
    frames
        A heatmap for each column; None where it has none.
    others
        Heatmaps for further classes, where a method explains several.
    left_out
        How many further classes are not shown.
    """

    reason: str
    evidence: Evidence
    frames: tuple[Frame | None, ...]
    others: tuple[Frame, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class ClassGallery:
    """Images of one class.

    Parameters
    ----------
    name
        The class.
    n, n_right
        How many images carry it as label, and how many of these are recognised; None where there are no labels.
    findings
        Titles of the findings that are about this class.
    lines
        Its images.
    unfolded
        Whether it is shown without a click.
    """

    name: str
    n: int
    n_right: int | None
    findings: tuple[str, ...]
    lines: tuple[Line, ...]
    unfolded: bool


@dataclass(frozen=True)
class Scale:
    """A colour scale as a picture, and what its ends mean."""

    picture: str
    low: str
    high: str


@dataclass(frozen=True)
class AttributionsView:
    """Heatmaps over the same images for every stored method.

    Parameters
    ----------
    columns
        What is drawn.
    scales
        The colour scales that are used.
    winners
        Whether one of the columns shows winning classes.
    several
        Whether more than one of the columns explains further classes.
    classes
        Galleries, classes with findings first.
    hidden
        How many classes are not shown.
    budget_full
        Whether bytes, rather than the number of classes, set the limit.
    left_out
        Stored heatmaps beyond the most that stand side by side.
    blank
        Leaves of which this page has no picture, with the reason.
    """

    columns: tuple[Column, ...]
    scales: tuple[Scale, ...]
    winners: bool
    several: bool
    classes: tuple[ClassGallery, ...]
    hidden: int
    budget_full: bool
    left_out: tuple[str, ...]
    blank: tuple[tuple[str, str], ...]


def view(material: Material, album: Album) -> AttributionsView:
    """Gather what the section shows: of each class the images of which the model is most and least sure."""
    sources = album.heatmaps[:_MOST_COLUMNS]
    order = _classes(material)
    classes: list[ClassGallery] = []
    for place, titles in order[:MOST_CLASSES]:
        gallery = _gallery(material, album, sources, place, titles, unfolded=len(classes) < _UNFOLDED)
        if gallery is None:
            break
        classes.append(gallery)
    classes = [_with_other_targets(material, album, sources, gallery) for gallery in classes]
    return AttributionsView(
        columns=tuple(_column(material, source) for source in sources),
        scales=_scales(sources) if classes else (),
        winners=any(source.path == WINNER for source in sources),
        several=sum(source.n_target > 1 for source in sources) > 1,
        classes=tuple(classes),
        hidden=len(order) - len(classes),
        budget_full=len(classes) < min(len(order), MOST_CLASSES),
        left_out=tuple(source.caption for source in album.heatmaps[_MOST_COLUMNS:]),
        blank=_unplaced(material, album),
    )


def _classes(material: Material) -> list[tuple[int, tuple[str, ...]]]:
    """Classes that have images, with the findings about them: those with findings first, then the worst recognised."""
    group, right = _grouped(material)
    if right is None:
        share = {int(place): 0.0 for place in np.unique(group[group >= 0])}
    else:
        share = {int(place): float(right[group == place].mean()) for place in np.unique(group[group >= 0])}
    about = _findings_by_class(material)
    grave = {place: rank for rank, place in enumerate(about)}
    order = sorted(share, key=lambda place: (grave.get(place, len(grave)), share[place], place))
    return [(place, tuple(about.get(place, ()))) for place in order]


def _grouped(material: Material) -> tuple[np.ndarray, np.ndarray | None]:
    """Class of each image, -1 where it takes no part, and whether it is recognised; None where nothing has a label."""
    if material.predicted is None or material.status is None:
        return np.full(len(material.image_ids), -1), None
    usable = (material.status == 0) & (material.predicted >= 0)
    if (material.labels < 0).all():
        return np.where(usable, material.predicted, -1), None
    return np.where(usable, material.labels, -1), material.predicted == material.labels


def _findings_by_class(material: Material) -> dict[int, list[str]]:
    """Titles of the graver findings all of whose images share a label or a prediction; the gravest class first."""
    about: dict[int, list[str]] = {}
    for _, finding in findings.gather(material):
        images = list(finding.images)
        if finding.severity == "info" or len(images) < _SHARED:
            continue
        for classes in (material.labels, material.predicted):
            common = [] if classes is None else np.unique(classes[images])
            if len(common) == 1 and common[0] >= 0:
                about.setdefault(int(common[0]), []).append(finding.title)
                break
    return about


def _gallery(
    material: Material,
    album: Album,
    sources: Sequence[Source],
    place: int,
    titles: tuple[str, ...],
    *,
    unfolded: bool,
) -> ClassGallery | None:
    """One class; None where the budget ends before its first image."""
    group, right = _grouped(material)
    lines = []
    for reason, position in _chosen(material, group, right, place)[: material.limits.pictures]:
        evidence = album.evidence("attributions", position, sources)
        if evidence is None:
            break
        by_caption = {frame.caption: frame for frame in evidence.frames}
        lines.append(Line(reason, evidence, tuple(by_caption.get(source.caption) for source in sources)))
    if not lines:
        return None
    inside = group == place
    n_right = None if right is None else int(right[inside].sum())
    return ClassGallery(material.class_name(place), int(inside.sum()), n_right, titles, tuple(lines), unfolded)


def _with_other_targets(
    material: Material, album: Album, sources: Sequence[Source], gallery: ClassGallery
) -> ClassGallery:
    """What the budget still allows, once every class has its heatmaps of the prediction."""
    if all(source.n_target == 1 for source in sources):
        return gallery
    lines = []
    for line in gallery.lines:
        position = material.image_ids.index(line.evidence.image)
        others, left_out = album.other_targets("attributions", position, sources, _MOST_TARGETS)
        lines.append(replace(line, others=others, left_out=left_out))
    return replace(gallery, lines=tuple(lines))


def _chosen(material: Material, group: np.ndarray, right: np.ndarray | None, place: int) -> list[tuple[str, int]]:
    """Images of a class of which the model is most and least sure, recognised ones first; none of them twice."""
    confidence = material.array("predictions/confidence")
    kinds = [("", group == place)]
    if right is not None:
        kinds = [("right, ", (group == place) & right), ("wrong, ", (group == place) & ~right)]
    chosen: dict[int, str] = {}
    for word, inside in kinds:
        positions = np.flatnonzero(inside)
        if len(positions):
            chosen.setdefault(int(positions[confidence[positions].argmax()]), f"{word}most confident")
            chosen.setdefault(int(positions[confidence[positions].argmin()]), f"{word}least confident")
    return [(reason, position) for position, reason in chosen.items()]


def _column(material: Material, source: Source) -> Column:
    if source.path == WINNER:
        return Column(source.method, "", "which class is predicted", _PLACES["windows"], "", "", "", fails=False)
    target = _TARGETS.get(source.target, source.target)
    if source.target.isdigit():
        target = material.class_name(int(source.target))
    if source.n_target > 1:
        target = f"{source.n_target} classes: here the prediction, below each image the others"
    remark = _remark(material, source)
    return Column(
        source.method,
        source.layer,
        target,
        _PLACES[source.kind],
        source.caveat,
        remark,
        remark.partition(";")[0],
        remark.startswith("FAILS"),
    )


def _remark(material: Material, source: Source) -> str:
    """What the stage faithfulness says of a method, in one line; empty where it was not asked."""
    leaf = source.leaf.replace("attributions/", "faithfulness/", 1)
    if not material.leaves("faithfulness"):
        return ""
    return one_line(material.notes(leaf), source.path)


def _scales(sources: Sequence[Source]) -> tuple[Scale, ...]:
    """The scales in use, drawn by the function that draws the heatmaps."""
    ramp = np.linspace(0, 1, 2 * rasters.HEAT_LEVELS + 1)
    scales = []
    sources = [source for source in sources if source.path != WINNER]
    if any(not source.signed for source in sources):
        picture = rasters.data_uri("image/webp", rasters.encode_heatmap(ramp))
        scales.append(Scale(picture, "nothing", "strongest"))
    if any(source.signed for source in sources):
        picture = rasters.data_uri("image/webp", rasters.encode_heatmap(2 * ramp - 1, signed=True))
        scales.append(Scale(picture, "against the class", "for it"))
    return tuple(scales)


def _unplaced(material: Material, album: Album) -> tuple[tuple[str, str], ...]:
    """Methods whose heatmaps this page has no picture of, and why."""
    drawn = {source.leaf for source in album.heatmaps}
    blank = [
        (leaf, "it noted no way to draw them")
        for leaf in material.leaves("attributions")
        if material.has(leaf) and leaf not in drawn
    ]
    return (*blank, *album.undrawn.items())
