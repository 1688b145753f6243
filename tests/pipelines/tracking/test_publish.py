"""From a finished run folder to what is told of it."""

import datetime
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hydra import compose, initialize_config_module

from convaudit.pipelines import config as configs
from convaudit.pipelines import store
from convaudit.pipelines.publish import audit_date, git_state, publish_run, timed
from convaudit.pipelines.tracking import Tracking
from convaudit.stages.errors import StoreError, TrackingError
from convaudit.stages.specs import Finding, Measurement, Summary

GATE = {
    "name": "accuracy",
    "level": "error",
    "status": "PASS",
    "measurement": "predictions/accuracy",
    "value": 0.5,
    "low": 0.4,
    "high": 0.6,
    "unit": "1",
    "n": 100,
    "limit": "at least 0.3",
    "reason": "0.5 keeps it",
    "why": "",
}
VERDICT = {
    "verdict": "PASS",
    "gates": [GATE],
    "failures": [],
    "error_findings": 0,
    "findings_level": "warn",
    "accuracy": None,
}
SUBJECT = {"class_names": ["a", "b"], "model": {"digest": "a" * 64}, "data": {"digest": "d" * 64, "n": 100}}
TIMINGS = {
    "predictions": {"seconds": 2.0, "images_per_second": 50.0, "tasks": 1, "from_cache": False},
    "confusion": {"seconds": 0.0, "images_per_second": None, "tasks": 0, "from_cache": True},
    "total": {"seconds": 3.5},
}


def measurement(name: str, value: float, **bounds: float) -> Measurement:
    return Measurement(name, value, "1", "higher", 100, "predictions/logit", "a share", **bounds)


@pytest.fixture(scope="module")
def config():
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        return configs.check(configs.resolve(compose("config", overrides=["cluster=inprocess"])))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "audit" / "run"
    measurements = (
        measurement("predictions/accuracy", 0.5, low=0.4, high=0.6),
        measurement("predictions/mean_confidence", float("nan")),
    )
    group = folder / "store" / "predictions.zarr"
    store.allocate(group, "predictions", (), 8)
    store.finish(group, Summary({}, measurements, (Finding("predictions/x", "info", "t", "d"),)))
    (folder / "store" / "subject.json").write_text(json.dumps(SUBJECT))
    (folder / "verdict.json").write_text(json.dumps(VERDICT))
    (folder / "timings.json").write_text(json.dumps(TIMINGS))
    (folder / "report.html").write_text("<!doctype html>")
    (folder / "pages").mkdir()
    for name in ("network.html", "index.html"):
        (folder / "pages" / name).write_text(f"<!doctype html>{name}")
    return folder


def recorded(published, run: Path):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    uri = f"sqlite:///{run.parent}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client.get_run(published.run_id), {item.path for item in client.list_artifacts(published.run_id)}


def test_everything_a_run_says_is_published(run, config):
    stored, artifacts = recorded(publish_run(run, config, "2024-02-29"), run)
    assert stored.data.metrics == {
        "predictions/accuracy": 0.5,
        "predictions/accuracy.low": 0.4,
        "predictions/accuracy.high": 0.6,
        "verdicts/pass": 1,
        "verdicts/warn": 0,
        "verdicts/fail": 0,
        "verdicts/error": 0,
        "verdicts/failed_leaves": 0,
        "time/predictions_s": 2,
        "time/confusion_s": 0,
        "time/total_s": 3.5,
        "throughput/predictions_images_per_s": 50,
    }
    assert stored.data.tags["audit.verdict"] == "PASS"
    assert stored.data.tags["audit.date"] == "2024-02-29"
    assert "missing.predictions/mean_confidence" in stored.data.tags
    assert stored.data.params["data"] == "Digits"
    assert stored.data.params["images"] == "100"
    pages = {"report.html", "nightly.html", "verdict.json", "junit.xml"}
    assert artifacts == pages | {"config.yaml", "artifacts.json", "pages"}


def test_the_pages_beside_the_report_lie_where_their_links_expect_them(run, config):
    published = publish_run(run, config, "2024-02-29")
    (folder,) = {path.parent for path in (run.parent / "mlartifacts").rglob("report.html")}
    for path in (run / "pages").iterdir():
        assert (folder / "pages" / path.name).read_bytes() == path.read_bytes()
    index = json.loads((folder / "artifacts.json").read_text())["artifacts"]
    assert [row["file"] for row in index][-2:] == ["pages/index.html", "pages/network.html"]
    assert published is not None
    assert 'href="pages/index.html"' in (run / "nightly.html").read_text()


def test_the_pages_of_tonight_lie_in_the_run_even_when_nothing_is_published(run, config):
    assert publish_run(run, replace(config, tracking=Tracking(enabled=False)), "2024-02-29") is None
    page = (run / "nightly.html").read_text()
    assert "2024-02-29" in page
    assert "reused" in page
    suite = ElementTree.parse(run / "junit.xml").getroot()
    assert [case.get("name") for case in suite.iter("testcase")] == ["accuracy"]
    assert not (run.parent / "mlflow.db").exists()


def test_a_server_that_is_down_costs_no_page(run, config):
    down = Tracking(uri="http://127.0.0.1:9", timeout=1, retries=0)
    with pytest.raises(TrackingError):
        publish_run(run, replace(config, tracking=down))
    assert (run / "nightly.html").is_file()
    assert publish_run(run, config) is not None


def test_what_does_not_decide_the_results_does_not_make_another_audit(run, config):
    first = publish_run(run, config, "2024-02-29")
    elsewhere = {**config.resolved, "cluster": {"workers": 7}, "report": {}, "work": "x"}
    assert publish_run(run, replace(config, resolved=elsewhere), "2024-02-29").run_id == first.run_id
    other = {**config.resolved, "seed": 99}
    assert publish_run(run, replace(config, resolved=other), "2024-02-29").run_id != first.run_id


def test_a_failed_leaf_is_published_as_one(run, config):
    store.write_failure(run / "store" / "features.zarr", "features", "no such layer")
    failed = {**VERDICT, "verdict": "ERROR", "failures": [{"leaf": "features", "reason": "no such layer"}]}
    (run / "verdict.json").write_text(json.dumps(failed))
    stored, _ = recorded(publish_run(run, config), run)
    assert stored.data.tags["audit.verdict"] == "ERROR"
    assert stored.data.metrics["verdicts/failed_leaves"] == 1


def test_a_linked_file_is_replaced_and_not_written_into(run, config, tmp_path):
    """As DVC links the files of its cache."""
    cached = tmp_path / "cached"
    cached.write_text("cached")
    os.link(cached, run / "junit.xml")
    publish_run(run, replace(config, tracking=Tracking(enabled=False)))
    assert cached.read_text() == "cached"


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_without_a_verdict_is_not_published(run, config, content):
    (run / "verdict.json").unlink()
    if content is not None:
        (run / "verdict.json").write_text(content)
    with pytest.raises(StoreError, match=r"verdict\.json"):
        publish_run(run, config)


def test_an_audit_keeps_its_date_until_it_works_again(run):
    then = datetime.datetime(2024, 2, 29, 23, 59, tzinfo=datetime.UTC).timestamp()
    os.utime(run / "timings.json", (then, then))
    assert audit_date(run) == "2024-02-29"


def test_rates_are_told_only_where_images_were_counted():
    assert timed({"total": {"seconds": 1}}) == {"time/total_s": 1.0}


def test_git_is_described_where_there_is_any(tmp_path):
    assert git_state(tmp_path) is None
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    git("init", "-b", "trunk")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    state = git_state(tmp_path)
    assert (state.branch, state.dirty, len(state.commit)) == ("trunk", False, 40)
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path).dirty
