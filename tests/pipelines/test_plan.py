"""The plan decides what runs, and after what."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from convaudit.pipelines.plan import make_plan
from convaudit.stages.contract import SoleLeaf, Subject
from convaudit.stages.errors import ConfigError


def stage(noun: str, *reads: str) -> SoleLeaf:
    @dataclass(frozen=True)
    class Made(SoleLeaf):
        name = noun

        @property
        def reads(self):
            return reads

        def writes(self, subject: Subject):
            return ()

    return Made()


def stages(**reads: tuple[str, ...]):
    return {name: stage(name, *patterns) for name, patterns in reads.items()}


def test_what_is_read_runs_first_and_is_pulled_in():
    plan = make_plan(stages(c=("b",), b=("a",), a=(), other=()), ["c"])
    assert list(plan.leaves) == ["a", "b", "c"]
    assert plan.needs == {"c": ("b",), "b": ("a",), "a": ()}


def test_star_reads_everything_planned_and_nothing_else():
    plan = make_plan(stages(all=("*",), a=(), b=("a",), unasked=()), ["all", "b"])
    assert list(plan.leaves)[-1] == "all"
    assert set(plan.needs["all"]) == {"a", "b"}
    assert plan.forgives("all")
    assert not plan.forgives("b")


def test_unknown_stage_names_the_close_one():
    with pytest.raises(ConfigError, match=r"'confusoin'; did you mean 'confusion'\?"):
        make_plan(stages(confusion=()), ["confusoin"])


def test_reading_what_is_not_configured_is_an_error():
    with pytest.raises(ConfigError, match="a: reads 'gone'"):
        make_plan(stages(a=("gone",)), ["a"])


def test_a_circle_is_an_error():
    with pytest.raises(ConfigError, match="circle"):
        make_plan(stages(a=("b",), b=("a",)), ["a"])
