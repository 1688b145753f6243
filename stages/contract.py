"""What a stage is: what it reads and writes, what it asks of the network, and the tasks it splits into.

A stage is a frozen dataclass whose fields are its Hydra config. It consists of *leaves*: the smallest parts that are
fingerprinted, run, resumed and sealed by themselves (the whole stage, or one of its methods). The runner alone maps
tasks over workers, writes arrays and seals; a leaf only computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .errors import StageError
from .specs import ArraySpec, LayerSpec, SizedArray, Summary
from .targets import Gradient as Gradient
from .targets import ReluRule as ReluRule
from .targets import Target as Target
from .targets import Unit as Unit
from .targets import Units as Units

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .network.batch import Batch

#: What one task hands on to `Leaf.finish`: named arrays, so that it can be kept on disk without pickling.
Partial = Mapping[str, np.ndarray]

#: Called with a layer, its output ``(image, channel, *space)``, and which images count; see `Leaf.observe`.
Observe = Callable[["LayerSpec", "torch.Tensor", "torch.Tensor"], Any]


@dataclass(frozen=True)
class Identity:
    """The model as it is."""


@dataclass(frozen=True)
class Ablate:
    """The model with some channels of one layer set to zero."""

    layer: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Randomise:
    """The model with the parameters of some modules drawn anew by their own `reset_parameters`."""

    layers: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Perturb:
    """The model fed with its input plus Gaussian noise, drawn per image from (seed, image)."""

    noise: float
    seed: int


Variant = Identity | Ablate | Randomise | Perturb


@dataclass(frozen=True)
class Ask:
    """What a leaf wants from each forward pass; the sweep unites what all leaves ask.

    Parameters
    ----------
    observe
        Layers whose output `Leaf.observe` is shown while the forward runs; nothing is kept, so many are cheap.
    keep
        Layers whose output stays available as ``batch.activation(layer)``.
    gradients
        Derivatives available as ``batch.gradient(target, wrt, rule)``; their layers are kept too.
    logits
        Whether ``batch.logits``, and the classes that follow from them, are wanted. Where nobody wants them the forward
        pass ends at the last layer that is, and every layer has to be one of the subject's, or the input of one.

    Raises
    ------
    StageError
        When a class is to be derived without logits.
    """

    observe: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    logits: bool = True

    def __post_init__(self) -> None:
        derived = [gradient.target for gradient in self.gradients if not isinstance(gradient.target, (Unit, Units))]
        if derived and not self.logits:
            raise StageError(f"without logits units can be derived, got {derived[0]!r}; ask for the logits too")


@dataclass(frozen=True)
class Task:
    """One picklable piece of a leaf's work.

    Parameters
    ----------
    leaf
        Name of the leaf.
    images
        Positions of the images it looks at: a range (one shard), chosen positions, or None.
    variant
        The model it needs; read only where there are images.
    start
        First row, along the first axis of the leaf's arrays, of the rows it writes.
    argument
        Whatever else the leaf has to know.
    """

    leaf: str
    images: range | tuple[int, ...] | None = None
    variant: Variant = Identity()
    start: int = 0
    argument: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a task gives back: rows for its own region, a partial summary, or both.

    Rows of a task with images have one row per image of the batch, in its order.
    """

    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    partial: Partial | None = None


@dataclass(frozen=True)
class Subject:
    """What is audited, as far as planning has to know it.

    Parameters
    ----------
    image_id
        Stable name of each image.
    label
        Class position of each image; -1 where it has none. Shape ``(image,)``.
    content
        Hex digest of each image's bytes.
    split
        Split of each image; ``""`` where it has none.
    class_names
        Name of each class, in the order of the logits.
    axes
        Spatial axes of the data: ``("y", "x")`` or ``("time",)``.
    input_shape
        ``(channel, *space)`` of what the network sees.
    mean, std
        Normalisation per channel, in input units: network input = (value - mean) / std.
    layers
        Everything that can be looked at, in the order of the forward pass.
    shard, batch
        Images per shard and per forward pass.
    seed
        Root of every random number.
    slices
        Extra columns of the data by name, one text per image.
    """

    image_id: tuple[str, ...]
    label: np.ndarray
    content: tuple[str, ...]
    split: tuple[str, ...]
    class_names: tuple[str, ...]
    axes: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: tuple[LayerSpec, ...]
    shard: int
    batch: int
    seed: int
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def n_image(self) -> int:
        """Number of images."""
        return len(self.image_id)

    @property
    def n_class(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def layer(self, name: str) -> LayerSpec:
        """The layer of that exact name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise StageError(f"no layer is called {name!r}")

    def shards(self) -> list[range]:
        """The images in shard order."""
        return [range(a, min(a + self.shard, self.n_image)) for a in range(0, self.n_image, self.shard)]


class Stored(Protocol):
    """Read-only view of what other leaves have written."""

    def __getitem__(self, path: str) -> Any:
        """The array at ``<stage>/<path in its group>``; slicing it gives numpy."""

    def summary(self, leaf: str) -> Summary:
        """What `leaf` measured and found."""
        ...

    def failure(self, leaf: str) -> str | None:
        """Why `leaf` failed; None where it did not."""

    def leaves(self) -> tuple[str, ...]:
        """Every leaf that was run or tried."""
        ...


class Leaf(ABC):
    """The smallest part of a stage that is fingerprinted, run and sealed by itself.

    A leaf with images implements `asks` and `process`; one that looks at the network alone, `inspect`; one that needs
    neither, `tasks` and `compute`. Each may leave the rest as it is.
    """

    #: Whether the default tasks look at images (one task per shard).
    sweeps: ClassVar[bool] = False
    #: Whether its tasks look at the network, and at no images.
    inspects: ClassVar[bool] = False
    #: Every array it can write, for ``docs/store.md``; `writes` returns these, sized.
    documents: ClassVar[tuple[ArraySpec, ...]] = ()
    #: Paths of arrays whose rows also speak of bad images; in all others the sweep puts the fill value there.
    covers_invalid: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def name(self) -> str:
        """``<stage>`` or ``<stage>/<method>``."""

    @property
    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """Every setting that its bytes depend on."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the leaves whose arrays or summaries it needs; ``"stage/*"`` for all of a stage, ``"*"`` for all."""
        return ()

    @abstractmethod
    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Every array it will write, sized; rows along an ``image`` axis come from tasks, the rest from `finish`."""

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """Its work, in the order in which partial results are folded."""
        del stored
        if self.sweeps:
            return [Task(self.name, images, start=images.start) for images in subject.shards()]
        return [Task(self.name)]

    def asks(self, subject: Subject) -> Ask:
        """What it wants from each forward pass."""
        del subject
        return Ask()

    def observe(self, layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> Any:
        """Look at one layer's output ``(image, channel, *space)`` while the forward runs; must not keep it uncloned.

        What it returns is ``batch.observed(self.name, layer.name)``. `valid` marks the images that count.
        """
        raise StageError(f"{self.name}: asks to observe {layer.name} but has no observe()")

    def observer(self, subject: Subject, so_far: Partial | None) -> Observe:
        """Who looks at the layers of the next batch; `observe`, unless told otherwise.

        Parameters
        ----------
        subject
            What is audited.
        so_far
            What the batches of the task before this one have come to; None for the first. It may spare work, and must
            not change what the task comes to in the end.
        """
        del subject, so_far
        return self.observe

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Work on one batch of a task's images."""
        raise StageError(f"{self.name}: task {task} has images but the leaf has no process()")

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Fold two partial results of one task, in image order; adds unless told otherwise."""
        return {key: first[key] + second[key] for key in first}

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Work on a task without images."""
        raise StageError(f"{self.name}: task {task} has no images but the leaf has no compute()")

    def inspect(self, model: nn.Module, task: Task, subject: Subject, stored: Stored) -> Result:
        """Work on a task of a leaf that inspects.

        Parameters
        ----------
        model
            In evaluation mode, frozen, on its device; must not be written on.
        task, subject, stored
            As in `compute`.
        """
        raise StageError(f"{self.name}: inspects the network but has no inspect()")

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Fold the partial results, in task order, into arrays, numbers and findings.

        `stored` also shows the leaf's own arrays as far as its tasks have written them.
        """
        del partials, subject, stored
        return Summary()


class Stage(ABC):
    """A noun: a frozen dataclass whose fields are its Hydra config."""

    #: The noun.
    name: ClassVar[str]

    @abstractmethod
    def leaves(self) -> tuple[Leaf, ...]:
        """Its parts; a stage without methods is its own single leaf."""


class SoleLeaf(Stage, Leaf):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A stage that is one leaf; a subclass sets ``name`` to its noun."""

    @property
    def config(self) -> Mapping[str, Any]:
        """All its fields."""
        return settings(self)

    def leaves(self) -> tuple[Leaf, ...]:
        """Itself."""
        return (self,)


def settings(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass instance as plain values, with the class that gives them their meaning.

    Raises
    ------
    TypeError
        When `instance` is not a dataclass instance.
    """
    if not is_dataclass(instance) or isinstance(instance, type):
        raise TypeError(f"expected a dataclass instance, got {instance!r}")
    kind = f"{type(instance).__module__}.{type(instance).__qualname__}"
    return {"_target_": kind} | {f.name: _plain(getattr(instance, f.name)) for f in fields(instance)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return settings(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
