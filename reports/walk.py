"""What is known of one layer: facts from every stage that has a number for it, and what each stage shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import attention
from .blocks import TITLES, Blocks, Spent
from .figures import number
from .material import Material
from .views.provenance import Fact

#: Stages that know something of single layers: numbers, or more.
NOUNS = ("receptive_fields", "activations", *TITLES)


@dataclass(frozen=True)
class Block:
    """What one stage shows of one layer: in few words what is in it, or that it failed, or that no byte was left."""

    noun: str
    title: str
    gist: str
    view: object | None
    failure: str
    spent: bool = False


@dataclass(frozen=True)
class Known:
    """Everything about layers that several stages know, read once.

    Parameters
    ----------
    drawing
        What the stages show; some of it is told as numbers, too.
    """

    drawing: Blocks

    @property
    def material(self) -> Material:
        """Store and config."""
        return self.drawing.material

    @cached_property
    def described(self) -> dict[str, Mapping[str, Any]]:
        """The subject's own words of each layer."""
        return {layer["name"]: layer for layer in self.material.subject.get("layers", ())}

    @cached_property
    def fields(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The receptive fields of each layer by group of channels; empty where the stage did not run."""
        return self.material.notes("receptive_fields/theoretical").get("groups", {})

    @cached_property
    def troubled(self) -> dict[str, tuple[int, dict[str, int]]]:
        """Channels audited and in trouble, by layer."""
        return attention.troubled(self.material)

    def facts(self, name: str) -> tuple[Fact, ...]:
        """What is known of a layer in numbers; what no stage measured is left out."""
        layer, row = self.described[name], self.drawing.weighed.get(name, {})
        facts = [Fact("kind", f"{layer['kind']} ({layer['module']})"), Fact("output", shape(layer["shape"]))]
        facts += [Fact(key, shape(row[key])) for key in ("kernel", "stride") if row.get(key)]
        if row.get("groups", 1) > 1:
            facts.append(Fact("groups", number(row["groups"])))
        if "parameters" in row:
            facts.append(Fact("parameters", number(row["parameters"])))
        if name in self.fields:
            facts.append(Fact("receptive field", self.field(name)))
        return (*facts, *self._firing(name))

    def field(self, name: str) -> str:
        """The receptive field of a layer: size and step on the input, and whether channels differ."""
        groups = self.fields.get(name, ())
        words = list(dict.fromkeys(_field(group) for group in groups))
        told = "; ".join(words[:3]) + ("; ..." if len(words) > 3 else "")
        return told if len(words) < 2 else f"{len(words)} kinds of channels: {told}"

    def _firing(self, name: str) -> list[Fact]:
        path = f"activations/{name}"
        if name not in self.material.layers_of("activations", "rate"):
            return []
        rate = self.material.array(f"{path}/rate")
        rate = rate[np.isfinite(rate)]
        if not rate.size:
            return []
        text = f"for {number(100 * float(np.mean(rate)))} % of the images on average"
        return [Fact("a channel fires", text)]


def shape(lengths: Sequence[object]) -> str:
    """Lengths of axes as people write them."""
    return " × ".join(map(str, lengths))


def _field(group: Mapping[str, Any]) -> str:
    status = str(group.get("status", "")).upper()
    if status in ("WHOLE", "UNKNOWN"):
        return {"WHOLE": "the whole input", "UNKNOWN": "unknown"}[status]
    step = [number(float(value)) for value in group["stride"]]
    every = step[0] if len(set(step)) == 1 else shape(step)
    size = [round(value) for value in group["size"]]
    unit = ("pixel" if len(size) > 1 else "sample") + ("" if size == [1] * len(size) else "s")
    return f"{shape(size)} {unit}, every {every}"


def blocks(drawing: Blocks, name: str) -> tuple[Block, ...]:
    """What each stage shows of one layer; a stage that is not there or has nothing of it gives no block."""
    return tuple(block for noun in TITLES if (block := _block(drawing, noun, name)) is not None)


def _block(drawing: Blocks, noun: str, name: str) -> Block | None:
    if not any(drawing.material.has(leaf) for leaf in drawing.material.leaves(noun)):
        return None
    try:
        view = getattr(drawing, noun)(name)
    except Exception as error:  # one layer that cannot be drawn must not cost the reader the walk
        return Block(noun, TITLES[noun], "", None, f"could not be drawn: {type(error).__name__}: {error}")
    if isinstance(view, Spent):
        return Block(noun, TITLES[noun], "", None, "", spent=True)
    return None if view is None else Block(noun, TITLES[noun], getattr(view, "gist", ""), view, "")


def missing(material: Material) -> tuple[tuple[str, str], ...]:
    """Stages that have nothing for the walk, and why."""
    gaps = []
    for noun in NOUNS:
        leaves = material.leaves(noun)
        failed = [f"{leaf}: {reason}" for leaf in leaves if (reason := material.store.failure(leaf)) is not None]
        if failed:
            gaps.append((noun, "failed: " + "; ".join(failed)))
        elif not leaves:
            gaps.append((noun, "was not run"))
    return tuple(gaps)
