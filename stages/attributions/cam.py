"""CAM: channels of the last map, weighted by the last linear layer (zhou2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..errors import ConfigError, StageError
from ..specs import LayerSpec
from .method import LayerMethod, as_array
from .pooled_head import PooledHead, agreement, class_maps, class_weights, find_head

if TYPE_CHECKING:
    from ..network.batch import Batch


@dataclass(frozen=True)
class Cam(LayerMethod):
    """Class activation maps of networks that end in global average pooling and one linear layer.

    Equation 2 of the paper, with mean instead of sum pooling: the *mean* of a map is the logit less its bias. Evidence
    against the class is kept, as in the paper. No derivative is computed, for however many classes.

    Parameters
    ----------
    target, images
        As everywhere.
    layers
        The one layer that is pooled.
    """

    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = (
        "Sum of the pooled layer's channels, weighted by the target's row of the last linear layer."
    )

    def chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        """The layer that is pooled.

        Raises
        ------
        ConfigError
            When it is not one layer, or what follows cannot be global average pooling and a linear layer.
        """
        chosen = super().chosen(subject)
        if len(chosen) != 1:
            raise ConfigError(f"Cam.layers: expected the one layer that is pooled, got {[one.name for one in chosen]}")
        found = find_head(subject, chosen[0])
        if isinstance(found, str):
            raise ConfigError(
                "Cam: expected a network that ends in global average pooling of a layer and one linear layer, but "
                f"{found}; use grad_cam"
            )
        return chosen

    def _head(self, subject: Subject) -> PooledHead:
        found = find_head(subject, self.chosen(subject)[0])
        assert isinstance(found, PooledHead), "chosen() has refused the others"
        return found

    def asks(self, subject: Subject) -> Ask:
        """The layer, and what the linear layer gets."""
        head = self._head(subject)
        self.targets(subject)
        return Ask(keep=(head.layer, head.entry))

    def layer_map(self, batch: Batch, subject: Subject, target: Target, layer: str) -> Tensor:
        """Weigh the channels for one target."""
        head = self._checked(batch, subject)
        return class_maps(batch.activation(layer), class_weights(batch, head, (target,)))[:, 0]

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Weigh the channels for all targets in one product."""
        head = self._checked(batch, subject)
        weight = class_weights(batch, head, self.targets(subject))
        return {f"{head.layer}/heatmap": as_array(class_maps(batch.activation(head.layer), weight))}

    def _checked(self, batch: Batch, subject: Subject) -> PooledHead:
        head = self._head(subject)
        pooled, linear = agreement(batch, head)
        for agrees, where, what in (
            (pooled, f"the input of {head.linear}", f"the mean of {head.layer} over its positions"),
            (linear, "the network's output", f"what {head.linear} makes of its input"),
        ):
            if not agrees.all():
                first = batch.ids[int(np.flatnonzero(~agrees)[0])]
                raise StageError(
                    f"Cam: image {first}: expected {where} to be {what}, and it is not; this network does not end in "
                    "global average pooling and one linear layer: use grad_cam"
                )
        return head
