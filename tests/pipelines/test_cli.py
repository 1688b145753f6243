"""The command as people meet it: help, files, verdict and exit code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from convaudit.pipelines import cli
from convaudit.pipelines.store import RunStore

from .conftest import SMALL, call, convaudit, digests

#: In an order in which each comes after what it reads.
CHECKS = (
    "embeddings", "neighbors", "confusion", "suspects", "mixing", "filters", "ablation", "faithfulness", "gaze",
    "feature_maps", "patches",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("help",), ("model=python", "--help")])
def test_help_explains_itself(words, folder):
    ended = call(*words)
    assert (ended.code, ended.err) == (0, "")
    for expected in ("convaudit sweep --config FILE", "attributions", "saliency", "smoke, standard", "--config-dir"):
        assert expected in ended.out
    assert max(map(len, ended.out.splitlines())) <= 120
    for command in cli._COMMANDS:
        assert f"convaudit {command}" in ended.out


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_every_command_explains_itself(command, folder):
    ended = call(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: convaudit {command}")


def test_version_is_the_installed_one(folder):
    from importlib.metadata import version

    assert call("--version").out == f"convaudit {version('convaudit')}\n"


def test_cfg_job_shows_the_config_and_runs_nothing(folder):
    before = sorted(folder.rglob("*"))
    ended = call("--cfg", "job", "audit=smoke", "neighbors.k=3")
    assert ended.code == 0
    tree = yaml.safe_load(ended.out)
    assert tree["neighbors"]["k"] == 3
    assert tree["stages"] == ["predictions", "features", "confusion", "neighbors"]
    assert "hydra" not in tree
    assert sorted(folder.rglob("*")) == before


def test_config_out_is_the_whole_config_and_reads_back_as_itself(folder):
    assert call("config", "--out", "deep/one.yaml", "audit=smoke", "tracking=none", "+gates.accuracy.n=5").code == 2
    assert call("config", "--out", "deep/one.yaml", "audit=smoke", "tracking=none").code == 0
    tree = yaml.safe_load((folder / "deep" / "one.yaml").read_text())
    assert tree["data"]["limit"] == 64
    assert tree["cluster"]["_target_"].endswith("InprocessCluster")


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("WARN", 0), ("FAIL", 1), ("ERROR", 2)])
def test_gate_leaves_with_the_verdict(verdict, code, folder):
    (folder / "other").mkdir()
    notes = {"verdict": verdict, "gates": [], "failures": [], "error_findings": 0, "accuracy": None}
    (folder / "other" / "verdict.json").write_text(json.dumps(notes))
    ended = call("gate", "--run", "other")
    assert ended.code == code
    assert ended.out.startswith(verdict)
    assert ended.err == ""


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """One small audit by the command alone, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, convaudit(*_small(digits), cwd=folder)


def _small(digits) -> list[str]:
    return [*SMALL, "cluster=inprocess", f"model.checkpoint={digits.weights}"]


def test_the_last_lines_are_verdict_and_paths(whole):
    folder, ended = whole
    assert ended.stderr == ""
    first, *_, verdict, report, stored, tracked = ended.stdout.splitlines()
    assert first.startswith("auditing 96 images (1 x 32 x 32, 10 classes)")
    assert re.match(r"(PASS|WARN)  \d+ of \d+ gates", verdict)
    assert report == "report  run/report.html"
    assert stored.startswith("store   run/store")
    assert tracked == "mlflow  off (tracking=none)"
    assert (folder / "run" / "report.html").is_file()
    assert {path.name for path in folder.iterdir()} == {"run", ".work"}


def test_what_failed_is_said_with_its_reason(digits, tmp_path, monkeypatch):
    from convaudit.stages.neighbors.stage import Neighbors

    def broken(self, *arguments):
        raise RuntimeError("planted fault")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Neighbors, "compute", broken)
    ended = call(*_small(digits), "audit=smoke", "data.limit=32")
    assert ended.code == 2
    verdict, failed, *_ = ended.out.splitlines()[-5:]
    assert verdict.startswith("ERROR")
    assert failed.startswith("failed  neighbors: ")
    assert "planted fault" in failed
    assert "Traceback" not in ended.out + ended.err


def test_the_parts_by_hand_give_the_same_bytes(whole, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("config", "--out", "config.yaml", *_small(digits)).code == 0
    assert call("sweep", "--config", "config.yaml").code == 0
    for stage in CHECKS:
        ended = call("check", stage, "--config", "config.yaml")
        assert (ended.code, ended.err) == (0, ""), ended
    ended = call("report", "--config", "config.yaml")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] in whole[1].stdout.splitlines()
    assert digests(tmp_path / "run") == digests(whole[0] / "run")
    assert call("gate").code == 0


def test_chosen_stages_and_presets(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*_small(digits), "audit=smoke", "stages=[confusion,neighbors]", "data.limit=32").code == 0
    assert set(RunStore(tmp_path / "run").leaves()) == {"predictions", "features", "confusion", "neighbors", "verdicts"}
    ended = call("clean")
    assert ended.code == 0
    assert ended.out.startswith("removed 0 unfinished pieces")


OWN_METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from convaudit.stages.attributions.method import PixelMethod
from convaudit.stages.contract import Ask


@dataclass(frozen=True)
class Itself(PixelMethod):
    factor: float = 1.0

    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "1"
    meaning: ClassVar[str] = "The input itself."

    def asks(self, subject):
        return Ask()

    def heatmap(self, batch, subject, target):
        return self.factor * batch.images[:, 0]


@dataclass(frozen=True)
class Unfinished(PixelMethod):
    factor: float = 1.0
"""


def test_own_options_and_methods_come_from_a_folder_of_ones_own(digits, tmp_path, monkeypatch):
    conf, code = tmp_path / "conf", tmp_path / "code"
    for folder in (conf / "model", conf / "attributions", code):
        folder.mkdir(parents=True)
    (code / "own_attribution.py").write_text(OWN_METHOD)
    (conf / "model" / "mine.yaml").write_text(
        "_target_: convaudit.pipelines.models.digits.DigitsModel\n"
        f"checkpoint: {digits.weights}\ncheckpoint_key: null\nclass_names: null\n"
    )
    (conf / "attributions" / "itself.yaml").write_text(
        "# @package attributions\n_target_: convaudit.stages.attributions.stage.Attributions\n"
        "methods:\n  itself:\n    _target_: own_attribution.Itself\n    factor: 2.0\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(code))
    own = ["--config-dir", str(conf), "model=mine", "attributions=[saliency,itself]"]
    small = [*SMALL, "cluster=inprocess", "data.limit=32", "stages=[predictions,attributions]"]
    convaudit(*own, *small, cwd=elsewhere)
    stored = RunStore(elsewhere / "run")
    assert stored["attributions/itself/scale"][:].max() == pytest.approx(2.0)
    assert stored["attributions/itself/heatmap"].shape == (32, 1, 32, 32)
    monkeypatch.chdir(elsewhere)
    ended = call("--config-dir", str(conf), "model=mien")
    assert "did you mean 'mine'" in ended.err
    monkeypatch.syspath_prepend(code)
    ended = call(*own, "attributions.methods.itself._target_=own_attribution.Unfinished")
    assert re.fullmatch(r"error: attributions.methods.itself: own_attribution.Unfinished: .*abstract.*\n", ended.err)


def test_the_line_for_mlflow_is_a_command(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*_small(digits), "audit=smoke", "data.limit=32", "tracking=sqlite"]
    ended = call(*words)
    assert ended.code == 0
    line = ended.out.splitlines()[-1].removeprefix("mlflow  ")
    program, *rest = shlex.split(line)
    assert Path(program).is_file()
    assert rest[:3] == ["-m", "mlflow", "server"]
    assert f"sqlite:///{tmp_path / 'mlflow.db'}" in rest
