from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.contract import Ask, Gradient
from convaudit.stages.network import tiled, winograd
from convaudit.stages.network.batch import opened
from convaudit.stages.network.incremental import kernels
from convaudit.stages.network.incremental.recompute import Recomputation, plain_logits
from convaudit.stages.network.incremental.regions import Region
from convaudit.stages.network.tiled import Kernel, convolve
from convaudit.stages.network.winograd import Winograd, census, worth

from ...tiny_models import conv_net, tiny_blocks, tiny_images, tiny_subject

LAST = torch.channels_last


def by_hand(image, weight, bias, padding):
    """The sum of section 2 of any textbook, in float64, one tap after the other."""
    image, weight = image.double().numpy(), weight.double().numpy()
    padded = np.pad(image, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    height, width = padded.shape[2] - 2, padded.shape[3] - 2
    found = np.zeros((len(image), len(weight), height, width))
    for y in range(3):
        for x in range(3):
            found += np.einsum("ncyx,kc->nkyx", padded[:, :, y : y + height, x : x + width], weight[:, :, y, x])
    return found if bias is None else found + bias.double().numpy()[:, None, None]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def always(monkeypatch):
    """Serve small convolutions, too."""
    monkeypatch.setattr(winograd, "worth", lambda *_: True)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (1, 0), (2, 2)])
@pytest.mark.parametrize("space", [(12, 16), (7, 9), (3, 18), (6, 5)])
@pytest.mark.parametrize("channels", [(1, 1), (3, 5), (16, 8)])
def test_what_is_convolved_on_tiles_is_what_is_convolved_directly(padding, space, channels):
    image, weight, bias = (
        drawn(3, channels[0], *space),
        drawn(channels[1], channels[0], 3, 3, seed=1),
        drawn(channels[1]),
    )

    found = convolve(image, Kernel(weight).forward, bias, padding)

    want = by_hand(image, weight, bias, padding)
    assert found.shape == want.shape
    assert found.is_contiguous(memory_format=LAST)
    assert np.abs(found.numpy() - want).max() <= 2e-5 * np.abs(want).max()


def test_many_images_and_bands_of_large_ones_are_put_together(monkeypatch):
    monkeypatch.setattr(tiled, "_TILES", 6)
    monkeypatch.setattr(tiled, "_TOGETHER", 1)
    weight = drawn(4, 3, 3, 3, seed=1, dtype=torch.float64)
    for n, space in ((7, (8, 7)), (2, (37, 10)), (2, (5, 61))):
        image = drawn(n, 3, *space, dtype=torch.float64)

        found = convolve(image, Kernel(weight).forward, None, (1, 1))

        np.testing.assert_allclose(found.numpy(), by_hand(image, weight, None, (1, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dy", [0, 1, 2])
@pytest.mark.parametrize("dx", [0, 1, 2])
def test_a_kernel_of_one_tap_shifts_the_image(dy, dx):
    image = drawn(2, 1, 9, 11, dtype=torch.float64)
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, dy, dx] = 1

    found = convolve(image, Kernel(weight).forward)

    torch.testing.assert_close(found, image[:, :, dy : dy + 7, dx : dx + 9], rtol=0, atol=1e-13)


def test_each_image_comes_out_as_it_does_alone():
    image, kernel = drawn(9, 32, 17, 22), Kernel(drawn(48, 32, 3, 3, seed=1)).forward

    found = convolve(image, kernel, None, (1, 1))

    for index in range(9):
        alone = convolve(image[index : index + 1], kernel, None, (1, 1))
        torch.testing.assert_close(found[index : index + 1], alone, rtol=0, atol=2e-6 * float(found.abs().max()))


@pytest.mark.parametrize("padding", [0, 1, "same", "valid", (1, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_by_the_input_is_that_of_autograd(padding, dtype, always):
    image, weight, bias = (
        drawn(2, 5, 10, 13, dtype=dtype),
        drawn(7, 5, 3, 3, seed=1, dtype=dtype),
        drawn(7, dtype=dtype),
    )

    def derived(context):
        source = image.clone().requires_grad_()
        with context:
            result = F.conv2d(source, weight, bias, padding=padding)
        (gradient,) = torch.autograd.grad(result, source, torch.cos(result.detach()))
        return result.detach(), gradient

    (result, gradient), (want, want_gradient) = derived(Winograd()), derived(torch.enable_grad())

    bound = 2e-5 if dtype == torch.float32 else 1e-13
    assert (result - want).abs().max() <= bound * want.abs().max()
    assert (gradient - want_gradient).abs().max() <= 3 * bound * want_gradient.abs().max()


@pytest.mark.parametrize("padding", [0, 1])
def test_derivatives_pass_gradcheck(padding, always):
    weight = drawn(2, 3, 3, 3, seed=1, dtype=torch.float64)
    image = drawn(2, 3, 5, 6, dtype=torch.float64).requires_grad_()

    def call(given):
        with Winograd():
            return F.conv2d(given, weight, padding=padding)

    assert torch.autograd.gradcheck(call, (image,))
    assert torch.autograd.gradgradcheck(lambda given: call(given) ** 2, (image,))


def counted(monkeypatch):
    calls = []

    def counting(*given, **named):
        calls.append(given[0].shape)
        return convolve(*given, **named)

    monkeypatch.setattr(winograd, "convolve", counting)
    return calls


@pytest.mark.parametrize(
    "what",
    [
        "stride",
        "dilation",
        "groups",
        "5x5",
        "1x1",
        "padding 2",
        "autocast",
        "bfloat16",
        "weights learn",
        "outside",
    ],
)
def test_what_is_of_another_kind_is_left_to_pytorch(what, always, monkeypatch):
    calls = counted(monkeypatch)
    image, weight, settings = drawn(2, 8, 12, 12), drawn(8, 8, 3, 3), {"padding": 1}
    if what in ("stride", "dilation"):
        settings[what] = 2
    elif what == "groups":
        weight, settings["groups"] = weight[:, :4], 2
    elif what in ("5x5", "1x1"):
        weight = drawn(8, 8, int(what[0]), int(what[0]))
    elif what == "padding 2":
        settings["padding"] = 2
    elif what == "bfloat16":
        image, weight = image.bfloat16(), weight.bfloat16()
    elif what == "weights learn":
        weight.requires_grad_()

    want = F.conv2d(image, weight, **settings)
    if what == "outside":
        with Winograd():
            pass
        found = F.conv2d(image, weight, **settings)
    else:
        with Winograd(), torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
            found = F.conv2d(image, weight, **settings)

    assert not calls
    if what != "autocast":
        assert torch.equal(found, want)
    assert found.dtype == (torch.bfloat16 if what in ("autocast", "bfloat16") else torch.float32)


@pytest.mark.parametrize("image_last", [True, False])
@pytest.mark.parametrize("weight_last", [True, False])
def test_the_result_lies_in_memory_as_pytorchs_does(image_last, weight_last, always):
    image, weight = drawn(2, 8, 12, 12), drawn(8, 8, 3, 3)
    image = image.contiguous(memory_format=LAST) if image_last else image
    weight = weight.contiguous(memory_format=LAST) if weight_last else weight

    want = F.conv2d(image, weight, padding=1)
    with Winograd():
        found = F.conv2d(image, weight, padding=1)

    assert found.stride() == want.stride()


def test_few_channels_and_small_maps_are_convolved_directly():
    assert worth(64, 64, (56, 56))
    assert worth(512, 512, (7, 7))
    assert not worth(16, 16, (32, 32))
    assert not worth(64, 64, (8, 8))
    assert not worth(3, 64, (224, 224))


class Twice(nn.Module):
    """One convolution, called twice, with ReLUs that overwrite what they are given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, image):
        once = F.relu(self.conv(image), inplace=True)
        return F.relu_(self.conv(once)).mean((2, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_a_module_that_is_called_twice_with_relus_in_place(layout, monkeypatch):
    calls = counted(monkeypatch)
    torch.manual_seed(0)
    model, image = Twice().requires_grad_(False), drawn(2, 64, 30, 33).contiguous(memory_format=layout)
    model = model.to(memory_format=layout)
    mode = Winograd()

    def derived():
        source = image.clone().requires_grad_()
        logits = model(source)
        return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), source)[0]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    want, want_gradient = derived()
    # What is made of a kernel in inference mode serves passes that are derived, too.
    with mode, torch.inference_mode():
        called = model(image)
    with mode:
        found, gradient = derived()
    assert torch.equal(called, found)

    assert len(calls) == 6, "two forward passes, and one derivative"
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert (gradient - want_gradient).norm() <= 1e-3 * want_gradient.norm()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_kernels_follow_their_weights_and_are_forgotten_with_them(always):
    image, weight, mode = drawn(1, 4, 9, 9), drawn(4, 4, 3, 3), Winograd()
    with mode:
        first = F.conv2d(image, weight)
        weight.mul_(2)
        second = F.conv2d(image, weight)

    torch.testing.assert_close(second, 2 * first)
    assert len(mode._kernels) == 1
    del weight
    gc.collect()
    assert len(mode._kernels) == 0


# Where a value is next to zero, rounding decides whether a ReLU lets its gradient through: not so in double precision.
@pytest.mark.parametrize(
    ("dtype", "logit_bound", "gradient_bound"), [(torch.float32, 1e-5, 5e-2), (torch.float64, 1e-13, 1e-11)]
)
def test_a_residual_network_answers_alike(dtype, logit_bound, gradient_bound):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval().requires_grad_(False).to(dtype, memory_format=LAST)
    image = drawn(2, 3, 96, 128, dtype=dtype).contiguous(memory_format=LAST)

    def derived():
        source = image.clone().requires_grad_()
        logits = model(source)
        return logits.detach(), torch.autograd.grad(logits.max(1).values.sum(), source)[0]

    want, want_gradient = derived()
    with Winograd():
        found, gradient = derived()

    assert not torch.equal(found, want)
    assert (found - want).abs().max() <= logit_bound * want.abs().max()
    assert (gradient - want_gradient).norm() <= gradient_bound * want_gradient.norm()


def test_the_served_convolutions_of_a_network_are_counted():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None).eval().requires_grad_(False)

    # All of stride 1 and three taps; not the first one, three of stride 2 and three of one tap.
    assert census(model, drawn(1, 3, 224, 224)) == {"served": 13, "convolutions": 20}
    assert census(model, drawn(2, 3, 32, 32)) == {"served": 0, "convolutions": 20}


def region(start, end):
    """Windows of two axes by their corners."""
    return Region(*(np.array(corners, np.int64).T for corners in (start, end)))


def test_windows_are_recomputed_on_tiles(always, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels, "convolve", lambda *given: calls.append(given) or convolve(*given))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).double().eval().requires_grad_(False)  # fmt: skip
    image, baseline = drawn(1, 3, 40, 33, dtype=torch.float64), torch.zeros(1, 3, 40, 33, dtype=torch.float64)
    windows = region([(0, 0), (5, 28), (20, 11), (35, 2)], [(6, 5), (11, 33), (26, 16), (40, 7)])
    want = plain_logits(model, image, baseline, windows)

    for worth_it in (float("inf"), 0.0):
        recomputation = Recomputation(model, windows, worth=worth_it, winograd=Winograd())
        found = recomputation.logits(image, baseline)
        assert not isinstance(found, str), found
        assert recomputation.pieces == bool(worth_it)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)

    assert {tuple(given[3]) for given in calls} >= {(0, 0)}, "pieces have no padding"


@pytest.mark.parametrize("rule", ["plain", "guided"])
def test_all_passes_of_a_batch_are_on_tiles(rule, always, monkeypatch):
    calls, model = counted(monkeypatch), conv_net().double()
    subject, (block,) = tiny_subject(model, 4), tiny_blocks(tiny_images(model, 4), batch=4)
    ask, found = Ask(gradients=(Gradient("predicted", "input", rule),)), {}
    for name, mode in (("direct", None), ("tiles", Winograd())):
        with opened(model, block, subject, ask, winograd=mode) as batch:
            gradient, since = batch.gradient("predicted", "input", rule), len(calls)
            again = batch.again(batch.images, ask).gradient("predicted", "input", rule)
            called = batch.call(batch.images)
            with batch.twin() as twin:
                own = twin(batch.images)
            found[name] = (batch.logits, gradient, again, called, own)
        assert (len(calls) - since, since) == ((0, 0) if mode is None else (4, 2))

    for mine, theirs in zip(found["tiles"], found["direct"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_a_batch_under_autocast_is_computed_as_autocast_computes(always, monkeypatch):
    calls, model = counted(monkeypatch), conv_net()
    subject, (block,) = tiny_subject(model, 4), tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, Ask(), winograd=Winograd()) as batch:
        before = len(calls)
        short = batch.again(batch.images, Ask(), autocast=torch.bfloat16).logits
    with opened(model, block, subject, Ask()) as batch:
        want = batch.again(batch.images, Ask(), autocast=torch.bfloat16).logits

    assert len(calls) == before == 1
    assert torch.equal(short, want)
