"""A model of an MLflow registry: the weights come from there, the code that makes the model from config."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ...stages.errors import ConfigError
from .source import Architecture, ModelSource, ResolvedModel, resolve_files

_URI = re.compile(r"models:/[^/@]+(@[^/@]+|/\d+)")


@dataclass(frozen=True, kw_only=True)
class MlflowModel(ModelSource):
    """A registered model version that carries a state_dict; a pickled model is refused.

    Parameters
    ----------
    uri
        ``models:/name@alias`` or ``models:/name/version``.
    tracking_uri
        Server or sqlite file that knows the model, for instance ``"http://127.0.0.1:5000"``.
    factory
        Model source (``python`` or ``torchvision``) that makes the model which the weights are for.
    artifact
        Path of the file inside the version; None where it has only one.
    """

    uri: str
    tracking_uri: str
    factory: ModelSource
    artifact: str | None = None

    def __post_init__(self) -> None:
        if not _URI.fullmatch(self.uri):
            raise ConfigError(f"model.uri: expected models:/NAME@ALIAS or models:/NAME/VERSION, got {self.uri!r}")
        if self.checkpoint is not None or self.factory.checkpoint is not None:
            raise ConfigError("model.checkpoint: the weights come from model.uri; leave the checkpoint out")
        if isinstance(self.factory, MlflowModel):
            raise ConfigError("model.factory: expected a python or torchvision model, got another mlflow one")

    def architecture(self) -> Architecture:
        """What the factory makes."""
        return self.factory.architecture()

    def resolve(self, work: Path) -> ResolvedModel:
        """Fetch the weights file, then do as any source does."""
        from ..tracking import download_state_dict

        architecture = self.architecture()
        key = hashlib.sha256(f"{self.tracking_uri}\0{self.uri}\0{self.artifact}".encode()).hexdigest()[:16]
        path = download_state_dict(self.uri, self.tracking_uri, work / "models" / key, self.artifact).absolute()
        names = self.class_names or self.factory.class_names
        resolved = resolve_files(architecture, path, self.checkpoint_key, names)
        return replace(resolved, description={**resolved.description, "uri": self.uri})
