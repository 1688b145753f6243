"""One suite for every leaf of the first wave that has a file in conf/: nobody has to remember to add theirs."""

import copy
import io
import json
import pickle
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import convaudit.conf
from convaudit.pipelines.config import build
from convaudit.stages.contract import Stage
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.specs import Summary

from ..stored_fake import StoredFake
from ..tiny_models import conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject

CONF = Path(convaudit.conf.__file__).parent
NETS = {"images": conv_net, "residual": residual_net, "signals": signal_net}
N_IMAGE = 7
#: Settings by method that make it cheap; what is held here does not hang on how many samples it takes.
SMALLER = {"rise": {"masks": 64, "every": 16}, "smooth_grad": {"samples": 4}, "smooth_grad_squared": {"samples": 4}}


def _stage(path):
    """Build the stage that a file of conf/ describes; None where it describes something else."""
    node = OmegaConf.load(path)
    if not str(node.get("_target_", "")).startswith("convaudit.stages."):
        return None
    for name, method in node.get("methods", {}).items() if path.parent.name == "attributions" else ():
        method.update(SMALLER.get(name, {}))
    numerics = OmegaConf.load(CONF / "numerics" / "cpu.yaml")
    tree = OmegaConf.create(
        {"seed": 0, "gates": {}, "attributions": {"methods": {}}, "numerics": numerics, path.parent.name: node}
    )
    stage = build(OmegaConf.to_container(tree, resolve=True)[path.parent.name], path.parent.name)
    return stage if isinstance(stage, Stage) else None


def _leaves():
    for path in sorted(CONF.glob("*/*.yaml")):
        stage = _stage(path)
        for leaf in stage.leaves() if stage is not None else ():
            # What reads other leaves' arrays is of the second wave and needs a store.
            if leaf.sweeps and not leaf.reads:
                yield pytest.param(leaf, id=f"{path.parent.name}-{path.stem}-{leaf.name}")


LEAVES = list(_leaves())
every_leaf = pytest.mark.parametrize("leaf", LEAVES)
every_net = pytest.mark.parametrize("net", sorted(NETS))


def _world(net, *, shard=N_IMAGE, batch=3):
    # In double precision, so that no decision hangs on how a batch was cut.
    model = NETS[net]().double()
    subject = tiny_subject(model, N_IMAGE, shard=shard, batch=batch)
    return model, replace(subject, label=np.arange(N_IMAGE) % subject.n_class), tiny_images(model, N_IMAGE)


def _sweep(leaf, model, subject, images, bad=(), garbage=0.0):
    outcomes = []
    for task in leaf.tasks(subject, StoredFake()):
        a, b = task.images.start, task.images.stop
        blocks = list(tiny_blocks(images[a:b], batch=subject.batch, bad=bad, start=a))
        for block in blocks:
            block.images[~block.valid] = garbage
        outcomes += run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    rows = {path: np.concatenate([o.rows[path] for o in outcomes]) for path in outcomes[0].rows}
    return rows, [outcome.partial for outcome in outcomes]


def _finish(leaf, subject, rows, partials):
    stored = StoredFake({f"{leaf.name}/{path}": array for path, array in rows.items()})
    return leaf.finish([partial for partial in partials if partial is not None], subject, stored)


def _assert_close(got, want, tolerance):
    assert set(got) == set(want)
    for path in want:
        first, second = np.asarray(got[path]), np.asarray(want[path])
        assert first.shape == second.shape, path
        if np.issubdtype(second.dtype, np.floating) and tolerance:
            scale = np.abs(np.where(np.isfinite(second), second, 0)).max(initial=0).astype(np.float64) or 1.0
            slack = 1e-3 if second.dtype == np.float16 else tolerance
            np.testing.assert_allclose(
                first.astype(float), second.astype(float), rtol=0, atol=slack * scale, err_msg=path
            )
        elif np.issubdtype(second.dtype, np.unsignedinteger) and tolerance:
            assert np.abs(first.astype(int) - second.astype(int)).max(initial=0) <= 1, path
        else:
            np.testing.assert_array_equal(first, second, path)


def test_the_stages_of_one_sweep_are_found():
    found = {param.values[0].name for param in LEAVES}
    assert {"predictions", "features", "activations", "thumbnails"} <= found
    assert {"attributions/saliency", "attributions/grad_cam"} <= found


@every_net
@every_leaf
def test_shards_do_not_show(leaf, net):
    model, whole, images = _world(net)
    rows, partials = _sweep(leaf, model, whole, images, bad=(4,))
    for shard in (3, 6):
        split = replace(whole, shard=shard)
        same, pieces = _sweep(leaf, model, split, images, bad=(4,))
        assert len(pieces) > 1
        _assert_close(same, rows, tolerance=0)
        first, second = _finish(leaf, whole, rows, partials), _finish(leaf, split, same, pieces)
        _assert_close(second.arrays, first.arrays, tolerance=1e-12)
        assert [f.code for f in second.findings] == [f.code for f in first.findings]
        for mine, other in zip(second.measurements, first.measurements, strict=True):
            assert (mine.name, mine.n) == (other.name, other.n)
            assert mine.value == pytest.approx(other.value, rel=1e-12, nan_ok=True)


@every_net
@every_leaf
def test_batches_hardly_show(leaf, net):
    model, subject, images = _world(net)
    rows, partials = _sweep(leaf, model, subject, images, bad=(4,))
    want = _finish(leaf, subject, rows, partials).arrays
    for batch in (1, N_IMAGE):
        other = replace(subject, batch=batch)
        same, pieces = _sweep(leaf, model, other, images, bad=(4,))
        _assert_close(same, rows, tolerance=1e-5)
        _assert_close(_finish(leaf, other, same, pieces).arrays, want, tolerance=1e-5)


@every_net
@every_leaf
def test_twice_the_same_bytes(leaf, net):
    model, subject, images = _world(net)
    first, second = (_sweep(leaf, model, subject, images, bad=(2,)) for _ in range(2))
    assert {path: rows.tobytes() for path, rows in first[0].items()} == {p: r.tobytes() for p, r in second[0].items()}
    for mine, other in zip(first[1], second[1], strict=True):
        assert (mine is None) == (other is None)
        assert {k: np.asarray(v).tobytes() for k, v in (mine or {}).items()} == {
            k: np.asarray(v).tobytes() for k, v in (other or {}).items()
        }


def _hooks(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


@every_net
@every_leaf
def test_model_and_images_are_left_as_they_were(leaf, net):
    model, subject, images = _world(net)
    before, pixels = copy.deepcopy(model.state_dict()), images.copy()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    _sweep(leaf, model, subject, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not model.training
    assert _hooks(model) == 0
    np.testing.assert_array_equal(images, pixels)
    assert torch.is_grad_enabled()


@every_net
@every_leaf
def test_what_is_declared_is_written(leaf, net):
    model, subject, images = _world(net)
    rows, partials = _sweep(leaf, model, subject, images, bad=(0,))
    summary = _finish(leaf, subject, rows, partials)
    declared = {array.path: array for array in leaf.writes(subject)}
    assert set(rows) | set(summary.arrays) == set(declared)
    assert set(rows) == {path for path, array in declared.items() if array.dims[0] == "image"}
    assert {array.spec for array in declared.values()} <= set(leaf.documents)
    for path, array in {**rows, **summary.arrays}.items():
        assert array.shape == declared[path].shape, path
        assert array.dtype == np.dtype(declared[path].spec.dtype), path
        assert len(declared[path].dims) == array.ndim == len(set(declared[path].dims)), path


@every_leaf
def test_summary_speaks_json_and_names_its_stage(leaf):
    model, subject, images = _world("images")
    rows, partials = _sweep(leaf, model, subject, images, bad=(0,))
    summary = _finish(leaf, subject, rows, partials)
    text = json.dumps(summary.attributes(), allow_nan=False)
    again = Summary.from_attributes(json.loads(text)).attributes()
    assert json.loads(json.dumps(again)) == json.loads(text)
    stage = leaf.name.split("/")[0]
    declared = {f"{leaf.name}/{array.path}" for array in leaf.writes(subject)}
    for measurement in summary.measurements:
        assert measurement.name.startswith(f"{stage}/")
        assert measurement.path in declared
    for finding in summary.findings:
        assert finding.code.startswith(f"{stage}/")
        assert finding.detail


@every_net
@every_leaf
def test_bad_images_are_masked_and_move_nothing(leaf, net):
    model, subject, images = _world(net)
    rows, partials = _sweep(leaf, model, subject, images, bad=(1, 5))
    for array in leaf.writes(subject):
        if array.path in rows and array.path not in leaf.covers_invalid:
            want = np.full_like(rows[array.path][[1, 5]], array.spec.fill)
            np.testing.assert_array_equal(rows[array.path][[1, 5]], want, array.path)
            assert not np.array_equal(rows[array.path][[0, 2, 3, 4, 6]], want[[0] * 5]), array.path
    other, pieces = _sweep(leaf, model, subject, images, bad=(1, 5), garbage=1e3)
    _assert_close(other, rows, tolerance=0)
    first, second = (_finish(leaf, subject, r, p) for r, p in ((rows, partials), (other, pieces)))
    _assert_close(second.arrays, first.arrays, tolerance=0)
    assert second.attributes() == first.attributes()


@every_net
@every_leaf
def test_partials_fold_in_any_grouping_and_need_no_pickle(leaf, net):
    model, subject, images = _world(net, shard=3)
    _, partials = _sweep(leaf, model, subject, images)
    partials = [partial for partial in partials if partial is not None]
    if len(partials) < 3:
        pytest.skip("this leaf hands on no partial results")
    left = reduce(leaf.combine, partials)
    right = leaf.combine(partials[0], reduce(leaf.combine, partials[1:]))
    _assert_close(right, left, tolerance=1e-12)
    memory = io.BytesIO()
    np.savez(memory, **left)
    memory.seek(0)
    with np.load(memory, allow_pickle=False) as archive:
        _assert_close(dict(archive), left, tolerance=0)


@every_leaf
def test_travels_to_workers_and_into_fingerprints(leaf):
    _, subject, _ = _world("images")
    again = pickle.loads(pickle.dumps(leaf))
    assert again == leaf
    assert again.writes(subject) == leaf.writes(subject)
    assert again.asks(subject) == leaf.asks(subject)
    assert pickle.loads(pickle.dumps(leaf.tasks(subject, StoredFake()))) == leaf.tasks(subject, StoredFake())
    assert json.loads(json.dumps(dict(leaf.config), sort_keys=True)) == json.loads(json.dumps(dict(again.config)))
    assert leaf.config["_target_"].startswith("convaudit.stages.")
