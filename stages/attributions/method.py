"""What an attribution method is: a frozen dataclass that turns a batch into heatmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from ..contract import Ask, Gradient, ReluRule, Subject, Target
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, Measurement, SizedArray
from .placement import place_facts, place_notes
from .targets import resolve_targets

if TYPE_CHECKING:
    from torch import Tensor

    from ..network.batch import Batch

#: What a method may hand on beside its heatmaps, folded over batches: ``"sum:..."`` adds up, the rest stays as first.
Facts = Mapping[str, np.ndarray]

#: Notes, numbers and findings.
Told = tuple[Mapping[str, Any], tuple[Measurement, ...], tuple[Finding, ...]]

SCALE = ArraySpec(
    "scale", ("image", "target"), "float32", "1", "What to multiply the heatmap with; 0 where it is zero throughout."
)


@dataclass(frozen=True)
class Method(ABC):
    """A way to say which parts of an image a logit rests on; the fields of a subclass are its Hydra config.

    Parameters
    ----------
    target
        ``"predicted"``, ``"label"``, ``"contrast"`` (predicted minus label), ``"top:k"``, ``"all"`` (up to 100
        classes), a class position or a class name.
    images
        ``"all"``, or ``"wrong"`` for those alone whose prediction is not their label.
    """

    target: str | int = "predicted"
    images: Literal["all", "wrong"] = "all"

    #: Whether a heatmap tells evidence for from evidence against.
    signed: ClassVar[bool]
    #: Whether a heatmap adds up to the logit that it explains.
    conserves: ClassVar[bool] = False
    #: Unit of a heatmap's values.
    unit: ClassVar[str]
    #: What a heatmap's values are, as one sentence.
    meaning: ClassVar[str]
    #: Stored array paths end with this; a map at a layer's resolution has the layer's name before it.
    ending: ClassVar[str] = "heatmap"
    #: Every array it can write; `writes` returns these, sized.
    documents: ClassVar[tuple[ArraySpec, ...]]
    #: Small arrays of its own that `told` is shown, whole, among the facts.
    recalls: ClassVar[tuple[str, ...]] = ()

    def targets(self, subject: Subject) -> tuple[Target, ...]:
        """What its heatmaps explain, in the order of their ``target`` axis."""
        return resolve_targets(self.target, subject)

    @abstractmethod
    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Every array it will write, one row per image."""

    @abstractmethod
    def asks(self, subject: Subject) -> Ask:
        """What it wants from each forward pass."""

    @abstractmethod
    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """Heatmaps ``(image, *space)`` by array path, for one target, before they are stored.

        What other methods and `faithfulness` build on; NaN for an image without such a target.
        """

    @abstractmethod
    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Rows of its arrays for the images of one batch, in their order."""

    def work(self, batch: Batch, subject: Subject) -> tuple[Mapping[str, np.ndarray], Facts]:
        """Rows of its arrays, and what else the batch tells; for a method whose facts come from another pass."""
        return self.attribute(batch, subject), self.facts(batch, subject)

    def passes(self, subject: Subject) -> int:
        """How often, about, the network is run for one map of one image."""
        del subject
        return 1

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """What else a batch tells, after `attribute`: calls caught, a layer's geometry."""
        del batch, subject
        return {}

    def told(
        self, facts: Facts, subject: Subject
    ) -> tuple[Mapping[str, Any], tuple[Measurement, ...], tuple[Finding, ...]]:
        """Notes, numbers and findings that follow from the folded facts.

        The leaf puts its own name before the path of a measurement, and before a name without the stage's.
        """
        del facts, subject
        return {}, (), ()


@dataclass(frozen=True)
class PixelMethod(Method):
    """A method whose maps have the resolution of the input."""

    @classmethod
    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Describe the arrays of a subclass in its own words."""
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "unit") and hasattr(cls, "meaning"):
            meaning = f"{cls.meaning} Times scale; largest magnitude: 1."
            heatmap = ArraySpec("heatmap", ("image", "target", "*space"), "float16", cls.unit, meaning)
            cls.documents = (heatmap, SCALE)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One map at input resolution and one scale per image and target."""
        heatmap, scale = self.documents[:2]
        shape = (subject.n_image, len(self.targets(subject)))
        return heatmap.sized((*shape, *subject.input_shape[1:]), subject.axes), scale.sized(shape)

    @abstractmethod
    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """One map ``(image, *space)`` for each image of the batch."""

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """The one map there is."""
        return {"heatmap": self.heatmap(batch, subject, target)}

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Store shapes in half precision and sizes beside them."""
        found = [as_array(self.heatmap(batch, subject, target)) for target in self.targets(subject)]
        heatmap, scale = scaled(np.stack(found, axis=1))
        return {"heatmap": heatmap, "scale": scale}


@dataclass(frozen=True)
class LayerMethod(Method):
    """A method whose maps have the resolution of a layer.

    Parameters
    ----------
    target, images
        As everywhere.
    layers
        Layer selectors; each layer needs spatial axes.
    """

    layers: tuple[str, ...] = ("last_map",)

    @classmethod
    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Describe the array of a subclass in its own words."""
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "unit") and hasattr(cls, "meaning"):
            meaning = f"{cls.meaning} At layer resolution."
            cls.documents = (ArraySpec("{layer}/heatmap", ("image", "target", "*space"), "float32", cls.unit, meaning),)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError(f"{type(self).__name__}.layers: expected at least one layer selector, got none")

    def chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        """The layers its selectors name.

        Raises
        ------
        ConfigError
            When one of them has no spatial axes, or not those of the data.
        """
        chosen = select_layers(self.layers, subject.layers)
        for layer in chosen:
            if len(layer.shape) - 1 != len(subject.axes):
                raise ConfigError(
                    f"{type(self).__name__}.layers: {layer.name} has {len(layer.shape) - 1} spatial axes, the data "
                    f"have {len(subject.axes)}; name a convolution"
                )
        return chosen

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One map per layer, at the resolution of the layer."""
        shape = (subject.n_image, len(self.targets(subject)))
        return tuple(
            self.documents[0].sized((*shape, *layer.shape[1:]), subject.axes, layer=layer.name)
            for layer in self.chosen(subject)
        )

    @abstractmethod
    def layer_map(self, batch: Batch, subject: Subject, target: Target, layer: str) -> Tensor:
        """One map ``(image, *space)`` of a layer for each image of the batch."""

    def maps(self, batch: Batch, subject: Subject, target: Target) -> Mapping[str, Tensor]:
        """One map per layer."""
        return {
            f"{layer.name}/heatmap": self.layer_map(batch, subject, target, layer.name)
            for layer in self.chosen(subject)
        }

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """Where the cells of its layers lie in the image."""
        return place_facts(batch.model, [layer.name for layer in self.chosen(subject)], tuple(subject.input_shape))

    def told(self, facts: Facts, subject: Subject) -> Told:
        """Where the cells of its layers lie, or why nobody can say."""
        places = place_notes(facts, [layer.name for layer in self.chosen(subject)])
        return {"rendering": {"kind": "layer", **places}}, (), ()

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Store the maps as they are."""
        found = [self.maps(batch, subject, target) for target in self.targets(subject)]
        return {path: np.stack([as_array(maps[path]) for maps in found], axis=1) for path in found[0]}


def gradients(targets: tuple[Target, ...], *wrt: str, rule: ReluRule = "plain") -> Ask:
    """Ask for the derivative of each target by each of some places."""
    return Ask(gradients=tuple(Gradient(target, name, rule) for target in targets for name in wrt))


def as_array(heatmap: Tensor) -> np.ndarray:
    """Bring a map home as float32."""
    return heatmap.detach().float().cpu().numpy()


def scaled(heatmap: Float[np.ndarray, "image target ..."]) -> tuple[np.ndarray, np.ndarray]:
    """Split heatmaps into half-precision shapes with largest magnitude 1, and what to multiply them with.

    Half precision alone would lose gradients below 6e-8, which are common in deep networks.

    Parameters
    ----------
    heatmap
        One map per image and target.

    Returns
    -------
    tuple
        float16 between -1 and 1 of the same shape, and float32 scales ``(image, target)``; both NaN for a map that is
        not finite throughout.
    """
    flat = heatmap.reshape(*heatmap.shape[:2], -1).astype(np.float64)
    scale = np.abs(flat).max(axis=2)
    finite = np.isfinite(scale)
    divisor = np.where(finite & (scale > 0), scale, 1.0)
    shape = np.where(finite[..., None], flat / divisor[..., None], np.nan)
    return shape.reshape(heatmap.shape).astype(np.float16), np.where(finite, scale, np.nan).astype(np.float32)
