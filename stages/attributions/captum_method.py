"""Any attribution class of Captum, run and stored like our own methods.

Captum writes on what it explains; here it gets a private copy of the network. It is wrong, without a word, in a few
cases, and so is what comes out here: `GuidedBackprop`, `Deconvolution`, `GuidedGradCam` and `DeepLift` do not see a
ReLU that is called as a function, or a ReLU6 (told as a finding); the first three also take the whole gradient of a
ReLU's input where that has a second consumer. `guided_backprop` and `deconvnet` of convaudit are right in both.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..contract import Ask, Subject, Target, settings
from ..errors import ConfigError, StageError
from ..numerics.seeds import stable_seed
from ..selectors import select_layers
from ..specs import Finding
from .captum_classes import BY_MODULE, check_call, explains_unit, find_class, kind_of, named, needs_layer, plain, takes
from .method import Facts, LayerMethod, PixelMethod, Told
from .saliency import Reduction, reduced

if TYPE_CHECKING:
    from ..network.batch import Batch

#: Classes that were seen to draw random numbers in this process: those go image by image from the start.
_DRAWING: set[str] = set()


@dataclass(frozen=True)
class CaptumCall:
    """Which class of Captum is called, and how.

    Parameters
    ----------
    attribution
        Name of the class, ``captum.attr.`` before it or not; or a node with its own ``_target_``.
    arguments
        What its constructor is given besides network and layer; for a class that wraps another one,
        ``attribution_method`` names that.
    call
        What its ``attribute`` is given besides images and target; lists become tuples.
    cells
        Cells per spatial axis that are changed together, for classes that take a ``feature_mask``; None for single
        values.
    reduction
        How channels become one value per position, as in saliency.
    """

    attribution: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    cells: int | None = None
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        name, arguments = named(self.attribution, self.arguments)
        object.__setattr__(self, "attribution", name)
        object.__setattr__(self, "arguments", arguments)
        found = find_class(name)
        if "attribution_method" in arguments:
            inner, _ = named(arguments["attribution_method"], {})
            arguments["attribution_method"] = inner
            if needs_layer(find_class(inner)):
                raise ConfigError(f"captum.arguments.attribution_method: {inner} is made for a layer; wrap another one")
        given = {"feature_mask"} if self.cells is not None else set[str]()
        check_call(found, arguments, self.call, frozenset(given))
        if self.cells is not None and (self.cells < 1 or not takes(found, "feature_mask")):
            raise ConfigError(
                f"captum.cells: expected null, or a count for a class with a feature_mask; got {self.cells}"
            )

    def __hash__(self) -> int:
        return hash(json.dumps(settings(self), sort_keys=True))

    def explained(self, batch: Batch, subject: Subject, target: Target, layer: str | None) -> Tensor:
        """One map ``(image, *space)``, NaN for an image that is bad or has no such target."""
        classes = batch.target_class(target)
        finite = torch.isfinite(batch.logits).all(dim=1).cpu().numpy()
        rows = np.flatnonzero((classes >= 0) & batch.valid & finite)
        shape = subject.input_shape if layer is None or kind_of(find_class(self.attribution)) == "input" else None
        space = shape[1:] if shape else subject.layer(str(layer)).shape[1:]
        whole = batch.images.new_full((len(batch), *space), torch.nan)
        if not len(rows):
            return whole
        index = torch.from_numpy(rows).to(whole.device)
        chosen = torch.from_numpy(classes[rows]).to(whole.device)
        seeds = [stable_seed(subject.seed, batch.ids[row], f"captum {self.attribution}") for row in rows]
        with batch.twin() as model, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")
            run = self._runner(model, layer)
            found = _by_chance(self.attribution, run, batch.images[index], chosen, seeds)
        heatmap = reduced(found, self.reduction)
        if heatmap.shape[1:] != space:
            got, want = tuple(found.shape[1:]), ("channel", *space)
            raise StageError(f"{self.attribution}: expected maps {want}, got {got}; reduce its output to that")
        return whole.index_copy(0, index, heatmap.to(whole.dtype))

    def _runner(self, model: nn.Module, layer: str | None) -> Callable[[Tensor, Tensor], Tensor]:
        arguments = {key: plain(value) for key, value in self.arguments.items()}
        inner = arguments.pop("attribution_method", None)
        subject = find_class(inner)(model) if inner else model
        places = () if layer is None else (model.get_submodule(layer),)
        explainer: Any = find_class(self.attribution)(subject, *places, **arguments)

        def run(images: Tensor, classes: Tensor) -> Tensor:
            found: Any = explainer.attribute(images.clone(), **self._call(explainer, images, classes))
            if isinstance(found, tuple) and len(found) == 1:
                (found,) = found
            if not isinstance(found, Tensor):
                raise StageError(f"{self.attribution}: expected one tensor, got {type(found).__name__}")
            return found.detach()

        return run

    def _call(self, explainer: Any, images: Tensor, classes: Tensor) -> dict[str, Any]:
        call = {key: plain(value) for key, value in self.call.items()}
        if self.attribution.endswith("Shap") and isinstance(call.get("baselines"), (int, float)):
            # These want a set of baselines; of one value there are as many as one likes, and DeepLiftShap wants two.
            call["baselines"] = torch.full_like(images[:1], call["baselines"]).repeat(2, *[1] * (images.ndim - 1))
        if self.cells is not None:
            call["feature_mask"] = grid(tuple(images.shape[2:]), self.cells).to(images.device)
        return call | ({"target": classes} if takes(explainer, "target") else {})

    def check(self, subject: Subject, targets: tuple[Target, ...], layers: tuple[str, ...]) -> None:
        """Refuse what Captum cannot do for this network.

        Raises
        ------
        ConfigError
            For a contrast of two classes, a layer that is not a module called once, and a reused ReLU under DeepLift.
        """
        if "contrast" in targets:
            raise ConfigError("captum.target: Captum explains one class at a time, not 'contrast'; use 'predicted'")
        for layer in layers:
            if "#" in layer or layer.endswith(".input") or "functional_relu" in layer:
                raise ConfigError(
                    f"captum: layer {layer!r} is no module that is called once, which Captum needs; name another"
                )
        reused = [layer.name for layer in subject.layers if layer.module == "ReLU" and "#" in layer.name]
        if reused and "DeepLift" in self.attribution:
            raise ConfigError(
                f"captum.attribution: {self.attribution} needs modules that are called once, and {reused[0]} is one "
                "call of several; use captum.attr.IntegratedGradients, or copies of the module"
            )

    def shown(self, subject: Subject) -> Told:
        """What was called, and which ReLUs the class does not see."""
        name = self.attribution.rpartition(".")[2]
        inner = str(self.arguments.get("attribution_method", "")).rpartition(".")[2]
        relus = [layer for layer in subject.layers if layer.kind == "relu"]
        unseen = [layer for layer in relus if layer.module != "ReLU"]
        notes = {"attribution": self.attribution, "captum": version("captum")}
        if not unseen or not any(rule in word for rule in BY_MODULE for word in (name, inner)):
            return notes, (), ()
        finding = Finding(
            "attributions/unseen-relu",
            "warning",
            f"Captum's {name} does not see {len(unseen)} of {len(relus)} ReLUs, which are no nn.ReLU",
            "Its rule sits on such modules; the others pass the plain gradient, so that the maps are not what their "
            "name says. Use convaudit's guided_backprop or deconvnet, which catch every spelling.",
            layer=unseen[0].name,
        )
        return notes, (), (finding,)


def grid(space: tuple[int, ...], cells: int) -> Tensor:
    """Number the cells of a grid over the input ``(1, 1, *space)``; no axis has more cells than positions."""
    mask = torch.zeros(space, dtype=torch.int64)
    for axis, length in enumerate(space):
        n = min(cells, length)
        along = torch.arange(length) * n // length
        mask = mask * n + along.view(-1, *[1] * (len(space) - axis - 1))
    return mask[None, None]


def _by_chance(
    name: str, run: Callable[[Tensor, Tensor], Tensor], images: Tensor, classes: Tensor, seeds: list[int]
) -> Tensor:
    """Run on all images at once; where random numbers were drawn, on each with its own instead."""
    if name not in _DRAWING:
        with _dice(seeds[0]) as rolled:
            found = run(images, classes)
            drawn = rolled()
        if not drawn:
            return found
        _DRAWING.add(name)
    parts = []
    for row, seed in enumerate(seeds):
        with _dice(seed):
            parts.append(run(images[row : row + 1], classes[row : row + 1]))
    return torch.cat(parts)


@contextmanager
def _dice(seed: int) -> Iterator[Callable[[], bool]]:
    """Seed every generator that Captum draws from, for a while; tells whether it has."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - Captum draws from this one
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            start = _state(devices)
            yield lambda: _state(devices) != start
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def _state(devices: list[int]) -> tuple[Any, ...]:
    torches = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    numpys: Any = np.random.get_state()  # noqa: NPY002
    return tuple(state.numpy().tobytes() for state in torches), random.getstate(), numpys[1].tobytes(), numpys[2:]


@dataclass(frozen=True)
class Captum(PixelMethod, CaptumCall):
    """An attribution class of Captum whose maps have the resolution of the input.

    Parameters
    ----------
    target, images
        As everywhere, but for ``"contrast"``, which Captum has no word for.
    attribution, arguments, call, cells, reduction
        See `CaptumCall`.
    layer
        Dotted name of a module, for the classes that are made for one.
    """

    layer: str | None = None

    unit: ClassVar[str] = "as Captum defines it"
    meaning: ClassVar[str] = "What the class of Captum gives, channels reduced to one value per position."

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    def __hash__(self) -> int:
        return CaptumCall.__hash__(self)

    def __post_init__(self) -> None:
        CaptumCall.__post_init__(self)
        found = find_class(self.attribution)
        if kind_of(found) == "layer":
            raise ConfigError(
                f"captum.attribution: {self.attribution} maps a layer; use _target_ "
                "convaudit.stages.attributions.captum_method.CaptumLayer with layers=[...]"
            )
        if needs_layer(found) != (self.layer is not None):
            wanted = "the name of a module" if needs_layer(found) else "null"
            raise ConfigError(f"captum.layer: expected {wanted} for {self.attribution}, got {self.layer!r}")

    def asks(self, subject: Subject) -> Ask:
        """Nothing: Captum runs the network itself."""
        layers = () if self.layer is None else select_layers([self.layer], subject.layers)
        self.check(subject, self.targets(subject), tuple(layer.name for layer in layers))
        return Ask()

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Call Captum."""
        return self.explained(batch, subject, target, self.layer)

    def told(self, facts: Facts, subject: Subject) -> Told:
        """What was called; for a class that explains a unit, that the target is not what is explained."""
        del facts
        notes, measurements, findings = self.shown(subject)
        unit = {"explains": "a unit"} if explains_unit(find_class(self.attribution)) else {}
        return {**notes, **unit}, measurements, findings


@dataclass(frozen=True)
class CaptumLayer(LayerMethod, CaptumCall):
    """An attribution class of Captum whose maps have the resolution of a layer.

    Parameters
    ----------
    target, images, layers
        As everywhere, but for ``"contrast"``; a layer has to be a module that is called once.
    attribution, arguments, call, cells, reduction
        See `CaptumCall`.
    """

    unit: ClassVar[str] = "as Captum defines it"
    meaning: ClassVar[str] = "What the class of Captum gives, channels reduced to one value per position."

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    def __hash__(self) -> int:
        return CaptumCall.__hash__(self)

    def __post_init__(self) -> None:
        CaptumCall.__post_init__(self)
        LayerMethod.__post_init__(self)
        if kind_of(find_class(self.attribution)) != "layer":
            raise ConfigError(
                f"captum.attribution: {self.attribution} maps the input; use _target_ "
                "convaudit.stages.attributions.captum_method.Captum"
            )

    def asks(self, subject: Subject) -> Ask:
        """Nothing: Captum runs the network itself."""
        self.check(subject, self.targets(subject), tuple(layer.name for layer in self.chosen(subject)))
        return Ask()

    def layer_map(self, batch: Batch, subject: Subject, target: Target, layer: str) -> Tensor:
        """Call Captum."""
        return self.explained(batch, subject, target, layer)

    def told(self, facts: Facts, subject: Subject) -> Told:
        """What was called, beside what every map of a layer tells."""
        notes, measurements, findings = LayerMethod.told(self, facts, subject)
        mine, more, seen = self.shown(subject)
        return {**notes, **mine}, (*measurements, *more), (*findings, *seen)
