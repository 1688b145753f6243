"""What the dead-filter audit tells a person: one finding per kind of trouble, not one per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ..numerics.statistics import rule_of_three
from ..specs import Finding, Severity
from .causes import CAUSES
from .judgements import Audit, Audited, definitions, doubt

# In the order in which they are told.
_SEVERITY: dict[str, Severity] = {
    "dead": "warning",
    "saturated": "warning",
    "constant": "warning",
    "rare": "info",
    "dormant": "info",
}
# Of one channel, and of several.
_SAYS = {
    "dead": ("never fired", "never fired"),
    "saturated": ("stands at its upper limit", "stand at their upper limit"),
    "constant": ("says the same of every image", "say the same of every image"),
    "rare": ("fires in hardly any image", "fire in hardly any image"),
    "dormant": ("adds next to nothing", "add next to nothing"),
}
_NEXT = {
    "dead": "What next: read bias and norm scale in front of these channels (a strongly negative bias, or a scale of "
    "zero, silences a channel for good); if they always were so, the layer can be narrower",
    "saturated": "Their input lies above the limit, where no gradient flows back. What next: check the scale of the "
    "input, then that of the norm layer in front",
    "constant": "Such a channel is no more than a bias. What next: look for weights of zero in front of it",
    "rare": "They may have learnt something that is rare in these data; the images shown excite them most. What next: "
    "see in the ablation section whether answers hang on them",
    "dormant": "They fire, but beside their neighbors it hardly counts. What next: candidates for pruning",
}
# A layer in which more channels than this are dead passes on so little that it is a fault of its own.
_MOST = 0.5
# More such layers than this have one cause, and are told together.
_APART = 3


def findings(audit: Audit) -> tuple[Finding, ...]:
    """Layers that are mostly dead, then one finding per kind of trouble over the whole network."""
    if not audit.n:
        title = "No image could be used, so no channel was judged"
        detail = "Every rate is unknown. What next: see the bad images of predictions."
        return (Finding("filters/no-images", "error", title, detail),)
    layers = tuple(audit.told_once())
    silent = tuple(audited for audited in layers if _share(audited, "dead") > _MOST)
    found = [*_silent_layers(silent, audit)]
    for trouble in _SEVERITY:
        most = _MOST if trouble == "dead" else 1
        troubled = [audited for audited in layers if 0 < _share(audited, trouble) <= most]
        if troubled:
            found.append(_of_network(trouble, troubled, audit, further=trouble == "dead" and bool(silent)))
    return tuple(found)


def _silent_layers(silent: Sequence[Audited], audit: Audit) -> tuple[Finding, ...]:
    if not silent:
        return ()
    cause = (
        f"Above zero in none of {audit.n} images; little can pass. {_doubt(audit)}{_causes('dead', silent)}What next: "
        "look at the bias and norm in front, and at what the layer before passes on; the first such layer may silence "
        "those behind it."
    )
    if len(silent) > _APART:
        shown = "; ".join(_named(audited, "dead") for audited in silent[:_APART])
        title = f"Most channels are dead in each of {len(silent)} layers, the first of them {silent[0].layer.name}"
        return (
            Finding(
                "filters/dead-layer",
                "error",
                title,
                f"In forward order: {shown}; the table of the filters section lists all. {cause}",
            ),
        )
    return tuple(
        Finding(
            "filters/dead-layer",
            "error",
            f"{len(audited.channels('dead'))} of {len(audited.trouble)} channels of {audited.layer.name} are dead",
            f"{_named(audited, 'dead')}. {cause}",
            (),
            audited.layer.name,
            tuple(audited.channels("dead").tolist()),
        )
        for audited in silent
    )


def _of_network(trouble: str, troubled: Sequence[Audited], audit: Audit, *, further: bool) -> Finding:
    # Stable: layers with equal shares stay in forward order.
    worst = sorted(troubled, key=lambda audited: -_share(audited, trouble))
    count = sum(len(audited.channels(trouble)) for audited in worst)
    alone = len(worst) == 1
    where = worst[0].layer.name if alone else f"{len(worst)} {'further ' if further else ''}layers"
    return Finding(
        f"filters/{trouble}",
        _SEVERITY[trouble],
        f"{count} of {_judged(worst, audit)} channels, in {where}, {_SAYS[trouble][count > 1]}",
        _detail(trouble, worst, audit),
        _evidence(worst, trouble) if trouble in ("rare", "dormant") else (),
        worst[0].layer.name if alone else None,
        tuple(worst[0].channels(trouble).tolist()) if alone else (),
    )


def _detail(trouble: str, worst: Sequence[Audited], audit: Audit, limit: int = 4) -> str:
    shown = "; ".join(_named(audited, trouble, numbers=len(worst) == 1) for audited in worst[:limit])
    more = f"; and {len(worst) - limit} more layers, in the table of the filters section" if len(worst) > limit else ""
    seen = f"{definitions(audit.limits)[trouble]}, over {audit.n} images"
    bound = (
        f" (so in fewer than {rule_of_three(audit.n):.3%} of all, at 95 %: rule of three)" if trouble == "dead" else ""
    )
    lead = "Worst first: " if len(worst) > 1 else ""
    return f"{lead}{shown}{more}. That is: {seen}{bound}. {_doubt(audit)}{_causes(trouble, worst)}{_NEXT[trouble]}."


def _doubt(audit: Audit) -> str:
    if not (audit.knows_nothing or audit.is_fed_wrongly):
        return ""
    return doubt(audit) + " "


#: Few words for each cause, behind its number of channels.
_WHY = {
    "bias": "its bias",
    "norm_scale": "a norm scale next to zero",
    "norm_shift": "the shift of its norm",
    "incoming": "incoming weights next to zero",
    "input": "what it reads never varies",
    "weights": "its weighted sum",
    "outgoing": "no reader",
    "several": "several layers together",
    "unknown": "no single weight",
}


def _causes(trouble: str, worst: Sequence[Audited]) -> str:
    """How many channels each cause explains, the most frequent first."""
    codes = np.concatenate([audited.cause[audited.channels(trouble)] for audited in worst])
    counts = {name: int((codes == place).sum()) for place, name in enumerate(CAUSES)}
    told = sorted((name for name in _WHY if counts[name]), key=lambda name: -counts[name])
    return f"Cause, by channels: {', '.join(f'{_WHY[name]} {counts[name]}' for name in told)}. " if told else ""


def _judged(troubled: Sequence[Audited], audit: Audit) -> int:
    """Channels of the kinds of layers that are in trouble: those behind ReLUs, wherever these tell of it alone."""
    kinds = {audited.layer.kind for audited in troubled}
    return sum(len(audited.trouble) for audited in audit.layers if audited.layer.kind in kinds)


def _share(audited: Audited, trouble: str) -> float:
    return len(audited.channels(trouble)) / len(audited.trouble) if len(audited.trouble) else 0.0


def _named(audited: Audited, trouble: str, *, numbers: bool = False, limit: int = 6) -> str:
    channels = audited.channels(trouble)
    shown = ", ".join(f"{channel}{_told(audited, channel, trouble) if numbers else ''}" for channel in channels[:limit])
    more = f" and {len(channels) - limit} more" if len(channels) > limit else ""
    word = "channel" if len(channels) == 1 else "channels"
    size = len(audited.trouble)
    return f"{audited.layer.name}: {len(channels)} of {size} ({_share(audited, trouble):.1%}), {word} {shown}{more}"


def _told(audited: Audited, channel: Int[np.ndarray, ""], trouble: str) -> str:
    if trouble == "rare":
        return f" (fires in {audited.rate[channel]:.3%} of the images; 95 %: below {audited.bound[channel]:.3%})"
    return f" ({audited.score[channel]:.3g} of the mean)" if trouble == "dormant" else ""


def _evidence(worst: Sequence[Audited], trouble: str, limit: int = 8) -> tuple[int, ...]:
    """Images in which the flagged channels fire, the strongest of each channel first."""
    flagged = [(audited, channel) for audited in worst for channel in audited.channels(trouble)]
    depth = max(audited.top_image.shape[1] for audited in worst)
    images = [
        int(image)
        for rank in range(depth)
        for audited, channel in flagged
        if rank < min(audited.top_image.shape[1], audited.fired[channel])
        and (image := audited.top_image[channel, rank]) >= 0
    ]
    return tuple(dict.fromkeys(images))[:limit]
