"""What a network answers when windows of an image are replaced, computed from what it computed for the image as it is.

Incremental inference (Nakandala, Nagrecha, Kumar and Papakonstantinou 2019): a window changes only a part of each
feature map, and only that part is computed again. Here for any graph of convolutions, pools, batch norms, pointwise
operations, sums and concatenations; exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..graph import Graph, traced_or_reason
from ..winograd import Winograd
from .crops import Crop, Ground
from .fusion import fold_norms, needed
from .plan import Effort, Plan, batches, estimate, make_plan
from .regions import Region, Spread, spread_change
from .replay import Replay

#: Values per window, at most, that are kept until those of all windows are there.
_KEPT = 1 << 16
#: Windows whose last layers are computed together: these read large matrices, once per batch.
_LAST_TOGETHER = 1024
#: Share of the estimated time from which on pieces are not worth their trouble.
WORTH = 0.9
#: Images that are run through the network together.
_TOGETHER = 16
#: Difference between both ways, over the largest logit, that rounding explains, by precision.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Scheme:
    """How all windows go through one network.

    Parameters
    ----------
    signature
        What the network was seen to compute, to notice when it computes something else.
    spread
        What the windows change.
    kept
        The nodes that are computed.
    plans
        One per batch of windows.
    cut
        The node from which on all windows are computed together.
    effort
        What this takes.
    """

    signature: tuple[object, ...]
    spread: Spread
    kept: list[int]
    plans: list[Plan]
    cut: int
    effort: Effort


class Recomputation:
    """Answers for windows of images, one image after another.

    Parameters
    ----------
    model
        In evaluation mode; nothing is written on it.
    window
        The pieces that are replaced.
    worth
        Share of the estimated time from which on computing pieces does not pay, so that the network is run anew.
    winograd
        How convolutions are computed; None for PyTorch's own.
    """

    def __init__(
        self, model: nn.Module, window: Region, worth: float = WORTH, winograd: Winograd | None = None
    ) -> None:
        self.model, self.window, self.worth, self.winograd = model, window, worth, winograd
        self.scheme: Scheme | None = None

    def logits(
        self, image: Float[Tensor, "1 channel *space"], baseline: Float[Tensor, "1 channel *space"]
    ) -> Float[Tensor, "window class"] | str:
        """Compute the logits for each window replaced by what the baseline has there.

        Parameters
        ----------
        image
            As the network is fed.
        baseline
            What stands in a window.

        Returns
        -------
        Tensor or str
            Logits, or why they cannot be had in this way: the network cannot be traced, or what comes out is not
            what the network itself gives, which is tried for one window of each image.
        """
        with torch.inference_mode(False), torch.no_grad():
            graph = traced_or_reason(self.model, image)
            if isinstance(graph, str):
                return graph
            try:
                found = self._logits(graph, image, baseline)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                return f"an operation cannot be computed for several windows at once ({type(error).__name__})"
            return self._doubt(found, image, baseline) or found

    @property
    def pieces(self) -> bool:
        """Whether pieces are computed, and not, since that is faster, the whole network."""
        effort = None if self.scheme is None else self.scheme.effort
        return effort is not None and effort.time <= self.worth * effort.time_anew

    def _logits(self, graph: Graph, image: Tensor, baseline: Tensor) -> Tensor:
        scheme = self._scheme(graph)
        if not self.pieces:
            with self.winograd or nullcontext():
                return plain_logits(self.model, image, baseline, self.window)
        nodes = fold_norms(graph)
        replay = Replay(nodes, graph.values, scheme.spread, scheme.kept, tiled=self.winograd is not None)
        found: Tensor | None = None
        for plan in scheme.plans:
            pieces = replaced(image, baseline, self.window.only(plan.windows), plan.crops[0])
            value = replay.run(plan, pieces, scheme.cut)
            if found is None:
                found = value.new_empty((self.window.start.shape[1], *value.shape[1:]))
            found[torch.from_numpy(plan.windows).to(value.device)] = value
        assert found is not None, "there are windows"
        return torch.cat([replay.finish(scheme.cut, part, graph.output) for part in found.split(_LAST_TOGETHER)])

    def _scheme(self, graph: Graph) -> Scheme:
        signature = tuple((node.name, node.shape, node.refs(), node.pick) for node in graph.nodes)
        if self.scheme is None or self.scheme.signature != signature:
            nodes = fold_norms(graph)
            n_space = len(graph.nodes[0].shape) - 2
            kept = sorted({0, *needed(nodes, graph.output)})
            spread = spread_change(graph, n_space, self.window, kept)
            plans = [make_plan(part, spread, nodes, kept) for part in batches(spread, nodes, kept)]
            effort = estimate(plans, spread, nodes, kept)
            self.scheme = Scheme(signature, spread, kept, plans, _cut(graph, spread, kept), effort)
        return self.scheme

    def _doubt(self, found: Tensor, image: Tensor, baseline: Tensor) -> str | None:
        """Try one window of each image in the plain way."""
        middle = found.shape[0] // 2
        want = self.model(whole_windows(image, baseline, self.window.only(np.array([middle]))))[0]
        if not isinstance(want, Tensor) or want.shape != found[middle].shape:
            return "the network's answer has another shape for one image than for several"
        error = (found[middle] - want).abs().max() / want.abs().max().clamp(min=torch.finfo(want.dtype).tiny)
        if torch.isfinite(want).all() and not error <= _ROUNDING.get(want.dtype, 1e-2):
            return f"what was computed differed from what the network gives by {float(error):.1g} of the largest logit"
        return None


def _cut(graph: Graph, spread: Spread, kept: list[int]) -> int:
    """The first small node without spatial axes that all later ones hang on."""
    nodes = graph.nodes
    for place, index in enumerate(kept):
        later = kept[place + 1 :]
        small = graph.values[index].numel() <= _KEPT and spread.axes[index] is None
        if small and nodes[index].shape[:1] == (1,) and all(min(nodes[at].refs()) >= index for at in later):
            return index
    return graph.output


def replaced(image: Tensor, baseline: Tensor, window: Region, crop: Crop | None) -> Tensor:
    """Cut pieces from an image, and put in what stands in each window.

    Parameters
    ----------
    image, baseline
        ``(1, channel, *space)``.
    window
        What is replaced.
    crop
        Where the pieces lie; each holds its window.

    Returns
    -------
    Tensor
        ``(window, channel, *space)``.
    """
    axes = tuple(range(2, image.ndim))
    assert crop is not None, "the input is a map"
    none = (0,) * len(axes)
    outer, inner = (Ground(value, axes, none, none, 0.0).cut(crop) for value in (image, baseline))
    inside = np.ones((1,) * (len(axes) + 1), bool)
    for axis in range(len(axes)):
        place = crop.start[axis][:, None] + np.arange(crop.size[axis])
        shape = [1] * (len(axes) + 1)
        shape[0], shape[axis + 1] = place.shape
        inside = inside & ((place >= window.start[axis][:, None]) & (place < window.end[axis][:, None])).reshape(shape)
    mask = torch.from_numpy(np.broadcast_to(inside, (len(crop.start[0]), *crop.size)).reshape(-1, 1).copy())
    pieces = torch.where(mask.to(image.device), inner, outer).view(-1, *crop.size, image.shape[1])
    return pieces.movedim(-1, 1)


def plain_logits(
    call: Callable[[Tensor], Tensor], image: Tensor, baseline: Tensor, window: Region, together: int = _TOGETHER
) -> Tensor:
    """Logits for each window, by running the network anew, some windows at a time."""
    parts = np.array_split(np.arange(window.start.shape[1]), -(-window.start.shape[1] // max(1, together)))
    with torch.no_grad():
        return torch.cat([call(whole_windows(image, baseline, window.only(part))) for part in parts])


def whole_windows(image: Tensor, baseline: Tensor, window: Region) -> Tensor:
    """Images ``(window, channel, *space)`` with one window replaced in each."""
    length = tuple(image.shape[2:])
    crop = Crop(np.zeros_like(window.start), length)
    pieces = replaced(image, baseline, window, crop)
    last = image.ndim == 4 and image.is_contiguous(memory_format=torch.channels_last)
    return pieces.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
