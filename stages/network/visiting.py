"""What a forward pass is looked at for, and where it may end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import Ask, Gradient, ReluRule, Target, Unit, Units
from ..errors import StageError
from .capture import Place, Seen
from .rules import ReluRules
from .variants import Altered

#: Shown ``(layer name, its output)`` while the forward runs.
Observer = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Probe:
    """Where to look during a forward pass.

    Parameters
    ----------
    observe, keep
        Layer names.
    gradients
        Each once, in a fixed order.
    logits
        Whether anybody wants to know what comes out at the end.
    """

    observe: frozenset[str]
    keep: frozenset[str]
    gradients: tuple[Gradient, ...]
    logits: bool = True

    @classmethod
    def union(cls, asks: Collection[Ask]) -> Probe:
        """Everything that anybody asks."""
        return cls(
            frozenset(name for ask in asks for name in ask.observe),
            frozenset(name for ask in asks for name in ask.keep),
            tuple(dict.fromkeys(gradient for ask in asks for gradient in ask.gradients)),
            any(ask.logits for ask in asks),
        )

    @property
    def asked(self) -> dict[tuple[Target, ReluRule], tuple[str, ...]]:
        """What to derive by, for each target and rule."""
        ways: dict[tuple[Target, ReluRule], None] = dict.fromkeys((g.target, g.rule) for g in self.gradients)
        return {way: tuple(g.wrt for g in self.gradients if (g.target, g.rule) == way) for way in ways}

    @property
    def derived(self) -> frozenset[str]:
        """Layers to derive, or to derive by."""
        units = {gradient.target.layer for gradient in self.gradients if isinstance(gradient.target, (Unit, Units))}
        return (frozenset(gradient.wrt for gradient in self.gradients) | units) - {"input"}

    @property
    def wanted(self) -> frozenset[str]:
        """Every layer that has to be passed."""
        return self.observe | self.keep | self.derived

    @property
    def ruled(self) -> bool:
        """Whether some gradient passes ReLUs in another way than the derivative does."""
        return any(gradient.rule != "plain" for gradient in self.gradients)


class Enough(BaseException):
    """Ends a forward pass of which nothing more is wanted; no Exception, which the model might catch."""


class Visitor:
    """Shows, keeps and edits what a forward pass computes, and ends it where nothing more is wanted.

    Parameters
    ----------
    places
        Where to look, with the name that was asked.
    probe
        What for.
    state
        What is to be edited.
    observer
        Who is shown what is observed.
    rules
        How gradients pass ReLUs; None where all is plain.
    """

    def __init__(
        self,
        places: Mapping[Place, str],
        probe: Probe,
        state: Altered,
        observer: Observer,
        rules: ReluRules | None = None,
    ) -> None:
        self.places, self.probe, self.state, self.observer, self.rules = places, probe, state, observer, rules
        self.derived = probe.derived
        self.ended = False
        self.kept: dict[str, Tensor] = {}
        self.shown: set[str] = set()

    def __call__(self, at: Seen) -> Tensor | None:
        """Look at one value; what it returns the model goes on with.

        Raises
        ------
        Enough
            When nothing more is wanted.
        """
        other = self._look(at)
        if self.over():
            raise Enough
        return other

    def over(self) -> bool:
        """Whether all that is wanted is there; with rules, one ReLU too, by which it is known that they are caught."""
        done = not self.probe.logits and self.probe.wanted <= self.shown
        self.ended = done and (self.rules is None or self.rules.calls > 0)
        return self.ended

    def check_calls(self, count: Mapping[tuple[str, str], int]) -> None:
        """Refuse a layer that was not computed, or more often than its name says.

        Parameters
        ----------
        count
            How often each (module, role) was passed, up to where the forward pass ended.

        Raises
        ------
        StageError
            With the layer's name.
        """
        for place, name in self.places.items():
            calls = count.get((place.module, place.role), 0)
            if name not in self.shown and not (self.ended and name not in self.probe.wanted):
                raise StageError(
                    f"layer {name!r} was not computed in this forward pass ({calls} calls); does it depend on the data?"
                )
            if calls > 1 and name == place.name(several=False):
                raise StageError(
                    f"layer {name!r} was computed {calls} times in one forward pass; say which, as in "
                    f"{place.name(True)!r}"
                )

    def _look(self, at: Seen) -> Tensor | None:
        name, value = self.places[at.place], at.value
        self.shown.add(name)
        edit = self.state.edits.get(name)
        if edit is not None:
            value = edit(value)
        if name in self.probe.observe:
            with torch.no_grad():
                self.observer(name, value.detach())
        if name in self.derived:
            return self._derivable(name, value, copied=edit is not None or not at.aliased)
        if name in self.probe.keep:
            self.kept[name] = value.detach().clone()
        return None if edit is None else value

    def _derivable(self, name: str, value: Tensor, copied: bool) -> Tensor:
        # Nobody but us holds `value` from here on: the model goes on with a copy that it may overwrite.
        value = value if copied else value.clone()
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        self.kept[name] = value
        return value.clone()
