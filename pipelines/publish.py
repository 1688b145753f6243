"""Tells the world of a finished run: tonight's cover page, JUnit XML for the CI system, and MLflow."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reports.build import PAGES, StageTime, build_nightly
from ..stages.errors import StoreError
from ..stages.verdicts.junit import junit
from .config import Config
from .fingerprint import hashed
from .publication import Input, PublishedRun, PublishRecord
from .store import RunStore
from .tracking import publish

#: Where a run lies, who computed it, where it is told and how it is shown change nothing of what was audited.
_NOT_AUDITED = ("run", "work", "cluster", "tracking", "report")
_LONGEST_PARAM = 500
#: Entry of timings.json that is no leaf.
_TOTAL = "total"


@dataclass(frozen=True)
class GitState:
    """The commit that the audit was started from.

    Parameters
    ----------
    commit
        Full hash.
    branch
        Its branch; ``"HEAD"`` where it is detached.
    dirty
        Whether tracked files differ from it.
    """

    commit: str
    branch: str
    dirty: bool


def publish_run(run: Path, config: Config, date: str | None = None) -> PublishedRun | None:
    """Write ``nightly.html`` and ``junit.xml`` into a run folder, then publish the run.

    Parameters
    ----------
    run
        Folder of a run with a verdict.
    config
        What it was run with.
    date
        ISO date of the audit; None for the day on which it last computed something.

    Returns
    -------
    PublishedRun or None
        None where tracking is switched off.

    Raises
    ------
    StoreError
        When the run has no verdict yet.
    TrackingError
        When MLflow cannot be reached; both files are there all the same.
    """
    verdict = read_verdict(run)
    git = git_state(run.resolve().parent)
    date = date or audit_date(run)
    _replace(run / "nightly.html", cover_page(run, verdict, git, date))
    _replace(run / "junit.xml", junit(verdict))
    if not config.tracking.enabled:
        return None
    return publish(run, describe(run, config, verdict, git, date), config.tracking)


def _replace(path: Path, text: str) -> None:
    # A file that DVC has linked into its cache must be replaced: writing into it would change the cache.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_verdict(run: Path) -> dict[str, Any]:
    """The notes of the verdicts stage, as ``verdict.json`` keeps them.

    Raises
    ------
    StoreError
        When there is no such file, or it is not JSON.
    """
    path = run / "verdict.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; run `convaudit` or `convaudit report` first") from error
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: not JSON ({error}); run `convaudit report` again") from error


def read_timings(run: Path) -> dict[str, dict[str, Any]]:
    """What each leaf, and the whole run, took when last asked for; empty where everything came out of a cache."""
    path = run / "timings.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def audit_date(run: Path) -> str:
    """The UTC date on which the run last worked; today where only its results are left."""
    path = run / "timings.json"
    moment = path.stat().st_mtime if path.is_file() else datetime.datetime.now(datetime.UTC).timestamp()
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()


def git_state(folder: Path) -> GitState | None:
    """The commit that `folder` is at; None where there is no git or no commit."""

    def answer(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        commit, branch = answer("rev-parse", "HEAD"), answer("rev-parse", "--abbrev-ref", "HEAD")
        return GitState(commit, branch, dirty=bool(answer("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None


def cover_page(run: Path, verdict: Mapping[str, Any], git: GitState | None, date: str) -> str:
    """Tonight's page: what the report must not say, since it differs between two equal runs."""
    total = read_timings(run).get(_TOTAL, {}).get("seconds")
    state = {} if git is None else {"commit": git.commit, "branch": git.branch, "tracked changes": _yes(git.dirty)}
    names = ("report.html", f"{PAGES}/index.html", "verdict.json", "junit.xml")
    links = {name: name for name in names if (run / name).is_file()}
    facts = {"date": date} | ({} if total is None else {"whole run": f"{total:.1f} s"})
    return build_nightly(verdict, stage_times(run), state, links, facts)


def stage_times(run: Path) -> list[StageTime]:
    """What each leaf took, as the cover page shows it; the leaves of one sweep share its time."""
    rows = []
    for leaf, timing in read_timings(run).items():
        if leaf == _TOTAL:
            continue
        rate = timing.get("images_per_second")
        images = None if rate is None else round(rate * timing["seconds"])
        reused = bool(timing["from_cache"])
        rows.append(StageTime(leaf, None if reused else timing["seconds"], images, "reused" if reused else "done"))
    return rows


def describe(run: Path, config: Config, verdict: Mapping[str, Any], git: GitState | None, date: str) -> PublishRecord:
    """Turn a finished run into what is published of it."""
    store = RunStore(run)
    subject = store.subject()
    audited = {name: value for name, value in config.resolved.items() if name not in _NOT_AUDITED}
    model, data = config.resolved["model"], config.resolved["data"]
    kept = ("report.html", "nightly.html", "verdict.json", "junit.xml")
    return PublishRecord(
        fingerprint=hashed({"config": audited, "subject": subject}),
        date=date,
        name=f"{_kind(data)} {date}",
        metrics=measured(store) | judged(verdict) | timed(read_timings(run)),
        params=headline_params(config.resolved, subject),
        tags=_tags(verdict, git),
        config=config.resolved,
        data=Input(_kind(data), subject["data"]["digest"], _source(data, ("path", "root", "name"))),
        model=Input(_kind(model), subject["model"]["digest"], _source(model, ("uri", "checkpoint", "name"))),
        artifacts=tuple(run / name for name in kept if (run / name).is_file()),
        pages=tuple(sorted((run / PAGES).glob("*.html"))),
    )


def _tags(verdict: Mapping[str, Any], git: GitState | None) -> dict[str, str]:
    tags = {"audit.verdict": str(verdict["verdict"]), "mlflow.source.type": "JOB", "mlflow.source.name": "convaudit"}
    if git is None:
        return tags
    commit = {"mlflow.source.git.commit": git.commit, "mlflow.source.git.branch": git.branch}
    return tags | commit | {"audit.git_dirty": _yes(git.dirty)}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def measured(store: RunStore) -> dict[str, float]:
    """Every measurement by name, with ``<name>.low`` and ``<name>.high`` where it has bounds."""
    metrics: dict[str, float] = {}
    for leaf in store.leaves():
        if store.failure(leaf) is not None:
            continue
        for measurement in store.summary(leaf).measurements:
            metrics[measurement.name] = measurement.value
            if measurement.low is not None and measurement.high is not None:
                metrics |= {f"{measurement.name}.low": measurement.low, f"{measurement.name}.high": measurement.high}
    return metrics


def judged(verdict: Mapping[str, Any]) -> dict[str, float]:
    """How many gates came to which judgement, and how many leaves failed."""
    statuses = [gate["status"] for gate in verdict["gates"]]
    counts = {
        f"verdicts/{status.lower()}": float(statuses.count(status)) for status in ("PASS", "WARN", "FAIL", "ERROR")
    }
    return counts | {"verdicts/failed_leaves": float(len(verdict["failures"]))}


def timed(timings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds and images per second of each leaf; 0 s where it was reused."""
    metrics: dict[str, float] = {}
    for leaf, timing in timings.items():
        metrics[f"time/{leaf}_s"] = float(timing["seconds"])
        rate = timing.get("images_per_second")
        if rate is not None and math.isfinite(rate):
            metrics[f"throughput/{leaf}_images_per_s"] = float(rate)
    return metrics


def headline_params(resolved: Mapping[str, Any], subject: Mapping[str, Any]) -> dict[str, str]:
    """The settings by which people sort runs."""
    numerics = resolved["numerics"]
    params = {
        "model": _kind(resolved["model"]),
        "model.digest": subject["model"]["digest"],
        "data": _kind(resolved["data"]),
        "data.digest": subject["data"]["digest"],
        "images": subject["data"]["n"],
        "classes": len(subject["class_names"]),
        "stages": ",".join(resolved["stages"]),
        "seed": resolved["seed"],
        **{f"numerics.{name}": numerics[name] for name in ("batch", "threads", "device")},
    }
    return {name: str(value)[:_LONGEST_PARAM] for name, value in params.items()}


def _kind(node: Mapping[str, Any]) -> str:
    """The last word of a node's target, for instance ``ImageFolder``."""
    return str(node["_target_"]).rpartition(".")[2]


def _source(node: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of the settings `keys` that says where a model or data set is from; its kind where none does."""
    return next((str(node[key]) for key in keys if node.get(key)), _kind(node))
