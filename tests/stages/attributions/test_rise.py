import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions.masks import mask_values, render_masks
from convaudit.stages.attributions.rise import Moments, Rise
from convaudit.stages.attributions.scores import scores_of
from convaudit.stages.attributions.stage import AttributionLeaf
from convaudit.stages.contract import Ablate, Ask, Identity
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake
from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject

NETS = {"images": conv_net, "signals": signal_net}


class Linear(nn.Module):
    """Logits are linear in the input, through a convolution as wide as the image."""

    def __init__(self, shape, n_class=5):
        super().__init__()
        self.input_shape = shape
        self.conv = (nn.Conv2d if len(shape) == 3 else nn.Conv1d)(shape[0], n_class, shape[1:], bias=False)

    def forward(self, x):
        return self.conv(x).flatten(1)


def _attributed(model, method, n=3, bad=(), subject=None, variant=None, images=None):
    subject = subject or tiny_subject(model, n)
    images = tiny_images(model, n) if images is None else images
    (block,) = tiny_blocks(images, batch=n, bad=bad)
    with opened(model, block, subject, Ask(), variant or Identity()) as batch:
        return method.attribute(batch, subject), batch.logits.numpy(), subject


def _maps(model, method, subject, images, target, bad=()):
    (block,) = tiny_blocks(images, batch=len(images), bad=bad)
    with opened(model, block, subject, Ask()) as batch:
        return method.maps(batch, subject, target)["heatmap"].numpy()


def _softmax(logits):
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def _replica(model, subject, image, masks, wanted, method):
    """Section 3.1 of the paper, one mask after the other."""
    total, coverage, scores = np.zeros(masks.shape[1:]), np.zeros(masks.shape[1:]), []
    for mask in masks:
        shown = np.zeros(image.shape)
        for channel in range(image.shape[0]):
            ground = {
                "zero": 0.0,
                "black": -subject.mean[channel] / subject.std[channel],
                "mean": sum(image[channel].ravel()) / image[channel].size,
            }[method.baseline]
            for where in np.ndindex(*mask.shape):
                shown[channel][where] = image[channel][where] * mask[where] + ground * (1 - mask[where])
        logits = model(torch.from_numpy(shown[None])).numpy()[0].tolist()
        scores.append(logits if method.score == "logit" else _softmax(logits))
        for where in np.ndindex(*mask.shape):
            total[where] += scores[-1][wanted] * mask[where]
            coverage[where] += mask[where]
    return total / (len(masks) * method.keep if method.normalisation == "expected" else coverage), np.array(scores)


@pytest.mark.parametrize("net", sorted(NETS))
@pytest.mark.parametrize(
    ("score", "baseline", "normalisation"),
    [("probability", "zero", "expected"), ("logit", "black", "coverage"), ("probability", "mean", "expected")],
)
def test_agrees_with_the_paper(net, score, baseline, normalisation):
    model = NETS[net]().double()
    method = Rise(
        masks=21, grid=4, keep=0.6, score=score, baseline=baseline, normalisation=normalisation, target=2, every=10
    )
    rows, _, subject = _attributed(model, method)
    images = tiny_images(model, 3)
    masking = method.masking(subject)
    maps = _maps(model, method, subject, images, 2)
    notes, _, _ = method.told({}, subject)
    for i in range(3):
        row = {path: values[i] for path, values in rows.items()} | {"target": np.array([2])}
        masks = mask_values(masking, int(row["mask_seed"]), 0, 21)
        want, scores = _replica(model, subject, images[i].astype(float), masks, 2, method)
        np.testing.assert_allclose(row["score"], scores, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(maps[i], want, rtol=1e-10, atol=1e-10)
        rendered = render_masks(row, notes["rendering"], subject.input_shape)
        np.testing.assert_allclose(rendered[0], want, atol=1e-6 * np.abs(want).max())


def test_base_is_the_score_of_the_whole_image():
    model = conv_net().double()
    rows, logits, _ = _attributed(model, Rise(masks=4))
    np.testing.assert_allclose(rows["base"], [_softmax(line) for line in logits.tolist()], rtol=1e-6)
    rows, logits, _ = _attributed(model, Rise(masks=4, score="logit"))
    np.testing.assert_allclose(rows["base"], logits, rtol=1e-6)


def _expected_of_a_linear_network(evidence, masking):
    """Mean over masks of (evidence . M) M / p, by section 3.1: from the covariance of two positions of a mask."""
    s, p = masking.grid, masking.keep
    parts = []
    for length in masking.space:
        cell = math.ceil(length / s)
        long = (s + 1) * cell
        weight = np.zeros((long, s))
        for i in range(long):
            place = min(max((i + 0.5) * s / long - 0.5, 0), s - 1)
            low = min(int(place), s - 1)
            weight[i, low] += 1 - (place - low)
            weight[i, min(low + 1, s - 1)] += place - low
        shifted = [weight[o : o + length] @ weight[o : o + length].T for o in range(cell)]
        parts.append(np.mean(shifted, axis=0))
    out = np.zeros(masking.space)
    for at in np.ndindex(*masking.space):
        for other in np.ndindex(*masking.space):
            together = math.prod(part[a, b] for part, a, b in zip(parts, at, other, strict=True))
            out[at] += evidence[other] * (p**2 + p * (1 - p) * together) / p
    return out


@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 14)])
@pytest.mark.parametrize("normalisation", ["expected", "coverage"])
def test_of_a_linear_network_the_mean_is_known(shape, normalisation):
    torch.manual_seed(0)
    model = Linear(shape).double().eval().requires_grad_(False)
    settings = {"grid": 3, "keep": 0.4, "score": "logit", "interpolation": "clamp", "normalisation": normalisation}
    method = Rise(masks=60000, every=5000, target=1, **settings)
    subject = replace(tiny_subject(model, 2), batch=2500)
    images = tiny_images(model, 2)
    rows, *_ = _attributed(model, method, 2, subject=subject)
    got = _maps(model, method, subject, images, 1)
    for i in range(2):
        evidence = (images[i] * model.conv.weight[1].numpy()).sum(axis=0)
        want = _expected_of_a_linear_network(evidence, method.masking(subject))
        error = np.sqrt(np.mean((got[i] - want) ** 2))
        told = rows["error"][i, 0] * np.ptp(got[i])
        # Positions move together, so that one image's error is a draw of few degrees of freedom.
        assert 0.2 * told < error < 3 * told
        assert error < 0.1 * np.ptp(want)


def test_the_standard_error_is_what_repetition_shows():
    rng = np.random.default_rng(0)
    keep, repeats, n = 0.4, 400, 200
    for normalisation in ("expected", "coverage"):
        maps, errors = [], []
        for _ in range(repeats):
            masks = (rng.random((n, 6)) < keep).astype(float)
            scores = 0.5 + masks @ [[1.0], [0.2], [0.0], [0.0], [0.0], [0.3]] + 0.1 * rng.standard_normal((n, 1))
            moments = Moments(1, 6, torch.device("cpu"))
            for part in (slice(0, 130), slice(130, n)):
                moments.add(torch.from_numpy(masks[part]), torch.from_numpy(scores[part]))
            found = moments.heatmap(keep, normalisation)[0].numpy()
            maps.append(found)
            errors.append(moments.error(keep, normalisation).item() * np.ptp(found))
        spread = np.sqrt(np.var(maps, axis=0, ddof=1).mean())
        assert np.mean(errors) == pytest.approx(spread, rel=0.06)


def test_masks_go_on_until_the_heatmap_has_settled():
    model = conv_net().double()
    subject = tiny_subject(model, 3)
    whole, *_ = _attributed(model, Rise(masks=400, every=20, grid=3), subject=subject)
    assert whole["used"].tolist() == [400] * 3
    limit = float(np.sort(whole["error"].ravel())[1]) * 1.3
    rows, *_ = _attributed(model, Rise(masks=400, every=20, grid=3, tolerance=limit), subject=subject)
    assert (rows["used"] < 400).any()
    assert (rows["used"] % 20 == 0).all()
    for i, used in enumerate(rows["used"]):
        assert rows["error"][i, 0] <= limit or used == 400
        np.testing.assert_allclose(rows["score"][i, :used], whole["score"][i, :used], rtol=1e-6)
        assert np.isnan(rows["score"][i, used:]).all()
        if used > 20:
            earlier, *_ = _attributed(model, Rise(masks=int(used) - 20, every=20, grid=3), subject=subject)
            assert earlier["error"][i, 0] > limit


def test_heatmaps_that_nobody_stores_stop_where_stored_ones_do():
    model = conv_net().double()
    method = Rise(masks=400, every=20, grid=3, tolerance=0.15, normalisation="coverage")
    rows, logits, subject = _attributed(model, method)
    assert len(set(rows["used"].tolist())) > 1
    maps = _maps(model, method, subject, tiny_images(model, 3), "predicted")
    for i in range(3):
        row = {path: values[i] for path, values in rows.items()} | {"target": logits[i : i + 1].argmax(1)}
        rendered = render_masks(row, method.told({}, subject)[0]["rendering"], subject.input_shape)
        np.testing.assert_allclose(maps[i], rendered[0], rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_neither_batch_nor_neighbours_show(batch):
    model = conv_net()
    method = Rise(masks=50, every=25, tolerance=0.2)
    subject, images = tiny_subject(model, 4), tiny_images(model, 4)
    together, *_ = _attributed(model, method, 4, subject=subject, images=images)
    (block,) = tiny_blocks(images, batch=4)
    with opened(model, block.take(np.array([2])), subject, Ask()) as alone:
        rows = method.attribute(alone, subject)
    for path in rows:
        # To the bit: masks of different images never share a forward pass. The base is that of the batch.
        np.testing.assert_allclose(rows[path][0], together[path][2], rtol=1e-5 if path == "base" else 0)
    other, *_ = _attributed(model, method, 4, subject=replace(subject, batch=batch), images=images)
    for path in other:
        np.testing.assert_allclose(other[path], together[path], rtol=1e-4, atol=1e-6)


def test_masks_belong_to_seed_and_image():
    model = conv_net()
    subject = tiny_subject(model, 3)
    rows, *_ = _attributed(model, Rise(masks=4), subject=subject)
    assert len(set(rows["mask_seed"].tolist())) == 3
    again, *_ = _attributed(model, Rise(masks=4), subject=replace(subject, seed=5))
    assert not set(again["mask_seed"]) & set(rows["mask_seed"])


@pytest.mark.parametrize("n_class", [5, 120])
def test_above_a_hundred_classes_slots_are_kept(n_class):
    torch.manual_seed(0)
    model = Linear((3, 12, 9), n_class).double().eval().requires_grad_(False)
    few = tiny_subject(model, 3)
    subject = replace(few, class_names=tuple(map(str, range(n_class))), label=np.array([n_class - 1, 0, -1]))
    method = Rise(masks=12, every=5, grid=3, target="top:3")
    rows, logits, _ = _attributed(model, method, subject=subject)
    sizes = {array.path: array.shape for array in method.writes(subject)}
    assert {path: values.shape for path, values in rows.items()} == sizes
    assert ("winner" in rows) == (n_class > 100)
    order = np.argsort(-logits, axis=1)
    for i in range(3):
        row = {path: values[i] for path, values in rows.items()} | {"target": order[i, :3]}
        rendered = render_masks(row, method.told({}, subject)[0]["rendering"], subject.input_shape)
        for rank in range(3):
            maps = _maps(model, method, subject, tiny_images(model, 3), f"rank:{rank}" if rank else "predicted")
            np.testing.assert_allclose(rendered[rank], maps[i], rtol=1e-5)
        assert np.isfinite(scores_of(row, int(order[i, 4]))).all()


def test_a_contrast_is_one_map_less_the_other():
    model = conv_net().double()
    subject = replace(tiny_subject(model, 4), label=np.zeros(4, int))
    images = tiny_images(model, 4)
    (block,) = tiny_blocks(images, batch=4)
    with opened(model, block, subject, Ask()) as batch:
        predicted = batch.target_class("predicted")
    subject = replace(subject, label=np.where(np.arange(4) < 2, predicted, (predicted + 1) % 5))
    method = Rise(masks=20, grid=3)
    got, first, second = (_maps(model, method, subject, images, t) for t in ("contrast", "predicted", "label"))
    assert np.isnan(got[:2]).all()
    np.testing.assert_allclose(got[2:], (first - second)[2:], atol=1e-12)
    rows, *_ = _attributed(model, replace(method, target="contrast"), 4, subject=subject, images=images)
    assert np.isnan(rows["error"][:2]).all()
    assert np.isfinite(rows["error"][2:]).all()
    assert rows["used"].tolist() == [20] * 4
    row = {path: values[3] for path, values in rows.items()} | {"target": predicted[3:]}
    rendered = render_masks(row, method.told({}, subject)[0]["rendering"], subject.input_shape)
    np.testing.assert_allclose(rendered[0], got[3], atol=1e-6)


def test_bad_images_are_not_looked_at():
    model = conv_net()
    rows, *_ = _attributed(model, Rise(masks=6, every=3), bad=(1,))
    assert rows["used"].tolist() == [6, 0, 6]
    assert np.isnan(rows["score"][1]).all()
    maps = _maps(model, Rise(masks=6), tiny_subject(model, 3), tiny_images(model, 3), "predicted", bad=(1,))
    assert np.isnan(maps[1]).all()
    assert np.isfinite(maps[[0, 2]]).all()


def test_a_variant_of_the_model_answers():
    model = conv_net().double()
    subject = tiny_subject(model, 3)
    method = Rise(masks=6, grid=3)
    dead = Ablate("conv2", tuple(range(8)))
    rows, *_ = _attributed(model, method, subject=subject, variant=dead)
    # Nothing of the image reaches the logits any more.
    assert np.ptp(rows["score"], axis=1).max() < 1e-9


def test_through_the_sweep():
    model = conv_net()
    subject = tiny_subject(model, 5)
    leaf = AttributionLeaf("rise", Rise(masks=8, every=4))
    (task, *_) = leaf.tasks(replace(subject, shard=5), StoredFake())
    blocks = list(tiny_blocks(tiny_images(model, 5), batch=2, bad=(3,)))
    (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=True)
    assert outcome.error is None
    assert outcome.rows["used"].tolist() == [8, 8, 8, -1, 8]
    summary = leaf.finish([outcome.partial], subject, StoredFake())
    assert summary.notes["rendering"]["kind"] == "masks"
    assert summary.findings == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": 1}, "masks >= 2"),
        ({"every": 1}, "every >= 2"),
        ({"grid": 0}, "grid >= 1"),
        ({"keep": 1.0}, "between 0 and 1"),
        ({"blur": 0.0}, "above 0, at most 1"),
        ({"tolerance": 0.0}, "positive number or null"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Rise(**wrong)


def test_a_grid_finer_than_the_image_is_refused():
    model = conv_net()
    with pytest.raises(ConfigError, match="at most 9 cells"):
        Rise(grid=10).writes(tiny_subject(model, 3))
