"""A model that MLflow's registry names is audited like the file it was registered from."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from convaudit.pipelines import run as runs
from convaudit.pipelines.config import check, resolve
from convaudit.pipelines.store import RunStore

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")

SMALL = ("tracking=none", "cluster=inprocess", "audit=smoke", "numerics.batch=8", "numerics.shard=16")


@pytest.fixture
def registry(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path}/registry.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("train", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_artifact(run.info.run_id, str(digits.weights), "model")
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"{run.info.artifact_uri}/model", run.info.run_id).version
    client.set_registered_model_alias("digits", "champion", version)
    return uri


def audited(folder, *overrides):
    overrides = [f"run={folder / 'run'}", f"work={folder / 'work'}", *SMALL, *overrides]
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        runs.audit(check(resolve(compose("config", overrides=overrides))))
    return RunStore(folder / "run")


def test_an_alias_of_the_registry_is_audited(registry, digits, tmp_path):
    from_registry = audited(
        tmp_path / "registry",
        "model=mlflow",
        "model.uri=models:/digits@champion",
        f"model.tracking_uri={registry}",
        "model.factory.module=convaudit.stages.reference.net",
        "model.factory.factory=DigitsNet",
    )
    from_file = audited(tmp_path / "file", f"model.checkpoint={digits.weights}")
    np.testing.assert_array_equal(from_registry["predictions/logit"][:], from_file["predictions/logit"][:])
    assert from_registry.subject()["model"]["uri"] == "models:/digits@champion"
