"""Pictures of a report: each embedded once, however often it is shown, and each section within its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..stages.errors import StageError
from ..stages.faithfulness.regions import otsu_mask
from . import figures, heatmaps, rasters
from .heatmaps import Heatmap, Source
from .material import Material
from .winners import Patch, patches

#: What showing one image, and each heatmap over it, costs in markup: caption, alternative text, frame.
MARKUP_BYTES, HEAT_BYTES = 900, 420
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
    patches
        Where which class wins.
    outline
        Path drawn over it, in cells of which there are `cells` down and across.
    """

    name: str
    width: int
    height: int
    href: str = ""
    paths: tuple[str, ...] = ()
    smooth: bool = False
    patches: tuple[Patch, ...] = ()
    outline: str = ""
    cells: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return (
            len(self.href)
            + len(self.outline)
            + sum(map(len, self.paths))
            + 240
            + sum(len(patch.d) + 160 for patch in self.patches)
        )


@dataclass(frozen=True)
class Frame:
    """Symbols laid over each other.

    Parameters
    ----------
    symbols
        Their names, the lowest first.
    width, height
        Size in user units.
    alt
        What it shows, for those who do not see it.
    caption
        Method and layer of the heatmap; empty for the bare image.
    target
        Class that the heatmap explains, where that is not the prediction or there are several.
    aligned
        Whether it is known where the heatmap lies.
    keys
        Letters in the picture, and the classes that they stand for.
    """

    symbols: tuple[str, ...]
    width: int
    height: int
    alt: str
    caption: str = ""
    target: str = ""
    aligned: bool = True
    keys: tuple[tuple[str, str], ...] = ()

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
        The image, then the image under each heatmap that was asked for and that it has; empty where no picture is
        stored.
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
        self.heatmaps = heatmaps.sources(material)
        #: Why stored heatmaps could not be drawn, by leaf.
        self.undrawn: dict[str, str] = {}

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """Everything that is shown anywhere, by name."""
        return tuple(self._symbols[name] for name in sorted(self._symbols))

    def spend(self, section: str, size: int) -> bool:
        """Take `size` bytes from a section's budget; False, and nothing taken, where they are not left."""
        if size > self._left.get(section, 0):
            return False
        self._left[section] -= size
        return True

    def allow(self, section: str, size: int) -> None:
        """Add `size` bytes to a section's budget; what earlier parts of it left over stays."""
        self._left[section] = self._left.get(section, 0) + size

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
            evidence = self.evidence(section, position, self.heatmaps[:heat], (notes or {}).get(position, ""))
            if evidence is None:
                return Gallery(tuple(items), len(wanted) - len(items), budget_full=True)
            items.append(evidence)
        return Gallery(tuple(items), len(wanted) - len(items), option=option)

    def evidence(self, section: str, position: int, sources: Sequence[Source], note: str = "") -> Evidence | None:
        """Gather one image and its heatmaps; None, and nothing taken, where the section's budget does not allow it.

        Parameters
        ----------
        section
            Whose budget pays.
        position
            The image.
        sources
            Heatmaps to show.
        note
            What to write under it.
        """
        stacks = self._stacks(position, sources)
        if not self._take(section, stacks, MARKUP_BYTES):
            return None
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
            frames=tuple(_frame(stack, alt) for stack in stacks),
            note=note,
        )

    def other_targets(
        self, section: str, position: int, sources: Sequence[Source], most: int
    ) -> tuple[tuple[Frame, ...], int]:
        """Gather an image's heatmaps for classes other than the one that is shown beside it, likeliest classes first.

        Parameters
        ----------
        section
            Whose budget pays.
        position
            The image, which `evidence` has shown.
        sources
            Heatmaps to show.
        most
            Classes at most.

        Returns
        -------
        tuple
            One frame for each heatmap that fitted into the budget, by class; and how many classes were left out.
        """
        picture = self._symbols.get(f"image-{position}")
        if picture is None:
            return (), 0
        wanted = heatmaps.further(self._material, sources, position)
        frames: list[Frame] = []
        for number, maps in enumerate(wanted.values()):
            found = [self._heat(source, position, picture, place) for source, place in maps]
            stacks = [stack for stack in found if stack is not None]
            if number == most or not self._take(section, stacks, 0):
                return tuple(frames), len(wanted) - number
            frames.extend(_frame(stack, f"image {self._material.image_ids[position]}") for stack in stacks)
        return tuple(frames), 0

    def _take(self, section: str, stacks: Sequence[_Stack], markup: int) -> bool:
        """Embed what is not yet there; False, and nothing taken, where the section's budget does not allow it."""
        fresh = {
            symbol.name: symbol for stack in stacks for symbol in stack.symbols if symbol.name not in self._symbols
        }
        if not self.spend(section, sum(symbol.size for symbol in fresh.values()) + markup + HEAT_BYTES * len(stacks)):
            return False
        self._symbols.update(fresh)
        return True

    def _stacks(self, position: int, sources: Sequence[Source]) -> list[_Stack]:
        if self._material.status_word(position) != "ok":
            return []
        picture = self._picture(position)
        if picture is None:
            return []
        heats = [self._heat(source, position, picture) for source in sources]
        return [_Stack((picture,)), *(heat for heat in heats if heat is not None)]

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

    def _heat(self, source: Source, position: int, picture: Symbol, place: int | None = None) -> _Stack | None:
        """An image under one heatmap: that at a place on the target axis, or the leading one."""
        try:
            if source.path == heatmaps.WINNER:
                return self._winners(source, position, picture)
            leading = heatmaps.leading(self._material, source, position)
            found = heatmaps.heatmap(self._material, source, position, leading if place is None else place)
        except StageError as error:  # one method that cannot be drawn must not cost the reader the report
            self.undrawn.setdefault(source.leaf, str(error))
            return None
        if found is None:
            return None
        name = self._name(source, position) + ("" if place is None else f"-{place}")
        overlay = self._symbols.get(name) or _overlay(name, source, found, picture)
        # Lines stay readable over colours, pictures do not.
        symbols = (overlay, picture) if picture.paths else (picture, overlay)
        predicted = -1 if self._material.predicted is None else int(self._material.predicted[position])
        target = "" if found.target == predicted and place is None else self._material.class_name(found.target)
        return _Stack(symbols, source.caption, target, not source.caveat)

    def _name(self, source: Source, position: int) -> str:
        return f"heat-{self.heatmaps.index(source)}-{position}"

    def _winners(self, source: Source, position: int, picture: Symbol) -> _Stack:
        grid = np.atleast_2d(heatmaps.winners(self._material, source, position))
        edges = heatmaps.window_edges(self._material, source, picture.width, picture.height)
        prediction = -1 if self._material.predicted is None else int(self._material.predicted[position])
        found = patches(grid, edges, prediction)
        overlay = Symbol(self._name(source, position), picture.width, picture.height, patches=found)
        names = {
            patch.letter: self._material.class_name(patch.wins) if patch.wins >= 0 else "others" for patch in found
        }
        return _Stack((picture, overlay), source.caption, keys=tuple(names.items()))


@dataclass(frozen=True)
class _Stack:
    symbols: tuple[Symbol, ...]
    caption: str = ""
    target: str = ""
    aligned: bool = True
    keys: tuple[tuple[str, str], ...] = ()


def _overlay(name: str, source: Source, found: Heatmap, picture: Symbol) -> Symbol:
    floor = float(found.values.min()) if source.kind == "masks" else 0.0
    uri = rasters.data_uri("image/webp", rasters.encode_heatmap(found.values, signed=source.signed, floor=floor))
    if found.values.ndim != 2 or source.kind == "pixels":  # around single pixels an outline would hide them
        return Symbol(name, picture.width, picture.height, href=uri, smooth=True)
    mask = otsu_mask(rasters.shrunk(found.values - floor))
    return Symbol(
        name, picture.width, picture.height, href=uri, smooth=True, outline=figures.outline(mask), cells=mask.shape
    )


def picture_kind(material: Material) -> str:
    """What is stored to look at: ``"image"``, ``"signal"``, or nothing."""
    arrays = material.store.arrays("thumbnails") if material.has("thumbnails") else ()
    return next((kind for kind in ("image", "signal") if f"thumbnails/{kind}" in arrays), "")


def _describe(name: str, label: str, status: str) -> str:
    return f"image {name}" + (f", labelled {label}" if label else "") + ("" if status == "ok" else f", {status}")


def _frame(stack: _Stack, alt: str) -> Frame:
    first = stack.symbols[0]
    what = f"{stack.caption} heatmap over {alt}" if stack.caption else alt
    text = f"{what}, for {stack.target}" if stack.target else what
    names = tuple(symbol.name for symbol in stack.symbols)
    return Frame(names, first.width, first.height, text, stack.caption, stack.target, stack.aligned, stack.keys)
