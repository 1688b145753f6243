"""From Hydra's tree to checked objects; every `_target_` of convaudit is built here and nowhere else."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from ..stages.contract import Stage
from ..stages.errors import AuditError, ConfigError, did_you_mean
from .datasets.source import DataSource
from .executors import Cluster
from .fingerprint import Numerics
from .models.source import ModelSource
from .tracking import Tracking

#: Top-level keys that are not stages.
_OTHERS = ("model", "data", "cluster", "tracking", "gates", "numerics", "run", "work", "seed", "stages", "report")


@dataclass(frozen=True)
class Config:
    """One audit, checked.

    Parameters
    ----------
    model, data, cluster, tracking, numerics
        What is audited, where, and where the results are sent.
    stages
        Every configured stage by name.
    selected
        Names of the stages that were asked for.
    run, work
        Folder of the results, and of unfinished and sealed work.
    seed
        Root of every random number.
    report
        How much the report shows; `convaudit.reports` knows the class.
    resolved
        The whole tree as plain values.
    """

    model: ModelSource
    data: DataSource
    cluster: Cluster
    tracking: Tracking
    numerics: Numerics
    stages: Mapping[str, Stage]
    selected: tuple[str, ...]
    run: Path
    work: Path
    seed: int
    report: Any
    resolved: Mapping[str, Any]


def load(path: Path) -> Config:
    """Read a resolved config that `convaudit config` wrote.

    Raises
    ------
    ConfigError
        When the file is missing, is no YAML, or holds a wrong setting.
    """
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file; write it with `convaudit config --out {path}`")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path}: expected a mapping, got {type(tree).__name__}")
    return check(tree)


def resolve(composed: DictConfig) -> dict[str, Any]:
    """Turn what Hydra composed into plain values.

    Raises
    ------
    ConfigError
        When a mandatory value is missing or an interpolation fails.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError(f"{missing[0]}: a value is needed; set {missing[0]}=...")
        return typing.cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error


def as_yaml(tree: Mapping[str, Any]) -> str:
    """Spell a resolved tree as YAML that `load` reads again; the order is kept, because gates are shown in it."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def one_line(error: BaseException) -> str:
    """Fold an error of a config library into one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    noise = ("full_key:", "object_type", "reference_type", "Set the environment")
    text = " ".join(line for line in lines if not line.startswith(noise))
    return f"{key}: {text}" if key else text


def check(tree: Mapping[str, Any]) -> Config:
    """Build every object of a resolved tree.

    Raises
    ------
    ConfigError
        When a key is unknown, or a value has the wrong type or range; the text names the key.
    """
    stages = {name: node for name, node in tree.items() if name not in _OTHERS}
    for name, node in stages.items():
        if not (isinstance(node, Mapping) and "_target_" in node):
            raise ConfigError(f"{name}: no such setting{did_you_mean(name, _OTHERS)}")
    absent = [name for name in _OTHERS if name not in tree]
    if absent:
        raise ConfigError(f"{absent[0]}: the config lacks this key")
    built = {name: _as(Stage, build(node, name), name) for name, node in stages.items()}
    return Config(
        model=_as(ModelSource, build(tree["model"], "model"), "model"),
        data=_as(DataSource, build(tree["data"], "data"), "data"),
        cluster=_as(Cluster, build(tree["cluster"], "cluster"), "cluster"),
        tracking=_as(Tracking, build(tree["tracking"], "tracking"), "tracking"),
        numerics=_validated(Numerics, tree["numerics"], "numerics"),
        stages=built,
        selected=_selected(tree["stages"], built),
        run=_folder(tree["run"], "run"),
        work=_folder(tree["work"], "work"),
        seed=_validated(int, tree["seed"], "seed"),
        report=build(tree["report"], "report"),
        resolved=tree,
    )


def _selected(names: Any, stages: Mapping[str, Stage]) -> tuple[str, ...]:
    selected = _validated(tuple[str, ...], names, "stages")
    for name in selected:
        if name not in stages:
            raise ConfigError(f"stages: no stage is called {name!r}{did_you_mean(name, stages)}")
    if not selected:
        raise ConfigError(f"stages: expected at least one stage{did_you_mean('', stages)}")
    return selected


def _folder(value: Any, path: str) -> Path:
    if not _validated(str, value, path):
        raise ConfigError(f"{path}: expected a folder, got ''; write {path}=. for the one you are in")
    return Path(value)


def _as(kind: type, instance: Any, path: str) -> Any:
    if not isinstance(instance, kind):
        raise ConfigError(f"{path}._target_: expected a {kind.__name__}, got {type(instance).__name__}")
    return instance


def build(node: Any, path: str) -> Any:
    """Build the object that a node with `_target_` describes, inner nodes first.

    Parameters
    ----------
    node
        A resolved node; without `_target_` its values are built and it stays what it is.
    path
        Full key of the node, for messages.

    Raises
    ------
    ConfigError
        When the target cannot be imported, a key is unknown, or a value does not fit.
    """
    if isinstance(node, list):
        return [build(item, f"{path}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: build(item, f"{path}.{key}") for key, item in node.items()}
    kind = _locate(node["_target_"], path)
    if not dataclasses.is_dataclass(kind):
        return _deferred(node, path)
    values = {key: build(item, f"{path}.{key}") for key, item in node.items() if key != "_target_"}
    return _validated(kind, values, path)


def _locate(target: Any, path: str) -> Any:
    try:
        return get_object(str(target))
    except AuditError:
        raise
    except Exception as error:
        reason = one_line(error.__cause__ or error)
        raise ConfigError(f"{path}._target_: cannot import {target!r}: {reason}") from error


def _deferred(node: Mapping[str, Any], path: str) -> Any:
    """Keep somebody else's class (a Dask cluster, a Captum method) as a call that is made later."""
    try:
        return instantiate({**node, "_partial_": True})
    except Exception as error:
        raise ConfigError(f"{path}._target_: {one_line(error.__cause__ or error)}") from error


def _validated(kind: Any, value: Any, path: str) -> Any:
    _refuse_unknown(kind, value, path)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, AuditError):
            raise cause from None
        where = ".".join([path, *_place(first)])
        if first["type"] == "missing":
            raise ConfigError(f"{where}: a value is required; set {where}=...") from None
        told = dict.fromkeys(_complaint(other) for other in error.errors() if _place(other) == _place(first))
        message, *others = told
        if message.startswith("expected "):
            also = [text.removeprefix("expected ") for text in others if text.startswith("expected ")]
            message = " or ".join([message, *also])
        raise ConfigError(f"{where}: {message}, got {first['input']!r}") from None
    except TypeError as error:  # somebody's own class that lacks a method, or is no dataclass
        raise ConfigError(f"{path}: {kind.__module__}.{kind.__qualname__}: {one_line(error)}") from error


def _place(error: Any) -> list[str]:
    """Where a complaint is about, without the type that pydantic has tried of several."""
    return [str(part) for part in error["loc"] if part not in ("str", "int", "float", "bool")]


def _complaint(error: Any) -> str:
    cause = error.get("ctx", {}).get("error")
    return _EXPECTED.get(error["type"]) or str(cause or error["msg"]).removeprefix("Value error, ")


#: Pydantic's commonest complaints in the words of somebody who writes overrides.
_EXPECTED = {
    "tuple_type": "expected a list in brackets",
    "int_parsing": "expected an integer",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected text",
}


def _refuse_unknown(kind: Any, value: Any, path: str) -> None:
    """Refuse keys that no field has, at every depth; pydantic would drop them without a word."""
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind) if field.init]
        for key, item in value.items():
            if key not in known:
                raise ConfigError(f"{path}.{key}: no such setting{did_you_mean(str(key), known)}")
            _refuse_unknown(hints[key], item, f"{path}.{key}")
    elif isinstance(value, Mapping) and typing.get_origin(kind) in (dict, Mapping):
        for key, item in value.items():
            _refuse_unknown(typing.get_args(kind)[1], item, f"{path}.{key}")
    elif isinstance(value, Mapping) and typing.get_origin(kind) in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            _refuse_unknown(option, value, path)
