"""`dvc repro` from nothing to a verdict, and what it does not do a second time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = "data=arrays audit=standard cluster=inprocess data.limit=60 numerics.batch=32 numerics.shard=32"
SETTINGS += " reference.epochs=2 reference.min_accuracy=0.1"
CHECKS = {
    "embeddings", "neighbors", "confusion", "suspects", "mixing", "filters", "ablation", "faithfulness", "gaze",
    "feature_maps", "patches",
}  # fmt: skip
ALL = {"config", "reference", "sweep", "report"} | CHECKS

pytestmark = pytest.mark.slow


class Pipeline:
    """A copy of the pipeline in a folder of its own, with its own caches and settings, that runs its own sources."""

    def __init__(self, folder: Path, home: Path, source: Path = ROOT) -> None:
        self.folder = folder
        scripts = str(Path(sys.executable).parent)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DVC_")},
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
            "OMP_NUM_THREADS": "1",
            # What runs has to be what dvc.yaml depends on, and the checkout may change meanwhile.
            "PYTHONPATH": str(home / "import"),
        }
        folder.mkdir(parents=True)
        for name in ("conf", "pipelines", "stages", "reports"):
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            (home / "import" / "convaudit").mkdir(parents=True, exist_ok=True)
            (home / "import" / "convaudit" / name).symlink_to(folder / name)
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(source / name, folder / name)
        self.set(SETTINGS)
        self.dvc("init", "--no-scm", "--quiet")
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        self.dvc("config", "core.no_scm", "true")

    def dvc(self, *words: str) -> str:
        return self._call(sys.executable, "-m", "dvc", *words)

    def repro(self) -> set[str]:
        """Reproduce, and say which stages ran their command."""
        self.said = self.dvc("repro")
        return set(re.findall(r"Running stage '(\w+)'", self.said))

    def set(self, overrides: str) -> None:
        values = {"weights": "weights/digits.safetensors", "data": "weights/digits.npz", "overrides": overrides}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))

    def _call(self, *words: str) -> str:
        result = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=500
        )
        assert result.returncode == 0, f"{words}\n{result.stdout[-6000:]}\n{result.stderr[-4000:]}"
        return result.stdout + result.stderr

    def path(self, name: str) -> Path:
        return self.folder / name

    def timings(self) -> dict:
        return json.loads(self.path("run/timings.json").read_text())


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    pytest.importorskip("dvc", reason="needs dvc")
    made = Pipeline(tmp_path_factory.mktemp("first") / "audit", tmp_path_factory.mktemp("home"))
    made.first = made.repro()
    return made


def sealed(pipeline: Pipeline) -> set[str]:
    """Finished leaves by fingerprint: a new one tells that something was computed."""
    return {path.name for path in pipeline.path(".work/sealed").iterdir() if path.is_dir()}


def test_the_first_time_everything_runs(pipeline):
    assert pipeline.first == ALL
    for name in ("report.html", "verdict.json", "store/predictions.zarr", "checks/confusion.zarr"):
        assert pipeline.path(f"run/{name}").exists()


def test_the_second_time_nothing_runs(pipeline):
    assert pipeline.repro() == set()
    assert "up to date" in pipeline.said


def test_a_confusion_setting_reruns_confusion_what_reads_it_and_the_report(pipeline):
    pipeline.set(f"{SETTINGS} confusion.pairs=3")
    assert pipeline.repro() == {"config", "confusion", "mixing", "report"}


def test_a_gate_reruns_the_report_alone(pipeline):
    before = sealed(pipeline)
    pipeline.set(f"{SETTINGS} confusion.pairs=3 gates.accuracy.min=0.01")
    assert pipeline.repro() == {"config", "report"}
    assert len(sealed(pipeline) - before) == 1


def test_another_attribution_method_computes_that_leaf_alone(pipeline):
    config = yaml.safe_load(pipeline.path("run/config.yaml").read_text())
    before = sealed(pipeline)
    second = "+attributions.methods.second._target_=convaudit.stages.attributions.saliency.Saliency"
    settings = "+attributions.methods.second.target=predicted +attributions.methods.second.reduction=sum"
    pipeline.set(f"{SETTINGS} {second} {settings}")
    ran = pipeline.repro()
    assert "second" not in config["attributions"]["methods"]
    assert {"config", "sweep", "report"} <= ran
    # Both look at whatever methods there are.
    assert not ran & CHECKS - {"confusion", "faithfulness", "gaze"}
    fresh = {leaf for leaf, row in pipeline.timings().items() if row.get("from_cache") is False}
    assert "attributions/second" in fresh
    assert not {"predictions", "features", "activations", "attributions/saliency", "attributions/grad_cam"} & fresh
    # The method, its test, and the verdict, which judges every leaf; the first confusion settings were sealed before.
    assert len(sealed(pipeline) - before) == 3


def test_a_comment_in_a_stage_reruns_that_stage_and_no_other(pipeline):
    page = pipeline.path("run/report.html").read_bytes()
    with pipeline.path("stages/confusion/matrix.py").open("a") as source:
        source.write("# Nothing that changes a byte of the result.\n")
    assert pipeline.repro() == {"confusion"}
    assert pipeline.path("run/report.html").read_bytes() == page


def test_a_deleted_store_comes_back_without_computing(pipeline):
    report = pipeline.path("run/report.html").read_bytes()
    before = sealed(pipeline)
    shutil.rmtree(pipeline.path("run/store"))
    assert "sweep" not in pipeline.repro()
    assert pipeline.path("run/store/predictions.zarr").is_dir()
    assert pipeline.path("run/report.html").read_bytes() == report
    assert sealed(pipeline) == before


def test_another_folder_gives_the_same_report(pipeline, tmp_path):
    other = Pipeline(tmp_path / "some" / "where" / "else", tmp_path / "home", pipeline.folder)
    shutil.copy(pipeline.path("params.yaml"), other.path("params.yaml"))
    assert other.repro() == ALL
    for name in ("report.html", "verdict.json", "junit.xml"):
        assert other.path(f"run/{name}").read_bytes() == pipeline.path(f"run/{name}").read_bytes()
