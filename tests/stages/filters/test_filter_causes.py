import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.filters.causes import CAUSES, Making, find_causes, in_words, pushes
from convaudit.stages.filters.stage import Filters
from convaudit.stages.filters.troubles import TROUBLES
from convaudit.stages.network.layers import trace
from convaudit.stages.specs import Finding, Summary
from convaudit.stages.weights.stage import Weights

from ...stored_fake import StoredFake, make_subject, run_leaf, settle

IMAGES = 60


class Net(nn.Module):
    """A plain convolution under a ReLU6, one with a norm, a depthwise one in a branch, and their sum; not square."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()
        self.conv2, self.norm2, self.relu2 = nn.Conv2d(8, 8, (3, 1)), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.depth = nn.Conv2d(8, 8, 1, groups=8)
        self.conv3, self.norm3, self.relu3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu2(self.norm2(self.conv2(self.relu1(self.conv1(x)))))
        out = self.norm3(self.conv3(self.depth(x)))
        out += x
        return self.fc(self.relu3(out).mean((2, 3)))


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv1d(3, 8, 5), nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.relu1(self.conv1(x)).mean(2))


def trained(kind=Net, shape=(7, 5)):
    """A network whose norms have stored what they are fed."""
    torch.manual_seed(0)
    model, images = kind(), torch.rand(IMAGES, 3, *shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.normal_(module.bias, 0.5, 0.1)
    return settled(model.requires_grad_(False), images), images


def settled(model, images):
    """Let the norms store what they are fed now."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    model.train()(images)
    return model.eval()


def plant(model, images):
    model.conv1.bias[1], model.conv1.bias[2] = -1e3, 1e3
    model.conv1.weight[3], model.conv1.bias[3] = 0, 0.5
    model.conv1.weight[5] = 2 * model.conv1.weight[4]
    model.conv1.weight[6], model.conv1.bias[6] = -model.conv1.weight[6].abs(), 0
    model.conv2.weight[:, 7] = 0
    settled(model, images)
    model.norm2.weight[0], model.norm2.bias[0] = 0, -1
    model.norm2.bias[1] = -60
    model.norm2.weight[2], model.norm2.bias[2] = 0, 0.4
    model.conv2.bias[3] = -1e3
    model.norm3.weight[5], model.norm3.bias[5] = 0, 0


def audited(model, images, label=None, findings=()):
    """Statistics by hooks and plain arithmetic; the weights by their own stage; then the audit."""
    seen = {}
    layers = trace(model, images[:2])
    for layer in [layer for layer in layers if layer.kind in ("conv", "relu")]:
        keep = lambda _m, _i, out, name=layer.name: seen.__setitem__(name, out.clone().double().numpy())  # noqa: E731
        model.get_submodule(layer.name).register_forward_hook(keep)
    model(images)
    predicted = np.arange(IMAGES) % 4
    label = predicted if label is None else label
    arrays = {"predictions/status": np.zeros(IMAGES, np.int8), "predictions/predicted": predicted}
    for layer in layers:
        if layer.name in seen:
            flat = np.moveaxis(seen[layer.name], 1, 0).reshape(layer.shape[0], IMAGES, -1)
            full = flat.reshape(len(flat), -1)
            fired = (flat.max(2) > 0).sum(1)
            upper = np.inf if layer.upper is None else layer.upper
            rows = {
                **{"fired": fired, "rate": fired / IMAGES, "mean": full.mean(1), "variance": full.var(1)},
                **{"min": full.min(1), "max": full.max(1), "mean_abs": np.abs(full).mean(1)},
                **{"saturated": (full >= upper).mean(1), "top_image": np.argsort(-flat.max(2), 1, "stable")[:, :4]},
            }
            arrays |= {f"activations/{layer.name}/{key}": row for key, row in rows.items()}
    axes = ("y", "x") if images.ndim == 4 else ("time",)
    subject = make_subject(label, class_names="abcd", layers=layers, axes=axes, input_shape=tuple(images.shape[1:]))
    stored = StoredFake(arrays, {"predictions": Summary(findings=tuple(findings))})
    weights = Weights(simulations=19, shuffles=1)
    tasks = weights.tasks(subject, stored)
    partials = [weights.inspect(model, task, subject, stored).partial for task in tasks]
    settle(weights, subject, stored, partials)
    return run_leaf(Filters(), subject, stored), stored


def rows(summary, stored):
    """Every channel in trouble that no ReLU tells of: (layer, channel) to trouble and cause."""
    column = {key: stored[f"filters/{key}"] for key in ("layer", "channel", "trouble", "cause", "repeated")}
    names = summary.notes["layers"]
    return {
        (names[column["layer"][at]], int(column["channel"][at])): (
            TROUBLES[column["trouble"][at]],
            CAUSES[column["cause"][at]],
        )
        for at in np.flatnonzero((column["trouble"] > 0) & (column["repeated"] == 0))
    }


def words(summary, stored, layer, channel):
    place = summary.notes["layers"].index(layer)
    at = np.flatnonzero((stored["filters/layer"] == place) & (stored["filters/channel"] == channel))[0]
    numbers = ("norm", "bias", "gamma", "beta", "outgoing", "twin", "cosine")
    return in_words(CAUSES[stored["filters/cause"][at]], {key: float(stored[f"filters/{key}"][at]) for key in numbers})


def test_every_planted_fault_is_found_with_its_cause():
    model, images = trained()
    plant(model, images)
    summary, stored = audited(model, images)
    found = rows(summary, stored)
    expected = {
        ("relu1", 1): ("dead", "bias"),
        ("relu1", 2): ("saturated", "bias"),
        ("relu1", 3): ("constant", "incoming"),
        ("conv1", 5): ("duplicate", "twin"),
        ("relu1", 6): ("dead", "weights"),
        ("conv1", 7): ("near_zero", "outgoing"),
        ("relu2", 0): ("dead", "norm_scale"),
        ("relu2", 1): ("dead", "norm_shift"),
        ("relu2", 2): ("constant", "norm_scale"),
        ("relu2", 3): ("dead", "bias"),
        ("conv3", 5): ("near_zero", "norm_scale"),
        **{("depth", channel): ("constant", "input") for channel in (0, 1, 2, 3)},
    }
    severe = ("dead", "saturated", "constant", "duplicate", "near_zero")
    assert {key: row for key, row in found.items() if row[0] in severe} == expected
    told = {key: words(summary, stored, *key) for key in expected}
    assert told["relu1", 1] == "bias of -1000"
    assert told["relu1", 3] == "incoming weights of norm 0, so that only its bias of 0.5 passes"
    assert told["conv1", 5] == "weights like those of channel 4 (cosine 1.000)"
    assert told["conv1", 7] == "no reader: outgoing weights are zero"
    assert told["relu2", 0] == "norm scale of 0, so that only its shift of -1 passes"
    assert told["relu2", 1].startswith("norm shift of -60 at a scale of 1")
    assert told["relu2", 3] == "bias of -1000"
    assert told["conv3", 5] == "norm scale of 0"


def test_a_network_without_faults_has_none():
    found = rows(*audited(*trained()))
    assert not {kind for kind, _ in found.values()} & {"dead", "saturated", "constant", "duplicate", "near_zero"}


def test_a_channel_that_is_cut_in_a_branch_is_alive_behind_the_sum():
    model, images = trained()
    model.norm3.weight[5], model.norm3.bias[5] = 0, 0
    model.norm3.weight[6], model.norm3.bias[6], model.norm2.bias[6] = 0, 0, -1e3
    summary, stored = audited(model, images)
    place = summary.notes["layers"].index("conv3")
    behind = stored["filters/alive_behind"][stored["filters/layer"] == place]
    assert (behind[5], behind[6]) == (1, 0)
    assert rows(summary, stored)["relu3", 6] == ("dead", "several")
    assert summary.notes["added"][place] == ["relu3", 0]
    assert summary.notes["off_at"][place] == "norm3"
    assert summary.notes["off_at"][summary.notes["layers"].index("conv1")] == "relu1"


def test_one_dimension_is_audited_alike():
    model, images = trained(Line, (20,))
    model.conv1.bias[1] = -1e3
    model.conv1.weight[3] = -0.5 * model.conv1.weight[2]
    model.fc.weight[:, 6] = 0
    found = rows(*audited(model, images))
    assert found["relu1", 1] == ("dead", "bias")
    assert found["conv1", 3] == ("duplicate", "twin")
    assert found["conv1", 6] == ("near_zero", "outgoing")


def test_scaling_the_weights_of_a_layer_changes_no_cause():
    model, images = trained()
    plant(model, images)
    before = rows(*audited(model, images))
    model.conv2.weight *= 64
    model.conv2.bias *= 64
    model.norm2.running_mean *= 64
    model.norm2.running_var *= 64**2
    after = rows(*audited(model, images))
    assert before == after


def unknown(n, **given):
    empty = {name: np.full(n, np.nan) for name in Making.__dataclass_fields__}
    empty |= {"near_zero": np.zeros(n, np.int8), "twin": np.full(n, -1, np.int32)}
    return Making(**empty | {key: np.array(value) for key, value in given.items()})


def test_pushes_are_in_standard_deviations_of_the_weighted_sum():
    nan = np.nan
    made = unknown(
        4,
        bias=[-6.0, 4.0, -50.0, 0.1],
        mean=[-4.0, 4.0, -50.0, 0.5],
        deviation=[2.0, 2.0, 1.0, 0.5],
        gamma=[nan, -1.0, 2.0, 0.5],
        beta=[nan, 3.0, 1.0, 0.1],
        centre=[nan, 0.0, nan, 0.4],
        spread=[nan, 2.0, nan, 1.0],
    )
    found = pushes(made)
    np.testing.assert_allclose(found["bias"], [-3, -2, -50, 0.2 * 0 + 0.2], atol=1e-12)
    np.testing.assert_allclose(found["weights"], [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["norm_shift"], [0, 3, 0.5, 0.4], atol=1e-12)


def test_what_is_unknown_is_called_unknown():
    dead = np.full(3, TROUBLES.index("dead"), np.int8)
    assert [CAUSES[code] for code in find_causes(dead, unknown(3))] == ["unknown"] * 3
    assert in_words("unknown", {}) == "no single weight explains it"


@pytest.mark.parametrize(
    ("label", "findings", "said"),
    [
        (np.arange(IMAGES) // 4 % 4, (), "no better than chance"),
        (None, (Finding("predictions/input-scale", "warning", "", ""),), "numbers of a size"),
        (np.full(IMAGES, -1), (), "No image has a label"),
        (None, (), ""),
    ],
)
def test_what_has_to_be_settled_first_is_said_first(label, findings, said):
    model, images = trained()
    plant(model, images)
    summary, _ = audited(model, images, label, findings)
    doubt = summary.notes["doubt"]["text"]
    assert summary.notes["doubt"]["grave"] == ("label" not in said and bool(said))
    assert said in doubt
    assert bool(said) == bool(doubt)
    for finding in summary.findings:
        assert (doubt in finding.detail) or "label" in said


def test_findings_count_the_causes():
    model, images = trained()
    plant(model, images)
    summary, _ = audited(model, images)
    dead = next(finding for finding in summary.findings if finding.code == "filters/dead")
    assert "Cause, by channels: its bias 2" in dead.detail
    assert "its weighted sum 1" in dead.detail
