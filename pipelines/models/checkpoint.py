"""Checkpoint files as people have them, read without running any code in them."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...stages.errors import ConfigError, ModelError, did_you_mean, in_words

#: Keys under which training scripts keep the weights.
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
#: What wrappers put in front of every key: DataParallel, torch.compile, and a module that holds the model.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Settings and scores that training scripts keep beside the weights; building these runs no code of the file's.
_HARMLESS = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.float64(0).__reduce__()[0],  # what rebuilds a numpy scalar
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")),
]
_SAVE_INSTEAD = "save torch.save(model.state_dict(), path) where the model was made, and give that file"
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one file.

    Parameters
    ----------
    name
        Name of the file, without its folder.
    key
        Dotted key under which the weights lie; ``""`` where they lie at the top.
    tensors
        Weights by name, on the CPU.
    """

    name: str
    key: str
    tensors: Mapping[str, Tensor]


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes, as hex.

    Raises
    ------
    ModelError
        When the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path, relative ones start at {Path.cwd()}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Read the tensors of a ``.safetensors`` file, or of anything that ``torch.save`` wrote.

    Parameters
    ----------
    path
        The file.
    key
        Dotted key under which the weights lie; None looks at the top and then under `NESTED`.

    Raises
    ------
    ModelError
        When the file is missing, empty or corrupt, holds pickled objects, or holds no weights.
    ConfigError
        When `key` names nothing, or is needed because several keys hold weights.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint; check the path, relative ones start at {Path.cwd()}")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the checkpoint is empty (0 bytes); copy it again")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    found, tensors = _chosen(content, key, path.name) if key else _searched(content, path.name)
    _refuse_non_finite(tensors, path.name)
    return Checkpoint(path.name, found, tensors)


def _read_safetensors(path: Path) -> Any:
    import safetensors
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({in_words(error)}); copy it again") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_refusal(error)}; {_SAVE_INSTEAD}") from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(f"{path}: holds a TorchScript program, expected weights; {_SAVE_INSTEAD}") from error
        raise ModelError(f"{path}: not a whole torch checkpoint ({in_words(error)}); copy or save it again") from error


def _refusal(error: BaseException) -> str:
    """Name what the weights-only reader refused: a global it met, or a stream that is no checkpoint at all."""
    text = str(error)
    for marker in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if marker in text:
            refused = text.split(marker, 1)[1].split()[0].rstrip(",.")
            return f"holds a pickled {refused} object, which could run code when loaded; expected tensors alone"
    return "not a torch checkpoint of tensors alone; a pickled model could run code when loaded"


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    tensors = sum(isinstance(item, Tensor) for item in value.values())
    return all(isinstance(name, str) for name in value) and tensors > 0 and tensors == len(value)


def _searched(content: Any, name: str) -> tuple[str, Mapping[str, Tensor]]:
    """Look for weights at the top and under the usual keys, two levels deep."""
    if _is_state(content):
        return "", content
    if isinstance(content, nn.Module) or not isinstance(content, Mapping):
        raise ModelError(f"{name}: holds a {type(content).__name__}, expected weights by name; {_SAVE_INSTEAD}")
    found = dict(_nested(content, depth=2))
    if len(found) > 1:
        keys = ", ".join(found)
        raise ConfigError(f"{name}: weights lie under {keys}; choose one with model.checkpoint_key=...")
    if not found:
        keys = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise ModelError(
            f"{name}: no weights at the top or under {', '.join(NESTED)}; the file holds {keys}; "
            "name the right one with model.checkpoint_key=..."
        )
    return next(iter(found.items()))


def _nested(content: Mapping[str, Any], depth: int, above: str = "") -> Iterable[tuple[str, Mapping[str, Tensor]]]:
    for key in NESTED:
        inner = content.get(key)
        if inner is not None and _is_state(inner):
            yield above + key, inner
        elif isinstance(inner, Mapping) and depth > 1:
            yield from _nested(inner, depth - 1, f"{above}{key}.")


def _chosen(content: Any, key: str, name: str) -> tuple[str, Mapping[str, Tensor]]:
    value = content
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = [str(item) for item in value] if isinstance(value, Mapping) else []
            raise ConfigError(f"model.checkpoint_key: {name} has nothing under {key!r}{did_you_mean(part, known)}")
        value = value[part]
    if not _is_state(value):
        raise ConfigError(
            f"model.checkpoint_key: {name} holds a {type(value).__name__} under {key!r}, expected tensors"
        )
    return key, value


def _refuse_non_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ModelError(f"{name}: NaN or infinite weights in {_some(bad)}; the training diverged, use an earlier file")


def load_into(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Give `model` all the weights of a checkpoint, or none.

    A prefix is taken off the keys only where the result fits the model. A missing count of batches seen
    (``num_batches_tracked``), which no prediction uses and old files lack, stays what it is in the model.

    Parameters
    ----------
    model
        Changed in place.
    checkpoint
        What to load.

    Returns
    -------
    str
        The prefix that was taken off; ``""`` where none was.

    Raises
    ------
    ModelError
        When keys are missing or unexpected, or shapes differ; the text lists the first of them and their number.
    """
    own = model.state_dict()
    candidates = _without_prefixes(checkpoint.tensors)
    complaints = {prefix: _misfits(tensors, own) for prefix, tensors in candidates.items()}
    prefix = min(complaints, key=lambda option: sum(len(keys) for keys in complaints[option].values()))
    if any(complaints[prefix].values()):
        raise ModelError(f"{checkpoint.name}: does not fit the model: {_listed(complaints[prefix])}; {_hint(prefix)}")
    state = OrderedDict((key, candidates[prefix].get(key, value)) for key, value in own.items())
    state._metadata = _metadata(checkpoint.tensors, prefix) or own._metadata  # type: ignore[attr-defined]
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{checkpoint.name}: the model refuses the weights: {' '.join(str(error).split())}") from error
    return prefix


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """Every way to read the keys, by the prefix that is taken off; the keys as they are come first."""
    found: dict[str, Mapping[str, Tensor]] = {"": tensors}
    waiting = [""]
    while waiting:
        done = waiting.pop(0)
        for prefix in PREFIXES:
            if all(key.startswith(prefix) and key != prefix for key in found[done]):
                shorter = {key.removeprefix(prefix): value for key, value in found[done].items()}
                found[done + prefix] = shorter
                waiting.append(done + prefix)
    # A part of the model that was compiled by itself has the mark in the middle of its keys.
    for prefix, shorter in list(found.items()):
        bare = {key.replace("._orig_mod.", "."): value for key, value in shorter.items()}
        if set(bare) != set(shorter) and len(bare) == len(shorter):
            found[prefix + "*._orig_mod."] = bare
    return found


def _misfits(tensors: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, list[str]]:
    counts = {key for key in own if key.endswith("num_batches_tracked")}
    shared = [key for key in own if key in tensors]
    return {
        "missing": [key for key in own if key not in tensors and key not in counts],
        "unexpected": [key for key in tensors if key not in own],
        "wrongly shaped": [
            f"{key} (file {tuple(tensors[key].shape)}, model {tuple(own[key].shape)})"
            for key in shared
            if tensors[key].shape != own[key].shape
        ],
    }


def _listed(complaints: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in complaints.items() if keys)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _hint(prefix: str) -> str:
    without = f" (after taking {prefix!r} off its keys)" if prefix else ""
    return f"nothing was loaded{without}; check that factory and arguments are those of the training"


def _metadata(tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """Versions of the modules that wrote the file, with names as in the model; None where the file has none."""
    metadata = getattr(tensors, "_metadata", None)
    if not metadata or "*" in prefix:
        return None
    return OrderedDict(
        (name.removeprefix(prefix), value) if name.startswith(prefix) else ("", value)
        for name, value in metadata.items()
        if name.startswith(prefix) or name == prefix.removesuffix(".")
    )
