"""Keyword arguments checked against the function they are meant for, before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ...stages.errors import ConfigError, did_you_mean


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], taken: tuple[str, ...] = (), where: str = "factory"
) -> None:
    """Refuse arguments that `function` does not have, and calls that leave out what it needs.

    Parameters
    ----------
    function
        What will be called.
    arguments
        Keyword arguments for it.
    taken
        Names that the caller sets itself.
    where
        Name of the function, for the message.

    Raises
    ------
    ConfigError
        When a name is unknown or taken, or a needed argument is not given.
    """
    for name in taken:
        if name in arguments:
            raise ConfigError(f"model.arguments.{name}: set model.{name} instead, outside of arguments")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    if not any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        known = [
            item.name for item in parameters.values() if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        ]
        for name in arguments:
            if name not in known:
                raise ConfigError(f"model.arguments.{name}: {where} has no such argument{did_you_mean(name, known)}")
    needed = [
        item.name
        for item in parameters.values()
        if item.default is item.empty and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)
    ]
    for name in needed:
        if name not in arguments and name not in taken:
            raise ConfigError(f"model.arguments: {where} needs {name!r}; set model.arguments.{name}=...")
