"""A convolution after the audit of its weights, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..specs import LayerSpec
from .duplicates import expected_twins
from .magnitude import expected_near_zero, is_near_zero
from .smoothness import Smoothness, Standard, judge
from .spectrum import Spectrum

#: The place of a word is its code in ``weights/{layer}/near_zero``.
NEAR_ZERO = ("none", "weights", "scale", "weights and scale")
#: With as many pairs or filters as this expected by chance, what is found says nothing.
CHANCE = 0.05


@dataclass(frozen=True)
class Limits:
    """Where a flag begins: shares of the layer's largest, the cosine, and how sure a verdict on noise has to be."""

    near_zero: float
    duplicate: float
    standard: Standard
    simulations: int
    shuffles: int


@dataclass(frozen=True)
class LayerAudit:
    """One convolution; arrays of shape ``(channel,)``.

    Parameters
    ----------
    layer
        The layer.
    kernel, groups, cells
        Lengths of its kernel, its groups, and the weights of one filter.
    norm, gamma, beta, outgoing
        Norm of each filter, scale and shift of the norm behind it, norm of the weights that read it; NaN for none.
    near_zero
        Code of what is near zero.
    twin, cosine, duplicate
        Most similar filter, the cosine to it, and whether both are the same up to scale and sign.
    moran, planes, p
        Moran's I over each filter's planes, their number, and the share of simulated filters as smooth.
    smoothness, spectrum
        What is said of the layer.
    by_chance
        How many near-zero filters and duplicate pairs chance explains.
    """

    layer: LayerSpec
    kernel: tuple[int, ...]
    groups: int
    cells: int
    norm: Float[np.ndarray, " channel"]
    gamma: Float[np.ndarray, " channel"]
    beta: Float[np.ndarray, " channel"]
    outgoing: Float[np.ndarray, " channel"]
    near_zero: Int[np.ndarray, " channel"]
    twin: Int[np.ndarray, " channel"]
    cosine: Float[np.ndarray, " channel"]
    duplicate: Bool[np.ndarray, " channel"]
    moran: Float[np.ndarray, " channel"]
    planes: Int[np.ndarray, " channel"]
    p: Float[np.ndarray, " channel"]
    smoothness: Smoothness
    spectrum: Spectrum
    by_chance: tuple[float, float]

    @property
    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        return bool(np.isfinite(self.norm).all())

    @property
    def judges_twins(self) -> bool:
        """Whether alike filters say more than that there are few directions to choose from."""
        return bool(np.isfinite(self.cosine).any()) and self.by_chance[1] < CHANCE

    @property
    def has_spectrum(self) -> bool:
        """Whether there are singular values enough to speak of an edge."""
        return self.spectrum.spikes >= 0


def layer_audit(layer: LayerSpec, seen: Mapping[str, np.ndarray], limits: Limits) -> LayerAudit:
    """Judge one convolution.

    Parameters
    ----------
    layer
        The layer.
    seen
        What was measured: arrays by name as in `LayerAudit`, with ``kernel`` ``groups`` ``cells`` and ``spectrum``.
    limits
        Where a flag begins.
    """
    norm, gamma, cosine = seen["norm"], seen["gamma"], seen["cosine"]
    small = is_near_zero(norm, limits.near_zero)
    near_zero = (small + 2 * is_near_zero(gamma, limits.near_zero)).astype(np.int8)
    cells, groups, kernel = int(seen["cells"]), int(seen["groups"]), tuple(int(n) for n in seen["kernel"])
    chance = (
        expected_near_zero(norm, cells, limits.near_zero),
        expected_twins(limits.duplicate, cells, len(norm), groups),
    )
    alike = np.abs(np.nan_to_num(cosine)) > limits.duplicate
    spikes, top, edge, shuffled, values = (float(value) for value in seen["spectrum"])
    return LayerAudit(
        layer=layer,
        kernel=kernel,
        groups=groups,
        cells=cells,
        norm=norm,
        gamma=gamma,
        beta=seen["beta"],
        outgoing=seen["outgoing"],
        near_zero=near_zero,
        twin=seen["twin"],
        cosine=cosine,
        duplicate=alike & (chance[1] < CHANCE),
        moran=seen["moran"],
        planes=seen["planes"],
        p=seen["p"],
        smoothness=judge(seen["moran"], seen["planes"], seen["p"], near_zero == 0, kernel, limits.standard),
        spectrum=Spectrum(int(spikes), top, edge, shuffled, int(values)),
        by_chance=chance,
    )


@dataclass(frozen=True)
class Audit:
    """Every convolution of a network after the audit of its weights."""

    layers: tuple[LayerAudit, ...]
    limits: Limits

    def with_verdict(self, *verdicts: str) -> tuple[LayerAudit, ...]:
        """The layers of which one of these is said."""
        return tuple(layer for layer in self.layers if layer.smoothness.verdict in verdicts)

    @property
    def judged(self) -> tuple[LayerAudit, ...]:
        """The layers with planes enough for a verdict."""
        return self.with_verdict("smooth", "noise", "rough")

    @property
    def without_spikes(self) -> tuple[LayerAudit, ...]:
        """The layers in which no singular value stands out."""
        return tuple(layer for layer in self.layers if layer.spectrum.spikes == 0)

    @property
    def n_channel(self) -> int:
        """Filters of all layers."""
        return sum(len(layer.norm) for layer in self.layers)

    @property
    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(layer.finite for layer in self.layers)
