"""The whole stage on networks: planted faults are found, trained and untrained nets told apart, odd nets audited."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.network.layers import trace
from convaudit.stages.reference.net import DigitsNet
from convaudit.stages.reference.stage import Reference, state_dict_from
from convaudit.stages.weights.smoothness import VERDICTS
from convaudit.stages.weights.stage import Weights

from ...stored_fake import StoredFake, codes_of, make_subject, settle, values_of
from ...tiny_models import ALL, conv_net, signal_net, tiny_subject


def subject_of(model, shape):
    layers = trace(model, torch.zeros(2, *shape))
    axes = ("y", "x") if len(shape) == 3 else ("time",)
    return make_subject(
        [0, 1], layers=layers, input_shape=shape, axes=axes, mean=(0.0,) * shape[0], std=(1.0,) * shape[0]
    )


def audited(model, shape=None, leaf=None):
    """Summary and store after the stage; the network is as it was."""
    model = model.eval().requires_grad_(False)
    subject = tiny_subject(model) if shape is None else subject_of(model, shape)
    leaf, stored = leaf or Weights(simulations=499), StoredFake()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    partials = [leaf.inspect(model, task, subject, stored).partial for task in leaf.tasks(subject, stored)]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    return settle(leaf, subject, stored, partials), stored.arrays


def told(summary):
    return {row["name"]: row["audit"] for row in summary.notes["table"] if "audit" in row}


@pytest.fixture(scope="module")
def trained():
    """Parameters of the trained digits net."""
    leaf = Reference()
    partial = leaf.compute(leaf.tasks(None, None)[0], None, None).partial
    prefix = "parameter/"
    return {path.removeprefix(prefix): array for path, array in partial.items() if path.startswith(prefix)}


def digits(parameters=None):
    torch.manual_seed(0)
    model = DigitsNet()
    if parameters is not None:
        model.load_state_dict(state_dict_from(parameters))
    return model


def test_the_trained_digits_net_is_smooth(trained):
    summary, arrays = audited(digits(trained), (1, 32, 32))
    said = told(summary)
    assert [said[f"block{n}.conv"]["verdict"] for n in (1, 2, 3)] == ["inconclusive", "smooth", "smooth"]
    assert said["block1.conv"]["reason"] == "16 of 178 planes"
    assert said["block3.conv"]["smooth"] > 60
    assert min(said[f"block{n}.conv"]["spikes"] for n in (2, 3)) > 0
    assert values_of(summary)["weights/noise_layers"] == 0
    assert not {"weights/noise", "weights/unstructured"} & set(codes_of(summary))
    assert arrays["weights/layers/verdict"].tolist() == [VERDICTS.index(said[name]["verdict"]) for name in said]


def test_the_same_weights_shuffled_are_noise(trained):
    random = np.random.default_rng(0)
    shuffled = {
        name: random.permutation(array.ravel()).reshape(array.shape) if array.ndim == 4 else array
        for name, array in trained.items()
    }
    summary, _ = audited(digits(shuffled), (1, 32, 32))
    said = told(summary)
    assert [said[f"block{n}.conv"]["verdict"] for n in (1, 2, 3)] == ["inconclusive", "noise", "noise"]
    assert [said[f"block{n}.conv"]["spikes"] for n in (2, 3)] == [0, 0]


def test_an_untrained_net_is_noise_and_that_is_an_error():
    summary, _ = audited(digits(), (1, 32, 32))
    assert values_of(summary)["weights/noise_layers"] == 2
    assert values_of(summary)["weights/unstructured_layers"] == 2
    finding = codes_of(summary)["weights/noise"]
    assert finding.severity == "error"
    for words in ("Null:", "n = 512 planes", "Cause:", "never trained", "What next:"):
        assert words in finding.detail


def test_one_layer_of_noise_among_smooth_ones_is_named(trained):
    random = np.random.default_rng(1)
    planted = dict(trained)
    planted["block3.conv.weight"] = random.permutation(trained["block3.conv.weight"].ravel()).reshape(64, 32, 3, 3)
    finding = codes_of(audited(digits(planted), (1, 32, 32))[0])["weights/noise"]
    assert (finding.severity, finding.layer) == ("warning", "block3.conv")


@pytest.mark.parametrize("net", sorted(ALL))
def test_arrays_are_those_of_the_weights(net):
    model = ALL[net]()
    summary, arrays = audited(model)
    for name in told(summary):
        weight = model.get_submodule(name.partition("#")[0]).weight.double().numpy()
        expected = [np.sqrt((one**2).sum()) for one in weight]
        np.testing.assert_allclose(arrays[f"weights/{name}/norm"], expected, rtol=1e-12)
    first = summary.notes["first_convolution"]
    weight = model.get_submodule(first).weight.numpy()
    shown = arrays[f"weights/{first}/filter"]
    corner = tuple(slice(length) for length in weight.shape)
    np.testing.assert_array_equal(shown[corner], weight)
    assert np.isfinite(shown).sum() == weight.size
    for name in [name for name in told(summary) if name != first]:
        weight, of = model.get_submodule(name).weight.numpy(), arrays[f"weights/{name}/slice_of"]
        for slice_, (channel, plane) in zip(arrays[f"weights/{name}/slice"], of, strict=True):
            if channel >= 0:
                np.testing.assert_array_equal(slice_[np.isfinite(slice_)], weight[channel, plane].ravel())


def test_what_stands_before_and_behind_each_channel():
    model = conv_net()
    summary, arrays = audited(model)
    np.testing.assert_allclose(arrays["weights/conv1/gamma"], model.bn1.weight.double(), rtol=1e-12)
    np.testing.assert_allclose(arrays["weights/conv1/beta"], model.bn1.bias.double(), rtol=1e-12)
    by_hand = [float(model.conv2.weight[:, channel].double().norm()) for channel in range(6)]
    np.testing.assert_allclose(arrays["weights/conv1/outgoing"], by_hand, rtol=1e-6)
    by_hand = [float(model.fc.weight[:, channel].double().norm()) for channel in range(8)]
    np.testing.assert_allclose(arrays["weights/conv2/outgoing"], by_hand, rtol=1e-6)
    assert summary.notes["lineage"]["conv1"]["norm"] == "bn1"


class Flattening(nn.Module):
    """A map flattened into a linear layer, and a concatenation that a grouped convolution reads."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.both = nn.Conv2d(6, 4, 3, groups=2)
        self.fc = nn.Linear(4 * 4 * 3, 5)

    def forward(self, x):
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        return self.fc(self.both(x).relu().flatten(1))


def test_outgoing_norms_through_concatenation_groups_and_flattening():
    torch.manual_seed(1)
    model = Flattening()
    _, arrays = audited(model, (3, 6, 5))
    read = model.both.weight.double()
    by_hand = [float(read[channel // 3 * 2 : channel // 3 * 2 + 2, channel % 3].norm()) for channel in range(6)]
    np.testing.assert_allclose(arrays["weights/left/outgoing"], by_hand[:4], rtol=1e-6)
    np.testing.assert_allclose(arrays["weights/right/outgoing"], by_hand[4:], rtol=1e-6)
    blocks = model.fc.weight.double().reshape(5, 4, 12)
    np.testing.assert_allclose(
        arrays["weights/both/outgoing"], [float(blocks[:, c].norm()) for c in range(4)], rtol=1e-6
    )


def test_planted_faults_are_found_and_named():
    model = conv_net()
    model.conv2.weight[1] *= 1e-4
    model.bn2.weight[6] = 1e-6
    model.conv2.weight[5] = -3 * model.conv2.weight[2]
    summary, arrays = audited(model)
    assert arrays["weights/conv2/near_zero"].tolist() == [0, 1, 0, 0, 0, 0, 2, 0]
    assert arrays["weights/conv2/twin"][[2, 5, 1]].tolist() == [5, 2, -1]
    assert arrays["weights/conv2/cosine"][5] == pytest.approx(-1)
    assert values_of(summary)["weights/near_zero_count"] == 2
    assert values_of(summary)["weights/duplicate_count"] == 2
    small, alike = codes_of(summary)["weights/near-zero"], codes_of(summary)["weights/duplicates"]
    assert (small.layer, small.channels) == ("conv2", (1, 6))
    assert "1 by their weights (none by chance) and 1 by the scale of their norm" in small.detail
    assert (alike.layer, alike.channels) == ("conv2", (2, 5))
    clean = codes_of(audited(conv_net())[0])
    assert not {"weights/near-zero", "weights/duplicates", "weights/not-finite"} & set(clean)


def test_weights_that_are_not_finite_make_every_count_unknown():
    model = conv_net()
    model.conv2.weight[3, 0, 0, 0] = float("nan")
    summary, arrays = audited(model)
    finding = codes_of(summary)["weights/not-finite"]
    assert (finding.severity, finding.channels) == ("error", (3,))
    assert all(math.isnan(value) for value in values_of(summary).values())
    assert np.isnan(arrays["weights/conv2/cosine"][3])


class Deciding(nn.Module):
    """Takes a decision that depends on its values, so that it cannot be followed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.fc(F.relu(x).mean((2, 3)) if x.sum() > 1e9 else x.mean((2, 3)))


def test_a_net_that_cannot_be_followed_is_audited_and_says_so():
    summary, arrays = audited(Deciding(), (3, 6, 5))
    assert np.isnan(arrays["weights/conv/gamma"]).all()
    assert np.isnan(arrays["weights/conv/outgoing"]).all()
    assert np.isfinite(arrays["weights/conv/norm"]).all()
    assert summary.notes["lineage"] == {}
    assert "decision" in codes_of(summary)["weights/unfollowed"].detail


class Odd(nn.Module):
    """Parametrised, transposed, large, reused and single-cell convolutions, and a parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.large = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 19, padding=9))
        self.single = nn.Conv2d(6, 6, 1)
        self.up = nn.ConvTranspose2d(6, 4, 3, groups=2)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.single(self.single(self.large(x)).relu()).relu()
        return self.fc((self.up(x) * self.scale).mean((2, 3)))


def test_odd_convolutions():
    torch.manual_seed(2)
    model = Odd()
    summary, arrays = audited(model, (3, 12, 9))
    said = told(summary)
    assert list(said) == ["large", "single#0", "up"]
    assert said["single#0"]["verdict"] == "not applicable"
    assert (arrays["weights/single#0/slice_of"] == -1).all()
    assert arrays["weights/large/filter"].shape == (6, 3, 16, 16)
    assert np.isfinite(arrays["weights/large/filter"]).all()
    rows = {row["name"]: row for row in summary.notes["table"]}
    assert rows["single#0"]["parameters"] == 42
    assert rows["single#1"]["parameters"] == 0
    assert rows["large"]["parameters"] == sum(p.numel() for p in model.large.parameters())
    assert rows["up"]["groups"] == 2
    total = sum(p.numel() for p in model.parameters())
    assert summary.notes["parameters"] == total
    listed = sum(row["parameters"] for row in rows.values())
    assert summary.notes.get("parameters_outside_of_listed_layers", 0) == total - listed


def test_a_signal_net():
    summary, arrays = audited(signal_net())
    said = told(summary)
    assert (said["conv1"]["verdict"], said["conv2"]["verdict"]) == ("inconclusive", "not applicable")
    assert arrays["weights/conv1/filter"].shape == (6, 2, 256)
    row = next(row for row in summary.notes["table"] if row["name"] == "conv1")
    assert (row["output"], row["kernel"], row["stride"]) == ([6, 24], [5], [1])


def test_twice_is_the_same_and_order_of_tasks_is_all():
    first, again = audited(conv_net()), audited(conv_net())
    for path, array in first[1].items():
        np.testing.assert_array_equal(array, again[1][path])
    assert json.dumps(first[0].attributes()) == json.dumps(again[0].attributes())


@pytest.mark.parametrize("wrong", [{"near_zero": 0.0}, {"duplicate": 1.0}, {"slices": 0}, {"level": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"weights.{next(iter(wrong))}: expected"):
        Weights(**wrong)


def test_a_network_without_convolutions_is_refused_in_clear_words():
    with pytest.raises(StageError, match="no convolution"):
        Weights().writes(make_subject([0, 1]))


def test_where_nothing_can_be_judged_it_says_why():
    summary, _ = audited(conv_net())
    assert math.isnan(values_of(summary)["weights/noise_layers"])
    finding = codes_of(summary)["weights/no-verdict"]
    assert "conv1: 18 of 178 planes" in finding.detail
