"""The stage as a whole: what it chooses, writes and says, on small networks with known methods."""

import json
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar

import numpy as np
import pytest
import torch

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.method import PixelMethod, gradients
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.contract import Ask
from convaudit.stages.errors import ConfigError
from convaudit.stages.faithfulness.sampling import spread_sample
from convaudit.stages.faithfulness.stage import Faithfulness
from convaudit.stages.faithfulness.wording import one_line
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.network.variants import redrawn
from convaudit.stages.numerics.seeds import stable_seed

from ...stored_fake import StoredFake, codes_of, settle, values_of
from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject

N = 12


@dataclass(frozen=True)
class Edges(PixelMethod):
    """Differences between neighbours: a heatmap that no network has a part in."""

    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "1"
    meaning: ClassVar[str] = "Edges."

    def asks(self, subject):
        return Ask()

    def heatmap(self, batch, subject, target):
        rolled = torch.roll(batch.images, 1, dims=-1)
        return (batch.images - rolled).abs().amax(1)


@dataclass(frozen=True)
class Costly(Saliency):
    """One that says it takes many passes."""

    def passes(self, subject):
        return 1000


@dataclass(frozen=True)
class ClassAlone(PixelMethod):
    """The same heatmap for every image."""

    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "1"
    meaning: ClassVar[str] = "A ramp."

    def asks(self, subject):
        return gradients(self.targets(subject), "input")

    def heatmap(self, batch, subject, target):
        size = batch.images[0, 0].numel()
        ramp = torch.arange(float(size)) * (-1) ** batch.altered
        return ramp.reshape(batch.images.shape[2:]).expand(len(batch), *batch.images.shape[2:])


def _world(net, n=N, batch=5):
    model = net().double()
    subject = tiny_subject(model, n, shard=8, batch=batch)
    images = tiny_images(model, n, seed=4)
    with torch.inference_mode():
        # Untrained networks answer the same to everything; this one does not.
        model.fc.bias.sub_(model(torch.from_numpy(images).double()).mean(0))
        predicted = model(torch.from_numpy(images).double()).argmax(1).numpy().astype(np.int32)
    return model, subject, images, predicted


def _run(stage, net=conv_net, predicted=None, bad=(), batch=5, regions=None):
    model, subject, images, found = _world(net, batch=batch)
    predicted = found if predicted is None else predicted
    stored = StoredFake({"predictions/predicted": predicted})
    (leaf,) = stage.leaves()
    partials = []
    for task in leaf.tasks(subject, stored):
        positions = np.array(task.images)
        blocks = []
        for block in tiny_blocks(images[positions], batch=batch):
            places = positions[block.positions]
            valid = ~np.isin(places, bad)
            there = None if regions is None else regions[places]
            blocks.append(replace(block, positions=places, valid=valid, regions=there))
        (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
        assert outcome.error is None
        if outcome.partial is not None:
            partials.append(outcome.partial)
    return settle(leaf, subject, stored, partials), stored, leaf


def _stage(method, **more):
    settings = {"images": N, "steps": 4, "levels": 3, "samples": 2}
    return Faithfulness({"tried": method}, **(settings | more))


@pytest.mark.parametrize("net", [conv_net, signal_net])
def test_a_heatmap_without_a_network_fails_and_a_gradient_passes(net):
    summary, _, leaf = _run(_stage(Edges()), net)
    assert summary.notes["randomisation"] == "fails"
    assert values_of(summary)["faithfulness/tried/similarity"] == pytest.approx(1)
    assert values_of(summary)["faithfulness/tried/ssim"] == pytest.approx(1)
    finding = codes_of(summary)["faithfulness/fails-randomisation"]
    assert finding.severity == "warning"
    assert "1.00 on average over 12 images" in finding.detail
    assert one_line(summary.notes, "heatmap").startswith("FAILS parameter randomisation")
    summary, _, _ = _run(_stage(Saliency()), net)
    assert summary.notes["randomisation"] == "passes"
    assert 0 < values_of(summary)["faithfulness/tried/ssim"] < 0.9
    assert "faithfulness/fails-randomisation" not in codes_of(summary)
    assert one_line(summary.notes, "heatmap").startswith("passes parameter randomisation")
    assert json.dumps(summary.attributes(), allow_nan=False)
    assert leaf.name == "faithfulness/tried"


def test_heatmaps_of_random_weights_explain_the_class_of_the_trained_network():
    stage = _stage(Saliency(reduction="sum"), levels=1, samples=0)
    _, stored, leaf = _run(stage)
    model, subject, images, predicted = _world(conv_net)
    (task,) = leaf.tasks(subject, StoredFake({"predictions/predicted": predicted}))
    seed = stable_seed(subject.seed, str(task.argument["draw"]), "faithfulness draw")
    names = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    weights = redrawn(model, names, seed)
    x = torch.from_numpy(images).double().requires_grad_()
    maps, answers = [], []
    for drawn in ({}, weights):
        logits = torch.func.functional_call(model, drawn, (x,))
        answers.append(logits.argmax(1))
        picked = logits[torch.arange(N), torch.from_numpy(predicted).long()].sum()
        maps.append(torch.autograd.grad(picked, x)[0].sum(1).abs().flatten(1).numpy())
    assert (answers[0] != answers[1]).any(), "the random network must see something else"
    want = []
    for one, two in zip(*maps, strict=True):
        ranks = [np.argsort(np.argsort(values)) for values in (one, two)]
        want.append(np.corrcoef(*ranks)[0, 1])
    assert stored["faithfulness/tried/image"].tolist() == list(range(N))
    assert stored["faithfulness/tried/target"].tolist() == predicted.tolist()
    np.testing.assert_allclose(stored["faithfulness/tried/randomisation"][:, 0, 0], want, rtol=1e-5)


@pytest.mark.parametrize("method", [Saliency(), GradCam(layers=("relu1", "last_map"))], ids=["pixels", "layers"])
def test_batches_do_not_show(method):
    one, many = (_run(_stage(method), batch=batch)[1] for batch in (2, 12))
    for path, rows in one.arrays.items():
        np.testing.assert_allclose(rows, many[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_each_layer_is_judged_by_itself():
    summary, stored, _ = _run(_stage(GradCam(layers=("relu1", "last_map"))))
    assert list(summary.notes["maps"]) == ["relu1/heatmap", "relu2/heatmap"]
    assert stored["faithfulness/tried/deletion"].shape == (N, 2, 5)
    assert "faithfulness/tried/relu1/deletion" in values_of(summary)
    assert summary.notes["chance"] == "coarse"


def test_curves_share_their_ends_with_chance_and_start_at_the_answer():
    _, stored, _ = _run(_stage(Saliency()))
    model, _, images, predicted = _world(conv_net)
    with torch.inference_mode():
        share = torch.softmax(model(torch.from_numpy(images).double()), 1).numpy()[np.arange(N), predicted]
    deletion, insertion = stored["faithfulness/tried/deletion"], stored["faithfulness/tried/insertion"]
    np.testing.assert_allclose(deletion[:, 0, 0], share, rtol=1e-6)
    np.testing.assert_allclose(insertion[:, 0, -1], share, rtol=1e-6)
    for way, own in (("deletion", deletion), ("insertion", insertion)):
        chance = stored[f"faithfulness/tried/chance_{way}"]
        assert chance.shape == (N, 5)
        for end in (0, -1):
            np.testing.assert_array_equal(chance[:, end], own[:, 0, end])
    np.testing.assert_allclose(stored["faithfulness/tried/share"], [0, 0.25, 0.5, 0.75, 1])


def test_methods_share_what_is_the_same_for_all_and_compute_no_chance_of_another_grain():
    """Four parts: three points of each curve, for one method's own order and for one random order of its grain."""
    passes = {}
    for name, methods in {
        "coarse": [GradCam(layers=("last_map",))],
        "twice": [GradCam(layers=("last_map",)), GradCam(layers=("relu1",))],
        "both": [GradCam(layers=("last_map",)), Saliency()],
    }.items():
        model, subject, images, predicted = _world(conv_net, batch=N)
        stored = StoredFake({"predictions/predicted": predicted})
        stage = Faithfulness(dict(enumerate(methods)), images=N, steps=4, levels=0, samples=0)
        jobs = [(leaf, leaf.tasks(subject, stored)[0]) for leaf in stage.leaves()]
        seen = []
        model.register_forward_pre_hook(lambda _module, given, seen=seen: seen.append(len(given[0])))
        outcomes = run_tasks(model, jobs, tiny_blocks(images, batch=N), subject, device="cpu", channels_last=False)
        assert [outcome.error for outcome in outcomes] == [None] * len(jobs)
        passes[name] = sum(seen) // N
    shared = 1 + 2  # the images themselves; wholly removed, wholly blurred
    assert passes == {"coarse": shared + 2 * 3 * 2, "twice": shared + 2 * 3 * 3, "both": shared + 2 * 3 * 4}


def test_bad_images_and_those_without_an_answer_take_no_part():
    _, _, _, predicted = _world(conv_net)
    without = predicted.copy()
    without[3] = -1
    summary, stored, _ = _run(_stage(Saliency()), predicted=without, bad=(5,))
    used = stored["faithfulness/tried/image"]
    assert used.tolist() == [i for i in range(N) if i not in (3, 5)] + [-1, -1]
    assert summary.notes["n"] == 10
    assert np.isnan(stored["faithfulness/tried/deletion"][10:]).all()


def test_no_image_at_all_is_said_and_no_pass():
    summary, stored, _ = _run(_stage(Saliency()), predicted=np.full(N, -1, np.int32))
    assert summary.notes["randomisation"] == "not measured"
    assert (stored["faithfulness/tried/image"] == -1).all()
    assert one_line(summary.notes) == "not tested for faithfulness"
    assert not summary.measurements


def test_a_method_of_many_passes_is_made_again_for_few_images():
    for batch in (2, 12):
        _, stored, _ = _run(_stage(Costly()), batch=batch)
        for path in ("randomisation", "sensitivity"):
            rows = stored[f"faithfulness/tried/{path}"].reshape(N, -1)
            assert np.isfinite(rows).all(axis=1).tolist() == [True] * 4 + [False] * 8
        assert np.isfinite(stored["faithfulness/tried/deletion"]).all()


def test_a_heatmap_of_the_class_alone_is_found_out():
    summary, stored, _ = _run(_stage(ClassAlone()))
    assert (stored["faithfulness/tried/sensitivity"] == 0).all()
    assert "faithfulness/ignores-the-image" in codes_of(summary)


def test_levels_and_samples_can_be_left_out():
    summary, stored, _ = _run(_stage(Saliency(), levels=0, samples=0))
    assert stored["faithfulness/tried/randomisation"].shape == (N, 1, 0)
    assert summary.notes["randomisation"] == "not measured"
    assert "faithfulness/tried/sensitivity" not in values_of(summary)


def test_regions_are_compared_where_there_are_some():
    _, subject, _, _ = _world(conv_net)
    regions = np.zeros((N, *subject.input_shape[1:]), bool)
    regions[:6, 2:9, 1:6] = True
    summary, stored, _ = _run(_stage(Saliency()), regions=regions)
    for name in ("pointing", "inside", "overlap"):
        assert np.isfinite(stored[f"faithfulness/tried/{name}"]).sum() == 6
        assert f"faithfulness/tried/{name}" in values_of(summary)
    assert np.nanmean(stored["faithfulness/tried/region"]) == pytest.approx(35 / 108)
    anywhere, _, _ = _run(_stage(Saliency(), tolerance=99), regions=regions)
    assert values_of(anywhere)["faithfulness/tried/pointing"] == 1
    exactly, _, _ = _run(_stage(Saliency(), tolerance=0), regions=np.roll(regions, 4, axis=1) & ~regions)
    assert values_of(exactly)["faithfulness/tried/pointing"] < 1
    without, _, _ = _run(_stage(Saliency()))
    assert "faithfulness/tried/pointing" not in values_of(without)
    assert "points into the region" in one_line(summary.notes)
    assert "region" not in one_line(without.notes)


def test_partials_fold_in_any_grouping():
    _, _, leaf = _run(_stage(Saliency()))
    row = {"image": np.arange(2), "maps": np.array(["heatmap"]), "level_modules": np.array([1, 2])}
    parts = [row, {**row, "image": np.array([4])}, {**row, "image": np.array([7, 9])}]
    left, right = reduce(leaf.combine, parts), leaf.combine(parts[0], leaf.combine(parts[1], parts[2]))
    for found in (left, right):
        assert found["image"].tolist() == [0, 1, 4, 7, 9]
        assert found["maps"].tolist() == ["heatmap"]


def test_images_are_spread_over_right_and_wrong_and_over_classes():
    n = 400
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, n)
    predicted = np.where(generator.random(n) < 0.1, (label + 1) % 4, label)
    predicted[:5] = -1
    ids = [f"image-{i}" for i in range(n)]
    chosen = spread_sample(ids, label, predicted, 32, seed=0)
    wrong = label[chosen] != predicted[chosen]
    assert wrong.sum() == 16
    for kind in (False, True):
        assert np.bincount(predicted[chosen][wrong == kind]).tolist() == [4] * 4
    assert (np.diff(chosen) > 0).all()
    order = generator.permutation(n)
    again = spread_sample([ids[i] for i in order], label[order], predicted[order], 32, seed=0)
    assert sorted(order[again]) == chosen.tolist()
    only = spread_sample(ids, label, predicted, 32, seed=0, wrong_only=True)
    assert (label[only] != predicted[only]).all()


def test_where_few_are_wrong_the_right_ones_fill_up():
    label, predicted = np.zeros(30, int), np.zeros(30, int)
    predicted[[4, 9]] = 1
    chosen = spread_sample([str(i) for i in range(30)], label, predicted, 10, seed=0)
    assert len(chosen) == 10
    assert {4, 9} <= set(chosen.tolist())
    assert len(spread_sample(["a"] * 3, np.full(3, -1), np.zeros(3, int), 10, seed=0)) == 3
    assert len(spread_sample([], np.zeros(0, int), np.zeros(0, int), 10, seed=0)) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("images", 0), ("steps", 1), ("levels", -1), ("samples", -1), ("noise", 0), ("similar", 1.5), ("tolerance", -1)],
)
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"faithfulness.{key}: expected"):
        Faithfulness({}, **{key: value})


def test_what_is_no_method_is_refused():
    with pytest.raises(ConfigError, match=r"faithfulness.methods.odd: expected an attribution method, got 3"):
        Faithfulness({"odd": 3})
