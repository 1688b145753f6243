"""Pictures of a report: each embedded once, however often it is shown, and each section within its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from . import figures, rasters
from .material import Material

#: What showing one picture costs in markup besides its bytes: caption, alternative text, frame.
MARKUP_BYTES = 900
_SIGNAL_SIZE = (120, 60)


@dataclass(frozen=True)
class Symbol:
    """A picture that is embedded once and shown by name.

    Parameters
    ----------
    name
        Identifier in the page.
    width, height
        Size in user units.
    href
        Data address of a raster image; empty where there is none.
    paths
        Paths of a drawn signal, one per channel.
    smooth
        Whether it is blurred when enlarged (heatmaps) or keeps its pixels (images).
    """

    name: str
    width: int
    height: int
    href: str = ""
    paths: tuple[str, ...] = ()
    smooth: bool = False

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return len(self.href) + sum(map(len, self.paths)) + 160


@dataclass(frozen=True)
class Frame:
    """Symbols laid over each other."""

    symbols: tuple[str, ...]
    width: int
    height: int
    alt: str
    caption: str = ""

    @property
    def wide(self) -> bool:
        """Whether two of them are better shown one below the other."""
        return self.width >= 1.8 * self.height


@dataclass(frozen=True)
class Evidence:
    """One image with what the data and the model say about it.

    Parameters
    ----------
    image
        Its stable name.
    label, prediction
        Class names; empty where there is none.
    confidence
        Softmax of the prediction; None where there is none.
    right
        Whether prediction and label agree; None where one is missing.
    status
        "ok", or why the image could not be read.
    frames
        The image, then the image under each heatmap that was asked for; empty where no picture is stored.
    note
        What else is worth knowing here.
    """

    image: str
    label: str
    prediction: str
    confidence: float | None
    right: bool | None
    status: str
    frames: tuple[Frame, ...]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Evidence that fitted into the budget, and how much did not.

    Parameters
    ----------
    items
        What is shown.
    hidden
        How many more there are.
    budget_full
        Whether bytes, rather than the number of pictures, set the limit.
    option
        Setting that raises the number; empty where there is none.
    """

    items: tuple[Evidence, ...]
    hidden: int = 0
    budget_full: bool = False
    option: str = ""


class Album:
    """Collects pictures while the sections are put together.

    Parameters
    ----------
    material
        Where pictures come from.
    budgets
        Bytes each section may add.
    """

    def __init__(self, material: Material, budgets: Mapping[str, int]) -> None:
        self._material = material
        self._left = dict(budgets)
        self._symbols: dict[str, Symbol] = {}
        self._heat = _heatmap_sources(material)

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """Everything that is shown anywhere, by name."""
        return tuple(self._symbols[name] for name in sorted(self._symbols))

    def spend(self, section: str, size: int) -> bool:
        """Take `size` bytes from a section's budget; False, and nothing taken, where they are not left."""
        if size > self._left[section]:
            return False
        self._left[section] -= size
        return True

    def gallery(
        self,
        section: str,
        positions: Iterable[int],
        *,
        heat: int = 1,
        limit: int | None = None,
        notes: Mapping[int, str] | None = None,
    ) -> Gallery:
        """Gather images until their number or the section's budget is reached.

        Parameters
        ----------
        section
            Whose budget pays.
        positions
            Images, most telling first.
        heat
            How many heatmaps to show beside each image at most.
        limit
            Most pictures; the report's own limit where None.
        notes
            What to write under some of the images.
        """
        wanted = [int(position) for position in positions]
        option = "report.pictures" if limit is None else ""
        limit = self._material.limits.pictures if limit is None else limit
        items: list[Evidence] = []
        for position in wanted[:limit]:
            evidence = self._evidence(section, position, heat, (notes or {}).get(position, ""))
            if evidence is None:
                return Gallery(tuple(items), len(wanted) - len(items), budget_full=True)
            items.append(evidence)
        return Gallery(tuple(items), len(wanted) - len(items), option=option)

    def _evidence(self, section: str, position: int, heat: int, note: str) -> Evidence | None:
        stacks = self._stacks(position, heat)
        fresh = {symbol.name: symbol for stack, _ in stacks for symbol in stack if symbol.name not in self._symbols}
        if not self.spend(section, sum(symbol.size for symbol in fresh.values()) + MARKUP_BYTES):
            return None
        self._symbols.update(fresh)
        material = self._material
        label = int(material.labels[position])
        prediction = -1 if material.predicted is None else int(material.predicted[position])
        status = material.status_word(position)
        name = material.image_ids[position]
        alt = _describe(name, material.class_name(label) if label >= 0 else "", status)
        return Evidence(
            image=name,
            label=material.class_name(label) if label >= 0 else "",
            prediction=material.class_name(prediction) if prediction >= 0 else "",
            confidence=None if material.confidence is None or prediction < 0 else float(material.confidence[position]),
            right=prediction == label if prediction >= 0 and label >= 0 else None,
            status=status,
            frames=tuple(_frame(stack, alt, caption) for stack, caption in stacks),
            note=note,
        )

    def _stacks(self, position: int, heat: int) -> list[tuple[tuple[Symbol, ...], str]]:
        if self._material.status_word(position) != "ok":
            return []
        picture = self._picture(position)
        if picture is None:
            return []
        stacks: list[tuple[tuple[Symbol, ...], str]] = [((picture,), "")]
        for number, (path, caption) in enumerate(self._heat[:heat]):
            overlay = self._overlay(number, path, position, picture)
            if overlay is not None:
                stacks.append(((picture, overlay), caption))
        return stacks

    def _picture(self, position: int) -> Symbol | None:
        name = f"image-{position}"
        if name in self._symbols:
            return self._symbols[name]
        kind = picture_kind(self._material)
        if kind == "image":
            pixels = self._material.row("thumbnails/image", position)
            uri = rasters.data_uri(*rasters.encode_image(pixels))
            return Symbol(name, pixels.shape[2], pixels.shape[1], href=uri)
        if kind == "signal":
            signal = self._material.row("thumbnails/signal", position)
            return Symbol(name, *_SIGNAL_SIZE, paths=figures.traces(signal, *_SIGNAL_SIZE))
        return None

    def _overlay(self, number: int, path: str, position: int, picture: Symbol) -> Symbol | None:
        name = f"heat-{number}-{position}"
        if name in self._symbols:
            return self._symbols[name]
        heatmap = self._material.row(path, position)[0].astype(float)  # the first target is the one asked for
        if not np.isfinite(heatmap).all():
            return None
        uri = rasters.data_uri("image/png", rasters.encode_heatmap(heatmap))
        return Symbol(name, picture.width, picture.height, href=uri, smooth=True)


def picture_kind(material: Material) -> str:
    """What is stored to look at: ``"image"``, ``"signal"``, or nothing."""
    arrays = material.store.arrays("thumbnails") if material.has("thumbnails") else ()
    return next((kind for kind in ("image", "signal") if f"thumbnails/{kind}" in arrays), "")


def _heatmap_sources(material: Material) -> list[tuple[str, str]]:
    """Array and caption of every stored heatmap: Grad-CAM first, deepest layer first, then the other methods."""
    leaves = sorted(material.leaves("attributions"), key=lambda leaf: (leaf != "attributions/grad_cam", leaf))
    sources: list[tuple[str, str]] = []
    for leaf in leaves:
        method = leaf.partition("/")[2].replace("_", " ").replace("grad cam", "Grad-CAM")
        if material.has(leaf) and f"{leaf}/heatmap" in material.store.arrays(leaf):
            sources.append((f"{leaf}/heatmap", method))
        layers = reversed(material.layers_of(leaf, "heatmap"))
        sources += [(f"{leaf}/{layer}/heatmap", f"{method}, {layer}") for layer in layers]
    return sources


def _describe(name: str, label: str, status: str) -> str:
    return f"image {name}" + (f", labelled {label}" if label else "") + ("" if status == "ok" else f", {status}")


def _frame(stack: tuple[Symbol, ...], alt: str, caption: str) -> Frame:
    first = stack[0]
    text = f"{caption} heatmap over {alt}" if caption else alt
    return Frame(tuple(symbol.name for symbol in stack), first.width, first.height, text, caption)
