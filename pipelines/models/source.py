"""What a model is made of, and how it comes to be built the same way in every process."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...stages.errors import AuditError, ConfigError, ModelError, in_words
from .checkpoint import file_digest, load_into, read_checkpoint

# A layer drawn at random must be drawn alike in every process.
_INITIAL_SEED = 0


class Architecture(ABC):
    """A frozen, picklable dataclass that makes a model without its checkpoint's weights."""

    @abstractmethod
    def make(self) -> nn.Module:
        """A new model.

        Raises
        ------
        ModelError
            When the code that makes it fails.
        ConfigError
            When a name or an argument is wrong.
        """

    @abstractmethod
    def files(self) -> tuple[tuple[str, Path], ...]:
        """Source files that decide what is made, each under a name that no folder is part of."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Settings that decide what is made, as JSON, without absolute paths."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose every ingredient is a local file with a known digest; picklable, and holds no weights.

    Parameters
    ----------
    architecture
        What makes the model.
    checkpoint
        File of the weights; None where the architecture brings its own.
    checkpoint_key
        Dotted key under which the file keeps the weights.
    sources
        Digest of everything but the weights.
    weights
        Digest of the weights: of the file's bytes, or of the tensors where there is no file.
    description
        What it is, as JSON, for the record of the run.
    class_names
        Names of the classes in the order of the logits, where the model knows them.
    """

    architecture: Architecture
    checkpoint: Path | None
    checkpoint_key: str | None
    sources: str
    weights: str
    description: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """Sha256 over weights, source files and settings, as hex."""
        return hashlib.sha256(f"{self.sources}\0{self.weights}".encode()).hexdigest()

    def build(self) -> nn.Module:
        """Make the model: on the CPU, in evaluation mode, no parameter asking for a gradient.

        Raises
        ------
        ModelError
            When it cannot be made, or a file is no longer the one that was resolved.
        """
        if sources_digest(self.architecture) != self.sources:
            raise ModelError(f"{_name(self.architecture)}: the source changed since the run began; start the run again")
        model = made(self.architecture)
        actual = tensors_digest(model) if self.checkpoint is None else file_digest(self.checkpoint)
        if actual != self.weights:
            where = self.checkpoint.name if self.checkpoint else _name(self.architecture)
            raise ModelError(f"{where}: the weights are not those the run began with; start the run again")
        if self.checkpoint is not None:
            load_into(model, read_checkpoint(self.checkpoint, self.checkpoint_key))
        return model


@dataclass(frozen=True, kw_only=True)
class ModelSource(ABC):
    """Where a model comes from; its fields are the Hydra node ``model``.

    Parameters
    ----------
    checkpoint
        File of the weights: ``.pt``, ``.pth``, ``.th``, ``.ckpt`` or ``.safetensors``.
    checkpoint_key
        Dotted key under which the file keeps the weights; None finds the usual ones.
    class_names
        Names of the classes in the order of the logits; None leaves naming to the data.
    """

    checkpoint: str | None = None
    checkpoint_key: str | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether the run has to train the model before it can be resolved."""
        return False

    @abstractmethod
    def architecture(self) -> Architecture:
        """What makes the model, with paths made absolute.

        Raises
        ------
        ConfigError
            When a setting or a combination of settings is wrong.
        """

    def resolve(self, work: Path) -> ResolvedModel:
        """Find every file, compute the digests and build the model once to see that it can be built.

        Parameters
        ----------
        work
            Folder for what has to be fetched.

        Raises
        ------
        AuditError
            When a setting is wrong, a file is missing, or the weights do not fit.
        """
        del work
        path = None if self.checkpoint is None else Path(self.checkpoint).expanduser().absolute()
        return resolve_files(self.architecture(), path, self.checkpoint_key, self.class_names)


def resolve_files(
    architecture: Architecture, checkpoint: Path | None, key: str | None, class_names: tuple[str, ...] | None
) -> ResolvedModel:
    """Build once, and record what was built and from what.

    Raises
    ------
    AuditError
        When the model cannot be made or the weights do not fit.
    """
    model = made(architecture)
    facts: dict[str, Any] = dict(architecture.describe())
    if checkpoint is None:
        weights = tensors_digest(model)
    else:
        read = read_checkpoint(checkpoint, key)
        prefix = load_into(model, read)
        weights = file_digest(checkpoint)
        facts |= {"checkpoint": read.name, "checkpoint_key": read.key, "checkpoint_prefix": prefix}
    facts |= {"weights_sha256": weights, "parameters": sum(p.numel() for p in model.parameters())}
    resolved = ResolvedModel(architecture, checkpoint, key, sources_digest(architecture), weights, facts, class_names)
    facts["digest"] = resolved.digest
    return resolved


def made(architecture: Architecture) -> nn.Module:
    """Make the model under a fixed seed, then freeze it: CPU, evaluation mode, no gradients for parameters.

    Raises
    ------
    ModelError
        When no model comes out, or one whose shapes are not known before it has seen an image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_INITIAL_SEED)
        try:
            model = architecture.make()
        except AuditError:
            raise
        except Exception as error:
            raise ModelError(f"{_name(architecture)}: could not make the model: {in_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{_name(architecture)}: expected a torch.nn.Module, got {type(model).__name__}")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(value):
            raise ModelError(f"{_name(architecture)}: {name} has no shape yet; give the layer its number of inputs")
    return model.to("cpu").eval().requires_grad_(False)


def sources_digest(architecture: Architecture) -> str:
    """Sha256 over the settings and source files of an architecture, as hex."""
    total = hashlib.sha256()
    try:
        total.update(json.dumps(architecture.describe(), sort_keys=True).encode())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.arguments: expected plain values, got something else ({in_words(error)})") from error
    for name, path in architecture.files():
        total.update(f"\0{name}\0{file_digest(path)}".encode())
    return total.hexdigest()


def tensors_digest(model: nn.Module) -> str:
    """Sha256 over names, types, shapes and bytes of all weights, as hex."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            total.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _name(architecture: Architecture) -> str:
    facts = architecture.describe()
    return f"model {facts.get('factory') or facts.get('source')}"
