"""What is told of one audit, and in which words MLflow accepts it; needs no MLflow."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..stages.errors import TrackingError

#: MLflow refuses metric names with anything else in them.
_REFUSED = re.compile(r"[^A-Za-z0-9_\-. :/]")
_LONGEST_NAME = 250


@dataclass(frozen=True)
class Input:
    """A data set or a model, as MLflow names it.

    Parameters
    ----------
    name
        What people call it.
    digest
        Hex digest of its bytes.
    source
        Where it came from: a path, a URI, or a word (``"digits"``).
    """

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class PublishRecord:
    """What is told of one audit.

    Parameters
    ----------
    fingerprint
        Hex digest of what was audited and how; with `date` it makes the audit one of its kind.
    date
        ISO date on which it was audited.
    name
        Name of the MLflow run.
    metrics
        Numbers by ``<stage>/<quantity>``; a NaN or infinite one becomes the tag ``missing.<name>``.
    params
        Headline settings.
    tags
        Further words, for instance the verdict and the commit.
    config
        The resolved config.
    data, model
        What was audited.
    artifacts
        Files of the run folder to keep, in the order of the index.
    pages
        Files to keep in a folder ``pages`` beside them, so that links lead where they do in the run folder.
    """

    fingerprint: str
    date: str
    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    config: Mapping[str, Any]
    data: Input
    model: Input
    artifacts: Sequence[Path] = ()
    pages: Sequence[Path] = ()


@dataclass(frozen=True)
class PublishedRun:
    """Where an audit went.

    Parameters
    ----------
    run_id, experiment_id
        As MLflow names them.
    uri
        Tracking URI.
    url
        Page of the run; None where no server shows it.
    created
        False where an earlier run was amended.
    """

    run_id: str
    experiment_id: str
    uri: str
    url: str | None
    created: bool


def split_metrics(metrics: Mapping[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Name every metric as MLflow allows, and set apart those that have no number.

    Returns
    -------
    tuple
        Finite values by MLflow name, and the MLflow names of the NaN and infinite ones.

    Raises
    ------
    TrackingError
        When two metrics get the same name.
    """
    origin: dict[str, str] = {}
    for name in metrics:
        clean = metric_name(name)
        if clean in origin:
            raise TrackingError(
                f"metrics {origin[clean]!r} and {name!r} are both {clean!r} in MLflow; rename one of them"
            )
        origin[clean] = name
    finite = {clean: float(metrics[name]) for clean, name in origin.items() if math.isfinite(metrics[name])}
    return finite, tuple(clean for clean in origin if clean not in finite)


def metric_name(name: str) -> str:
    """What MLflow calls a metric: refused characters become ``_``, a very long name ends in a digest of the whole."""
    clean = _REFUSED.sub("_", name)
    if len(clean) <= _LONGEST_NAME:
        return clean
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{clean[: _LONGEST_NAME - len(digest) - 1]}_{digest}"
