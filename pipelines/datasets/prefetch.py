"""Decodes a few batches ahead of the network, on threads; at most two wait at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ...stages.errors import ImageError
from ...stages.network.forward import Block
from ...stages.specs import STATUS
from .source import Reader

_AHEAD = 2


def blocks(
    reader: Reader, positions: Sequence[int], batch: int, threads: int, input_shape: tuple[int, ...]
) -> Iterator[Block]:
    """Decode images in order, in batches; a bad image keeps its place as zeros.

    Parameters
    ----------
    reader
        Gives images by position.
    positions
        Which images; the last batch may be smaller, none reaches beyond them.
    batch
        Images per batch.
    threads
        Decoding threads.
    input_shape
        ``(channel, *space)`` that every image must have.

    Raises
    ------
    AuditError
        When something else than an image is wrong; the first such error ends the iteration.
    """
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
    waiting: deque[_Pending] = deque()
    try:
        for start in range(0, len(positions), batch):
            waiting.append(_Pending(pool, reader, positions[start : start + batch], tuple(input_shape)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().block()
        while waiting:
            yield waiting.popleft().block()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Pending:
    """One batch while its images are being decoded, each straight into its place."""

    def __init__(
        self, pool: ThreadPoolExecutor, reader: Reader, positions: Sequence[int], shape: tuple[int, ...]
    ) -> None:
        self._positions = np.asarray(positions, dtype=np.int64)
        self._images = np.zeros((len(positions), *shape), dtype=np.float32)
        self._regions = np.zeros((len(positions), *shape[1:]), dtype=bool) if reader.has_regions else None
        self._results: list[Future[tuple[str, str]]] = [
            pool.submit(self._decode, place, reader, int(position)) for place, position in enumerate(positions)
        ]

    def block(self) -> Block:
        """Wait for all its images."""
        outcomes = [result.result() for result in self._results]
        status = np.asarray([STATUS.index(code) for code, _ in outcomes], dtype=np.int8)
        return Block(
            positions=self._positions,
            images=self._images,
            valid=status == 0,
            status=status,
            reasons=tuple(reason for _, reason in outcomes),
            regions=self._regions,
        )

    def _decode(self, place: int, reader: Reader, position: int) -> tuple[str, str]:
        outcome = _decode_into(self._images[place], reader, position)
        if self._regions is not None and outcome[0] == "ok":
            region = reader.region(position)
            if region is not None:
                self._regions[place] = region
        return outcome


def _decode_into(place: np.ndarray, reader: Reader, position: int) -> tuple[str, str]:
    """Fill one place of a batch; return status and reason."""
    try:
        image = reader.read(position)
    except ImageError as error:
        return error.code, error.reason
    if image.shape != place.shape:
        return "wrong_size", f"is {_by(image.shape)} once prepared, expected {_by(place.shape)}"
    place[...] = image
    return "ok", ""


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
