"""A method that runs another one under changed conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..contract import Ask, Subject, Target
from ..errors import ConfigError
from .method import Method


@dataclass(frozen=True, kw_only=True)
class Wrapper(Method):
    """Another method under changed conditions.

    Parameters
    ----------
    target, images
        As everywhere; those of `method` follow them.
    method
        The `Method` that is run.
    """

    method: Any

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.method, Method):
            raise ConfigError(f"{name}.method: expected an attribution method with a _target_, got {self.method!r}")
        for field, mine in (("target", self.target), ("images", self.images)):
            # What the inner one says without being asked is its default.
            if getattr(self.method, field) not in (mine, getattr(Method, field)):
                got = getattr(self.method, field)
                raise ConfigError(f"{name}.method.{field}: expected {mine!r} or nothing, got {got!r}; set it outside")

    @property
    def inner(self) -> Method:
        """The method with the targets that are set outside."""
        return replace(self.method, target=self.target, images="all")

    @property
    def core(self) -> Method:
        """The innermost method, which is no wrapper."""
        return self.method.core if isinstance(self.method, Wrapper) else self.method

    def passes(self, subject: Subject) -> int:
        """As the inner method."""
        return self.method.passes(subject)

    def targets(self, subject: Subject) -> tuple[Target, ...]:
        """Those of the inner method, which may explain a unit."""
        return self.inner.targets(subject)

    def asks(self, subject: Subject) -> Ask:
        """Nothing: the inner method looks at other passes."""
        del subject
        return Ask()
