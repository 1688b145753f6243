"""Weights from the model registry: files yes, pickled models no."""

import os
from pathlib import Path

import pytest

from convaudit.pipelines.tracking import download_state_dict
from convaudit.stages.errors import ModelError, TrackingError

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")


@pytest.fixture
def registry(tmp_path: Path):
    return Registry(tmp_path)


class Registry:
    """A sqlite registry of one model, whose versions hold what a test puts there."""

    def __init__(self, folder: Path) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self.folder = folder
        self.uri = f"sqlite:///{folder}/registry.db"
        self.client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.experiment = self.client.create_experiment("train", artifact_location=(folder / "artifacts").as_uri())
        self.client.create_registered_model("net")

    def version(self, files: dict[str, bytes], source: str = "model", runs_uri: bool = False) -> str:
        run = self.client.create_run(self.experiment)
        for name, content in files.items():
            local = self.folder / "upload" / name
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
            self.client.log_artifact(run.info.run_id, str(local), str(Path("model", name).parent))
        root = f"runs:/{run.info.run_id}" if runs_uri else run.info.artifact_uri
        version = self.client.create_model_version("net", f"{root}/{source}", run.info.run_id).version
        self.client.set_registered_model_alias("net", "nightly", version)
        return str(version)


@pytest.mark.parametrize("runs_uri", [False, True])
def test_the_weights_of_an_alias_are_fetched(registry, tmp_path, monkeypatch, runs_uri):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    registry.version({"sub/net.safetensors": b"weights", "README.md": b"x"}, runs_uri=runs_uri)
    path = download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out")
    assert path.name == "net.safetensors"
    assert path.is_relative_to(tmp_path / "out")
    assert path.read_bytes() == b"weights"
    assert not list(elsewhere.iterdir())


def test_a_version_whose_source_is_the_file_itself(registry, tmp_path):
    version = registry.version({"net.pt": b"weights"}, source="model/net.pt")
    path = download_state_dict(f"models:/net/{version}", registry.uri, tmp_path / "out")
    assert path.name == "net.pt"
    assert path.read_bytes() == b"weights"


def test_a_pickled_model_is_refused(registry, tmp_path):
    registry.version({"MLmodel": b"flavors: {pytorch: {}}", "data/model.pth": b"pickle"})
    with pytest.raises(ModelError, match="pickled model"):
        download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_state_dict_beside_a_pickled_model_is_taken(registry, tmp_path):
    files = {"MLmodel": b"flavors: {pytorch: {}}", "data/model.pth": b"pickle", "extra_files/net.pth": b"weights"}
    registry.version(files)
    path = download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out")
    assert path.read_bytes() == b"weights"


def test_several_files_have_to_be_told_apart(registry, tmp_path):
    registry.version({"a.pt": b"a", "b.pt": b"b"})
    with pytest.raises(ModelError, match=r"a\.pt, b\.pt"):
        download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out")
    path = download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out", artifact="b.pt")
    assert path.read_bytes() == b"b"
    with pytest.raises(ModelError, match=r"no state_dict is called 'c\.pt'"):
        download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out", artifact="c.pt")


def test_a_version_without_weights_says_what_it_has(registry, tmp_path):
    registry.version({"notes.txt": b"x"})
    with pytest.raises(ModelError, match=r"notes\.txt"):
        download_state_dict("models:/net@nightly", registry.uri, tmp_path / "out")


@pytest.mark.parametrize("uri", ["net@nightly", "models:/net", "models:/net@a/b", "runs:/1/model", "models:/net/x"])
def test_other_uris_are_refused(uri, tmp_path):
    with pytest.raises(ModelError, match=r"model\.uri: expected models:/"):
        download_state_dict(uri, f"sqlite:///{tmp_path}/registry.db", tmp_path / "out")


def test_an_unknown_alias_is_one_line(registry, tmp_path):
    with pytest.raises(TrackingError, match="nobody"):
        download_state_dict("models:/net@nobody", registry.uri, tmp_path / "out")
