"""The model under changed conditions, against the same change made by hand."""

import copy

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import nn

from convaudit.stages.contract import Ablate, Ask, Gradient, Identity, Perturb, Randomise
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.variants import altered, redrawn
from convaudit.stages.numerics.seeds import numpy_generator, stable_seed, torch_generator


def setting(kind, n=4):
    model = tiny.ALL[kind]().double()
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model, n), n)))
    return model, tiny.tiny_subject(model, n), block, torch.from_numpy(block.images).double()


def logits(model, subject, block, variant, ask=None):
    with opened(model, block, subject, ask or Ask(), variant) as batch:
        return batch.logits.clone()


def without(value, *channels):
    value = value.clone()
    value[:, list(channels)] = 0
    return value


@pytest.mark.parametrize("graph", [False, True])
def test_ablate_one_call_of_a_reused_module(graph):
    model, subject, block, x = setting("functional")
    ask = Ask(gradients=(Gradient(0, "input"),) if graph else ())
    tail = lambda x: model.fc2(model.fc1(torch.relu(model.conv4(x)).mean((2, 3))).relu())  # noqa: E731
    first = torch.relu(model.conv2(torch.relu(model.stem.conv(x))))
    second = torch.relu(model.conv3(first))
    got = logits(model, subject, block, Ablate("relu#1", (2, 5)), ask)
    torch.testing.assert_close(got, tail(without(second, 2, 5)))
    got = logits(model, subject, block, Ablate("relu#0", (2, 5)), ask)
    torch.testing.assert_close(got, tail(torch.relu(model.conv3(without(first, 2, 5)))))


@pytest.mark.parametrize("graph", [False, True])
def test_ablate_an_in_place_function_whose_result_is_ignored(graph):
    model, subject, block, x = setting("functional")
    ask = Ask(keep=("stem",), gradients=(Gradient(0, "input"),) if graph else ())
    with opened(model, block, subject, ask, Ablate("stem.functional_relu", (1,))) as batch:
        torch.testing.assert_close(batch.activation("stem"), without(torch.relu(model.stem.conv(x)), 1))


def test_ablate_an_in_place_module_whose_result_is_ignored():
    class Net(tiny.ConvNet):
        def forward(self, x):
            x = self.conv1(x)
            self.relu1(x)
            return x.mean((2, 3))[:, :5]

    model = Net().eval().double()
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model), 6)))
    got = logits(model, tiny.tiny_subject(model), block, Ablate("relu1", (1, 3)))
    assert (got[:, [1, 3]] == 0).all()
    assert (got[:, [0, 2, 4]] > 0).all()


def test_ablate_a_module_that_gives_back_its_input():
    class Net(tiny.ConvNet):
        def forward(self, x):
            x = self.conv1(x).mean((2, 3))[:, :5]
            return self.relu1(x) + x

    model = Net()
    model.relu1 = nn.Identity()
    model.eval().double()
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model), 6)))
    subject = tiny.tiny_subject(model)
    whole, got = (logits(model, subject, block, variant) for variant in (Identity(), Ablate("relu1", (1, 3))))
    torch.testing.assert_close(got[:, [1, 3]] * 2, whole[:, [1, 3]])
    torch.testing.assert_close(got[:, [0, 2, 4]], whole[:, [0, 2, 4]])


def test_ablate_before_an_in_place_sum_and_of_an_input():
    model, subject, block, x = setting("residual")
    stem = torch.nn.functional.relu6(model.conv(x))
    block1 = model.block1
    inner = block1.conv2(torch.nn.functional.relu6(block1.bn1(block1.conv1(stem))))
    with opened(model, block, subject, Ask(keep=("block1", "block1.conv2")), Ablate("block1.conv2", (0, 4))) as batch:
        expected = torch.nn.functional.relu6(without(inner, 0, 4) + stem)
        torch.testing.assert_close(batch.activation("block1"), expected)
        assert (batch.activation("block1.conv2")[:, [0, 4]] == 0).all()
    features = model.block2(model.block1(stem)).mean((2, 3))
    torch.testing.assert_close(logits(model, subject, block, Ablate("fc.input", (3,))), model.fc(without(features, 3)))


def test_ablate_equals_zeroed_weights_and_its_gradient_too():
    model, subject, block, _ = setting("conv")
    ask = Ask(observe=("bn1",), gradients=(Gradient("predicted", "input"), Gradient("predicted", "bn1")))
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        zeroed.bn1.weight[2] = zeroed.bn1.bias[2] = 0
    show = lambda _layer, a, _valid: a.clone()  # noqa: E731
    with (
        opened(model, block, subject, ask, Ablate("bn1", (2,)), show) as a,
        opened(zeroed, block, subject, ask, observe=show) as b,
    ):
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.observed("", "bn1"), b.observed("", "bn1"))
        torch.testing.assert_close(a.gradient("predicted", "input"), b.gradient("predicted", "input"))
        torch.testing.assert_close(a.gradient("predicted", "bn1"), b.gradient("predicted", "bn1"))


def test_ablate_clears_what_is_not_finite():
    model, subject, block, _ = setting("conv")
    model.conv1.bias[1] = torch.inf
    assert logits(model, subject, block, Identity()).isnan().any()
    assert logits(model, subject, block, Ablate("bn1", (1,))).isfinite().all()


def test_ablate_refuses_a_channel_that_is_not_there():
    model, subject, block, _ = setting("conv")
    with pytest.raises(StageError, match="ablate conv1: expected channels 0 to 5, got 6"):
        logits(model, subject, block, Ablate("conv1", (1, 6)))


def test_randomise_draws_by_name_and_seed():
    model = tiny.residual_net().double()
    one = redrawn(model, ("block1.conv1",), 7)
    assert set(one) == {"block1.conv1.weight", "block1.conv1.bias"}
    assert one["block1.conv1.weight"].dtype == torch.float64
    several = redrawn(model, ("fc", "block1"), 7)
    assert several["block1.conv1.weight"].equal(one["block1.conv1.weight"])
    assert not several["block1.conv1.weight"].equal(several["block1.conv2.weight"])
    assert not redrawn(model, ("block1.conv1",), 8)["block1.conv1.weight"].equal(one["block1.conv1.weight"])
    assert (several["block1.bn1.running_var"] == 1).all()
    assert set(redrawn(model, ("",), 7)) == {name for name in model.state_dict() if "num_batches" not in name} | {
        "block1.bn1.num_batches_tracked",
        "block2.bn1.num_batches_tracked",
    }


@pytest.mark.parametrize("layers", [("conv3",), ("fc1", "fc2")])
def test_randomise_gives_what_a_model_with_those_weights_gives(layers):
    model, subject, block, _ = setting("functional")
    by_hand = copy.deepcopy(model)
    by_hand.load_state_dict(model.state_dict() | redrawn(model, layers, 1))
    ask = Ask(keep=("relu#1",), gradients=(Gradient("predicted", "input"),))
    with (
        opened(model, block, subject, ask, Randomise(layers, 1)) as a,
        opened(by_hand, block, subject, ask) as b,
    ):
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.activation("relu#1"), b.activation("relu#1"))
        torch.testing.assert_close(a.gradient("predicted", "input"), b.gradient("predicted", "input"))
    assert not a.logits.equal(logits(model, subject, block, Identity()))


def test_randomise_refuses_what_it_cannot_draw():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.scale = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Parameter(torch.ones(1))

    model = Scaled()
    for layers, message in (
        (("conf",), "no module 'conf'; did you mean 'conv'"),
        (("relu",), r"'relu' \(ReLU\) has no parameters"),
        (("",), r"\(Scaled\) has no reset_parameters"),
    ):
        with pytest.raises(StageError, match=message):
            redrawn(model, layers, 0)


class Normed(nn.Module):
    def __init__(self, kind):
        super().__init__()
        wrap = nn.utils.weight_norm if kind == "hook" else getattr(nn.utils.parametrizations, kind)
        self.conv, self.fc = wrap(nn.Conv2d(3, 4, 3, bias=False)), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "hook"])
def test_randomise_draws_what_normed_weights_are_computed_from(kind):
    torch.manual_seed(0)
    model = Normed(kind).eval().requires_grad_(False)
    x, seen = torch.randn(2, 3, 6, 6), []
    before = model(x)
    drawn = redrawn(model, ("conv",), 3)
    model.conv.register_forward_hook(lambda module, *_: seen.append(module.weight.clone()))
    after = torch.func.functional_call(model, drawn, (x,))
    assert not torch.allclose(before, after)
    plain = nn.Conv2d(3, 4, 3, bias=False).requires_grad_(False)
    torch.manual_seed(stable_seed(3, "conv", "randomise"))
    plain.reset_parameters()
    expected = plain.weight
    if kind == "spectral_norm":
        expected = expected / torch.linalg.svdvals(expected.flatten(1))[0]
    torch.testing.assert_close(seen[0], expected, rtol=0.02, atol=1e-4)
    torch.testing.assert_close(model(x), before)
    whole = redrawn(model, ("",), 3)
    assert all(whole[key].equal(drawn[key]) for key in drawn)
    assert {name for name, _ in model.named_parameters()} <= set(whole)


def test_perturb_depends_on_seed_and_image_alone():
    model, subject, block, x = setting("signal")
    with opened(model, block, subject, Ask(), Perturb(0.25, 5)) as batch:
        noise = (batch.images - x).numpy() / 0.25
        expected = numpy_generator(5, subject.image_id[2], "perturb").standard_normal(tiny.SHAPE_1D, np.float32)
        np.testing.assert_allclose(noise[2], expected, atol=1e-6)
        torch.testing.assert_close(batch.logits, model(batch.images))
    with opened(model, block.rows(slice(2, 3)), subject, Ask(), Perturb(0.25, 5)) as alone:
        assert alone.images[0].equal(batch.images[2])
    with opened(model, block, subject, Ask(), Perturb(0.25, 6)) as other:
        assert not other.images.equal(batch.images)


def test_unknown_variant():
    with pytest.raises(StageError, match="no such model variant"), altered(tiny.conv_net(), "dropout"):
        pass


def test_seeds_are_stable_and_apart():
    assert stable_seed(1, "a", "noise") == 7939622268509687117  # sha256sum of 1:1:a:5:noise
    seeds = [stable_seed(*key) for key in ((1, "a", "bc"), (1, "ab", "c"), (11, "a", "bc"), (2, "a", "bc"))]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    drawn = [torch.randn(3, generator=torch_generator(1, "a", "x")) for _ in range(2)]
    assert drawn[0].equal(drawn[1])
