import numpy as np
import pytest
import torch

from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.filters.stage import Filters
from convaudit.stages.filters.troubles import TROUBLES
from convaudit.stages.specs import LayerSpec

from ...stored_fake import StoredFake, codes_of, make_subject, run_leaf, settle, values_of

IMAGES = 400


def planted():
    """A conv and a ReLU6 whose channels 0 to 6 are: well, dead, rare, dormant, constant, saturated, well."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 7, 3, padding=1)
    with torch.no_grad():
        conv.bias[:] = 0
        conv.bias[1] = -1e3
        conv.weight[2], conv.bias[2] = 0, -1
        conv.weight[2, 0, 1, 1] = 1
        conv.weight[3] *= 1e-3
        conv.weight[4], conv.bias[4] = 0, 2.5
        conv.bias[5] = 1e3
    images = torch.randn(IMAGES, 3, 6, 5).clamp(-0.9, 0.9)
    images[[17, 250], 0] = 5.0  # the only ones that lift channel 2 above zero
    with torch.no_grad():
        before = conv(images).double()
    return before.numpy(), before.clamp(0, 6).numpy()


def statistics(values, upper):
    """What `activations` stores of one layer, written as loops over channels."""
    rows = {
        key: [] for key in ("mean", "fired", "rate", "variance", "min", "max", "mean_abs", "saturated", "top_image")
    }
    for channel in range(values.shape[1]):
        plane = values[:, channel]
        peak = plane.reshape(len(plane), -1).max(axis=1)
        rows["mean"].append(plane.mean())
        rows["fired"].append(int((peak > 0).sum()))
        rows["rate"].append((peak > 0).mean())
        rows["variance"].append(plane.var())
        rows["min"].append(plane.min())
        rows["max"].append(plane.max())
        rows["mean_abs"].append(np.abs(plane).mean())
        rows["saturated"].append(np.nan if upper is None else (plane >= upper).mean())
        rows["top_image"].append(np.argsort(-peak, kind="stable")[:4])
    return {key: np.array(column) for key, column in rows.items()}


def stored_for(layers, n=IMAGES, predicted=None, label=None):
    label = np.arange(n) % 4 if label is None else label
    arrays = {
        "predictions/status": np.zeros(n, np.int8),
        "predictions/predicted": (label if predicted is None else predicted).astype(np.int32),
    }
    for layer, values in layers:
        arrays |= {f"activations/{layer.name}/{key}": row for key, row in statistics(values, layer.upper).items()}
        # Weights of which nothing is known, and nobody could follow the network.
        n = values.shape[1]
        unknown = ("norm", "bias", "gamma", "beta", "centre", "spread", "outgoing", "cosine")
        arrays |= {f"weights/{layer.name}/{key}": np.full(n, np.nan) for key in unknown}
        arrays |= {f"weights/{layer.name}/near_zero": np.zeros(n, np.int8)}
        arrays |= {f"weights/{layer.name}/twin": np.full(n, -1, np.int32)}
    return StoredFake(arrays), make_subject(label, layers=[layer for layer, _ in layers])


def planted_layers():
    before, after = planted()
    conv = LayerSpec("conv", "conv", "Conv2d", (7, 6, 5))
    relu = LayerSpec("act", "relu", "ReLU6", (7, 6, 5), upper=6.0)
    return [(conv, before), (relu, after)]


def audit(layers, **settings):
    stored, subject = stored_for(layers)
    return run_leaf(Filters(**settings), subject, stored), stored


def named(stored, layer):
    rows = stored["filters/layer"] == layer
    return [TROUBLES[code] for code in stored["filters/trouble"][rows]]


def test_every_planted_trouble_is_found_and_nothing_else():
    _, stored = audit(planted_layers())
    assert named(stored, 1) == ["none", "dead", "rare", "dormant", "constant", "saturated", "none"]
    assert named(stored, 0) == ["none", "none", "none", "none", "constant", "none", "none"]
    assert stored["filters/channel"].tolist() == [*range(7), *range(7)]


def test_bounds_are_the_rule_of_three_and_wilson():
    _, stored = audit(planted_layers())
    bound = stored["filters/bound"][7:]
    assert bound[1] == 3 / IMAGES
    # Wilson's interval holds the shares whose score statistic is at most z: its upper end solves the equation.
    z, p = 1.959963984540054, 2 / IMAGES
    assert abs(p - bound[2]) == pytest.approx(z * np.sqrt(bound[2] * (1 - bound[2]) / IMAGES))
    assert bound[2] > p
    assert stored["filters/rate"][7 + 2] == 2 / IMAGES


def test_dormancy_is_the_share_of_the_layer_mean():
    _, stored = audit(planted_layers())
    after = planted()[1]
    magnitude = [np.abs(after[:, c]).mean() for c in range(7)]
    np.testing.assert_allclose(stored["filters/score"][7:], np.array(magnitude) / (sum(magnitude) / 7))
    assert np.isnan(stored["filters/score"][:7]).all()


def test_measurements_count_channels_behind_relus_alone():
    summary, _ = audit(planted_layers())
    values = values_of(summary)
    assert values["filters/dead_fraction"] == 1 / 7
    assert [values[f"filters/{trouble}_count"] for trouble in TROUBLES[1:6]] == [1] * 5


def test_findings_name_layer_channels_rate_bound_and_images():
    summary, _ = audit(planted_layers())
    found = codes_of(summary)
    assert {f.code for f in summary.findings} == {f"filters/{trouble}" for trouble in TROUBLES[1:6]}
    assert (found["filters/dead"].layer, found["filters/dead"].channels) == ("act", (1,))
    assert "0.750%" in found["filters/dead"].detail
    assert found["filters/rare"].images == (17, 250)
    assert "0.500%" in found["filters/rare"].detail
    # The convolution's constant channel is the ReLU's: it is told once.
    assert [f.layer for f in summary.findings if f.code == "filters/constant"] == ["act"]


def test_a_branch_channel_that_a_sum_brings_back_is_told_at_its_convolution():
    before, _ = planted()
    branch = before.copy()
    branch[:, 6] = 0.0
    total = np.maximum(branch + np.random.default_rng(1).normal(size=branch.shape), 0)
    layers = [
        (LayerSpec("branch", "conv", "Conv2d", (7, 6, 5)), branch),
        (LayerSpec("act", "relu", "ReLU", (7, 6, 5)), total),
    ]
    summary, _ = audit(layers)
    constant = [f for f in summary.findings if f.code == "filters/constant"]
    assert [(f.layer, f.channels) for f in constant] == [("branch", (4, 6))]


def test_scaling_a_layer_changes_no_trouble():
    conv, (relu, after) = planted_layers()
    unlimited = LayerSpec("act", "relu", "ReLU", (7, 6, 5))
    _, one = audit([conv, (unlimited, after)])
    _, other = audit([conv, (unlimited, after * 1e-4)])
    assert named(one, 1) == named(other, 1)
    del relu


def test_answers_at_chance_put_every_finding_in_doubt():
    stored, subject = stored_for(planted_layers(), predicted=np.zeros(IMAGES))
    for finding in run_leaf(Filters(), subject, stored).findings:
        assert "no better than chance" in finding.detail
    for finding in audit(planted_layers())[0].findings:
        assert "chance" not in finding.detail


def network(dead_of, channels=4):
    """ReLU layers in which the first so many of the channels are dead."""
    layers = []
    for place, dead in enumerate(dead_of):
        values = np.random.default_rng(place).uniform(0.5, 1, (IMAGES, channels, 2, 3))
        values[:, :dead] = 0
        layers.append((LayerSpec(f"act{place}", "relu", "ReLU", (channels, 2, 3)), values))
    return layers


def test_one_finding_for_the_dead_channels_of_the_whole_network():
    summary, _ = audit(network([1, 0, 2, 1, 1, 1, 1]))
    (finding,) = summary.findings
    assert finding.title == "7 of 28 channels, in 6 layers, never fired"
    assert (finding.code, finding.severity, finding.layer, finding.channels) == ("filters/dead", "warning", None, ())
    assert finding.detail.startswith("Worst first: act2: 2 of 4 (50.0%), channels 0, 1; act0: 1 of 4")
    assert "and 2 more layers, in the table" in finding.detail
    assert "What next" in finding.detail


def test_a_layer_that_is_mostly_dead_is_an_error_of_its_own():
    summary, _ = audit(network([1, 3, 1]))
    layer, rest = summary.findings
    assert (layer.code, layer.severity, layer.layer) == ("filters/dead-layer", "error", "act1")
    assert layer.channels == (0, 1, 2)
    assert layer.title == "3 of 4 channels of act1 are dead"
    assert rest.title == "2 of 12 channels, in 2 further layers, never fired"


def test_many_layers_that_are_mostly_dead_are_one_error():
    summary, _ = audit(network([4, 3, 4, 4, 3]))
    (finding,) = summary.findings
    assert (finding.code, finding.severity, finding.layer) == ("filters/dead-layer", "error", None)
    assert "5 layers, the first of them act0" in finding.title


def test_a_silent_layer_is_dead_without_a_division_by_zero():
    layer = LayerSpec("act", "relu", "ReLU", (3, 2, 4))
    summary, stored = audit([(layer, np.zeros((IMAGES, 3, 2, 4)))])
    assert named(stored, 0) == ["dead"] * 3
    assert values_of(summary)["filters/dead_fraction"] == 1


def test_no_usable_image_measures_nothing():
    stored, subject = stored_for(planted_layers())
    stored.arrays["predictions/status"][:] = 2
    for path, array in stored.arrays.items():
        if path.startswith("activations/"):
            array[...] = 0 if array.dtype.kind == "i" else np.nan
    summary = run_leaf(Filters(), subject, stored)
    assert np.isnan(values_of(summary)["filters/dead_fraction"])
    assert "filters/no-images" in codes_of(summary)
    assert (stored["filters/trouble"] == 0).all()


def test_values_that_are_not_finite_are_not_called_dead():
    stored, subject = stored_for(planted_layers())
    for key in ("variance", "mean_abs", "min", "max"):
        stored.arrays[f"activations/act/{key}"][1] = np.nan
    summary = run_leaf(Filters(), subject, stored)
    assert named(stored, 1)[1] == "none"
    assert np.isnan(values_of(summary)["filters/dead_fraction"])


def test_a_network_without_relus_is_not_applicable():
    conv = planted_layers()[:1]
    summary, _ = audit(conv)
    assert summary.notes["status"] == "not applicable"
    assert not summary.measurements
    assert codes_of(summary)["filters/constant"].channels == (4,)


def test_a_network_without_layers_has_empty_columns():
    stored, subject = stored_for([])
    assert settle(Filters(), subject, stored, []).arrays["trouble"].shape == (0,)


def test_statistics_that_are_not_stored_name_the_setting():
    stored, subject = stored_for(planted_layers())
    del stored.arrays["activations/act/rate"]
    with pytest.raises(StageError, match=r"activations\.layers"):
        run_leaf(Filters(), subject, stored)


@pytest.mark.parametrize("key", ["rare", "dormant", "constant", "saturated"])
def test_limits_are_shares(key):
    with pytest.raises(ConfigError, match=rf"filters\.{key}"):
        Filters(**{key: 1.5})
