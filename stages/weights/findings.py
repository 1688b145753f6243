"""What the audit of the weights tells a person: one finding per kind of flag, with its null, its n and its cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..specs import Finding
from .audit import Audit, LayerAudit
from .moran import chance_mean

_SHOWN = 4


def findings(audit: Audit, unfollowed: str) -> tuple[Finding, ...]:
    """Everything that wants a look, gravest first.

    Parameters
    ----------
    audit
        All convolutions.
    unfollowed
        Why nobody knows what stands behind the channels; empty where it is known.
    """
    found = [_not_finite(audit), _noise(audit), _unstructured(audit), _near_zero(audit), _duplicates(audit)]
    return tuple(finding for finding in (*found, _no_verdict(audit), _unfollowed(unfollowed)) if finding is not None)


def _not_finite(audit: Audit) -> Finding | None:
    bad = [layer for layer in audit.layers if not layer.finite]
    if not bad:
        return None
    return _finding(
        "not-finite",
        "error",
        f"Weights that are no finite numbers, in {_where(bad)}",
        f"{_listed(bad, lambda layer: f'{_bad_channels(layer).size} of {len(layer.norm)} filters')}. The counts of the "
        "whole network are unknown. Cause: the training diverged, or the file is damaged. What next: load an earlier "
        "checkpoint.",
        bad,
        _bad_channels,
    )


def _bad_channels(layer: LayerAudit) -> np.ndarray:
    return np.flatnonzero(~np.isfinite(layer.norm))


def _noise(audit: Audit) -> Finding | None:
    noise, judged = audit.with_verdict("noise"), audit.judged
    if not noise:
        return None
    # Of many layers of noise chance calls a few smooth or rough; but these have no direction that stands out either.
    others = [layer for layer in judged if layer.smoothness.verdict != "noise"]
    everywhere = 1 < len(noise) > len(others) and all(layer.spectrum.spikes < 1 for layer in others)
    cause = (
        "Cause: nearly every layer that can be judged is so, as in a network that was never trained "
        "or whose checkpoint did not load. What next: check which weights were loaded, and the accuracy"
        if everywhere
        else "Cause: a layer that was trained too little, regularised too little, or frozen as it was drawn. What "
        "next: see whether its learning rate was zero, and look at its slices"
    )
    return _finding(
        "noise",
        "error" if everywhere else "warning",
        f"The filters of {_where(noise)} look like noise, of {len(judged)} that can be judged",
        f"{_listed(noise, _moran)}. Null: independent weights, whose Moran's I has the mean of chance exactly; a layer "
        f"is noise where its mean is not beyond it at {audit.limits.standard.level:g} and surely within "
        f"{audit.limits.standard.effect:g} of it. {cause}.",
        noise,
    )


def _moran(layer: LayerAudit) -> str:
    said = layer.smoothness
    against = f"I = {said.mean:.3f} against {chance_mean(layer.kernel):.3f} by chance"
    return f"{against}, p = {said.p:.2g}, n = {said.planes} planes"


def _unstructured(audit: Audit) -> Finding | None:
    flat = audit.without_spikes
    if not flat:
        return None
    n = sum(layer.has_spectrum for layer in audit.layers)
    return _finding(
        "unstructured",
        "warning",
        f"No direction stands out in the weights of {_where(flat)}, of {n} that can be judged",
        f"{_listed(flat, _top)}. Null: independent weights of the same variance (Marchenko-Pastur edge, exceeded by "
        f"one matrix in a hundred) and the same weights in random order, {audit.limits.shuffles} times. Cause: such "
        "weights are as they were drawn, or the training moved them less than their own noise. What next: compare "
        "with the verdict on noise, and check which weights were loaded.",
        flat,
    )


def _top(layer: LayerAudit) -> str:
    values = layer.spectrum
    return (
        f"largest of {values.values} singular values {values.top:.3g}, edge {values.edge:.3g}, "
        f"shuffled {values.shuffled:.3g}"
    )


def _near_zero(audit: Audit) -> Finding | None:
    small = [layer for layer in audit.layers if (layer.near_zero > 0).any()]
    if not small:
        return None
    count = sum(int((layer.near_zero > 0).sum()) for layer in small)
    return _finding(
        "near-zero",
        "info",
        f"{count} of {audit.n_channel} filters, in {_where(small)}, are near zero",
        f"{_listed(small, _what_is_near_zero)}. That is: at most {audit.limits.near_zero:g} of the largest in the "
        "layer. Null: independent Gaussian weights, of which so many would be as small by chance; a scale has no "
        "null. Cause: pruning or weight decay takes weights to zero, and the training itself a scale. What next: such "
        "channels carry a constant at most; see the filters section, then leave them out.",
        small,
        lambda layer: np.flatnonzero(layer.near_zero > 0),
    )


def _what_is_near_zero(layer: LayerAudit) -> str:
    weights, scale = int((layer.near_zero % 2 == 1).sum()), int((layer.near_zero >= 2).sum())
    parts = [f"{weights} by their weights ({_few(layer.by_chance[0])} by chance)"] if weights else []
    parts += [f"{scale} by the scale of their norm"] if scale else []
    return f"{' and '.join(parts)}, of {len(layer.norm)}"


def _duplicates(audit: Audit) -> Finding | None:
    alike = [layer for layer in audit.layers if layer.duplicate.any()]
    if not alike:
        return None
    count = sum(int(layer.duplicate.sum()) for layer in alike)
    return _finding(
        "duplicates",
        "info",
        f"{count} filters, in {_where(alike)}, are the same as another up to scale and sign",
        f"{_listed(alike, _pair)}. That is: a cosine beyond ±{audit.limits.duplicate:g} to one that reads the same "
        "channels. Null: independent directions of as many weights. Cause: filters that were drawn or copied alike "
        "and never pushed apart; scale, bias and norm decide whether the channels differ. What next: merge such "
        "channels, or make the layer narrower.",
        alike,
        lambda layer: np.flatnonzero(layer.duplicate),
    )


def _pair(layer: LayerAudit) -> str:
    channel = int(np.nanargmax(np.abs(layer.cosine)))
    return (
        f"{int(layer.duplicate.sum())} of {len(layer.norm)}, such as {channel} and {int(layer.twin[channel])} "
        f"(cosine {layer.cosine[channel]:.4f}; {_few(layer.by_chance[1])} pairs by chance)"
    )


def _no_verdict(audit: Audit) -> Finding | None:
    if audit.judged or not audit.finite:
        return None
    return Finding(
        "weights/no-verdict",
        "info",
        "Of no convolution can be said whether its filters are smooth or noise",
        f"{_listed(audit.layers, lambda layer: layer.smoothness.reason)}. Null: as for noise. What next: look at the "
        "pictures of the filters; few planes are no fault.",
    )


def _unfollowed(reason: str) -> Finding | None:
    if not reason:
        return None
    return Finding(
        "weights/unfollowed",
        "info",
        "Nobody knows which norm and which layers follow each convolution",
        f"The network cannot be followed ({reason}), so gamma, beta and outgoing norms are unknown, and scales near "
        "zero were not looked for. Everything else was.",
    )


def _few(expected: float) -> str:
    return f"{expected:.2g}" if expected >= 1e-6 else "none"


def _finding(
    code: str,
    severity: str,
    title: str,
    detail: str,
    layers: Sequence[LayerAudit],
    channels: Callable[[LayerAudit], np.ndarray] | None = None,
) -> Finding:
    alone = layers[0] if len(layers) == 1 else None
    return Finding(
        f"weights/{code}",
        severity,  # pyright: ignore[reportArgumentType]
        title,
        detail,
        (),
        alone.layer.name if alone else None,
        tuple(channels(alone).tolist()) if alone and channels else (),
    )


def _where(layers: Sequence[LayerAudit]) -> str:
    return layers[0].layer.name if len(layers) == 1 else f"{len(layers)} layers"


def _listed(layers: Sequence[LayerAudit], text: Callable[[LayerAudit], str]) -> str:
    shown = "; ".join(f"{layer.layer.name}: {text(layer)}" for layer in layers[:_SHOWN])
    more = len(layers) - _SHOWN
    return shown + (f"; and {more} more, in the table of the weights section" if more > 0 else "")
