"""What the sweep has stored of the images that excite each channel most, with what others know of these channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..contract import Stored, Subject
from ..errors import StageError, StoreError
from ..filters.joining import kin
from ..specs import LayerSpec
from .choice import Tops, fired
from .selectivity import selectivity


class TopReader:
    """Reads layer by layer.

    Parameters
    ----------
    stored
        What others have written.
    subject
        What is audited.
    ranks
        Images per channel.
    """

    def __init__(self, stored: Stored, subject: Subject, ranks: int) -> None:
        self.stored, self.subject, self.ranks = stored, subject, ranks
        usable = np.asarray(stored["predictions/status"][:]) == 0
        label = np.asarray(subject.label)
        self.size = np.bincount(label[usable & (label >= 0)], minlength=subject.n_class)
        self.flags = _flags(subject.layers, stored)
        self.groups: dict[str, Any] = dict(stored.summary("receptive_fields/theoretical").notes.get("groups", {}))

    def __call__(self, layer: LayerSpec) -> Tops:
        """The images of one layer's channels.

        Raises
        ------
        StageError
            When they are not stored, or too few of them.
        """
        value, image = (self._read(layer, key) for key in ("top_value", "top_image"))
        if value.shape[1] < self.ranks:
            raise StageError(
                f"patches.rank: {self.ranks} images per channel are asked for, {value.shape[1]} are stored; raise "
                "activations.top"
            )
        value, image = value[:, : self.ranks], image[:, : self.ranks]
        position = self._position(layer, image)
        label = np.where(fired(layer, value, image), np.asarray(self.subject.label)[image], -1)
        flagged = np.zeros(layer.shape[0], bool)
        flagged[self.flags.get(layer.name, [])] = True
        groups = self.groups.get(layer.name, ())
        return Tops(layer, value, image, position, flagged, selectivity(label, self.size), groups)

    def knows(self, layer: LayerSpec) -> bool:
        """Whether the layer's images are stored."""
        return layer.name in self.stored.summary("activations").notes["layers"]

    def _read(self, layer: LayerSpec, key: str) -> np.ndarray:
        try:
            return np.asarray(self.stored[f"activations/{layer.name}/{key}"][:])
        except StoreError as error:
            raise StageError(
                f"patches: what excites {layer.name} is not stored; activations.layers must select it, or "
                "patches.layers leave it out"
            ) from error

    def _position(self, layer: LayerSpec, image: np.ndarray) -> np.ndarray:
        if len(layer.shape) == 1:
            return np.zeros((*image.shape, 0), np.int64)
        return self._read(layer, "top_position")[:, : self.ranks]


def _flags(layers: Sequence[LayerSpec], stored: Stored) -> dict[str, list[int]]:
    """Channels with a finding, by layer; a ReLU's also where the convolution that makes it has one."""
    names = stored.summary("filters").notes["layers"]
    layer, channel, trouble = (np.asarray(stored[f"filters/{key}"][:]) for key in ("layer", "channel", "trouble"))
    found = {name: channel[(layer == at) & (trouble > 0)].tolist() for at, name in enumerate(names)}
    known = kin(layers, stored)
    makers = {relu: conv for conv, relu in known.relu_of.items()}
    for one in layers:
        maker = known.conv_of(one) or makers.get(one.name)
        if one.kind == "relu" and maker in found:
            found[one.name] = [*found.get(one.name, ()), *found[maker]]
    return found
