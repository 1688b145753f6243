"""What `convaudit init` puts into a new folder: a DVC pipeline and a config to start from."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from ..stages.errors import ConfigError


def init(directory: Path) -> list[Path]:
    """Copy the starting files into `directory`; all of them or none.

    Parameters
    ----------
    directory
        Where to; made when it is not there.

    Returns
    -------
    list of Path
        The new files, sorted.

    Raises
    ------
    ConfigError
        When one of the files is there already, or `directory` is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory}: expected a folder, got a file")
    with as_file(files(__name__.rpartition(".")[0]).joinpath("scaffold")) as scaffold:
        sources = sorted(path for path in scaffold.rglob("*") if path.is_file())
        targets = [directory / source.relative_to(scaffold) for source in sources]
        for target in targets:
            if target.exists():
                raise ConfigError(f"{target}: is there already and is never overwritten; choose another folder")
        for source, target in zip(sources, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return targets
