"""Publishing to a real server and to sqlite, read back over HTTP or from the file."""

import dataclasses
import json
import math
import os
import shlex
import socket
import sqlite3
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from convaudit.pipelines.publication import Input, PublishRecord, metric_name, split_metrics
from convaudit.pipelines.tracking import Tracking, open_command, publish
from convaudit.stages.errors import AuditError, ConfigError, TrackingError

REPORT = "<!doctype html><title>report</title>"


def call(uri: str, path: str, body: dict | None = None, **query: str) -> dict:
    url = f"{uri}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def artifact(uri: str, run_id: str, path: str) -> str:
    url = f"{uri}/get-artifact?{urllib.parse.urlencode({'run_id': run_id, 'path': path})}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def runs_of(uri: str, published) -> list[dict]:
    found = call(uri, "runs/search", {"experiment_ids": [published.experiment_id]}).get("runs", [])
    return [call(uri, "runs/get", run_id=row["info"]["run_id"])["run"] for row in found]


def flat(rows: list[dict]) -> dict:
    return {row["key"]: row["value"] for row in rows}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "audit" / "run"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(REPORT)
    (folder / "verdict.json").write_text('{"verdict": "PASS"}')
    return folder


@pytest.fixture
def record(run: Path) -> PublishRecord:
    return PublishRecord(
        fingerprint="f" * 64,
        date="2024-02-29",
        name="digits 2024-02-29",
        metrics={"predictions/accuracy": 0.5, "time/sweep_s": 1.25, "neighbors/agreement@5": math.nan},
        params={"model": "digits", "data": "digits"},
        tags={"audit.verdict": "PASS"},
        config={"seed": 3, "data": {"limit": None}},
        data=Input("digits", "d" * 64, "digits"),
        model=Input("small/cnn", "a" * 64, "digits"),
        artifacts=(run / "report.html", run / "verdict.json"),
    )


def on(server: str, request) -> Tracking:
    return Tracking(uri=server, experiment=request.node.name)


@pytest.mark.slow
def test_everything_published_can_be_read_back_over_http(mlflow_server, run, record, request):
    published = publish(run, record, on(mlflow_server, request))
    assert published.created
    assert published.url == f"{mlflow_server}/#/experiments/{published.experiment_id}/runs/{published.run_id}"
    stored = call(mlflow_server, "runs/get", run_id=published.run_id)["run"]
    assert stored["info"]["run_name"] == "digits 2024-02-29"
    assert stored["info"]["status"] == "FINISHED"
    assert flat(stored["data"]["metrics"]) == {"predictions/accuracy": 0.5, "time/sweep_s": 1.25}
    assert flat(stored["data"]["params"]) == {"model": "digits", "data": "digits"}
    tags = flat(stored["data"]["tags"])
    expected = {"audit.fingerprint": "f" * 64, "audit.date": "2024-02-29", "audit.verdict": "PASS"}
    assert expected.items() <= tags.items()
    assert "missing.neighbors/agreement_5" in tags
    (data,) = stored["inputs"]["dataset_inputs"]
    assert (data["dataset"]["name"], data["dataset"]["digest"]) == ("digits", "d" * 32)
    (model,) = stored["inputs"]["model_inputs"]
    logged = call(mlflow_server, f"logged-models/{model['model_id']}")["model"]
    assert flat(logged["info"]["tags"])["audit.digest"] == "a" * 64
    assert artifact(mlflow_server, published.run_id, "report.html") == REPORT
    assert yaml.safe_load(artifact(mlflow_server, published.run_id, "config.yaml")) == record.config
    index = json.loads(artifact(mlflow_server, published.run_id, "artifacts.json"))["artifacts"]
    assert [row["file"] for row in index] == ["report.html", "verdict.json"]
    assert index[0]["bytes"] == len(REPORT)


@pytest.mark.slow
def test_publishing_twice_amends_the_run(mlflow_server, run, record, request):
    tracking = on(mlflow_server, request)
    first = publish(run, record, tracking)
    (run / "report.html").write_text("second")
    later = dataclasses.replace(record, metrics={**record.metrics, "time/sweep_s": 2.5, "neighbors/agreement@5": 0.75})
    second = publish(run, later, tracking)
    assert second.run_id == first.run_id
    assert not second.created
    (stored,) = runs_of(mlflow_server, second)
    assert flat(stored["data"]["metrics"]) == {
        "predictions/accuracy": 0.5,
        "time/sweep_s": 2.5,
        "neighbors/agreement_5": 0.75,
    }
    assert not any(name.startswith("missing.") for name in flat(stored["data"]["tags"]))
    assert len(stored["inputs"]["dataset_inputs"]) == len(stored["inputs"]["model_inputs"]) == 1
    assert artifact(mlflow_server, second.run_id, "report.html") == "second"
    history = call(mlflow_server, "metrics/get-history", run_id=second.run_id, metric_key="predictions/accuracy")
    assert len(history["metrics"]) == 1


@pytest.mark.slow
def test_a_metric_that_is_no_longer_measured_does_not_survive(mlflow_server, run, record, request):
    tracking = on(mlflow_server, request)
    first = publish(run, record, tracking)
    second = publish(run, dataclasses.replace(record, metrics={"predictions/accuracy": math.nan}), tracking)
    assert second.run_id != first.run_id
    (stored,) = runs_of(mlflow_server, second)
    assert "metrics" not in stored["data"] or not stored["data"]["metrics"]
    assert "missing.predictions/accuracy" in flat(stored["data"]["tags"])


@pytest.mark.slow
def test_another_date_or_fingerprint_is_another_run_of_the_same_model(mlflow_server, run, record, request):
    tracking = on(mlflow_server, request)
    first = publish(run, record, tracking)
    publish(run, dataclasses.replace(record, date="2024-03-01"), tracking)
    publish(run, dataclasses.replace(record, fingerprint="e" * 64), tracking)
    stored = runs_of(mlflow_server, first)
    assert len(stored) == 3
    assert len({row["inputs"]["model_inputs"][0]["model_id"] for row in stored}) == 1


def test_sqlite_lies_above_the_run_folder_and_nowhere_else(run, record, tmp_path, monkeypatch, capfd):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    environment = dict(os.environ)
    published = publish(run, record, Tracking())
    again = publish(run, record, Tracking())
    assert published.run_id == again.run_id
    assert capfd.readouterr().out == ""
    assert published.url is None
    assert not list(elsewhere.iterdir())
    assert dict(os.environ) == environment
    assert sorted(path.name for path in run.parent.iterdir()) == ["mlartifacts", "mlflow.db", "run"]
    with sqlite3.connect(run.parent / "mlflow.db") as database:
        metrics = dict(database.execute("select key, value from latest_metrics"))
    assert metrics == {"predictions/accuracy": 0.5, "time/sweep_s": 1.25}
    assert len(list((run.parent / "mlartifacts").rglob("report.html"))) == 1


def test_a_server_that_is_down_is_one_line(run, record):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracking = Tracking(uri=f"http://someone:secret@127.0.0.1:{port}", timeout=1, retries=0)
    with pytest.raises(TrackingError, match=rf"127\.0\.0\.1:{port}") as caught:
        publish(run, record, tracking)
    assert isinstance(caught.value, AuditError)
    assert isinstance(caught.value, ConnectionError)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(run, record):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracking = Tracking(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1, retries=0)
        with pytest.raises(TrackingError, match="cannot be used"):
            publish(run, record, tracking)


def test_an_unwritable_database_is_one_line(run, record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot be used"):
        publish(run, record, Tracking(uri=f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"))


def test_names_are_those_that_mlflow_allows():
    finite, missing = split_metrics({"a/b@5": 1.0, "x[3]#2": math.inf, "ok_-. :/": 2.0})
    assert finite == {"a/b_5": 1.0, "ok_-. :/": 2.0}
    assert missing == ("x_3__2",)
    assert len(metric_name("x" * 300)) == 250
    assert metric_name("x" * 300) != metric_name("x" * 301)


def test_two_metrics_with_one_name_are_refused():
    with pytest.raises(TrackingError, match="'a@b' and 'a#b'"):
        split_metrics({"a@b": 1.0, "a#b": 2.0})


@pytest.mark.parametrize("wrong", [{"experiment": " "}, {"timeout": 0}, {"retries": 11}, {"retries": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"tracking.{next(iter(wrong))}"):
        Tracking(**wrong)


def test_the_command_that_opens_mlflow_stays_on_this_machine(run):
    words = shlex.split(open_command(Tracking(), run))
    assert words[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{run.resolve().parent}/mlflow.db"
    assert open_command(Tracking(uri="http://h:1"), run).endswith("-m webbrowser http://h:1")
