"""The config says what the classes say: same keys, targets that exist."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
#: Groups from which several options are taken at once, so that each has to say where it belongs.
COLLECTIONS = ("attributions", "embeddings")


def name(path: Path) -> str:
    return path.relative_to(CONF).as_posix()


def nodes(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_target_exists_and_has_exactly_these_fields(path):
    tree = yaml.safe_load(path.read_text())
    told = [tree, *(tree.get("methods") or {}).values()] if path.parent.name in COLLECTIONS else [tree]
    for node in nodes(tree):
        if not node["_target_"].startswith("convaudit."):
            continue
        kind = get_object(node["_target_"])
        assert dataclasses.is_dataclass(kind), node["_target_"]
        fields = {field.name for field in dataclasses.fields(kind) if field.init}
        keys = set(node) - {"_target_"}
        # The node of a file, or the method in it, is where people look a setting up; one inside may leave some unsaid.
        whole = any(node is other for other in told)
        assert keys == fields if whole else keys <= fields, node["_target_"]


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in COLLECTIONS], ids=name)
def test_a_method_adds_itself_to_its_stage(path):
    assert path.read_text().splitlines()[0] == f"# @package {path.parent.name}"
    assert list(yaml.safe_load(path.read_text())["methods"]) == [path.stem]


@pytest.mark.parametrize("path", sorted((CONF / "audit").glob("*.yaml")), ids=name)
def test_a_preset_begins_with_the_command_that_runs_it(path):
    first, second, *_ = path.read_text().splitlines()
    assert first == "# @package _global_"
    assert second.startswith(f"# convaudit audit={path.stem}")
