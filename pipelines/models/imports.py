"""Which files of the user's own a Python file is made of, read from its import statements without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ...stages.errors import ModelError, in_words


def local_imports(file: Path, root: Path, within: Path) -> dict[str, Path]:
    """A file and everything below `within` that it imports, directly or not.

    Parameters
    ----------
    file
        Where to begin.
    root
        Folder that absolute imports are looked up in.
    within
        What lies outside this folder or file is somebody else's.

    Returns
    -------
    dict
        Absolute path of each file by its path relative to `root`, in POSIX form.

    Raises
    ------
    ModelError
        When a file cannot be read or is no Python.
    """
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path != file and not path.is_relative_to(within):
            continue
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found[name] = path
        for base, dotted in _imported(path, root):
            waiting.extend(_files(base, dotted))
    return found


def _imported(path: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Pairs of a folder and a dotted name to be looked up in it."""
    try:
        tree = ast.parse(path.read_bytes(), filename=path.name)
    except (OSError, SyntaxError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as Python: {in_words(error)}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((root, item.name) for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = root if not node.level else path.parents[node.level - 1]
            stem = node.module or ""
            # Of `from package import name`, the name may be a module of its own.
            yield from ((base, f"{stem}.{item.name}".strip(".")) for item in node.names)
            if stem:
                yield base, stem


def _files(base: Path, dotted: str) -> Iterator[Path]:
    """Files that importing a dotted name runs: the packages on the way and the module itself, where they lie here."""
    place = base
    for part in dotted.split("."):
        place = place / part
        if (place / "__init__.py").is_file():
            yield place / "__init__.py"
        elif place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
