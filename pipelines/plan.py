"""Which leaves run, and after which others; decides and touches nothing."""

from __future__ import annotations

import fnmatch
import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..stages.contract import Leaf, Stage
from ..stages.errors import ConfigError, did_you_mean

#: Reads everything there is, and runs even where something failed.
EVERYTHING = "*"


@dataclass(frozen=True)
class Plan:
    """Leaves in an order in which each comes after all that it reads.

    Parameters
    ----------
    leaves
        Every leaf to run, by name, in order.
    needs
        For each leaf, the leaves it reads.
    """

    leaves: Mapping[str, Leaf]
    needs: Mapping[str, tuple[str, ...]]

    def forgives(self, name: str) -> bool:
        """Whether a leaf also runs when something it reads has failed."""
        return EVERYTHING in self.leaves[name].reads


def make_plan(stages: Mapping[str, Stage], selected: Sequence[str]) -> Plan:
    """Order the selected stages and everything they read.

    Parameters
    ----------
    stages
        Every configured stage by name.
    selected
        Names of the wanted stages.

    Raises
    ------
    ConfigError
        When a name is unknown, a leaf reads what is not configured, or leaves read each other in a circle.
    """
    for name in selected:
        if name not in stages:
            raise ConfigError(f"stages: no stage is called {name!r}{did_you_mean(name, stages)}")
    everything = {leaf.name: leaf for stage in stages.values() for leaf in stage.leaves()}
    wanted = [leaf.name for name in dict.fromkeys(selected) for leaf in stages[name].leaves()]
    needs = _close(wanted, everything)
    for name in needs:
        if EVERYTHING in everything[name].reads:
            needs[name] = tuple(other for other in needs if EVERYTHING not in everything[other].reads)
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise ConfigError(f"stages: {' reads '.join(error.args[1])}, which is a circle") from error
    return Plan({name: everything[name] for name in order}, needs)


def _close(wanted: Iterable[str], everything: Mapping[str, Leaf]) -> dict[str, tuple[str, ...]]:
    """Follow what is read until nothing new turns up."""
    needs: dict[str, tuple[str, ...]] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop(0)
        if name not in needs:
            needs[name] = tuple(
                read
                for pattern in everything[name].reads
                if pattern != EVERYTHING
                for read in _matching(pattern, name, everything)
            )
            waiting.extend(needs[name])
    return needs


def _matching(pattern: str, reader: str, everything: Mapping[str, Leaf]) -> list[str]:
    found = fnmatch.filter(everything, pattern)
    if not found:
        raise ConfigError(f"{reader}: reads {pattern!r}, which is not configured{did_you_mean(pattern, everything)}")
    return found
