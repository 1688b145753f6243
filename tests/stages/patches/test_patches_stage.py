"""Crops and projections of single units, against forward and backward passes written out by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.activations.stage import Activations
from convaudit.stages.contract import Ask, Gradient, Unit
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.patches.stage import Patches
from convaudit.stages.specs import Summary

from ...stored_fake import StoredFake, codes_of, settle, values_of
from ...tiny_models import conv_net, functional_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject

N = 7


def group(size, stride, centre, status="exact", channels=((0, 99),)):
    return {
        "channels": channels,
        "size": size,
        "local": size,
        "stride": stride,
        "centre": centre,
        "status": status,
    }


#: Worked out on paper: 3x3 with padding 1, pooled by 2, then (3, 2) without padding.
CONV_FIELDS = {"relu1": [group([3, 3], [1, 1], [0, 0])], "relu2": [group([8, 6], [2, 2], [2.5, 1.5])]}
#: 5 with padding 2, pooled by 2, then 3 without padding.
SIGNAL_FIELDS = {
    "functional_relu#0": [group([5], [1], [0])],
    "functional_relu#1": [group([10], [2], [2.5])],
}


def sweep(leaf, model, subject, images, stored):
    partials = []
    for task in leaf.tasks(subject, stored):
        chosen = list(task.images)
        blocks = []
        for a in range(0, len(chosen), subject.batch):
            (block,) = tiny_blocks(images[chosen[a : a + subject.batch]], batch=subject.batch)
            blocks.append(replace(block, positions=np.array(chosen[a : a + subject.batch])))
        (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
        assert outcome.error is None, outcome.error
        partials.append(outcome.partial)
    return partials


def world(model, fields, *, n=N, shard=4, batch=3, flags=(), images=None):
    """A network that was swept over `n` images, with what the stage reads."""
    model = model.double()
    subject = replace(tiny_subject(model, n, shard=shard, batch=batch), label=np.arange(n) % 5)
    images = tiny_images(model, n) if images is None else images
    layers = [layer.name for layer in subject.layers if layer.kind in ("conv", "relu")]
    rows = [(at, channel) for at, name in enumerate(layers) for channel in range(subject.layer(name).shape[0])]
    trouble = [int((layers[at], channel) in flags) for at, channel in rows]
    stored = StoredFake(
        {
            "predictions/status": np.zeros(n, np.int8),
            "filters/layer": np.array([at for at, _ in rows]),
            "filters/channel": np.array([channel for _, channel in rows]),
            "filters/trouble": np.array(trouble),
        },
        {
            "filters": Summary(notes={"layers": layers}),
            "receptive_fields/theoretical": Summary(notes={"groups": fields}),
        },
    )
    leaf = Activations(tuple(dict.fromkeys(f"kind:{subject.layer(name).kind}" for name in layers)))
    settle(leaf, subject, stored, sweep(leaf, model, subject, images, stored))
    return model, subject, images, stored


def run(leaf, model, subject, images, stored):
    return settle(leaf, subject, stored, sweep(leaf, model, subject, images, stored))


def rectified(signal):
    return torch.from_numpy(np.maximum(signal.numpy(), 0))


def scaled(signal, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return signal * factor.view(1, -1, *[1] * (signal.ndim - 2))


def unpooled(signal, value):
    out = torch.zeros_like(value)
    for at in np.ndindex(*signal.shape):
        window = tuple(slice(2 * i, 2 * i + 2) for i in at[2:])
        patch = value[(*at[:2], *window)].numpy()
        place = np.unravel_index(patch.argmax(), patch.shape)
        out[(*at[:2], *(2 * i + p for i, p in zip(at[2:], place, strict=True)))] = signal[at]
    return out


def by_hand(model, image, layer, place, gated):
    """Deconvnet of one unit of `conv_net`; with `gated` also closed where the ReLU was: guided backprop."""
    image = torch.from_numpy(image[None]).double()
    first = torch.relu(model.bn1(model.conv1(image)))
    last = torch.relu(model.bn2(model.conv2(model.pool(first))))
    signal = torch.zeros_like(first if layer == "relu1" else last)
    signal[(0, *place)] = 1.0
    if layer == "relu2":
        signal = rectified(signal) * ((last > 0) if gated else 1)
        signal = F.conv_transpose2d(scaled(signal, model.bn2), model.conv2.weight)
        signal = unpooled(signal, first)
    signal = rectified(signal) * ((first > 0) if gated else 1)
    return F.conv_transpose2d(scaled(signal, model.bn1), model.conv1.weight, padding=1)[0].numpy(), last, first


def padded(image, spans, ground):
    """A crop pixel by pixel."""
    lengths = [stop - start for start, stop in spans]
    out = np.empty((len(image), *lengths))
    for at in product(*map(range, lengths)):
        where = [start + step for (start, _), step in zip(spans, at, strict=True)]
        inside = all(0 <= w < n for w, n in zip(where, image.shape[1:], strict=True))
        out[(slice(None), *at)] = image[(slice(None), *where)] if inside else ground
    return out


def test_crops_and_projections_are_those_of_the_unit_at_its_place():
    model, subject, images, stored = world(conv_net(), CONV_FIELDS)
    summary = run(Patches(side=12, rank=3), model, subject, images, stored)
    checked = 0
    for layer, size, stride, centre in (("relu1", (3, 3), (1, 1), (0, 0)), ("relu2", (8, 6), (2, 2), (2.5, 1.5))):
        top = stored[f"activations/{layer}/top_image"]
        position = stored[f"activations/{layer}/top_position"]
        for slot, channel in enumerate(stored[f"patches/{layer}/channel"]):
            for rank in range(3):
                if channel < 0 or stored[f"patches/{layer}/field"][slot, rank] < 0:
                    continue
                image, place = images[top[channel, rank]], position[channel, rank]
                first = [round(c + s * p - (k - 1) / 2) for c, s, p, k in zip(centre, stride, place, size, strict=True)]
                spans = [(a, a + k) for a, k in zip(first, size, strict=True)]
                assert stored[f"patches/{layer}/span"][slot, rank].tolist() == [list(span) for span in spans]
                y, x = (stop - start for start, stop in spans)
                crop = stored[f"patches/{layer}/crop"][slot, rank]
                want = np.clip(np.rint(255 * padded(image * 0.25 + 0.5, spans, 0.5)), 0, 255)
                assert np.abs(crop[:, :y, :x].astype(int) - want).max() <= 1
                assert not crop[:, y:].any()
                assert not crop[:, :, x:].any()
                for rule, gated in enumerate((False, True)):
                    whole, last, early = by_hand(model, image, layer, (channel, *place), gated)
                    value = (early if layer == "relu1" else last)[(0, channel, *place)]
                    assert float(value) == pytest.approx(stored[f"activations/{layer}/top_value"][channel, rank])
                    part, peak = padded(whole, spans, 0.0), stored[f"patches/{layer}/peak"][slot, rank, rule]
                    got = (stored[f"patches/{layer}/projection"][slot, rank, rule][:, :y, :x].astype(float) - 128) / 127
                    assert peak == pytest.approx(np.abs(part).max(), rel=1e-5)
                    np.testing.assert_allclose(got * peak, part, rtol=0, atol=peak / 200)
                    checked += 1
    assert checked > 40
    assert values_of(summary)["patches/outside_field"] == 0.0
    assert not codes_of(summary)


@pytest.mark.parametrize("shard", [2, 7])
@pytest.mark.parametrize("batch", [1, 5])
def test_neither_shards_nor_batches_show(shard, batch):
    leaf = Patches(side=12, rank=4)
    first = world(conv_net(), CONV_FIELDS)
    second = world(conv_net(), CONV_FIELDS, shard=shard, batch=batch)
    summaries = [run(leaf, *each) for each in (first, second)]
    for path, array in first[3].arrays.items():
        if path.startswith("patches/"):
            kind = np.asarray(array).dtype.kind
            slack = 1 if kind == "u" else 1e-6 if kind == "f" else 0
            other = second[3].arrays[path]
            np.testing.assert_allclose(array.astype(float), other.astype(float), rtol=1e-6, atol=slack, err_msg=path)
    assert summaries[0].notes == summaries[1].notes


def test_signals_keep_their_values():
    model, subject, images, stored = world(signal_net(), SIGNAL_FIELDS)
    summary = run(Patches(rank=2), model, subject, images, stored)
    name = "functional_relu#1"
    top, position = (stored[f"activations/{name}/{key}"] for key in ("top_image", "top_position"))
    seen = 0
    for slot, channel in enumerate(stored[f"patches/{name}/channel"]):
        for rank in range(2):
            if stored[f"patches/{name}/field"][slot, rank] != 0:
                continue
            start = 2 * int(position[channel, rank, 0]) - 2
            want = padded(images[top[channel, rank]] * 0.25 + 0.5, [(start, start + 10)], 0.5)
            np.testing.assert_allclose(stored[f"patches/{name}/signal"][slot, rank][:, :10], want, atol=1e-6)
            seen += 1
    assert seen > 6
    assert values_of(summary)["patches/outside_field"] == 0.0


@pytest.mark.parametrize("build", [functional_net, residual_net, signal_net])
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_reused_modules_and_functions_project_that_very_call(build, rule):
    model, subject, images, stored = world(build(), {})
    leaf = Patches(rank=2, channels=3, rules=(rule,))
    summary = run(leaf, model, subject, images, stored)
    names = [row["name"] for row in summary.notes["layers"]]
    assert any("#1" in name for name in names)
    for name, row in zip(names, summary.notes["layers"], strict=True):
        spatial = len(subject.layer(name).shape) > 1
        for slot, channel in enumerate(row["shown"]):
            if stored[f"patches/{name}/field"][slot, 1] < 0:
                continue
            image = stored[f"activations/{name}/top_image"][channel, 1]
            place = tuple(stored[f"activations/{name}/top_position"][channel, 1].tolist()) if spatial else None
            ask = Gradient(Unit(name, channel, place), "input", rule)
            (block,) = tiny_blocks(images[image : image + 1], batch=1)
            with opened(model, block, tiny_subject(model, 1), Ask(gradients=(ask,))) as batch:
                want = batch.gradient(ask.target, "input", rule)[0]
            peak = stored[f"patches/{name}/peak"][slot, 1, 0]
            assert peak == pytest.approx(float(want.abs().max()), rel=1e-5)
            got = (stored[f"patches/{name}/projection"][slot, 1, 0].astype(float) - 128) / 127 * peak
            used = tuple(slice(n) for n in want.shape[1:])
            np.testing.assert_allclose(got[(slice(None), *used)], want, rtol=0, atol=peak / 200)
    finding = codes_of(summary)["patches/fields-unknown"]
    assert "not cropped" in finding.detail
    assert {status for row in summary.notes["layers"] for status in row["fields"]} == {"unknown"}


def silenced(channel=2):
    model = conv_net()
    model.bn1.bias[channel] = -1e3
    return model


def test_a_channel_that_never_fired_has_no_patch_and_is_named():
    world_ = world(silenced(), CONV_FIELDS, flags={("relu1", 2), ("relu1", 4)})
    summary = run(Patches(always=("relu1:2,1",)), *world_)
    shown = world_[3]["patches/relu1/channel"].tolist()
    assert shown[:2] == [1, 4]  # asked for by name, then with a finding
    assert 2 not in shown
    assert shown[-1] == -1
    assert (world_[3]["patches/relu1/field"][-1] == -1).all()
    assert summary.notes["layers"][0]["never_excited"] == 1
    assert codes_of(summary)["patches/never-excited"].channels == (2,)
    plain = run(Patches(), *world(conv_net(), CONV_FIELDS))
    assert "patches/never-excited" not in codes_of(plain)


def test_a_field_that_is_too_small_is_found_out():
    wrong = CONV_FIELDS | {"relu2": [group([6, 6], [2, 2], [2.5, 1.5])]}
    summary = run(Patches(), *world(conv_net(), wrong))
    finding = codes_of(summary)["patches/outside-field"]
    assert (finding.severity, finding.layer) == ("error", "relu2")
    assert values_of(summary)["patches/outside_field"] > 0.01


def test_a_projection_that_overflows_is_told_and_not_judged():
    model = conv_net()
    with torch.no_grad():
        model.conv1.weight.mul_(1e25)
        model.conv2.weight.mul_(1e15)
    model.double()
    images = tiny_images(model, N) * np.float32(1e-25)
    _, _, _, stored = done = world(model, CONV_FIELDS, images=images)
    summary = run(Patches(side=12, rank=3), *done)
    finding = codes_of(summary)["patches/projection-not-finite"]
    row = summary.notes["layers"][1]
    assert (finding.severity, finding.layer, set(finding.channels)) == ("warning", "relu2", set(row["shown"]))
    used = stored["patches/relu2/field"] >= 0
    assert finding.title.startswith(f"{2 * used.sum()} projections of {len(row['shown'])} channels of relu2")
    assert not np.isfinite(stored["patches/relu2/peak"][used]).any()
    assert (stored["patches/relu2/projection"][used][:, :, :, :8, :6] == 128).all()
    n = 2 * (stored["patches/relu1/field"] >= 0).sum()
    assert summary.notes["outside_field"] == (
        f"measured for {n} projections; not for {2 * used.sum()} that are not finite"
    )
    (outside,) = (one for one in summary.measurements if one.name == "patches/outside_field")
    assert (outside.value, outside.n) == (0.0, n)
    clean = run(Patches(side=12, rank=3), *world(conv_net(), CONV_FIELDS))
    assert "patches/projection-not-finite" not in codes_of(clean)


def test_fields_that_are_not_known_are_said_beside_what_was_measured():
    none = group([None, None], [None, None], [None, None], "unknown")
    _, _, _, stored = done = world(conv_net(), CONV_FIELDS | {"relu2": [none]})
    summary = run(Patches(side=12, rules=("guided",)), *done)
    known, lost = ((stored[f"patches/{name}/field"] >= 0).sum() for name in ("relu1", "relu2"))
    assert summary.notes["outside_field"] == (
        f"measured for {known} projections; not for {lost} whose field is not known"
    )


@pytest.mark.parametrize("status", ["whole", "unknown"])
def test_what_sees_the_whole_image_is_shown_whole(status):
    none = group([None, None], [None, None], [None, None], status)
    model, subject, images, stored = world(conv_net(), CONV_FIELDS | {"relu2": [none]})
    summary = run(Patches(side=12), model, subject, images, stored)
    used = stored["patches/relu2/field"] >= 0
    assert (stored["patches/relu2/span"][used] == [[0, 12], [0, 9]]).all()
    assert (stored["patches/relu2/field"][used] == {"whole": 1, "unknown": 2}[status]).all()
    assert ("patches/fields-unknown" in codes_of(summary)) == (status == "unknown")


def test_channels_of_one_layer_may_see_different_parts():
    square, upright = [3, 3], [5, 1]
    split = [
        group(square, [1, 1], [0, 0], channels=((0, 2), (4, 6))),
        group(upright, [1, 1], [0, 0], channels=((2, 4),)),
    ]
    _, _, _, stored = done = world(conv_net(), CONV_FIELDS | {"relu1": split})
    run(Patches(rules=()), *done)
    length = np.diff(stored["patches/relu1/span"], axis=-1)[..., 0]
    for slot, channel in enumerate(stored["patches/relu1/channel"]):
        used = stored["patches/relu1/field"][slot] >= 0
        assert (length[slot][used] == (upright if channel in (2, 3) else square)).all()


def test_the_crop_is_scaled_down_to_what_may_be_stored():
    model, subject, images, stored = world(conv_net(), CONV_FIELDS)
    run(Patches(side=4), model, subject, images, stored)
    used = stored["patches/relu2/field"] >= 0
    assert (stored["patches/relu2/size"][used] == [4, 3]).all()
    assert stored["patches/relu2/crop"].shape[-2:] == (4, 4)


def test_images_are_distinct_and_equals_come_in_the_order_of_the_data():
    images = tiny_images(conv_net(), N)
    images[[2, 5, 6]] = images[1]
    _, _, _, stored = world(conv_net(), CONV_FIELDS, images=images)
    for layer in ("relu1", "relu2", "conv1"):
        top, value = stored[f"activations/{layer}/top_image"], stored[f"activations/{layer}/top_value"]
        for row, values in zip(top, value, strict=True):
            assert sorted(row[row >= 0].tolist()) == list(range(N))
            same = row[np.isin(row, [1, 2, 5, 6])].tolist()
            assert same == [1, 2, 5, 6]
            assert (np.diff(values[row >= 0]) <= 0).all()


def test_without_a_relu_there_are_crops_alone_and_it_is_said():
    class Smooth(nn.Module):
        input_shape = (3, 12, 9)

        def __init__(self):
            super().__init__()
            self.conv1, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

        def forward(self, x):
            return self.fc(F.gelu(self.conv1(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = Smooth().eval().requires_grad_(False)
    done = world(model, {"conv1": [group([3, 3], [1, 1], [0, 0])]})
    summary = run(Patches(), *done)
    assert "patches/no-relu" in codes_of(summary)
    assert summary.notes["rules"] == []
    assert (done[3]["patches/conv1/field"] == 0).any()
    assert "patches/conv1/projection" not in done[3].arrays
