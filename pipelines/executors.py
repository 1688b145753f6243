"""Who computes: this process, or Dask workers; the only module that imports dask.

Every executor maps one function over payloads and yields ``(position, result)`` as results come in; an exception is a
result, so that one bad task never costs the others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from ..stages.errors import ClusterError, ConfigError

Outcomes = Iterator[tuple[int, Any]]

#: Elsewhere, system libraries that torch uses do not survive a fork.
_FORKS = sys.platform == "linux"
#: Imported once for all workers.
_PRELOADED = ("convaudit.pipelines.warm", "distributed")
#: The same, where the driver has needed it; nothing of it starts a thread either.
_PRELOADED_AS_HERE = ("torchvision",)


class Executor(ABC):
    """Something that maps a function over payloads."""

    #: In words, for the first line of output.
    description: str

    @abstractmethod
    def map(self, function: Callable[..., Any], payloads: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Call ``function(*payload)`` for each payload; yield position and result, or the exception, as they come."""


class Inprocess(Executor):
    """Runs tasks here, one after another."""

    description = "in this process"

    def map(self, function: Callable[..., Any], payloads: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Call in order."""
        for position, payload in enumerate(payloads):
            try:
                yield position, function(*payload)
            except Exception as error:
                yield position, error


class Dask(Executor):
    """Runs tasks on Dask workers, with a window of submitted tasks.

    Parameters
    ----------
    client
        A connected `distributed.Client`.
    description
        In words.
    """

    def __init__(self, client: Any, description: str) -> None:
        self.client = client
        self.description = description

    def map(self, function: Callable[..., Any], payloads: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Keep two tasks per worker thread submitted; a worker that dies is replaced and its task run again."""
        from distributed import as_completed

        threads = sum(worker["nthreads"] for worker in self.client.scheduler_info(n_workers=-1)["workers"].values())
        if not threads:
            raise ClusterError("cluster: the scheduler has no workers; start some and run again")
        waiting = iter(enumerate(payloads))
        position_of: dict[Any, int] = {}

        def submit() -> Any:
            position, payload = next(waiting)
            # Results depend on files, not on arguments alone: never let Dask take one task for another.
            future = self.client.submit(function, *payload, pure=False)
            position_of[future.key] = position
            return future

        window = [submit() for _ in range(min(2 * threads, len(payloads)))]
        completed = as_completed(window, raise_errors=False)
        for future in completed:
            yield position_of.pop(future.key), _result(future)
            with contextlib.suppress(StopIteration):
                completed.add(submit())


def _result(future: Any) -> Any:
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    error = future.exception()
    if isinstance(error, KilledWorker):
        return ClusterError(f"the task killed its worker {error.allowed_failures + 1} times; is memory too small?")
    return error


class Cluster(ABC):
    """Config of an executor."""

    def prepare(self, n_image: int) -> None:
        """Begin, without waiting, what `open` will need.

        Parameters
        ----------
        n_image
            How much there will be to do.
        """
        del n_image

    @abstractmethod
    def open(self, n_image: int, threads: int) -> contextlib.AbstractContextManager[Executor]:
        """Start the executor; closing the context stops it.

        Parameters
        ----------
        n_image
            How much there is to do.
        threads
            Torch threads of one task.
        """


@dataclass(frozen=True)
class InprocessCluster(Cluster):
    """No cluster: tests and tiny runs."""

    @contextlib.contextmanager
    def open(self, n_image: int, threads: int) -> Iterator[Executor]:
        """Run here."""
        del n_image, threads
        yield Inprocess()


@dataclass(frozen=True)
class LocalCluster(Cluster):
    """Processes on this machine.

    Parameters
    ----------
    workers
        How many; None for as many as the cores carry with the torch threads of one task.
    memory_limit
        Of one worker, as Dask spells it; ``"auto"`` shares the machine's memory.
    dashboard
        Address of Dask's dashboard, for instance ``"127.0.0.1:8787"``; None for none.
    minimum_images
        Below this many images the tasks run in the driver, since starting processes takes longer than they save.
    """

    workers: int | None = None
    memory_limit: str = "auto"
    dashboard: str | None = None
    minimum_images: int = 0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"cluster.workers: expected at least 1, got {self.workers}")

    def prepare(self, n_image: int) -> None:
        """Let one process import what all workers need, while the driver looks at model and data."""
        if n_image >= self.minimum_images and _FORKS:
            as_here = [name for name in _PRELOADED_AS_HERE if name in sys.modules]
            multiprocessing.get_context("forkserver").set_forkserver_preload([*_PRELOADED, *as_here])
            with _interrupts_for_the_driver_alone():
                forkserver.ensure_running()

    @contextlib.contextmanager
    def open(self, n_image: int, threads: int) -> Iterator[Executor]:
        """Start the processes, or none for a small data set."""
        if n_image < self.minimum_images:
            yield Inprocess()
            return
        self.prepare(n_image)
        from distributed import LocalCluster as Local

        count = self.workers or max(1, (len(os.sched_getaffinity(0))) // threads)
        words = f"{count} local worker{'s' * (count > 1)} x {threads} torch threads"
        yield from _started(
            lambda: Local(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                memory_limit=self.memory_limit,
                # None would still open a port, on every interface
                dashboard_address=self.dashboard or "127.0.0.1:0",
            ),
            words,
            {"distributed.worker.multiprocessing-method": "forkserver" if _FORKS else "spawn"},
        )


@dataclass(frozen=True)
class CudaCluster(Cluster):
    """One worker per GPU of this machine, by dask-cuda (extra `gpu`).

    Parameters
    ----------
    devices
        Positions of the GPUs; None for all.
    """

    devices: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self, n_image: int, threads: int) -> Iterator[Executor]:
        """Start one process per GPU."""
        del n_image, threads
        try:
            from dask_cuda import LocalCUDACluster  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ClusterError(f"cluster=cuda needs dask-cuda ({error}); pip install 'convaudit[gpu]'") from error
        # Torch's memory is invisible to Dask, so its limits could only kill workers.
        options: dict[str, Any] = {"threads_per_worker": 1, "device_memory_limit": None, "memory_limit": None}
        options |= {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        if self.devices is not None:
            options["CUDA_VISIBLE_DEVICES"] = list(self.devices)
        yield from _started(lambda: LocalCUDACluster(**options), "one worker per GPU")


@dataclass(frozen=True)
class AddressCluster(Cluster):
    """Workers of a scheduler that already runs; they must see the same files.

    Parameters
    ----------
    address
        ``tls://host:port``.
    tls_ca_file, tls_client_cert, tls_client_key
        PEM files of the connection.
    allow_insecure
        Whether ``tcp://`` to another machine is wanted; whoever reaches such a port can run code on the workers.
    """

    address: str
    tls_ca_file: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        host = self.address.rpartition("://")[2].rpartition(":")[0].strip("[]")
        loopback = host in ("localhost", "::1") or host.startswith("127.")
        if not self.address.startswith("tls://") and not loopback and not self.allow_insecure:
            raise ConfigError(
                f"cluster.address: expected tls://..., got {self.address!r}; or set cluster.allow_insecure=true"
            )

    @contextlib.contextmanager
    def open(self, n_image: int, threads: int) -> Iterator[Executor]:
        """Connect, and compare the versions of driver and workers."""
        del n_image, threads
        from distributed import Client
        from distributed.security import Security

        security = None
        if self.address.startswith("tls://"):
            security = Security(
                tls_ca_file=self.tls_ca_file,
                tls_client_cert=self.tls_client_cert,
                tls_client_key=self.tls_client_key,
                require_encryption=True,
            )
        try:
            client = Client(self.address, security=security, timeout=10)
        except (OSError, TypeError) as error:
            raise ClusterError(f"cluster.address: cannot connect to {self.address}: {error}") from error
        with client:
            _check_versions(client)
            yield Dask(client, f"the workers of {self.address}")


@dataclass(frozen=True)
class CustomCluster(Cluster):
    """Any Dask cluster class.

    Parameters
    ----------
    cluster
        A node with the `_target_` of the class and its arguments.
    """

    cluster: Any

    def __post_init__(self) -> None:
        if not callable(self.cluster):
            raise ConfigError("cluster.cluster: expected a node with the _target_ of a Dask cluster class")

    @contextlib.contextmanager
    def open(self, n_image: int, threads: int) -> Iterator[Executor]:
        """Build the cluster and connect."""
        del n_image, threads
        yield from _started(self.cluster, "workers of your own cluster class")


def _started(
    cluster_class: Callable[[], Any], description: str, settings: Mapping[str, Any] | None = None
) -> Iterator[Executor]:
    from dask import config
    from distributed import Client

    with _quiet(), config.set(settings or {}):
        with _interrupts_for_the_driver_alone():
            cluster = cluster_class()
        try:
            with Client(cluster) as client:
                yield Dask(client, description)
        finally:
            # Dask asserts when a nanny is just starting its worker anew; such a worker ends with this process.
            with contextlib.suppress(AssertionError):
                cluster.close()


def _check_versions(client: Any) -> None:
    try:
        client.get_versions(check=True, packages=["torch", "zarr", "numpy"])
    except ValueError as error:
        raise ClusterError(f"cluster: driver and workers differ: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _interrupts_for_the_driver_alone() -> Iterator[None]:
    """Let processes that start now ignore Ctrl-C, which a terminal sends to every process of the run."""
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from narrating restarts and slow closes; what matters comes back as a result."""
    import logging

    from dask import config

    names = ("distributed.nanny", "distributed.worker", "distributed.scheduler", "distributed.core", "distributed.comm")
    levels = {name: logging.getLogger(name).level for name in names}
    with config.set({"distributed.worker.memory.spill": False, "distributed.worker.memory.target": False}):
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
