"""Any classification model of torchvision, by the name of its builder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from ...stages.errors import ConfigError, ModelError, did_you_mean, in_words
from .arguments import check_arguments
from .checkpoint import file_digest
from .source import Architecture, ModelSource, ResolvedModel, resolve_files


@dataclass(frozen=True)
class TorchvisionArchitecture(Architecture):
    """A builder of ``torchvision.models`` with its arguments.

    Parameters
    ----------
    name
        Name of the builder.
    arguments
        Keyword arguments for it.
    weights
        Name of a published set of weights; None draws them at random.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def make(self) -> nn.Module:
        """The model, with published weights where they were named."""
        import torchvision

        builder = torchvision.models.get_model_builder(self.name)
        with _tensors_alone():
            return builder(weights=self.weights, progress=False, **self.arguments)

    def files(self) -> tuple[tuple[str, Path], ...]:
        """No file of the user's; the version stands in the description."""
        return ()

    def describe(self) -> dict[str, Any]:
        """Builder, arguments, weights, and the version that gives them their meaning."""
        import torchvision

        facts: dict[str, Any] = {"source": "torchvision", "version": torchvision.__version__, "factory": self.name}
        return facts | {"arguments": dict(self.arguments), "weights": self.weights}


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Have torchvision read published weights without unpickling objects."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel(ModelSource):
    """A classification model of torchvision.

    Parameters
    ----------
    name
        Name of the builder, for instance ``"resnet18"``.
    arguments
        Keyword arguments for the builder, for instance ``num_classes``.
    weights
        Name of one of its published sets of weights, for instance ``"IMAGENET1K_V1"``; torchvision downloads it
        where it is not on this machine yet.
    random_weights
        Whether to audit the model as it is before any training.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    weights: str | None = None
    random_weights: bool = False

    def __post_init__(self) -> None:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if self.name not in known:
            raise ConfigError(
                f"model.name: torchvision has no classifier {self.name!r}{did_you_mean(self.name, known)}"
            )
        if self.weights is not None and self.weights not in _published(self.name):
            raise ConfigError(
                f"model.weights: {self.name} has no weights {self.weights!r}"
                f"{did_you_mean(self.weights, _published(self.name))}"
            )
        builder = torchvision.models.get_model_builder(self.name)
        check_arguments(builder, self.arguments or {}, taken=("weights", "progress"), where=self.name)

    def architecture(self) -> TorchvisionArchitecture:
        """The builder with its arguments."""
        return TorchvisionArchitecture(self.name, self.arguments or {}, self.weights)

    def resolve(self, work: Path) -> ResolvedModel:
        """As any source does; published weights are fetched once, here, and checked against their published hash."""
        given = [self.checkpoint is not None, self.weights is not None, self.random_weights]
        if sum(given) != 1:
            raise ConfigError(
                f"model: expected one of model.checkpoint=FILE, model.weights=NAME (torchvision's {self.name} has "
                f"{', '.join(_published(self.name))}) and model.random_weights=true, got {sum(given)} of them"
            )
        if self.weights is None:
            return super().resolve(work)
        import torchvision

        published = torchvision.models.get_weight(f"{_enum(self.name).__name__}.{self.weights}")
        path = _fetched(published)
        names = self.class_names or self._categories(published)
        resolved = resolve_files(self.architecture(), None, None, names)
        facts = dict(resolved.description) | {"weights_file": path.name, "weights_file_sha256": file_digest(path)}
        return replace(resolved, description=facts)

    def _categories(self, published: Any) -> tuple[str, ...] | None:
        categories = published.meta.get("categories")
        return tuple(map(str, categories)) if categories else None


def _enum(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(name)


def _published(name: str) -> list[str]:
    return list(_enum(name).__members__)


def _fetched(published: Any) -> Path:
    """The local file of published weights, downloaded where it is missing."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(published.url).path).name
    if not path.is_file():
        try:
            with _tensors_alone():
                published.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            raise ModelError(
                f"model.weights: cannot fetch {published.url} ({in_words(error)}); "
                "fetch it elsewhere and give it as model.checkpoint"
            ) from error
    return path
