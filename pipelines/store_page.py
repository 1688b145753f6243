"""Writes docs/store.md from what the stages declare: ``python -m convaudit.pipelines.store_page docs/store.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ..stages.contract import Leaf, Stage
from ..stages.specs import STATUS, ArraySpec
from .config import build

_HEAD = """\
# The store

Every array that an audit can write. Generated from the stages; after a change run
`python -m convaudit.pipelines.store_page docs/store.md`.

A run keeps what the sweep saw in `run/store/<stage>.zarr` and what was computed from it in
`run/checks/<stage>.zarr`, both Zarr v3, to be opened with named axes:

    xarray.open_zarr("run/store/predictions.zarr", consolidated=False)

Beside them lie `run/store/images.parquet` (id, key, label, split, content hash, slice columns; one row per image, in
the order of every `image` axis) and `run/store/subject.json` (classes, axes, layers, model, data, numerics).

`{layer}` stands for a layer name and `*space` for the spatial axes of the data, `y x` or `time`. What was never
measured, and the row of every bad image, is NaN in floats, -1 in signed integers and 0 in the rest. Measurements,
findings and notes of a leaf are attributes of its group. The reference network's own group lies in `.work/reference/`.
"""


def page() -> str:
    """The whole page."""
    sections = [_HEAD]
    for noun, leaves in sorted(_leaves().items()):
        for name, documents in leaves.items():
            sections.append(_section(name if len(leaves) > 1 or "/" in name else noun, documents))
    codes = ", ".join(f"{code} {word}" for code, word in enumerate(STATUS))
    return "\n".join([*sections, f"## Status of an image\n\n`predictions/status`: {codes}; -1 was never looked at.\n"])


def _leaves() -> dict[str, dict[str, tuple[ArraySpec, ...]]]:
    """What each leaf that has a file in conf/ documents, by stage and leaf."""
    found: dict[str, dict[str, tuple[ArraySpec, ...]]] = {}
    for noun, stage in _stages():
        for leaf in stage.leaves():
            documents: tuple[ArraySpec, ...] = leaf.documents if isinstance(leaf, Leaf) else ()
            if documents:
                found.setdefault(noun, {})[leaf.name] = documents
    return found


def _stages() -> Iterator[tuple[str, Stage]]:
    for folder in sorted(files("convaudit.conf").iterdir(), key=lambda item: item.name):
        for file in sorted(folder.iterdir(), key=lambda item: item.name) if folder.is_dir() else ():
            if file.name.endswith(".yaml"):
                node = yaml.safe_load(file.read_text()) or {}
                if str(node.get("_target_", "")).startswith("convaudit.stages."):
                    yield folder.name, _build(folder.name, node)


def _build(noun: str, node: Any) -> Stage:
    # What a stage takes from elsewhere in the config decides no array.
    whole = OmegaConf.create({"seed": 0, "gates": {}, noun: node})
    tree: Any = OmegaConf.to_container(whole, resolve=True)
    return build(tree[noun], noun)


def _section(title: str, documents: tuple[ArraySpec, ...]) -> str:
    rows = [f"## {title}", "", "| array | axes | dtype | unit | meaning |", "|---|---|---|---|---|"]
    for spec in documents:
        cells = (f"`{spec.path}`", f"`{' '.join(spec.dims)}`", spec.dtype, spec.unit, spec.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
