"""Hydra's part of the command: it reads flags and overrides and composes the config; what it says fits one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ..stages.errors import ConfigError, did_you_mean, in_words

_CONF = "convaudit.conf"
#: What Hydra reads as something else than a name.
_NO_NAMES = ("null", "true", "false")


def composed(overrides: Sequence[str], task: Callable[[DictConfig], int]) -> int:
    """Compose the config of a command line and hand it to `task`; return what that returns.

    Raises
    ------
    ConfigError
        When a flag or an override is wrong, in one line.
    """
    _refuse_multirun(overrides)
    results: list[int] = []
    raised: list[BaseException] = []

    def run(tree: DictConfig) -> None:
        try:
            results.append(task(tree))
        except BaseException as error:  # Hydra would announce it in its own words first; raised again below
            raised.append(error)

    before, sys.argv = sys.argv, ["convaudit", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    try:
        with parser_errors():
            hydra.main(version_base="1.3", config_path=f"pkg://{_CONF}", config_name="config")(run)()
    except ConfigError:
        raise
    except Exception as error:  # of Hydra alone: what the task raises is kept apart
        raise ConfigError(_explain(error, overrides)) from error
    finally:
        sys.argv = before
    if raised:
        raise raised[0]
    return results[0] if results else 0


def _refuse_multirun(overrides: Sequence[str]) -> None:
    for word in overrides:
        if word == "-m" or (len(word) > 2 and "--multirun".startswith(word)):
            raise ConfigError(f"{word}: expected one audit, got a sweep over several; start convaudit once for each")


@contextlib.contextmanager
def parser_errors() -> Iterator[None]:
    """Turn what argparse prints on a wrong word, usage text first, into one line.

    Raises
    ------
    ConfigError
        With that line.
    """
    complaints = io.StringIO()
    original = argparse.ArgumentParser._print_message

    def catch(self: argparse.ArgumentParser, message: str, file: Any = None) -> None:
        original(self, message, complaints if file is sys.stderr else file)

    argparse.ArgumentParser._print_message = catch  # type: ignore[method-assign]
    try:
        yield
    except SystemExit as stop:
        if not (stop.code and complaints.getvalue()):
            raise
        line = complaints.getvalue().strip().splitlines()[-1]
        raise ConfigError(f"{line.replace(': error: ', ': ', 1)}; see `convaudit --help`") from stop
    finally:
        argparse.ArgumentParser._print_message = original  # type: ignore[method-assign]


def config_groups(folders: Iterable[Path] = ()) -> dict[str, list[str]]:
    """Name every config group with its options.

    Parameters
    ----------
    folders
        Folders of the user's own groups, beside those of convaudit.
    """
    from importlib.resources import files

    found: dict[str, set[str]] = {}
    for root in (files(_CONF), *folders):
        for group in (item for item in root.iterdir() if item.is_dir() and item.name != "__pycache__"):
            options = (item.name.removesuffix(".yaml") for item in group.iterdir() if item.name.endswith(".yaml"))
            found.setdefault(group.name, set()).update(options)
    return {group: sorted(found[group]) for group in sorted(found)}


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Say which word of the command line is wrong, what was expected and what there is."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override}: cannot be read as key=value: {reason}; quote values with special characters"
    if isinstance(error, MissingConfigException) and isinstance(error.missing_cfg_file, str):
        return _no_option(error.missing_cfg_file, overrides)
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.full_key:
        return _no_setting(cause)
    return _other(error, cause, overrides)


def _no_option(missing: str, overrides: Sequence[str]) -> str:
    group, _, option = missing.rpartition("/")
    folders = [Path(value) for flag, value in _flags(overrides) if flag in ("--config-dir", "-cd")]
    known = config_groups(folder for folder in folders if folder.is_dir()).get(group)
    if known is None:
        return f"no config is called {missing!r}; see `convaudit --help` for the groups and their options"
    close = did_you_mean(option, known)
    everything = "" if "there are" in close else f" There are: {', '.join(known)}"
    return f"{group}: no option is called {option!r}{close}{everything}"


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("-"):
            yield flag, value if equals else following


def _no_setting(cause: OmegaConfBaseException) -> str:
    parent = cause.parent_node
    known = [str(key) for key in parent if key not in ("_target_", "hydra")] if isinstance(parent, Mapping) else []
    return f"{cause.full_key}: no such setting{did_you_mean(str(cause.key), known)}"


def _other(error: Exception, cause: BaseException | None, overrides: Sequence[str]) -> str:
    from .config import one_line

    text = one_line(error).partition("Config search path:")[0].strip()
    if text.startswith("Ambiguous value"):
        word = next((word for word in overrides if f"'{word}'" in text), "")
        key, _, value = word.partition("=")
        return f"{word}: expected one value; write a list as '{key}=[{value}]' and text as '{key}=\"{value}\"'"
    if isinstance(error, ValueError):
        for word in overrides:
            key, _, value = word.partition("=")
            if key in ("", *config_groups()) and (
                value.lower() in _NO_NAMES or not value.strip("[]'\"").isidentifier()
            ):
                return f"{word}: {text}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{text} {one_line(cause)}"
    return text if isinstance(error, (HydraException, OmegaConfBaseException, ValueError)) else in_words(error)
