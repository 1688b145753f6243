"""Settings are checked before anything runs; a message names the key, what was expected and what came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from convaudit.pipelines.config import build
from convaudit.stages.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    share: float = 0.5

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share: expected 0 to 1, got {self.share}")


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    inner: Inner = Inner()
    table: dict[str, Inner] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


def make(**node):
    import sys
    import types

    module = types.ModuleType("settings_under_test")
    module.Outer, module.Inner = Outer, Inner
    sys.modules["settings_under_test"] = module
    return build({"_target_": "settings_under_test.Outer", **node}, "stage")


def test_values_become_what_the_fields_say():
    made = make(count=3, names=["x"], inner={"share": 1}, table={"p": {"share": 0.25}})
    assert made == Outer(3, names=("x",), inner=Inner(1.0), table={"p": Inner(0.25)})


def test_inner_targets_are_built_first():
    made = make(count=1, anything={"m": {"_target_": "settings_under_test.Inner", "share": 0.1}})
    assert made.anything == {"m": Inner(0.1)}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"count": "many"}, r"stage\.count: .*integer.*got 'many'"),
        ({"count": 1, "kind": "c"}, r"stage\.kind: .*'a' or 'b'.*got 'c'"),
        ({"count": 1, "kid": "a"}, r"stage\.kid: no such setting; did you mean 'kind'\?"),
        ({"count": 1, "inner": {"shore": 1}}, r"stage\.inner\.shore: no such setting; did you mean 'share'\?"),
        ({"count": 1, "table": {"p": {"shore": 1}}}, r"stage\.table\.p\.shore: no such setting"),
        ({"count": 1, "inner": {"share": 2}}, r"share: expected 0 to 1, got 2"),
        ({}, r"stage\.count: .*required"),
    ],
)
def test_wrong_settings_are_named(node, message):
    with pytest.raises(ConfigError, match=message):
        make(**node)


def test_targets_that_cannot_be_imported_are_named():
    with pytest.raises(ConfigError, match=r"method\._target_: cannot import 'convaudit\.nowhere\.Thing'"):
        build({"_target_": "convaudit.nowhere.Thing"}, "method")


def test_foreign_classes_become_calls_that_are_made_later():
    made = build({"_target_": "collections.Counter", "a": 2}, "counter")
    assert made()["a"] == 2
