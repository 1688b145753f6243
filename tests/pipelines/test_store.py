"""Groups on disk: layout, alignment, summaries, equal bytes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray
import zarr

from convaudit.pipelines import store
from convaudit.pipelines.workspace import publish_stage
from convaudit.stages.errors import StoreError
from convaudit.stages.specs import ArraySpec, Finding, Measurement, Summary

LOGIT = ArraySpec("logit", ("image", "class"), "float32", "1", "a logit")
HEATMAP = ArraySpec("{layer}/heatmap", ("image", "*space"), "float32", "1", "a map")
MATRIX = ArraySpec("matrix", ("label", "prediction"), "int64", "image", "counts")


def arrays(n=20):
    return (
        LOGIT.sized((n, 3)),
        HEATMAP.sized((n, 5, 7), ("y", "x"), layer="layer1.0.relu#1"),
        MATRIX.sized((3, 3)),
    )


def test_paths_and_dimensions_open_in_xarray(tmp_path):
    store.allocate(tmp_path / "g", "predictions", arrays(), shard=8)
    data = xarray.open_zarr(tmp_path / "g", consolidated=False)
    assert data["logit"].dims == ("image", "class")
    assert data["logit"].attrs["unit"] == "1"
    group = xarray.open_zarr(tmp_path / "g", group="layer1.0.relu#1", consolidated=False)
    assert group["heatmap"].dims == ("image", "y", "x")
    assert bool(np.isnan(data["logit"].values).all())
    assert (zarr.open_group(tmp_path / "g")["matrix"][:] == -1).all()


def test_rows_land_where_they_belong_and_nowhere_else(tmp_path):
    store.allocate(tmp_path / "g", "predictions", arrays(), shard=8)
    rows = np.arange(12, dtype="f4").reshape(4, 3)
    store.write_rows(tmp_path / "g", {"logit": rows}, start=16)
    found = zarr.open_group(tmp_path / "g")["logit"][:]
    np.testing.assert_array_equal(found[16:], rows)
    assert np.isnan(found[:16]).all()


@pytest.mark.parametrize(("start", "count"), [(3, 8), (0, 5), (8, 3)])
def test_rows_that_share_a_file_with_another_task_are_refused(tmp_path, start, count):
    store.allocate(tmp_path / "g", "predictions", arrays(), shard=8)
    with pytest.raises(StoreError, match="not aligned"):
        store.write_rows(tmp_path / "g", {"logit": np.zeros((count, 3), "f4")}, start)


def test_large_rows_are_chunked_inside_a_shard(tmp_path):
    wide = ArraySpec("wide", ("image", "feature"), "float32", "1", "wide rows").sized((100, 3000))
    store.allocate(tmp_path / "g", "features", [wide], shard=96)
    array = zarr.open_group(tmp_path / "g")["wide"]
    assert (array.shards[0], array.chunks[0]) == (96, 16)


def test_missing_is_visible_even_where_everything_equals_the_fill(tmp_path):
    store.allocate(tmp_path / "g", "predictions", arrays(), shard=8)
    store.write_rows(tmp_path / "g", {"logit": np.full((8, 3), np.nan, "f4")}, 0)
    assert (tmp_path / "g" / "logit" / "c" / "0" / "0").is_file()


def test_summary_survives_with_nan_as_null(tmp_path):
    store.allocate(tmp_path / "g", "confusion", arrays(), shard=8)
    measurement = Measurement("confusion/recall", math.nan, "1", "higher", 0, "confusion/matrix", "recall", low=0.25)
    finding = Finding("confusion/empty", "warning", "a title", "a detail", images=(3, 1), channels=(2,))
    matrix = np.arange(9).reshape(3, 3)
    store.finish(tmp_path / "g", Summary({"matrix": matrix}, (measurement,), (finding,), {"n": np.int64(3)}))
    raw = json.loads((tmp_path / "g" / "zarr.json").read_text())["attributes"]
    assert raw["measurements"][0]["value"] is None
    view = store.StoreView({"confusion": tmp_path / "g"})
    again = view.summary("confusion")
    assert math.isnan(again.measurements[0].value)
    assert again.measurements[0].low == 0.25
    assert again.findings == (finding,)
    assert again.notes == {"n": 3}
    np.testing.assert_array_equal(view["confusion/matrix"][:], matrix)


def test_finish_refuses_a_wrong_shape_and_an_undeclared_array(tmp_path):
    store.allocate(tmp_path / "g", "confusion", arrays(), shard=8)
    with pytest.raises(StoreError, match=r"matrix: expected shape \(3, 3\), got \(2, 3\)"):
        store.finish(tmp_path / "g", Summary({"matrix": np.zeros((2, 3))}))
    with pytest.raises(StoreError, match=r"'matrx'.*did you mean 'matrix'"):
        store.finish(tmp_path / "g", Summary({"matrx": np.zeros((3, 3))}))


def test_litter_of_killed_writers_is_removed(tmp_path):
    store.allocate(tmp_path / "g", "confusion", arrays(), shard=8)
    clean = store.digest(tmp_path / "g")
    litter = tmp_path / "g" / "logit" / "c" / "0.abc.partial"
    litter.parent.mkdir(parents=True)
    litter.write_bytes(b"half")
    assert store.digest(tmp_path / "g") != clean
    store.finish(tmp_path / "g", Summary())
    assert not litter.exists()


def finished(path, leaf):
    store.allocate(path, leaf, arrays(), shard=8)
    store.finish(path, Summary(notes={"leaf": leaf}))
    return path


def make_run(tmp_path):
    run = tmp_path / "run"
    sole = finished(tmp_path / "one", "predictions")
    method = finished(tmp_path / "two", "attributions/grad_cam")
    publish_stage(run / "store", "predictions", {"predictions": sole}, {})
    publish_stage(
        run / "store", "attributions", {"attributions/grad_cam": method}, {"attributions/saliency": "saliency: why"}
    )
    (run / "store" / "subject.json").write_text("{}")
    return run


def test_a_run_shows_leaves_methods_and_failures(tmp_path):
    found = store.RunStore(make_run(tmp_path))
    assert found.leaves() == ("attributions/grad_cam", "attributions/saliency", "predictions")
    assert found.failure("attributions/saliency") == "saliency: why"
    assert found.failure("predictions") is None
    assert found.summary("attributions/grad_cam").notes == {"leaf": "attributions/grad_cam"}
    assert found["attributions/grad_cam/layer1.0.relu#1/heatmap"].shape == (20, 5, 7)
    assert "predictions/logit" in found.arrays("predictions")
    with pytest.raises(StoreError, match="no stored leaf holds"):
        found["prediction/logit"]


def test_publishing_a_stage_again_replaces_it(tmp_path):
    run = make_run(tmp_path)
    publish_stage(
        run / "store", "attributions", {"attributions/saliency": finished(tmp_path / "x", "attributions/saliency")}, {}
    )
    assert store.RunStore(run).leaves() == ("attributions/saliency", "predictions")
    assert not [path for path in (run / "store").iterdir() if path.name.startswith(".")]


def test_unfinished_groups_are_refused(tmp_path):
    run = make_run(tmp_path)
    store.allocate(run / "checks" / "confusion.zarr", "confusion", arrays(), shard=8)
    with pytest.raises(StoreError, match="unfinished"):
        store.RunStore(run)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"subject\.json"):
        store.RunStore(tmp_path)


def test_nothing_stored_tells_when_or_where(tmp_path):
    first = finished(tmp_path / "a" / "g", "confusion")
    second = finished(tmp_path / "b" / "g", "confusion")
    assert store.digest(first) == store.digest(second)
