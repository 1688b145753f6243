"""Whole audits: the same bytes whoever computes them, bad images recorded, failures shown, nothing done twice."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from convaudit.pipelines import run as runs
from convaudit.pipelines.executors import Cluster, Inprocess, InprocessCluster, LocalCluster
from convaudit.pipelines.store import RunStore
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.errors import ConfigError, DataError
from convaudit.stages.specs import STATUS

from .conftest import FLAWED, digests


@dataclasses.dataclass(frozen=True)
class Backwards(Cluster):
    """Runs the tasks of a map in reverse order."""

    @contextmanager
    def open(self, n_image, threads):
        class Reversed(Inprocess):
            def map(self, function, payloads):
                for position, result in super().map(function, payloads[::-1]):
                    yield len(payloads) - 1 - position, result

        yield Reversed()


def flawed(configure, folder, images, cluster: Cluster, *overrides):
    small = ("tracking=none", "numerics.batch=8", "numerics.shard=16")
    config = configure(folder, *FLAWED, f"data.path={images}", *overrides, small=small)
    config = dataclasses.replace(config, cluster=cluster)
    return config, runs.audit(config)


@pytest.fixture(scope="module")
def undisturbed(configure, flawed_folder, tmp_path_factory):
    config, notes = flawed(configure, tmp_path_factory.mktemp("undisturbed"), flawed_folder, Backwards())
    return config, notes


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_bytes_are_the_same_for_any_number_of_workers_and_any_order(
    workers, configure, flawed_folder, undisturbed, tmp_path
):
    cluster = LocalCluster(workers=workers) if workers else InprocessCluster()
    config, _ = flawed(configure, tmp_path, flawed_folder, cluster)
    assert digests(config.run) == digests(undisturbed[0].run)


def test_bad_images_are_recorded_excluded_and_shown(undisturbed):
    config, _ = undisturbed
    stored = RunStore(config.run)
    index = stored.images()
    status = stored["predictions/status"][:]
    by_name = {key: STATUS[code] for key, code in zip(index["id"], status, strict=True) if code}
    assert by_name == {
        "0/empty.png": "empty",
        "3/truncated.png": "truncated",
        "4/text.png": "undecodable",
        "5/colour.png": "wrong_mode",
        "6/huge.png": "too_large",
    }
    bad = status > 0
    assert np.isnan(stored["predictions/logit"][:][bad]).all()
    assert (stored["predictions/predicted"][:][bad] == -1).all()
    assert np.isfinite(stored["predictions/logit"][:][~bad]).all()
    accuracy = next(m for m in stored.summary("predictions").measurements if m.name == "predictions/accuracy")
    assert accuracy.n == 80
    assert int(stored["confusion/matrix"][:].sum()) == 80
    page = (config.run / "report.html").read_text()
    for name in by_name:
        assert name in page


def test_too_many_bad_images_stop_the_run_with_their_list(configure, flawed_folder, tmp_path):
    with pytest.raises(DataError, match=r"5 of 85 images are bad, more than data\.max_bad_fraction=0\.01.*empty\.png"):
        flawed(configure, tmp_path, flawed_folder, Backwards(), "data.max_bad_fraction=0.01")
    assert not (tmp_path / "run" / "verdict.json").exists()
    assert len(json.loads((tmp_path / "work" / "bad_images.json").read_text())) == 5


@pytest.fixture(scope="module")
def by_numerics(configure, tmp_path_factory):
    found = {}
    for batch, threads in ((1, 1), (7, 1), (64, 1), (64, 2)):
        overrides = (f"numerics.batch={batch}", f"numerics.shard={7 * 64}", f"numerics.threads={threads}")
        config = configure(tmp_path_factory.mktemp("numerics"), "cluster=inprocess", *overrides)
        runs.audit(config)
        found[batch, threads] = RunStore(config.run)
    return found


@pytest.mark.parametrize("numerics", [(1, 1), (7, 1), (64, 2)])
def test_batch_size_and_threads_move_nothing_but_the_last_bits(by_numerics, numerics):
    one, other = by_numerics[numerics], by_numerics[64, 1]
    logits, reference = one["predictions/logit"][:], other["predictions/logit"][:]
    assert np.abs(logits - reference).max() <= 1e-4 * np.abs(reference).max()
    np.testing.assert_array_equal(one["predictions/predicted"][:], other["predictions/predicted"][:])
    for leaf in ("attributions/saliency/heatmap", "attributions/grad_cam/block3/heatmap"):
        maps, expected = (s[leaf][:].astype("f8").reshape(len(logits), -1) for s in (one, other))
        norms = np.linalg.norm(expected, axis=1)
        relative = np.linalg.norm(maps - expected, axis=1)[norms > 0] / norms[norms > 0]
        assert np.median(relative) <= 1e-4
    np.testing.assert_array_equal(one["activations/block1.relu/fired"][:], other["activations/block1.relu/fired"][:])


@contextmanager
def counted_forwards():
    """Count how often a whole network runs."""
    from convaudit.stages.reference.net import DigitsNet

    count = []

    def hook(module, _arguments):
        if isinstance(module, DigitsNet):
            count.append(1)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def test_changing_one_method_recomputes_that_method_alone(configure, tmp_path):
    # All that looks at maps of several methods would be computed again with it.
    stages = "stages=[predictions,features,activations,attributions,thumbnails,confusion,filters,ablation,gaze]"
    runs.audit(configure(tmp_path, "cluster=inprocess", stages))
    before = digests(tmp_path / "run")
    sealed = {path.name for path in (tmp_path / "work" / "sealed").glob("*.json")}

    with counted_forwards() as unchanged:
        runs.audit(configure(tmp_path, "cluster=inprocess", stages))
    assert len(unchanged) <= 1, "only the trace of the layers may run the network"
    assert digests(tmp_path / "run") == before

    with counted_forwards() as changed:
        runs.audit(configure(tmp_path, "cluster=inprocess", stages, "attributions.methods.saliency.target=label"))
    assert len(changed) == len(unchanged) + 96 // 8
    made = [path for path in (tmp_path / "work" / "sealed").glob("*.json") if path.name not in sealed]
    assert {json.loads(path.read_text())["leaf"] for path in made} == {"attributions/saliency", "verdicts"}
    after = digests(tmp_path / "run")
    assert after["attributions.zarr"] != before["attributions.zarr"]
    assert after["predictions.zarr"] == before["predictions.zarr"]


def test_changing_a_gate_recomputes_no_array(configure, tmp_path):
    runs.audit(configure(tmp_path, "cluster=inprocess"))
    sealed = {path.name for path in (tmp_path / "work" / "sealed").glob("*.json")}
    notes = runs.audit(configure(tmp_path, "cluster=inprocess", "gates.accuracy.min=1.01"))
    assert notes["verdict"] == "FAIL"
    made = [path for path in (tmp_path / "work" / "sealed").glob("*.json") if path.name not in sealed]
    assert {json.loads(path.read_text())["leaf"] for path in made} == {"verdicts"}


def test_a_failing_method_is_red_and_costs_nothing_else(configure, tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        raise RuntimeError("planted fault")

    with monkeypatch.context() as patched:
        for name in ("rows", "process", "attribute"):
            if hasattr(Saliency, name):
                patched.setattr(Saliency, name, broken)
        notes = runs.audit(configure(tmp_path, "cluster=inprocess"))
    assert notes["verdict"] == "ERROR"
    stored = RunStore(tmp_path / "run")
    assert "planted fault" in stored.failure("attributions/saliency")
    assert stored.failure("attributions/grad_cam") is None
    assert "planted fault" in (tmp_path / "run" / "report.html").read_text()

    with counted_forwards() as again:
        notes = runs.audit(configure(tmp_path, "cluster=inprocess"))
    assert notes["verdict"] in ("PASS", "WARN", "FAIL")
    assert len(again) == 1 + 96 // 8, "only the failed method runs again"


def test_a_crashed_run_leaves_no_old_verdict_behind(configure, tmp_path):
    runs.audit(configure(tmp_path, "cluster=inprocess"))
    with pytest.raises(ConfigError):
        runs.audit(configure(tmp_path, "cluster=inprocess", "features.layers=[nowhere]"))
    assert not (tmp_path / "run" / "verdict.json").exists()


def test_selected_stages_bring_what_they_read(configure, tmp_path):
    runs.audit(configure(tmp_path, "cluster=inprocess", "stages=[confusion,neighbors]"))
    assert set(RunStore(tmp_path / "run").leaves()) == {"predictions", "features", "confusion", "neighbors", "verdicts"}


def test_one_stage_alone_is_judged_too(configure, tmp_path):
    notes = runs.audit(configure(tmp_path, "cluster=inprocess", "stages=[thumbnails]"))
    assert notes["verdict"] in ("PASS", "WARN")
    assert set(RunStore(tmp_path / "run").leaves()) == {"predictions", "thumbnails", "verdicts"}


def test_every_array_is_named_and_opens_in_xarray(undisturbed):
    import xarray

    config, _ = undisturbed
    data = xarray.open_zarr(config.run / "store" / "predictions.zarr", consolidated=False)
    assert data["logit"].dims == ("image", "class")
    maps = xarray.open_zarr(config.run / "store" / "attributions.zarr", group="grad_cam/block3", consolidated=False)
    assert maps["heatmap"].dims == ("image", "target", "y", "x")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_gives_the_same_bytes_twice_and_agrees_with_the_cpu(configure, tmp_path):
    overrides = ("cluster=inprocess", "numerics.device=cuda")
    for name in ("first", "second"):
        runs.audit(configure(tmp_path / name, *overrides))
    assert digests(tmp_path / "first" / "run") == digests(tmp_path / "second" / "run")
    runs.audit(configure(tmp_path / "cpu", "cluster=inprocess"))
    gpu, cpu = (RunStore(tmp_path / name / "run")["predictions/logit"][:] for name in ("first", "cpu"))
    assert np.abs(gpu - cpu).max() <= 1e-4 * np.abs(cpu).max()


@pytest.mark.gpu
@needs_gpu
def test_one_worker_per_gpu(configure, tmp_path):
    pytest.importorskip("dask_cuda", reason="needs a CUDA device and dask-cuda")
    runs.audit(configure(tmp_path / "cluster", "cluster=cuda", "numerics.device=cuda"))
    runs.audit(configure(tmp_path / "driver", "cluster=inprocess", "numerics.device=cuda"))
    assert digests(tmp_path / "cluster" / "run") == digests(tmp_path / "driver" / "run")
