"""A model that a function in the user's own code makes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ...stages.errors import AuditError, ConfigError, ModelError, did_you_mean, in_words
from .arguments import check_arguments
from .imports import local_imports
from .source import Architecture, ModelSource, ResolvedModel

# The path of imports belongs to the process.
_importing = threading.RLock()


@dataclass(frozen=True)
class PythonArchitecture(Architecture):
    """A factory in a file or a module.

    Parameters
    ----------
    file
        Absolute path of the file; None where it is a module.
    module
        Dotted name of the module; None where it is a file.
    factory
        Name of the function or class, dotted where it lies inside a class.
    arguments
        Keyword arguments for it.
    folder
        Where imports are looked up first.
    """

    file: Path | None
    module: str | None
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)

    def make(self) -> nn.Module:
        """What the factory returns."""
        with _beside(self.folder):
            function = _found(self._module(), self.factory, self._where())
            _refuse_hidden(self.files())
            check_arguments(function, self.arguments, where=self.factory)
            try:
                return function(**self.arguments)
            except AuditError:
                raise
            except Exception as error:
                raise ModelError(f"{self._where()}: {self.factory}() failed: {in_words(error)}") from error

    def files(self) -> tuple[tuple[str, Path], ...]:
        """The file or module, and what it imports from the same folder or package."""
        if self.file is not None:
            return tuple(sorted(local_imports(self.file, self.file.parent, self.file.parent).items()))
        origin = _origin(str(self.module), self.folder)
        if origin is None:
            return ()
        parts = str(self.module).split(".")
        root = origin.parents[len(parts) - (origin.name != "__init__.py")]
        # Everything installed lies in one folder; only the model's own package is the model's source there.
        within = root / parts[0] if root.name in ("site-packages", "dist-packages") else root
        return tuple(sorted(local_imports(origin, root, within).items()))

    def describe(self) -> dict[str, Any]:
        """Where the factory lies, its name and its arguments."""
        return {
            "source": "python",
            "file": self.file.name if self.file else None,
            "module": self.module,
            "factory": self.factory,
            "arguments": dict(self.arguments),
        }

    def _where(self) -> str:
        return str(self.file or self.module)

    def _module(self) -> ModuleType:
        return _loaded_file(self.file) if self.file else _loaded_module(str(self.module))


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let code import its neighbours, as it can where it is run as a script."""
    with _importing:
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))


def _loaded_file(path: Path) -> ModuleType:
    """Import a file under a name that its path and bytes alone decide, so that pickles of its classes can be read."""
    if not path.is_file():
        raise ConfigError(f"model.file: {path}: no such file; relative paths start at {Path.cwd()}")
    name = "convaudit_user_" + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"model.file: {path}: expected a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ModelError(f"{path}: cannot be imported: {in_words(error)}") from error
    return module


def _loaded_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(f"model.module: {name}: cannot be imported: {in_words(error)}") from error


def _refuse_hidden(files: tuple[tuple[str, Path], ...]) -> None:
    """Refuse a neighbour whose name something else has already taken: the model would be built from that."""
    for name, path in files:
        dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        loaded = getattr(sys.modules.get(dotted), "__file__", None)
        if loaded and Path(loaded).resolve() != path.resolve():
            raise ModelError(f"{path}: hidden by {loaded}, which is already imported as {dotted!r}; rename the file")


def _origin(name: str, folder: Path) -> Path | None:
    """The file of an importable module; None where it has none (a compiled or built-in one)."""
    try:
        with _beside(folder):
            spec = importlib.util.find_spec(name)
    except Exception as error:
        raise ModelError(f"model.module: {name}: cannot be imported: {in_words(error)}") from error
    if spec is None:
        raise ConfigError(f"model.module: there is no module {name!r}; install it, or give its path as model.file")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _found(module: ModuleType, factory: str, where: str) -> Callable[..., Any]:
    value: Any = module
    for part in factory.split("."):
        if not hasattr(value, part):
            known = [name for name, item in vars(value).items() if callable(item) and not name.startswith("_")]
            raise ConfigError(f"model.factory: {where} has no {factory!r}{did_you_mean(part, known)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(
            f"model.factory: {where}: expected {factory!r} to be a function or class, got {type(value).__name__}"
        )
    return value


@dataclass(frozen=True, kw_only=True)
class PythonModel(ModelSource):
    """A model made by the user's own code.

    Parameters
    ----------
    file
        Path of a Python file; it may import its neighbours.
    module
        Dotted name of an importable module, where there is no file.
    factory
        Name of the function or class in it that makes the model.
    arguments
        Keyword arguments for the factory.
    own_weights
        Whether the factory itself brings the trained weights, so that no checkpoint is needed.
    """

    factory: str
    file: str | None = None
    module: str | None = None
    arguments: Mapping[str, Any] | None = None
    own_weights: bool = False

    def __post_init__(self) -> None:
        if (self.file is None) == (self.module is None):
            given = "both" if self.file else "neither"
            raise ConfigError(f"model: expected either model.file or model.module, got {given}")

    def architecture(self) -> PythonArchitecture:
        """The factory with its arguments."""
        path = None if self.file is None else Path(self.file).expanduser().absolute()
        if path is not None and not path.is_file():
            raise ConfigError(f"model.file: {path}: no such file; relative paths start at {Path.cwd()}")
        folder = path.parent if path else Path.cwd()
        return PythonArchitecture(path, self.module, self.factory, self.arguments or {}, folder)

    def resolve(self, work: Path) -> ResolvedModel:
        """As any source does, once it is clear where the weights come from."""
        if (self.checkpoint is None) != self.own_weights:
            given = "both" if self.own_weights else "neither"
            raise ConfigError(
                f"model: expected either model.checkpoint=FILE or model.own_weights=true "
                f"(the factory brings them), got {given}"
            )
        return super().resolve(work)
