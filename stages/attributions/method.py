"""What an attribution method is: a frozen dataclass that turns a batch into heatmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Ask, Subject
from ..errors import ConfigError, did_you_mean
from ..specs import ArraySpec, SizedArray

if TYPE_CHECKING:
    from ..network.batch import Batch


class Method(ABC):
    """A way to say which parts of an image a logit rests on; the fields of a subclass are its Hydra config.

    A subclass has a field ``target``: ``"predicted"``, ``"label"``, a class position or a class name.
    """

    target: str | int

    #: Whether a heatmap tells evidence for from evidence against.
    signed: ClassVar[bool]
    #: Whether a heatmap adds up to the logit that it explains.
    conserves: ClassVar[bool]
    #: Unit of a heatmap's values.
    unit: ClassVar[str]
    #: Every array it can write; `writes` returns these, sized.
    documents: ClassVar[tuple[ArraySpec, ...]]

    @abstractmethod
    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Every array it will write, one row per image."""

    @abstractmethod
    def asks(self, subject: Subject) -> Ask:
        """What it wants from each forward pass."""

    @abstractmethod
    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Rows of its arrays for the images of one batch, in their order."""


def resolve_target(target: str | int, subject: Subject) -> str | int:
    """Turn a configured target into one that the network understands.

    Parameters
    ----------
    target
        ``"predicted"``, ``"label"``, a class position or a class name.
    subject
        What is audited.

    Returns
    -------
    str | int
        ``"predicted"``, ``"label"`` or a class position.

    Raises
    ------
    ConfigError
        When there is no such class, or labels are asked of data that lack some.
    """
    if target == "label" and (without := int((np.asarray(subject.label) < 0).sum())):
        raise ConfigError(
            f"attributions target 'label': {without} of {subject.n_image} images have no label; use target 'predicted'"
        )
    if target in ("predicted", "label"):
        return target
    if isinstance(target, int):
        if not 0 <= target < subject.n_class:
            raise ConfigError(f"attributions target {target}: expected a class from 0 to {subject.n_class - 1}")
        return target
    if target not in subject.class_names:
        known = ("predicted", "label", *subject.class_names)
        raise ConfigError(f"attributions target {target!r} is no class{did_you_mean(target, known)}")
    return subject.class_names.index(target)
