"""One suite for every leaf that reads others or looks at the network alone, found in conf/ by itself."""

import fnmatch
import json
import pickle
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from convaudit.stages.errors import AuditError
from convaudit.stages.specs import Summary

from .whole_plan import BAD, N_IMAGE, NETS, everything, plan, run, world

LEAVES = {name: leaf for name, leaf in plan().leaves.items() if leaf.reads or not leaf.sweeps}
#: Leaves for which a network that could not be traced stays one, and what failed; where its maps lie is a note.
REMEMBERS_WHY = {("faithfulness/grad_cam", "forward")}
every_net = pytest.mark.parametrize("net", sorted(NETS))
every_leaf = pytest.mark.parametrize("name", LEAVES)
every_network_leaf = pytest.mark.parametrize("name", [n for n, leaf in LEAVES.items() if leaf.sweeps or leaf.inspects])
#: What may differ between two cuts of the same work, relative to the largest value, by type.
SLACK = {"float64": 1e-9, "float32": 1e-6, "float16": 1e-3}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _ran(name, net):
    """Give leaf, world and stored arrays, and what the leaf wrote among them."""
    here, stored, written = everything(net)
    reason = stored.failures.get(name, "")
    if "is not installed" in reason:
        pytest.skip(reason)
    assert not reason
    return LEAVES[name], here, stored, written[name]


def test_the_plan_holds_both_waves_and_the_second_is_held_here():
    found = set(LEAVES)
    assert {"weights", "receptive_fields/theoretical", "receptive_fields/effective", "filters", "ablation"} <= found
    assert {"feature_maps", "patches", "neighbors", "confusion", "embeddings/pca", "verdicts"} <= found
    assert {"faithfulness/grad_cam", "gaze/classes", "gaze/confirmation"} <= found
    assert not found & {"predictions", "features", "activations", "thumbnails", "attributions/saliency"}


@every_net
@every_leaf
def test_what_is_declared_is_what_comes(name, net):
    leaf, here, _, written = _ran(name, net)
    declared = {array.path: array for array in leaf.writes(here.subject)}
    assert len(declared) == len(leaf.writes(here.subject))
    assert set(written.arrays) == set(declared)
    assert not set(written.rows) & set(written.summary.arrays)
    assert {array.spec for array in declared.values()} <= set(leaf.documents)
    for path, array in written.arrays.items():
        assert isinstance(array, np.ndarray), path
        assert array.shape == declared[path].shape, path
        assert array.dtype == np.dtype(declared[path].spec.dtype), path
        assert len(declared[path].dims) == array.ndim == len(set(declared[path].dims)), path
        assert declared[path].spec.meaning.endswith("."), path
        assert declared[path].spec.unit, path


@every_net
@every_leaf
def test_tasks_write_whole_files_and_no_two_the_same(name, net):
    leaf, here, _, written = _ran(name, net)
    declared = {array.path: array for array in leaf.writes(here.subject)}
    for path, parts in written.covered.items():
        length = declared[path].shape[0]
        unit = here.subject.shard if declared[path].dims[0] == "image" else max(1, length)
        for start, stop in parts:
            assert start % unit == 0, path
            assert stop % unit == 0 or stop == length, path
        ordered = sorted(parts)
        assert all(first[1] <= second[0] for first, second in pairwise(ordered)), path


@every_net
@every_leaf
def test_summary_speaks_json_and_names_its_stage(name, net):
    leaf, here, stored, written = _ran(name, net)
    text = json.dumps(written.summary.attributes(), allow_nan=False)
    again = Summary.from_attributes(json.loads(text)).attributes()
    assert json.loads(json.dumps(again)) == json.loads(text)
    stage = name.split("/")[0]
    declared = [f"{name}/{array.path}" for array in leaf.writes(here.subject)] + list(stored.arrays)
    for measurement in written.summary.measurements:
        assert measurement.name.startswith(f"{stage}/")
        assert fnmatch.filter(declared, measurement.path), measurement.path
        assert measurement.meaning
        assert measurement.n >= 0
    names = [measurement.name for measurement in written.summary.measurements]
    assert len(names) == len(set(names))
    for finding in written.summary.findings:
        assert finding.code.startswith(f"{stage}/")
        assert finding.title
        assert finding.detail
        assert "\n" not in finding.title
        assert finding.layer is None or finding.layer in {layer.name for layer in here.subject.layers}


def _same(got, want, where):
    """Hold arrays or JSON-like values together: what is decided is equal, what is measured is close."""
    if isinstance(want, dict):
        assert list(got) == list(want), where
        for key in want:
            _same(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want), where
        for place, (first, second) in enumerate(zip(got, want, strict=True)):
            _same(first, second, f"{where}[{place}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9, nan_ok=True), where
    elif isinstance(want, np.ndarray):
        _close(got, want, where)
    else:
        assert got == want, where


def _close(got, want, where):
    assert (got.shape, got.dtype) == (want.shape, want.dtype), where
    if want.dtype.kind == "f":
        first, second = got.astype(np.float64), want.astype(np.float64)
        scale = np.abs(second[np.isfinite(second)]).max(initial=0) or 1.0
        np.testing.assert_allclose(first, second, rtol=0, atol=SLACK[want.dtype.name] * scale, err_msg=where)
    elif want.dtype == np.uint8:
        # Pictures, quantised: a value on the edge between two steps may fall to either side.
        assert np.abs(got.astype(int) - want.astype(int)).max(initial=0) <= 1, where
    else:
        np.testing.assert_array_equal(got, want, where)


@pytest.mark.parametrize(("shard", "batch"), [(N_IMAGE, N_IMAGE), (5, 1)])
@every_net
@every_leaf
def test_shards_and_batches_do_not_show(name, net, shard, batch):
    leaf, _, stored, written = _ran(name, net)
    other = run(leaf, world(net, shard, batch), stored)
    assert other.errors == []
    _same(dict(sorted(other.arrays.items())), dict(sorted(written.arrays.items())), name)
    _same(other.summary.attributes(), written.summary.attributes(), name)


def _bytes(written):
    partials = [{key: np.asarray(value).tobytes() for key, value in part.items()} for part in written.partials]
    text = json.dumps(written.summary.attributes(), allow_nan=False)
    return {path: array.tobytes() for path, array in written.arrays.items()}, partials, text


@every_net
@every_leaf
def test_twice_the_same_bytes(name, net):
    leaf, _, stored, written = _ran(name, net)
    torch.manual_seed(1234)  # nobody may hang on what was drawn before
    np.random.seed(1234)  # noqa: NPY002
    assert _bytes(run(leaf, world(net), stored)) == _bytes(written)


def _state(model):
    """Everything that a leaf could leave behind on a model or in its process."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
        "tensors": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "grad": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "training": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "modules": [id(module) for module in model.modules()],
        "hooks": [len(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "autograd": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "random": (torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()),  # noqa: NPY002
    }


@every_net
@every_network_leaf
def test_model_and_images_are_left_as_they_were(name, net):
    leaf, _, stored, written = _ran(name, net)
    here = world(net)
    before, pixels, label = _state(here.model), here.images.copy(), here.subject.label.copy()
    assert _bytes(run(leaf, here, stored)) == _bytes(written)
    assert _state(here.model) == before
    assert sum(before["hooks"]) == 0
    np.testing.assert_array_equal(here.images, pixels)
    np.testing.assert_array_equal(here.subject.label, label)


def _fails_at(call, original):
    """Do as `original`, but raise from that call of it on; tells whether it came to that."""
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) >= call:
            raise ValueError("cut off")
        return original(*args, **kwargs)

    return failing, lambda: len(calls) >= call


def _cut_off(leaf, here, stored, usual):
    """Run a leaf that somebody makes fail; whether it fails, tells of it, or has found another way to the same."""
    try:
        written = run(leaf, here, stored)
    except (ValueError, AuditError) as error:
        return "cut off" in str(error)
    if written.errors:
        return any("cut off" in error for error in written.errors)
    return "cut off" in str(written.summary.attributes()) or _bytes(written) == _bytes(usual)


@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize("where", ["leaf", "forward", "gradient"])
@every_network_leaf
def test_a_failure_half_way_leaves_nothing_behind(name, where, call, monkeypatch):
    leaf, _, stored, written = _ran(name, "images")
    here = world("images")
    place, method = {
        "leaf": (type(leaf), "process" if leaf.sweeps else "inspect"),
        "forward": (here.model.fc, "forward"),
        "gradient": (torch.autograd, "grad"),
    }[where]
    before = _state(here.model)
    with monkeypatch.context() as patch:
        failing, came = _fails_at(call, getattr(place, method))
        patch.setattr(place, method, failing)
        assert _cut_off(leaf, here, stored, written) or not came(), "the failure is swallowed"
    here.model.fc.__dict__.pop("forward", None)  # monkeypatch puts back a bound method where there was none
    assert _state(here.model) == before
    if (name, where) not in REMEMBERS_WHY:
        assert _bytes(run(leaf, here, stored)) == _bytes(written), "and the next one computes as ever"


@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize("name", [name for name, leaf in LEAVES.items() if leaf.sweeps])
def test_memory_that_runs_out_once_does_not_show(name, call):
    leaf, _, stored, written = _ran(name, "images")
    here = world("images")
    before, original, calls = _state(here.model), here.model.fc.forward, []

    def failing(x):
        calls.append(1)
        if len(calls) == call:
            raise torch.OutOfMemoryError("no memory left")
        return original(x)

    here.model.fc.forward = failing
    other = run(leaf, here, stored)
    del here.model.fc.forward
    assert other.errors == []
    _same(dict(sorted(other.arrays.items())), dict(sorted(written.arrays.items())), name)
    assert _state(here.model) == before


@every_leaf
def test_travels_to_workers_and_into_fingerprints(name):
    leaf, here, stored, _ = _ran(name, "images")
    again = pickle.loads(pickle.dumps(leaf))
    assert again == leaf
    assert again.writes(here.subject) == leaf.writes(here.subject)
    assert again.asks(here.subject) == leaf.asks(here.subject)
    tasks = list(leaf.tasks(here.subject, stored))
    assert pickle.loads(pickle.dumps(tasks)) == tasks == list(again.tasks(here.subject, stored))
    assert all(task.leaf == name for task in tasks)
    for task in tasks:
        hash((task.images, task.variant))  # the engine groups by them
    text = json.dumps(dict(leaf.config), sort_keys=True, allow_nan=False)
    assert json.loads(text) == json.loads(json.dumps(dict(again.config)))
    assert leaf.config["_target_"].startswith("convaudit.stages.")


@every_net
@every_leaf
def test_bad_images_take_part_in_nothing(name, net):
    leaf, here, stored, written = _ran(name, net)
    for array in leaf.writes(here.subject):
        values = written.arrays[array.path]
        if array.dims[0] == "image" and array.path not in leaf.covers_invalid:
            want = np.full_like(values[list(BAD)], array.spec.fill)
            np.testing.assert_array_equal(values[list(BAD)], want, array.path)
        if array.spec.unit == "image" or array.path == "image":
            assert not np.isin(values, BAD).any(), f"{array.path} names images that cannot be read"
    for finding in written.summary.findings:
        assert not set(finding.images) & set(BAD), finding.code
    garbage = run(leaf, replace(world(net), garbage=1e3), stored)
    assert _bytes(garbage)[::2] == _bytes(written)[::2]


@pytest.mark.parametrize("readable", [0, 1])
@every_net
def test_with_hardly_an_image_to_look_at_each_copes_or_says_why(net, readable):
    _, stored, written = everything(net, tuple(range(readable, N_IMAGE)))
    for name, reason in stored.failures.items():
        assert reason.startswith(("StageError: ", "ConfigError: ", "reads ")), f"{name}: {reason}"
        assert "\n" not in reason
    assert "verdicts" not in stored.failures
    assert {"weights", "confusion", "filters", "ablation", "feature_maps", "patches"} <= set(written)
