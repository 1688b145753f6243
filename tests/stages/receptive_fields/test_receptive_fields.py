"""The stage: what is stored, noted and found, for the theoretical and the effective fields."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.contract import Subject
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.layers import trace
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.receptive_fields.boxes import box, group_of, groups_of_channels, reach
from convaudit.stages.receptive_fields.spread import outside, spread, support
from convaudit.stages.receptive_fields.stage import ReceptiveFields

from ...stored_fake import StoredFake, codes_of, settle, values_of
from ...tiny_models import ALL, conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject

N_IMAGE = 6


def _theoretical(model, subject):
    leaf, _ = ReceptiveFields().leaves()
    stored = StoredFake()
    partials = [leaf.inspect(model, task, subject, stored).partial for task in leaf.tasks(subject, stored)]
    return settle(leaf, subject, stored, partials), stored


def _effective(model, subject, pictures, stored, **settings):
    _, leaf = ReceptiveFields(**settings).leaves()
    partials = []
    for task in leaf.tasks(subject, stored):
        blocks = [
            block for block in tiny_blocks(pictures, batch=subject.batch) if set(block.positions) & set(task.images)
        ]
        rows = [[i for i, at in enumerate(block.positions) if at in task.images] for block in blocks]
        blocks = [block.take(np.array(keep)) for block, keep in zip(blocks, rows, strict=True)]
        outcomes = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
        assert [outcome.error for outcome in outcomes] == [None]
        partials += [outcome.partial for outcome in outcomes]
    return settle(leaf, subject, stored, partials)


@pytest.mark.parametrize("net", sorted(ALL))
def test_one_row_per_layer_and_groups_for_every_channel(net):
    model = ALL[net]()
    subject = tiny_subject(model)
    summary, stored = _theoretical(model, subject)
    notes = summary.notes
    assert notes["layers"] == [layer.name for layer in subject.layers]
    for layer in subject.layers:
        found = groups_of_channels(notes["groups"][layer.name], layer.shape[0])
        assert (found >= 0).all()
    status = stored["receptive_fields/theoretical/status"]
    assert set(status) <= {0, 1}
    assert np.isfinite(stored["receptive_fields/theoretical/size"]).all()
    assert values_of(summary)["receptive_fields/unknown_layers"] == 0


def test_numbers_of_the_tiny_net_by_hand():
    model = conv_net()
    subject = tiny_subject(model)
    summary, stored = _theoretical(model, subject)
    at = {name: place for place, name in enumerate(summary.notes["layers"])}
    rows = {key: stored[f"receptive_fields/theoretical/{key}"] for key in ("size", "stride", "centre", "before")}
    # 3 x 3 with padding 1; then pairs; then 3 down and 2 across, of pairs.
    assert rows["size"][at["conv1"]].tolist() == [3, 3]
    assert rows["size"][at["pool"]].tolist() == [4, 4]
    assert rows["size"][at["conv2"]].tolist() == [8, 6]
    assert rows["stride"][at["conv2"]].tolist() == [2, 2]
    assert rows["centre"][at["conv2"]].tolist() == [2.5, 1.5]
    assert rows["before"][at["conv2"]].tolist() == [4, 4]
    assert rows["before"][at["conv1"]].tolist() == [1, 1]
    assert np.isnan(rows["before"][at["pool"]]).all()
    # Linear layers see everything, and lie nowhere.
    assert rows["size"][at["fc"]].tolist() == list(subject.input_shape[1:])
    assert np.isnan(rows["stride"][at["fc"]]).all()
    group = group_of(summary.notes["groups"]["conv2"], 7)
    assert reach(group, (1, 3)) == ((1, 9), (5, 11))
    assert box(group, (1, 3), subject.input_shape) == ((1, 9), (5, 9))


class Deep(nn.Module):
    """Convolutions that go on after the image has come into view."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 4, 5, padding=2)
        self.third, self.fourth = nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.fourth(self.third(self.second(self.first(x)))).mean((2, 3)))


def _subject(model, shape):
    tiny = tiny_subject(conv_net(), N_IMAGE)
    return replace(tiny, input_shape=shape, layers=trace(model, torch.zeros(2, *shape)))


def test_layers_whose_input_sees_everything_are_named():
    model = Deep().eval().requires_grad_(False)
    summary, _ = _theoretical(model, _subject(model, (3, 9, 8)))
    assert summary.notes["covered"] == ["third", "fourth"]
    assert values_of(summary)["receptive_fields/covered_convolutions"] == 0.5
    assert codes_of(summary)["receptive_fields/covers-input"].layer == "third"
    assert "9 x 8" in codes_of(summary)["receptive_fields/covers-input"].title
    wide, _ = _theoretical(model, _subject(model, (3, 9, 13)))
    assert wide.notes["covered"] == ["fourth"]
    clear, _ = _theoretical(model, _subject(model, (3, 30, 30)))
    assert not clear.findings


class Shifted(nn.Module):
    """A residual block whose shortcut is cut at the wrong end."""

    def __init__(self, start):
        super().__init__()
        self.conv, self.start, self.both, self.fc = nn.Conv2d(3, 3, 3), start, nn.ReLU(), nn.Linear(3, 5)

    def forward(self, x):
        x = self.both(self.conv(x) + x[:, :, self.start : x.shape[2] - 2 + self.start, 1:-1])
        return self.fc(x.mean((2, 3)))


def test_a_shifted_branch_is_found_and_a_straight_one_is_not():
    model = Shifted(0).eval().requires_grad_(False)
    summary, _ = _theoretical(model, _subject(model, (3, 12, 9)))
    finding = codes_of(summary)["receptive_fields/misaligned-branches"]
    assert (finding.layer, finding.severity) == ("both", "warning")
    assert "centres (1.0, 1.0) and (0.0, 1.0)" in finding.detail
    model = Shifted(1).eval().requires_grad_(False)
    summary, _ = _theoretical(model, _subject(model, (3, 12, 9)))
    assert "receptive_fields/misaligned-branches" not in codes_of(summary)


class Deciding(nn.Module):
    """Control flow that hangs on values."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv(x)
        return self.fc((x if float(x.detach().sum()) > 0 else -x).mean((2, 3)))


def test_what_cannot_be_followed_is_unknown_and_said():
    model = Deciding().eval().requires_grad_(False)
    subject = _subject(model, (3, 12, 9))
    summary, stored = _theoretical(model, subject)
    assert set(stored["receptive_fields/theoretical/status"]) == {2}
    assert np.isnan(stored["receptive_fields/theoretical/size"]).all()
    assert values_of(summary)["receptive_fields/unknown_layers"] == 1
    assert "takes a decision that depends on the values" in codes_of(summary)["receptive_fields/unknown"].detail
    # What is looked at can still be measured; its box is the whole image.
    effective = _effective(model, subject, tiny_images(conv_net(), N_IMAGE), stored, layers=("conv",))
    assert values_of(effective)["receptive_fields/outside_box"] == 0
    assert effective.arrays["box"].tolist() == [[[0, 12], [0, 9]]]
    assert effective.arrays["support"].tolist() == [[[5, 8], [3, 6]]]


def _weight_by_hand(model, layer, images, channels, position):
    """Mean share of the gradient's magnitude, one unit and image at a time, in double precision."""
    total, units = 0, 0
    for image in images:
        for channel in channels:
            kept = []
            handle = model.get_submodule(layer).register_forward_hook(
                lambda _m, _i, out, kept=kept: kept.append(out.clone())
            )
            given = torch.from_numpy(image[None]).double().requires_grad_()
            model(given)
            handle.remove()
            kept[0][(0, channel, *position)].backward()
            magnitude = given.grad[0].abs().sum(0).numpy()
            total, units = total + magnitude / magnitude.sum(), units + 1
    return total / units


@pytest.mark.parametrize(("net", "layer"), [(conv_net, "conv2"), (signal_net, "conv2")])
def test_effective_fields_are_shares_of_gradients(net, layer):
    model = net().double()
    subject = tiny_subject(model, N_IMAGE)
    images = tiny_images(model, N_IMAGE)
    _, stored = _theoretical(model, subject)
    summary = _effective(model, subject, images, stored, layers=(layer,), channels=2, images=3)
    assert summary.notes["images"] == [0, 2, 5]
    position = summary.notes["positions"][layer]
    channels = subject.layer(layer).shape[0]
    expected = _weight_by_hand(model, layer, images[[0, 2, 5]], (0, channels - 1), position)
    np.testing.assert_allclose(summary.arrays["weight"][0], expected, atol=1e-7)
    assert summary.arrays["units"].tolist() == [6]
    assert summary.arrays["outside"][0] <= 1e-12
    for axis, length in enumerate(subject.input_shape[1:]):
        along = expected.sum(axis=tuple(other for other in range(expected.ndim) if other != axis))
        middle = sum(at * along[at] for at in range(length))
        deviation = sum((at - middle) ** 2 * along[at] for at in range(length)) ** 0.5
        np.testing.assert_allclose(summary.arrays["middle"][0, axis], middle)
        np.testing.assert_allclose(summary.arrays["spread"][0, axis], deviation)


def test_a_gradient_outside_the_box_is_an_error():
    model = conv_net().double()
    subject = tiny_subject(model, N_IMAGE)
    _, stored = _theoretical(model, subject)
    summary = stored.summaries["receptive_fields/theoretical"]
    for group in summary.notes["groups"]["conv2"]:
        group["centre"] = [value + 1 for value in group["centre"]]
    found = _effective(model, subject, tiny_images(model, N_IMAGE), stored, layers=("conv*",))
    finding = codes_of(found)["receptive_fields/outside-box"]
    assert (finding.layer, finding.severity) == ("conv2", "error")
    assert values_of(found)["receptive_fields/outside_box"] > 0.01


def test_gradients_that_vanish_are_left_out_and_counted():
    model = conv_net().double()
    with torch.no_grad():
        model.conv1.weight.zero_()
    subject = tiny_subject(model, N_IMAGE)
    _, stored = _theoretical(model, subject)
    summary = _effective(model, subject, tiny_images(model, N_IMAGE), stored, layers=("conv2",), channels=2, images=2)
    assert summary.arrays["units"].tolist() == [0]
    assert summary.arrays["silent"].tolist() == [4]
    assert np.isnan(summary.arrays["spread"]).all()
    assert np.isnan(values_of(summary)["receptive_fields/outside_box"])
    assert not summary.findings


def test_layers_are_spread_over_the_depth():
    _, leaf = ReceptiveFields(most=2).leaves()
    subject = tiny_subject(ALL["residual"]())
    named = [layer.name for layer in subject.layers if layer.kind == "conv"]
    assert [layer.name for layer in leaf.chosen(subject)] == [named[0], named[-1]]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"receptive_fields\.most: expected 1 or more, got 0"):
        ReceptiveFields(most=0)
    with pytest.raises(ConfigError, match="at least one layer selector"):
        ReceptiveFields(layers=())
    subject: Subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match="none of fc has spatial axes"):
        ReceptiveFields(layers=("fc",)).leaves()[1].writes(subject)
    with pytest.raises(ConfigError, match="conv9"):
        ReceptiveFields(layers=("conv9",)).leaves()[1].writes(subject)


def test_spread_of_a_box_and_of_a_gaussian():
    weight = np.zeros((20, 31))
    weight[3:9, 10:22] = 2.0
    middle, deviation = spread(weight)
    np.testing.assert_allclose(middle, [5.5, 15.5])
    np.testing.assert_allclose(deviation**2, [(6**2 - 1) / 12, (12**2 - 1) / 12])
    assert support(weight).tolist() == [[3, 9], [10, 22]]
    assert outside(weight, ((3, 9), (10, 22))) == 0
    np.testing.assert_allclose(outside(weight, ((3, 9), (10, 19))), 0.25)
    y, x = np.mgrid[:81, :61]
    gaussian = np.exp(-((y - 40) ** 2) / (2 * 5.0**2) - (x - 30) ** 2 / (2 * 3.0**2))
    np.testing.assert_allclose(spread(gaussian)[1], [5, 3], rtol=1e-6)
    # Neither its strength nor where it lies changes how wide it is.
    np.testing.assert_allclose(spread(7 * np.roll(gaussian, 9, 1))[1], [5, 3], rtol=1e-4)


def test_a_channel_that_no_group_has():
    with pytest.raises(KeyError, match="channel 9 is in none of the 1 groups"):
        group_of([{"channels": [[0, 8, 2]]}], 9)


class Turned(nn.Module):
    """A norm over channels that come last, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.back = nn.Conv2d(3, 4, (3, 5)), nn.LayerNorm(4), nn.Identity()
        self.wide, self.fc = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.wide(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return self.fc(self.back(x.permute(0, 3, 1, 2)).mean((2, 3)))


def test_layers_whose_channels_come_last_are_known_as_a_whole_only():
    model = Turned().eval().requires_grad_(False)
    subject = _subject(model, (3, 12, 9))
    summary, stored = _theoretical(model, subject)
    at = {name: place for place, name in enumerate(summary.notes["layers"])}
    for name in ("norm", "wide", "back"):
        assert stored["receptive_fields/theoretical/size"][at[name]].tolist() == [3, 5]
        assert stored["receptive_fields/theoretical/status"][at[name]] == 0
    assert group_of(summary.notes["groups"]["back"], 2)["status"] == "exact"
    assert box(group_of(summary.notes["groups"]["wide"], 2), (3, 1), (3, 12, 9)) == ((0, 12), (0, 9))
