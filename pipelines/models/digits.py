"""The default model: a small network for handwritten digits."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...stages.errors import ModelError
from .source import Architecture, ModelSource, ResolvedModel


@dataclass(frozen=True)
class DigitsArchitecture(Architecture):
    """The network that the stage ``reference`` trains."""

    def make(self) -> nn.Module:
        """A new, untrained network."""
        from ...stages.reference.net import DigitsNet

        return DigitsNet()

    def files(self) -> tuple[tuple[str, Path], ...]:
        """The file that defines the network."""
        from ...stages.reference import net

        return (("net.py", Path(inspect.getfile(net))),)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"source": "digits", "factory": "DigitsNet"}


@dataclass(frozen=True, kw_only=True)
class DigitsModel(ModelSource):
    """The reference network; without a checkpoint the run trains it first."""

    @property
    def needs_reference(self) -> bool:
        """Whether no checkpoint was given."""
        return self.checkpoint is None

    def architecture(self) -> DigitsArchitecture:
        """The network."""
        return DigitsArchitecture()

    def resolve(self, work: Path) -> ResolvedModel:
        """As any source does, once there are weights."""
        if self.needs_reference:
            raise ModelError("model.checkpoint: the reference network has no weights yet; run the stage `reference`")
        return super().resolve(work)
