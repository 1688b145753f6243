"""What is audited: from data set and model to the facts that planning needs, and back from a run's files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..stages.contract import Subject
from ..stages.errors import AuditError, ConfigError, DataError, ImageError, ModelError, in_words
from ..stages.specs import LayerSpec
from .config import Config
from .datasets.regions import REGION_COLUMNS
from .datasets.source import Index, digest
from .fingerprint import Numerics, hashed
from .models.source import ResolvedModel

_COLUMNS = ("id", "key", "label", "split", "content")
_PROBES = 2


@dataclass(frozen=True)
class Audited:
    """The subject together with the files that tell of it.

    Parameters
    ----------
    subject
        What leaves see.
    table
        Index of the images.
    facts
        Content of ``subject.json``.
    """

    subject: Subject
    table: pd.DataFrame
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Hash of all of it."""
        return hashed({"facts": self.facts, "images": digest(self.table)})

    def write(self, folder: Path) -> None:
        """Write ``subject.json`` and ``images.parquet``."""
        folder.mkdir(parents=True, exist_ok=True)
        # DVC may have linked both into its cache: writing into them would change the cache.
        for name in ("subject.json", "images.parquet"):
            (folder / name).unlink(missing_ok=True)
        (folder / "subject.json").write_text(json.dumps(self.facts, indent=1, sort_keys=True) + "\n")
        self.table.to_parquet(folder / "images.parquet", index=False)


def examine(config: Config, index: Index, model: ResolvedModel) -> Audited:
    """Look into the model with a few of the images and check that model and data fit each other.

    Raises
    ------
    DataError, ModelError
        When data and model do not fit each other.
    """
    from ..stages.network.layers import examine as look_into

    network, images = model.build(), _probe(config, index)
    try:
        anatomy = look_into(network, images)
    except AuditError:
        raise
    except Exception as error:  # whatever the user's own forward raises
        shape = " x ".join(str(length) for length in images.shape)
        raise ModelError(
            f"data and model do not fit: the model fails on a batch of {shape} (image x channel x space): "
            f"{in_words(error)}; set data.preprocessing to what it was trained on"
        ) from error
    class_names = _class_names(index, model, anatomy.n_logit)
    numerics = config.numerics.fitted(max(math.prod(layer.shape) for layer in anatomy.layers))
    facts = {
        "schema": 1,
        "class_names": list(class_names),
        "axes": list(index.axes),
        "input_shape": list(index.input_shape),
        "mean": list(index.mean),
        "std": list(index.std),
        "layers": [asdict(layer) | {"shape": list(layer.shape)} for layer in anatomy.layers],
        "seed": config.seed,
        "shard": numerics.shard,
        "batch": numerics.batch,
        "model": dict(model.description) | {"digest": model.digest},
        "data": {
            "digest": digest(index.table),
            "n": len(index.table),
            "settings": _data_settings(config),
            "notes": dict(index.notes),
        },
        "numerics": numerics.key() | _served(numerics, network, images),
    }
    return from_facts(facts, index.table)


def _served(numerics: Numerics, network: Any, images: Any) -> dict[str, Any]:
    """How many convolutions are computed in the way that `numerics.convolution` names, where it names one.

    Raises
    ------
    ConfigError
        When there are none.
    """
    from ..stages.network.winograd import census

    if numerics.convolution == "direct":
        return {}
    found = census(network, images)
    if not found["served"]:
        raise ConfigError(
            f"numerics.convolution: expected a network with 3x3 convolutions of stride 1 that winograd makes faster, "
            f"got {found['convolutions']} convolutions, none of this kind and of enough channels and pixels; "
            "set numerics.convolution=direct"
        )
    return {"winograd": found}


def _data_settings(config: Config) -> dict[str, Any]:
    """The data node of the config, without where the data lie: the digest tells what they are."""
    return {key: value for key, value in config.resolved["data"].items() if key not in ("path", "root")}


def _probe(config: Config, index: Index) -> Any:
    """Build a small batch of the first readable images, for the trace."""
    import torch

    reader = config.data.reader(index.table)
    images: list[np.ndarray] = []
    for position in range(len(index.table)):
        try:
            image = reader.read(position)
        except ImageError:
            continue
        if image.shape == tuple(index.input_shape):
            images.append(image)
        if len(images) == _PROBES:
            break
    if not images:
        raise DataError(f"data: none of the {len(index.table)} images can be read")
    return torch.from_numpy(np.stack(images))


def _class_names(index: Index, model: ResolvedModel, n_logit: int) -> tuple[str, ...]:
    names = tuple(index.class_names)
    if len(names) != n_logit:
        raise DataError(
            f"data and model do not fit: the data have {len(names)} classes ({', '.join(names[:5])}, ...), "
            f"the model has {n_logit} outputs; set data.class_names to the names of all outputs, in their order"
        )
    if model.class_names is not None and tuple(model.class_names) != names:
        wrong = next(i for i, pair in enumerate(zip(model.class_names, names, strict=True)) if pair[0] != pair[1])
        raise ModelError(
            f"data and model do not fit: class {wrong} is {model.class_names[wrong]!r} for the model "
            f"and {names[wrong]!r} in the data; set data.class_names in the model's order"
        )
    return names


def from_facts(facts: Mapping[str, Any], table: pd.DataFrame) -> Audited:
    """Rebuild the subject from what a run keeps of it."""
    slices = [str(name) for name in table.columns if name not in (*_COLUMNS, *REGION_COLUMNS)]
    subject = Subject(
        image_id=tuple(table["id"].astype(str)),
        label=table["label"].to_numpy(dtype=np.int64),
        content=tuple(table["content"].astype(str)),
        split=tuple(table["split"].fillna("").astype(str)),
        class_names=tuple(facts["class_names"]),
        axes=tuple(facts["axes"]),
        input_shape=tuple(facts["input_shape"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        layers=tuple(LayerSpec(**{**row, "shape": tuple(row["shape"])}) for row in facts["layers"]),
        shard=int(facts["shard"]),
        batch=int(facts["batch"]),
        seed=int(facts["seed"]),
        slices={name: tuple(table[name].astype(str)) for name in slices},
    )
    return Audited(subject, table, facts)


def from_run(run: Path) -> Audited:
    """Read what a run audited.

    Raises
    ------
    StoreError
        When there is no such run.
    """
    from .store import RunStore

    stored = RunStore(run)
    return from_facts(stored.subject(), stored.images())


def bootstrap(config: Config) -> Audited:
    """Stand in for a subject while there is no model yet: no images, no layers."""
    facts = {
        "class_names": [], "axes": [], "input_shape": [], "mean": [], "std": [], "layers": [], "seed": config.seed,
        "shard": config.numerics.shard, "batch": config.numerics.fitted(1).batch, "numerics": config.numerics.key(),
    }  # fmt: skip
    return from_facts(facts, pd.DataFrame({name: [] for name in _COLUMNS}))
