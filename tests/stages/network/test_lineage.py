import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.network.graph import UntraceableError
from convaudit.stages.network.layers import trace
from convaudit.stages.network.lineage import Lineage, Slot, lineage

from ...tiny_models import ALL


class Padded(nn.Module):
    """A shortcut that pads channels and drops every other pixel, then a map laid out flat; not square."""

    input_shape = (3, 8, 6)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 3, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.fc(torch.flatten(F.relu(out, inplace=True), 1))


class Joined(nn.Module):
    """Two branches side by side, a gate, groups, and a norm behind a ReLU."""

    input_shape = (2, 7, 9)

    def __init__(self):
        super().__init__()
        self.small = nn.Conv2d(2, 3, 1)
        self.large = nn.Conv2d(2, 5, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.mixed = nn.Conv2d(8, 8, (3, 1), groups=4)
        self.late = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.cat([torch.relu(self.small(x)), self.large(x)], 1)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.fc(F.avg_pool2d(self.late(torch.relu(self.mixed(x))), (5, 9)).flatten(1))


class Lines(nn.Module):
    """One axis of space, through a pool that only knows two."""

    input_shape = (2, 20)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(2, 4, 5)
        self.conv2 = nn.Conv1d(4, 3, 3)
        self.fc = nn.Linear(3 * 3, 4)

    def forward(self, x):
        x = F.avg_pool1d(F.relu(self.conv1(x)), 3)
        return self.fc(self.conv2(x).flatten(1))


NETS = {**ALL, "padded": Padded, "joined": Joined, "lines": Lines}


def made(name):
    torch.manual_seed(3)
    model = NETS[name]().eval().requires_grad_(False).double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.bias, 0.5, 0.1)
    image = torch.rand(2, *model.input_shape, dtype=torch.float64)
    return model, image, trace(model, image)


def followed(name):
    model, image, layers = made(name)
    return lineage(model, image[:1], layers)


def shifted(model, image, layer, channel, watched=None):
    """Logits, and the output of a module, when one channel of a convolution is pushed up."""
    seen = []

    def push(_module, _inputs, output):
        return output + 2.0 * (torch.arange(output.shape[1]) == channel).view(1, -1, *[1] * (output.ndim - 2))

    handles = [] if channel is None else [model.get_submodule(layer).register_forward_hook(push)]
    if watched is not None:
        handles.append(model.get_submodule(watched).register_forward_hook(lambda _m, _i, out: seen.append(out.clone())))
    logits = model(image)
    for handle in handles:
        handle.remove()
    return logits, seen


def silence(model, slot, channel):
    """Set the weights of one reader that meet one channel to zero, group by group."""
    module = model.get_submodule(slot.layer.partition("#")[0])
    groups = getattr(module, "groups", 1)
    rows, columns = module.weight.shape[0] // groups, module.weight.shape[1]
    for position in range(slot.first + channel * slot.width, slot.first + (channel + 1) * slot.width):
        group, column = divmod(position, columns)
        module.weight[group * rows : (group + 1) * rows, column] = 0


@pytest.mark.parametrize("name", ["conv", "residual", "signal", "padded", "joined", "lines"])
def test_weights_of_zero_in_all_readers_cut_a_channel_off_and_in_all_but_one_do_not(name):
    model, image, layers = made(name)
    found = lineage(model, image[:1], layers)
    for layer in [layer for layer in layers if layer.kind == "conv"]:
        readers = found[layer.name].readers
        assert readers
        for channel in (0, layer.shape[0] - 1):
            for spared in (None, *readers):
                cut = copy.deepcopy(model)
                for slot in readers:
                    if slot != spared:
                        silence(cut, slot, channel)
                before, after = (shifted(cut, image, layer.name, at)[0] for at in (None, channel))
                assert (spared is None) == bool(torch.allclose(before, after, rtol=0, atol=1e-12))


def test_readers_behind_concatenations_paddings_and_flat_maps_say_where():
    padded, joined, lines = followed("padded"), followed("joined"), followed("lines")
    assert padded["conv1"].readers == (Slot("conv2"), Slot("fc", 2 * 12, 12))
    assert padded["conv2"].readers == (Slot("fc", 0, 12),)
    assert joined["small"].readers == (Slot("squeeze"), Slot("mixed"))
    assert joined["large"].readers == (Slot("squeeze", 3), Slot("mixed", 3))
    assert joined["squeeze"].readers == (Slot("mixed"),)
    assert lines["conv1"].readers == (Slot("conv2"),)
    assert lines["conv2"].readers == (Slot("fc", 0, 3),)


def test_sums_are_found_with_their_shift_and_nothing_else_moves_there():
    model, image, _ = made("padded")
    found = followed("padded")
    assert found["conv2"].added == Slot("functional_relu#1")
    assert found["conv1"].added == Slot("functional_relu#1", 2)
    assert found["functional_relu#1"].added is None
    model.conv2.weight[:] = 0
    flat = []
    handle = model.fc.register_forward_pre_hook(lambda _m, inputs: flat.append(inputs[0].view(-1, 8, 12)))
    for channel in (None, 1):
        shifted(model, image, "conv1", channel)
    handle.remove()
    moved = (flat[0] - flat[1]).abs().amax((0, 2))
    assert torch.nonzero(moved).flatten().tolist() == [2 + 1]


def test_a_residual_branch_is_followed_to_the_relu_behind_its_sum():
    found = followed("residual")
    assert found["block1.conv1"].added is None
    assert found["block1.conv2"].added == Slot("block1.relu#1")
    assert found["block1.relu#1"].added == Slot("block2.relu#1")
    assert found["conv"].added == Slot("block1.relu#1")


def test_the_norm_of_a_convolution_stands_before_its_first_nonlinearity():
    conv, residual, joined = followed("conv"), followed("residual"), followed("joined")
    assert [(conv[name].conv, conv[name].norm) for name in ("conv1", "bn1", "relu1")] == [("conv1", "bn1")] * 3
    assert (residual["block1.conv2"].norm, residual["block1.relu#0"].norm) == (None, "block1.bn1")
    assert (residual["block1.relu#1"].conv, residual["block1.relu#1"].norm) == (None, None)
    assert (joined["mixed"].norm, joined["late"].conv) == (None, "mixed")


def test_a_norm_in_front_of_a_relu_is_known_behind_a_concatenation_too():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
            self.norm, self.last = nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)

        def forward(self, x):
            x = self.one(x)
            return self.last(F.relu(self.norm(torch.cat([x, self.two(x)], 1)))).mean((2, 3))

    model = Dense().eval()
    layers = trace(model, torch.zeros(2, 1, 6, 5))
    found = lineage(model, torch.zeros(1, 1, 6, 5), layers)
    assert (found["functional_relu"].conv, found["functional_relu"].norm) == (None, "norm")
    assert found["two"] == Lineage("two", None, (Slot("last", 2),), None)
    # The answer itself is what comes of it.
    assert found["last"].readers is None


@pytest.mark.parametrize(
    "blur",
    [
        lambda x: nn.functional.group_norm(x, 2),
        lambda x: x.view(2 if x.shape[0] == 2 else 1, 2, 2, 5, 4).transpose(1, 2).reshape(x.shape),
        lambda x: x.cumsum(1),
        lambda x: torch.flip(x, (1,)),
    ],
)
def test_readers_are_unknown_where_channels_are_mixed(blur):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x):
            return self.two(blur(self.one(x))).mean((2, 3))

    model = Mixing().eval()
    layers = trace(model, torch.zeros(2, 1, 5, 4))
    assert lineage(model, torch.zeros(1, 1, 5, 4), layers)["one"].readers is None


def test_a_network_that_cannot_be_followed_says_why():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x):
            x = self.conv(x)
            return x.mean((2, 3)) if float(x.sum()) > 0 else -x.mean((2, 3))

    model = Deciding().eval()
    layers = trace(model, torch.zeros(2, 1, 5, 4))
    with pytest.raises(UntraceableError, match=r"the values|out of PyTorch"):
        lineage(model, torch.zeros(1, 1, 5, 4), layers)


def test_notes_survive_json():
    for entry in followed("padded").values():
        assert Lineage.from_note(json.loads(json.dumps(entry.note()))) == entry
