"""What a leaf's bytes depend on, as one hash.

Everything is keyed: the leaf's config, what is audited, the numerics, the content of what the leaf reads, and the
source of every convaudit module it imports. Left out, by name: `run` and `work` (where), `cluster` (who computes;
threads and device are numerics), `tracking` and `report` (what happens afterwards).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..stages.errors import ConfigError

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("stages", "pipelines")
#: Modules whose source every leaf that looks at images depends on.
SWEEP_MODULES = ("stages.network.sweep", "pipelines.datasets.prefetch", "pipelines.worker")
#: Bounds of a batch that nobody named, and what its largest layer may take: measured, docs/benchmarks.md.
_BATCHES, _LAYER_BYTES = (4, 64), 64 << 20
_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "zarr", "numcodecs")


@dataclass(frozen=True)
class Numerics:
    """Everything that moves the last bits of a result.

    Parameters
    ----------
    batch
        Images per forward pass; None for as many as keep the largest layer in reach of a processor's caches (`fitted`).
    threads
        Torch and BLAS threads of one task; never derived from the cluster.
    shard
        Images per task and per file; a multiple of `batch`.
    device
        ``"cpu"`` or ``"cuda"``.
    dtype
        Element type of weights and images.
    memory_format
        How image tensors lie in memory.
    convolution
        ``"direct"``, or ``"winograd"`` for fewer multiplications in 3x3 convolutions, whose results round differently.
    """

    batch: int | None = None
    threads: int = 1
    shard: int = 256
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32"] = "float32"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    convolution: Literal["direct", "winograd"] = "direct"

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "shard"):
            if (getattr(self, name) or 0) < 1 and not (name == "batch" and self.batch is None):
                raise ConfigError(f"numerics.{name}: expected at least 1, got {getattr(self, name)}")
        if self.batch is None and self.device == "cuda":
            raise ConfigError("numerics.batch: expected a number for cuda, got null; null reckons with a CPU's caches")
        if self.convolution == "winograd" and self.device != "cpu":
            raise ConfigError(
                f"numerics.convolution: expected direct for {self.device}, got winograd, which is for CPUs alone; "
                "set numerics.convolution=direct (cuDNN chooses such kernels by itself)"
            )
        if self.convolution == "winograd" and self.threads > 1:
            raise ConfigError(
                f"numerics.convolution: winograd expects numerics.threads=1, got {self.threads}: its products are too "
                "short to be shared by threads; set numerics.threads=1 and let the cluster run more tasks"
            )
        if self.batch and self.shard % self.batch:
            raise ConfigError(f"numerics.shard: expected a multiple of numerics.batch={self.batch}, got {self.shard}")

    def fitted(self, largest: int) -> Numerics:
        """Fill in the batch where the user named none.

        Half a batch too large costs more than half a batch too small: what does not fit comes back from main memory for
        every operation, and glibc maps blocks above 32 MiB afresh each time. The size follows from the network alone,
        so that the bits do not depend on the machine's caches.

        Parameters
        ----------
        largest
            Values in the largest layer output of one image.
        """
        if self.batch is not None:
            return self
        fitting = min(_BATCHES[1], max(_BATCHES[0], _LAYER_BYTES // (4 * largest)))
        return replace(self, batch=max(n for n in range(1, fitting + 1) if self.shard % n == 0))

    def key(self) -> dict[str, Any]:
        """The settings together with the versions and the device that give them their bits."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("numerics.device: expected a CUDA device for 'cuda', got none; set numerics.device=cpu")
        on_cpu = self.device == "cpu"
        model = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(0)
        versions = {name: version(name) for name in _LIBRARIES}
        return asdict(self) | {
            "device_model": f"{platform.machine()} {model}",
            "versions": versions | {"python": platform.python_version()},
        }


def hashed(value: Any) -> str:
    """Sha256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def leaf_fingerprint(
    config: Mapping[str, Any], module: str, sweeps: bool, subject: str, reads: Mapping[str, str]
) -> dict[str, Any]:
    """Everything one leaf depends on.

    Parameters
    ----------
    config
        The leaf's resolved settings.
    module
        Import name of the module that defines the leaf.
    sweeps
        Whether it looks at images.
    subject
        Digest of what is audited, numerics included.
    reads
        Content digest of every leaf it reads.
    """
    targets = {value for value in _targets(config)}
    modules = {_inside(name) for name in (module, *targets)} | (set(SWEEP_MODULES) if sweeps else set())
    return {
        "config": dict(config),
        "subject": subject,
        "reads": dict(sorted(reads.items())),
        "source": source_digest(tuple(sorted(name for name in modules if name))),
    }


def _targets(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        own = {str(value["_target_"]).rpartition(".")[0]} if "_target_" in value else set()
        return own.union(*(_targets(item) for item in value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*(_targets(item) for item in value))
    return set()


def _inside(module: str) -> str:
    """Name of a convaudit module below the package; of a user's module, its full name."""
    return module.removeprefix("convaudit.")


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """Sha256 over the source of `modules` and of all convaudit modules they import, directly or not."""
    waiting, sources = [name for name in modules], {}
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _source_path(name)
        sources[name] = path.read_bytes() if path else b""
        if path and path.is_relative_to(_ROOT):
            waiting.extend(_imports(name, sources[name], path.name == "__init__.py"))
    return hashlib.sha256(b"".join(name.encode() + b"\0" + sources[name] for name in sorted(sources))).hexdigest()


def _source_path(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] in _PACKAGES:
        for path in (_ROOT.joinpath(*parts).with_suffix(".py"), _ROOT.joinpath(*parts, "__init__.py")):
            if path.is_file():
                return path
        return None
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache  # every leaf is made of much the same modules
def _imports(name: str, source: bytes, is_package: bool) -> frozenset[str]:
    """Names of the convaudit modules that a module's relative imports may mean, deferred imports included."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    found = set()
    for node in _executed(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            candidates = [".".join(base), *(".".join([*base, alias.name]) for alias in node.names)]
            found.update(candidate for candidate in candidates if candidate and _source_path_inside(candidate))
    return frozenset(found)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a module without the imports that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _executed(node)


def _source_path_inside(name: str) -> bool:
    return name.split(".")[0] in _PACKAGES and _source_path(name) is not None
