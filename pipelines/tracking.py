"""What an audit tells MLflow, and what it fetches from there; the only module that imports mlflow.

One audit on one date is one MLflow run, found again by its tags, so publishing twice amends and never doubles.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..stages.errors import ConfigError, ModelError, TrackingError, did_you_mean
from .publication import Input, PublishedRun, PublishRecord, split_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT = "audit.fingerprint"
DATE = "audit.date"
MISSING = "missing."

#: What was timed at an earlier attempt stays true when a later one has nothing to compute.
_OF_AN_ATTEMPT = ("time/", "throughput/")
_METRICS_PER_REQUEST = 1000
_STATE_DICT_SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".ckpt")
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Tracking:
    """Where audits are published.

    Parameters
    ----------
    enabled
        False publishes nothing.
    uri
        MLflow tracking URI; None for an sqlite file in the folder above the run folder.
    experiment
        Name of the MLflow experiment; made when it is not there.
    artifact_location
        Where a new experiment keeps its artifacts; None for ``mlartifacts`` beside an sqlite file, and for the
        server's own choice elsewhere.
    required
        Whether an audit that cannot be published has failed.
    timeout
        Seconds that one request may take.
    retries
        Further attempts of one request.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "convaudit"
    artifact_location: str | None = None
    required: bool = False
    timeout: int = 10
    retries: int = 1

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError("tracking.experiment: expected a name, got an empty text")
        if self.timeout < 1:
            raise ConfigError(f"tracking.timeout: expected at least 1 second, got {self.timeout}")
        if not 0 <= self.retries <= 10:
            raise ConfigError(f"tracking.retries: expected 0 to 10, got {self.retries}")

    def resolved_uri(self, run: Path) -> str:
        """The tracking URI for the run folder `run`; never one that depends on the working directory."""
        return self.uri or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def publish(run: Path, record: PublishRecord, tracking: Tracking) -> PublishedRun:
    """Write an audit to MLflow, as one run for its fingerprint and date.

    Parameters
    ----------
    run
        Run folder; the default sqlite file lies above it.
    record
        What to write.
    tracking
        Where to.

    Raises
    ------
    TrackingError
        When the server or file cannot be used, or two metrics have one name in MLflow.
    """
    uri = tracking.resolved_uri(run)
    metrics, missing = split_metrics(record.metrics)
    with _reaching(uri, tracking):
        client = _client(uri)
        experiment = _experiment(client, uri, tracking)
        found = _earlier_run(client, experiment, record)
        if found is not None and not _can_be_amended(found, metrics, record.params):
            client.delete_run(found.info.run_id)
            found = None
        target = found or client.create_run(experiment, tags=_identity(record), run_name=record.name)
        _write_numbers(client, target, metrics, missing, record)
        _write_inputs(client, target, record)
        _write_artifacts(client, target.info.run_id, record)
        client.set_terminated(target.info.run_id, "FINISHED")
    identifier = target.info.run_id
    url = (
        f"{_without_passwords(uri).rstrip('/')}/#/experiments/{experiment}/runs/{identifier}"
        if uri.startswith(_WEB)
        else None
    )
    return PublishedRun(identifier, experiment, uri, url, created=found is None)


def open_command(tracking: Tracking, run: Path) -> str:
    """The shell command that shows published runs in a browser, on this machine alone."""
    uri = tracking.resolved_uri(run)
    python = shlex.quote(sys.executable)
    if uri.startswith(_WEB):
        return f"{python} -m webbrowser {shlex.quote(uri)}"
    return f"{python} -m mlflow server --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000 --workers 1"


def download_state_dict(
    uri: str, tracking_uri: str, destination: Path, artifact: str | None = None, tracking: Tracking | None = None
) -> Path:
    """Fetch the weights file of a registered model version; nothing is unpickled.

    Parameters
    ----------
    uri
        ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.
    tracking_uri
        MLflow server or sqlite file that knows the model.
    destination
        Folder for the file; made when it is not there.
    artifact
        Path of the file inside the version, where it has several.
    tracking
        Timeout and retries; the defaults when None.

    Returns
    -------
    Path
        The downloaded file.

    Raises
    ------
    ModelError
        When the version has no weights file, several, or only a pickled model.
    TrackingError
        When the server or file cannot be used.
    """
    name, alias, version = _parse_model_uri(uri)
    with _reaching(tracking_uri, tracking or Tracking()):
        import mlflow.artifacts

        client = _client(tracking_uri)
        if alias is not None:
            version = client.get_model_version_by_alias(name, alias).version
        root = client.get_model_version_download_uri(name, str(version)).rstrip("/")
        chosen = _weights_file(_files_below(root, tracking_uri), root, uri, artifact)
        destination.mkdir(parents=True, exist_ok=True)
        source = f"{root}/{chosen}" if chosen else root
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(destination), tracking_uri=tracking_uri))


def _client(uri: str) -> MlflowClient:
    # Both URIs by argument: a global one would reach into the process of whoever called.
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _reaching(uri: str, tracking: Tracking) -> Iterator[None]:
    """Bound how long MLflow may try, and turn whatever it meets into one line."""
    # Set before mlflow is imported, since the import itself starts what they govern.
    wanted = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(tracking.timeout),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(tracking.retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        import alembic.util
        import mlflow.exceptions
        import sqlalchemy.exc

        expected = (
            mlflow.exceptions.MlflowException,
            sqlalchemy.exc.SQLAlchemyError,
            alembic.util.CommandError,
            OSError,
        )
        try:
            yield
        except TrackingError:
            raise
        except expected as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrackingError(_without_passwords(f"MLflow at {uri} cannot be used: {reason[:300]}")) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _experiment(client: MlflowClient, uri: str, tracking: Tracking) -> str:
    known = client.get_experiment_by_name(tracking.experiment)
    if known is not None:
        if known.lifecycle_stage != "active":
            raise TrackingError(
                f"tracking.experiment: {tracking.experiment!r} was deleted in MLflow; restore it or choose another name"
            )
        return known.experiment_id
    location = tracking.artifact_location
    if location is None and uri.startswith("sqlite:///"):
        # MLflow's own default would be the working directory.
        location = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
    return client.create_experiment(tracking.experiment, artifact_location=location)


def _identity(record: PublishRecord) -> dict[str, str]:
    return {FINGERPRINT: record.fingerprint, DATE: record.date}


def _earlier_run(client: MlflowClient, experiment: str, record: PublishRecord) -> Run | None:
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in _identity(record).items())
    for found in client.search_runs([experiment], query, max_results=1):
        # A search leaves out which models a run has.
        return client.get_run(found.info.run_id)
    return None


def _can_be_amended(run: Run, metrics: Mapping[str, float], params: Mapping[str, str]) -> bool:
    """MLflow neither forgets a metric nor changes a param: a run that says more than the audit does must go."""
    stale = {name for name in run.data.metrics if name not in metrics and not name.startswith(_OF_AN_ATTEMPT)}
    changed = [name for name, value in run.data.params.items() if params.get(name) != value]
    return not stale and not changed


def _write_numbers(
    client: MlflowClient, run: Run, metrics: Mapping[str, float], missing: Sequence[str], record: PublishRecord
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    identifier, now = run.info.run_id, int(time.time() * 1000)
    new = [Metric(name, value, now, 0) for name, value in metrics.items() if run.data.metrics.get(name) != value]
    params = [Param(name, value) for name, value in record.params.items() if name not in run.data.params]
    tags = {**record.tags, **_identity(record), "mlflow.runName": record.name}
    tags |= {f"{MISSING}{name}": "not a number" for name in missing}
    for name in run.data.tags:
        if name.startswith(MISSING) and name not in tags:
            client.delete_tag(identifier, name)
    client.log_batch(identifier, params=params, tags=[RunTag(name, value) for name, value in tags.items()])
    for start in range(0, len(new), _METRICS_PER_REQUEST):
        client.log_batch(identifier, metrics=new[start : start + _METRICS_PER_REQUEST])


def _write_inputs(client: MlflowClient, run: Run, record: PublishRecord) -> None:
    """Attach the data set and the model, once; a model keeps its MLflow identity from night to night."""
    from mlflow.entities import DatasetInput, InputTag, LoggedModelInput

    inputs = run.inputs
    if inputs is not None and inputs.dataset_inputs and inputs.model_inputs:
        return
    model = _logged_model(client, run.info.experiment_id, record.model)
    data = DatasetInput(_dataset(record.data), [InputTag("mlflow.data.context", "audit")])
    client.log_inputs(run.info.run_id, datasets=[data], models=[LoggedModelInput(model)])


def _dataset(data: Input) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.http_dataset_source import HTTPDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = (
        HTTPDatasetSource(data.source) if data.source.startswith(_WEB) else CodeDatasetSource({"source": data.source})
    )
    # MLflow refuses digests of more than 36 characters.
    return MetaDataset(source, name=data.name[:500], digest=data.digest[:32])._to_mlflow_entity()


def _logged_model(client: MlflowClient, experiment: str, model: Input) -> str:
    known = client.search_logged_models([experiment], f"tags.`audit.digest` = '{model.digest}'", max_results=1)
    if known:
        return known[0].model_id
    tags = {"audit.digest": model.digest, "audit.source": model.source}
    name = re.sub(r"[/:.%\"']", "-", model.name) or "model"
    made = client.create_logged_model(experiment, name=name, tags=tags, model_type="classifier")
    return client.finalize_logged_model(made.model_id, "READY").model_id


def _write_artifacts(client: MlflowClient, identifier: str, record: PublishRecord) -> None:
    index = []
    kept = [(None, path) for path in record.artifacts] + [("pages", path) for path in record.pages]
    for folder, path in kept:
        content = path.read_bytes()
        client.log_artifact(identifier, str(path), folder)
        name = path.name if folder is None else f"{folder}/{path.name}"
        index.append({"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    client.log_dict(identifier, dict(record.config), "config.yaml")
    client.log_dict(identifier, {"artifacts": index}, "artifacts.json")


def _parse_model_uri(uri: str) -> tuple[str, str | None, str | None]:
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise ModelError(f"model.uri: expected models:/<name>@<alias> or models:/<name>/<version>, got {uri!r}")
    return match["name"], match["alias"], match["version"]


def _files_below(root: str, tracking_uri: str) -> list[str]:
    """Paths of all files of a version, relative to its root; the root itself is ``""`` where it is a file."""
    import mlflow.artifacts

    files: list[str] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        listed = mlflow.artifacts.list_artifacts(f"{root}/{folder}".rstrip("/"), tracking_uri=tracking_uri)
        if not listed and not folder:
            return [""]
        for entry in listed:
            # What MLflow calls the path begins one folder above; its last part is the only reliable one.
            path = f"{folder}/{Path(entry.path).name}".lstrip("/")
            (waiting if entry.is_dir else files).append(path)
    return sorted(files)


def _weights_file(files: Sequence[str], root: str, uri: str, artifact: str | None) -> str:
    """The one file of a version that can be a state_dict."""
    # The pytorch flavour keeps a whole pickled module below data/, next to its MLmodel.
    pickled = [str(Path(file).parent / "data") for file in files if Path(file).name == "MLmodel"]
    safe = [
        file
        for file in files
        if Path(file or root).suffix in _STATE_DICT_SUFFIXES
        and not any(str(Path(file)).startswith(f"{folder}/") for folder in pickled)
    ]
    kinds = ", ".join(_STATE_DICT_SUFFIXES)
    if artifact is not None:
        if artifact not in safe:
            raise ModelError(f"{uri}: no state_dict is called {artifact!r}{did_you_mean(artifact, safe)}")
        return artifact
    if not safe and pickled:
        raise ModelError(f"{uri}: holds a pickled model, which is never loaded; log its state_dict ({kinds}) beside it")
    if not safe:
        raise ModelError(f"{uri}: expected a state_dict file ({kinds}), got {', '.join(files[:5]) or 'nothing'}")
    if len(safe) > 1:
        raise ModelError(f"{uri}: has several state_dict files, name one of them: {', '.join(safe)}")
    return safe[0]
