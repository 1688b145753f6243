"""The audit of the weights: what the network is made of, and whether its filters look learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError, StageError
from ..specs import ArraySpec, LayerSpec, SizedArray, Summary
from .audit import NEAR_ZERO, Audit, LayerAudit, Limits, layer_audit
from .findings import findings
from .judgements import measurements, notes
from .smoothness import VERDICTS, Standard
from .table import convolutions, module_name

if TYPE_CHECKING:
    from torch import nn

    from .measuring import Extent

CHANNEL = ("channel",)
LAYERED = (
    ArraySpec("{layer}/norm", CHANNEL, "float64", "weight", "Euclidean norm of each filter."),
    ArraySpec("{layer}/near_zero", CHANNEL, "int8", "code", f"What is near zero, as a position in {list(NEAR_ZERO)}."),
    ArraySpec("{layer}/twin", CHANNEL, "int32", "1", "Most similar filter that reads the same channels; -1 for none."),
    ArraySpec("{layer}/cosine", CHANNEL, "float64", "1", "Cosine to that filter, -1 to 1; NaN for none."),
    ArraySpec("{layer}/moran", CHANNEL, "float64", "1", "Moran's I, averaged over the filter's planes; NaN for none."),
    ArraySpec("{layer}/planes", CHANNEL, "int32", "planes", "How many planes that average rests on."),
    ArraySpec("{layer}/p", CHANNEL, "float64", "1", "Share of simulated filters that are as smooth, or smoother."),
    ArraySpec("{layer}/q", CHANNEL, "float64", "1", "False discovery rate at which the filter is called smooth."),
    ArraySpec("{layer}/bias", CHANNEL, "float64", "1", "Bias of the convolution; 0 where it has none."),
    ArraySpec("{layer}/gamma", CHANNEL, "float64", "1", "Scale of the norm that follows; NaN where there is none."),
    ArraySpec("{layer}/beta", CHANNEL, "float64", "1", "Shift of the norm that follows; NaN where there is none."),
    ArraySpec("{layer}/centre", CHANNEL, "float64", "1", "Mean that this norm has stored; NaN where there is none."),
    ArraySpec(
        "{layer}/spread", CHANNEL, "float64", "1", "Standard deviation that it divides by; NaN where there is none."
    ),
    ArraySpec(
        "{layer}/outgoing", CHANNEL, "float64", "weight", "Norm of all weights that read the channel; NaN for unknown."
    ),
)
#: What stands in front of and behind each channel; measured on the network as a whole.
OF_CHANNEL = ("bias", "gamma", "beta", "centre", "spread", "outgoing")
FILTER = ArraySpec(
    "{layer}/filter",
    ("channel", "plane", "*space"),
    "float32",
    "weight",
    "Filters of the first convolution, in the first corner, beyond it NaN; means of neighbours where larger.",
)
SLICE = ArraySpec(
    "{layer}/slice",
    ("slice", "*space"),
    "float32",
    "weight",
    "Planes of a later convolution, largest norm first, laid out as filters are; NaN for kernels of one cell.",
)
SLICE_OF = ArraySpec("{layer}/slice_of", ("slice", "end"), "int32", "1", "Filter and plane of each slice; -1 for none.")
VERDICT = ArraySpec(
    "layers/verdict", ("layer",), "int8", "code", f"Of each convolution, as a position in {list(VERDICTS)}."
)
COUNTS = tuple(
    ArraySpec(f"layers/{name}", ("layer",), "int32", "1", meaning)
    for name, meaning in (
        ("near_zero", "Filters near zero in each convolution."),
        ("duplicates", "Filters that are the same as another; -1 where nobody can say."),
        ("spikes", "Singular values above those of independent weights; -1 where nobody can say."),
    )
)


@dataclass(frozen=True)
class Weights(SoleLeaf):
    """Audit of the weights of every convolution, and a table of all layers.

    Parameters
    ----------
    near_zero
        Share of the layer's largest up to which a filter's norm, or the scale of the norm behind it, is near zero.
    duplicate
        Magnitude of the cosine above which two filters are the same up to scale and sign.
    effect, level, power, discovery
        How sure a verdict on noise has to be; see `convaudit.stages.weights.smoothness.Standard`.
    simulations, shuffles
        How many filters are simulated for each p-value, and how often the weights are shuffled.
    slices, planes, filter_side, slice_side
        How much is stored to be looked at.
    """

    near_zero: float = 0.01
    duplicate: float = 0.98
    effect: float = 0.0625
    level: float = 0.01
    power: float = 0.9
    discovery: float = 0.05
    simulations: int = 4999
    shuffles: int = 3
    slices: int = 64
    planes: int = 16
    filter_side: int = 16
    slice_side: int = 7

    name: ClassVar[str] = "weights"
    inspects: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (*LAYERED, FILTER, SLICE, SLICE_OF, VERDICT, *COUNTS)

    def __post_init__(self) -> None:
        for key in ("near_zero", "duplicate", "effect", "level", "power", "discovery"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"weights.{key}: expected more than 0 and less than 1, got {getattr(self, key)}")
        for key in ("simulations", "shuffles", "slices", "planes", "filter_side", "slice_side"):
            if getattr(self, key) < 1:
                raise ConfigError(f"weights.{key}: expected 1 or more, got {getattr(self, key)}")

    @property
    def limits(self) -> Limits:
        """Where flags begin."""
        standard = Standard(self.effect, self.level, self.power, self.discovery)
        return Limits(self.near_zero, self.duplicate, standard, self.simulations, self.shuffles)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Per convolution its channels and some weights to look at; then one row per convolution."""
        sized = []
        layers = convolutions(subject.layers)
        if not layers:
            raise StageError("weights: the network has no convolution whose filters could be audited; leave it out")
        for layer in layers:
            sized += [spec.sized(layer.shape[:1], layer=layer.name) for spec in LAYERED]
            extent = self._extent(layer, subject)
            space = (extent.side,) * len(layer.shape[1:])
            if extent.is_first:
                sized.append(FILTER.sized((layer.shape[0], extent.planes, *space), subject.axes, layer=layer.name))
            else:
                sized.append(SLICE.sized((extent.slices, *space), subject.axes, layer=layer.name))
                sized.append(SLICE_OF.sized((extent.slices, 2), layer=layer.name))
        return (*sized, *(spec.sized((len(layers),)) for spec in (VERDICT, *COUNTS)))

    def _extent(self, layer: LayerSpec, subject: Subject) -> Extent:
        from .measuring import Extent

        is_first = layer == convolutions(subject.layers)[0]
        side = self.filter_side if is_first else self.slice_side
        # What is a square in 2-D may be as long a line in 1-D.
        reach = side * side if len(layer.shape) == 2 else side
        return Extent(is_first, self.slices, min(self.planes, subject.input_shape[0]), reach)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """The network as a whole, then each convolution."""
        del stored
        layers = convolutions(subject.layers)
        return [Task(self.name), *(Task(self.name, argument={"layer": layer.name}) for layer in layers)]

    def inspect(self, model: nn.Module, task: Task, subject: Subject, stored: Stored) -> Result:
        """Measure; nothing is judged yet."""
        del stored
        from .measuring import measure_layer, measure_network

        if "layer" not in task.argument:
            return Result(partial=measure_network(model, subject.layers, subject.input_shape))
        layer = subject.layer(task.argument["layer"])
        module, extent = model.get_submodule(module_name(layer.name)), self._extent(layer, subject)
        seen = measure_layer(module, layer.name, extent, self.near_zero, self.simulations, self.shuffles, subject.seed)
        return Result(partial=seen)

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Judge every convolution."""
        del stored
        whole, *each = partials
        layers = convolutions(subject.layers)
        joined = [
            {**seen, **{key: whole[f"{key}/{layer.name}"] for key in OF_CHANNEL}}
            for layer, seen in zip(layers, each, strict=True)
        ]
        audit = Audit(
            tuple(layer_audit(layer, seen, self.limits) for layer, seen in zip(layers, joined, strict=True)),
            self.limits,
        )
        text = json.loads(bytes(whole["text"]))
        arrays: dict[str, Any] = _columns(audit)
        for judged, seen in zip(audit.layers, joined, strict=True):
            arrays |= {f"{judged.layer.name}/{key}": value for key, value in _stored(judged, seen).items()}
        return Summary(arrays, measurements(audit), findings(audit, text["reason"]), notes(audit, text))


def _stored(judged: LayerAudit, seen: Partial) -> dict[str, np.ndarray]:
    same = {key: seen[key] for key in ("norm", "twin", "cosine", "moran", "planes", "p", *OF_CHANNEL)}
    shown = {key: seen[key] for key in ("filter", "slice", "slice_of") if key in seen}
    return same | shown | {"near_zero": judged.near_zero, "q": judged.smoothness.q}


def _columns(audit: Audit) -> dict[str, np.ndarray]:
    rows = audit.layers
    duplicates = [int(row.duplicate.sum()) if row.judges_twins else -1 for row in rows]
    return {
        "layers/verdict": np.array([VERDICTS.index(row.smoothness.verdict) for row in rows], np.int8),
        "layers/near_zero": np.array([int((row.near_zero > 0).sum()) for row in rows], np.int32),
        "layers/duplicates": np.array(duplicates, np.int32),
        "layers/spikes": np.array([row.spectrum.spikes for row in rows], np.int32),
    }
