"""Layer-wise relevance propagation (bach2015; rules as in montavon2019), through zennit.

Each logit is handed back layer by layer, to every input in proportion to what it contributed. zennit puts its rules on
modules; here it gets a copy of the network in which every step is one (`lrp_graph`), so that functional ReLUs, means,
residual sums and reused modules are served too. What comes out is compared with the network's own logits.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..contract import Ask, Subject, Target
from ..errors import ConfigError, StageError
from ..specs import ArraySpec, Finding, Measurement, SizedArray
from .integrated_gradients import explained
from .lrp_graph import Spread, Total, as_modules
from .method import Facts, PixelMethod, Told, as_array, scaled

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from ..network.batch import Batch

Rule = Literal[
    "epsilon",
    "gamma",
    "alpha_beta",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
]

_COMPOSITES = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_plus_flat": "EpsilonPlusFlat",
    "epsilon_alpha2_beta1": "EpsilonAlpha2Beta1",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
    "epsilon_gamma_box": "EpsilonGammaBox",
}

EXPLAINED = ArraySpec("explained", ("image", "target"), "float32", "logit", "What the relevance should add up to.")
GAP = ArraySpec(
    "gap", ("image", "target"), "float32", "logit", "Sum of the relevance less the logit: what biases have taken."
)

_GRAPHS: WeakKeyDictionary[nn.Module, GraphModule] = WeakKeyDictionary()
#: Largest difference of logits, over their largest magnitude, for which the chain of modules is the same network.
SAME = 1e-3


@dataclass(frozen=True)
class Lrp(PixelMethod):
    """Layer-wise relevance propagation.

    Parameters
    ----------
    target, images
        As everywhere.
    rule
        One rule for all layers with weights (``"epsilon"``, ``"gamma"``, ``"alpha_beta"``; bach2015 eq. 58 and 60,
        montavon2019 table 1), or epsilon for linear layers and another rule for convolutions (``"epsilon_plus"``,
        ``"epsilon_alpha2_beta1"``, ``"epsilon_gamma_box"``), with a flat first layer where the name says so.
    epsilon
        Share of the relevance that a layer keeps to itself, in units of its output; above 0.
    gamma
        By how much positive weights count more, for ``"gamma"`` and ``"epsilon_gamma_box"``.
    alpha, beta
        Weight of what speaks for and against, for ``"alpha_beta"``; their difference is 1.
    bias
        ``"absorb"``: biases take their part of the relevance, as in the papers; ``"ignore"``: they get none, and the
        map adds up to the logit.
    tolerance
        Median share of the logit that may be missing from a map before it is a finding; used where biases get nothing.
    """

    rule: Rule = "epsilon_plus"
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0
    bias: Literal["absorb", "ignore"] = "absorb"
    tolerance: float = 0.05

    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = "Relevance of each position for the target's logit, summed over channels."
    recalls: ClassVar[tuple[str, ...]] = ("explained", "gap")

    def __post_init__(self) -> None:
        _zennit()
        if not self.epsilon > 0:
            raise ConfigError(f"lrp.epsilon: expected above 0, got {self.epsilon}")
        if self.gamma < 0:
            raise ConfigError(f"lrp.gamma: expected at least 0, got {self.gamma}")
        if min(self.alpha, self.beta) < 0 or self.alpha - self.beta != 1:
            raise ConfigError(f"lrp.alpha: expected alpha - beta = 1, none below 0; got {self.alpha} and {self.beta}")
        if not self.tolerance > 0:
            raise ConfigError(f"lrp.tolerance: expected above 0, got {self.tolerance}")

    @property
    def conserves(self) -> bool:  # type: ignore[override]
        """Where biases get nothing."""
        return self.bias == "ignore"

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Map, scale, what the map should add up to, and by how much it fails."""
        shape = (subject.n_image, len(self.targets(subject)))
        return (*super().writes(subject), EXPLAINED.sized(shape), GAP.sized(shape))

    def asks(self, subject: Subject) -> Ask:
        """Nothing: the network runs as a chain of modules."""
        del subject
        return Ask()

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Propagate every target through one forward pass."""
        targets = self.targets(subject)
        found = [self.heatmap(batch, subject, target) for target in targets]
        heatmap, scale = scaled(np.stack([as_array(one) for one in found], axis=1))
        total = torch.stack([one.flatten(1).sum(1) for one in found], dim=1)
        logits = torch.stack([explained(batch, batch.logits, target) for target in targets], dim=1)
        return {"heatmap": heatmap, "scale": scale, "explained": as_array(logits), "gap": as_array(total - logits)}

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Relevance of each position."""
        targets = self.targets(subject)
        targets = targets if target in targets else (target,)
        found = batch.once((repr(self), targets), lambda: self._propagated(batch, subject, targets))
        return found[target]

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """Steps of the network that no rule is known for."""
        del subject
        with batch.twin() as model:
            foreign = _graph(model, batch.images).foreign
        return {"foreign": np.array(foreign, dtype=np.str_)}

    def _propagated(self, batch: Batch, subject: Subject, targets: tuple[Target, ...]) -> dict[Target, Tensor]:
        seeds = {target: _seed(batch, target) for target in targets}
        with batch.twin() as model:
            graph = _graph(model, batch.images)
            composite = self._composite(batch.images, subject)
            with composite.context(graph) as ruled:
                images = batch.images.clone().requires_grad_()
                logits = ruled(images)
                _check_same(logits.detach(), batch)
                found = {}
                for target, (seed, missing) in seeds.items():
                    (relevance,) = torch.autograd.grad(logits, images, seed * logits.detach(), retain_graph=True)
                    found[target] = relevance.sum(1).masked_fill(missing.view(-1, *[1] * (images.ndim - 2)), torch.nan)
        return found

    def _composite(self, images: Tensor, subject: Subject) -> Any:
        zennit = _zennit()
        rules, composites = zennit.rules, zennit.composites
        ignored = ["bias"] if self.bias == "ignore" else None
        means = [((Spread, Total), rules.Norm())]
        if self.rule in _COMPOSITES:
            options: dict[str, Any] = {"epsilon": self.epsilon, "zero_params": ignored, "layer_map": means}
            if self.rule == "epsilon_gamma_box":
                low, high = _box(images, subject)
                options |= {"low": low, "high": high, "gamma": self.gamma}
            return getattr(composites, _COMPOSITES[self.rule])(**options)
        rule = {
            "epsilon": lambda: rules.Epsilon(self.epsilon, zero_params=ignored),
            "gamma": lambda: rules.Gamma(self.gamma, stabilizer=self.epsilon, zero_params=ignored),
            "alpha_beta": lambda: rules.AlphaBeta(self.alpha, self.beta, stabilizer=self.epsilon, zero_params=ignored),
        }[self.rule]()
        layers = [*means, *composites.layer_map_base(self.epsilon), (zennit.types.Linear, rule)]
        return composites.LayerMapComposite(layers)

    def told(self, facts: Facts, subject: Subject) -> Told:
        """How far the maps are from adding up, and what no rule is known for."""
        del subject
        notes = {"adds_up_to": "logit" if self.conserves else "logit less what biases have taken"}
        foreign = [str(name) for name in facts.get("foreign", ())]
        findings = (_foreign(foreign),) if foreign else ()
        if "gap" not in facts:
            return notes, (), findings
        gap, logit = (np.abs(facts[key].astype(np.float64)) for key in ("gap", "explained"))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(gap == 0, 0.0, gap / logit)
        known = share[~np.isnan(share)]
        middle = float(np.median(known)) if len(known) else float("nan")
        meaning = "Median over images and targets of |sum of the relevance - logit| / |logit|."
        measured = Measurement("gap", middle, "1", "lower", len(known), "gap", meaning)
        if self.conserves and middle > self.tolerance:
            findings = (*findings, self._lost(share, middle))
        return notes, (measured,), findings

    def _lost(self, share: np.ndarray, middle: float) -> Finding:
        worst = np.nanmax(share, axis=1, initial=-1.0)
        order = np.argsort(-worst, kind="stable")[:20]
        return Finding(
            "attributions/incomplete",
            "warning",
            f"relevance misses {middle:.1%} of the logit in the middle of all images",
            f"Expected at most {self.tolerance:.1%}, since biases get nothing; a step without a rule, or an output "
            "near zero that the epsilon has damped. Try another rule or a smaller epsilon.",
            tuple(int(image) for image in order if worst[image] > self.tolerance),
        )


def _foreign(names: list[str]) -> Finding:
    return Finding(
        "attributions/no-rule",
        "warning",
        f"relevance passes {len(names)} kinds of steps by their plain derivative: {', '.join(names)}",
        "No rule is known for them, so that relevance may be lost or made there; the measured gap says how much.",
    )


def _zennit() -> Any:
    try:
        for name in ("composites", "rules", "types"):
            importlib.import_module(f"zennit.{name}")
        return importlib.import_module("zennit")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "zennit":
            raise ConfigError("lrp: zennit is not installed; run pip install 'convaudit[lrp]'") from None
        raise


def _graph(model: nn.Module, images: Tensor) -> GraphModule:
    if model not in _GRAPHS:
        with torch.no_grad():
            _GRAPHS[model] = as_modules(model, images[:1])
    return _GRAPHS[model]


def _seed(batch: Batch, target: Target) -> tuple[Float[Tensor, "image class"], Tensor]:
    """Which logits are handed back, with their sign, and the images that have no such target."""
    classes = torch.from_numpy(batch.target_class(target)).to(batch.logits.device)
    seed = torch.zeros_like(batch.logits).scatter_(1, classes.clamp(min=0)[:, None], 1.0)
    if target == "contrast":
        labels = torch.from_numpy(batch.target_class("label")).to(batch.logits.device)
        seed = seed - torch.zeros_like(seed).scatter_(1, labels.clamp(min=0)[:, None], 1.0)
    missing = classes < 0
    return seed * ~missing[:, None], missing


def _check_same(logits: Tensor, batch: Batch) -> None:
    usable = torch.from_numpy(batch.valid).to(logits.device) & torch.isfinite(batch.logits).all(1)
    want, got = batch.logits[usable].double(), logits[usable].double()
    if len(want) and not (got - want).abs().max() <= SAME * want.abs().max().clamp(min=1e-30):
        raise StageError(
            "lrp: as a chain of modules the network gives other logits; it does something that tracing does not see "
            "(writes into a tensor that others read, or chooses its way by the data); use another method for it"
        )


def _box(images: Tensor, subject: Subject) -> tuple[Tensor, Tensor]:
    """Lowest and highest network input of a pixel between 0 and 1."""
    shape = (1, -1, *[1] * (images.ndim - 2))
    mean = torch.as_tensor(subject.mean, dtype=images.dtype, device=images.device).view(shape)
    std = torch.as_tensor(subject.std, dtype=images.dtype, device=images.device).view(shape)
    return ((0 - mean) / std).expand_as(images), ((1 - mean) / std).expand_as(images)


# The base class has described the map in this class's words.
Lrp.documents = (*Lrp.documents, EXPLAINED, GAP)
