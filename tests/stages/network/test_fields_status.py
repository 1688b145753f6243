"""Fields that are the whole image, branches that meet at different places, and what nobody can say."""

import pytest
from torch import nn
from torch.nn import functional as F

from convaudit.stages.errors import StageError
from convaudit.stages.network.fields import map_fields
from convaudit.stages.receptive_fields.boxes import box, reach
from convaudit.stages.receptive_fields.description import columns, described

from .field_checks import Gates, compare, field_of, generous, row_of


def test_what_is_pooled_and_spread_makes_a_field_whole_and_moves_nothing():
    shape = (2, 15, 21)
    found = map_fields(Gates().eval(), ["stem", "squeeze", "gated", "after", "normed", "last"], shape)
    rows = {layer: row_of(seen, shape) for layer, seen in found.items()}
    assert rows["stem"][3] == 0
    assert [rows[layer][3] for layer in ("squeeze", "gated", "after", "normed", "last")] == [1] * 5
    assert rows["gated"][:3] == rows["stem"][:3]
    assert rows["after"][0] == [5.0, 5.0]
    assert rows["last"][:3] == rows["after"][:3]
    group = described(found["after"], shape[1:])[0]
    assert box(group, (3, 4), shape) == ((0, 15), (0, 21))
    assert box(group, (3, 4), shape, local=True) == ((3, 8), (4, 9))
    compare(generous(Gates()), "gated", shape, [(0, 3, 4), (1, 0, 0)])


def test_only_the_axis_that_is_pooled_becomes_whole():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(2, 4, 3), nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.last(x + x.mean(3, keepdim=True))

    seen = field_of(Rows(), "last", (2, 15, 21))
    assert seen.field.whole == (False, True)
    assert columns([seen], (15, 21))["size"].tolist() == [[3.0, 21.0]]


def test_branches_that_disagree_are_told_and_their_box_holds_both():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.both = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 1), nn.Identity()
            self.after = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.after(self.both(self.one(x) + self.two(x)[:, :, :-2, 2:]))

    shape = (2, 9, 11)
    seen = map_fields(Shifted().eval(), ["one", "both", "after"], shape)
    assert seen["one"].field.clash is None
    assert "centres (1.0, 1.0) and (0.0, 2.0)" in seen["both"].field.clash
    assert seen["after"].field.clash == seen["both"].field.clash
    compare(generous(Shifted()), "both", shape, [(0, 3, 4), (2, 0, 0)])


def test_branches_that_drift_apart_are_unknown():
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.fast, self.both = nn.Conv2d(1, 2, 1, stride=2), nn.Identity()
            self.slow = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.both(self.fast(x) + self.slow(x)[:, :, :4, :5])

    seen = field_of(Drifting(), "both", (1, 8, 10))
    assert "different strides" in seen.field.unknown
    group = described(seen, (8, 10))[0]
    assert reach(group, (0, 0)) is None
    assert box(group, (0, 0), (1, 8, 10)) == ((0, 8), (0, 10))


def test_windows_that_are_cut_by_a_view_are_unknown_and_the_view_is_named():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mixed, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Identity(), nn.Identity()

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1)
            tokens = x.view(1, 2, 4, 3, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(6, 16, 3)
            mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
            x = mixed.view(1, 2, 3, 4, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(1, 8, 12, 3)
            return self.last(self.mixed(x).permute(0, 3, 1, 2).mean((2, 3)))

    found = map_fields(Windows().eval(), ["conv", "mixed", "last"], (1, 8, 12))
    assert found["conv"].field.unknown is None
    told = "at the operation view the cells of the map are laid out anew (1 x 8 x 12 x 3 as 1 x 2 x 4 x 3 x 4 x 3)"
    assert found["mixed"].field.unknown == told
    assert box(described(found["mixed"], (8, 12))[0], (0, 0), (1, 8, 12)) == ((0, 8), (0, 12))


def test_decisions_that_depend_on_values_are_unknown_in_clear_words():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.last(x if x.sum() > 0 else -x)

    found = map_fields(Odd().eval(), ["conv", "last"], (1, 9, 9))
    for seen in found.values():
        assert "takes a decision that depends on the values" in seen.field.unknown
        assert columns([seen], (9, 9))["status"].tolist() == [2]
    with pytest.raises(StageError, match="no module of that name"):
        map_fields(Odd().eval(), ["cnov"], (1, 9, 9))


def test_what_turns_space_is_unknown():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Identity()

        def forward(self, x):
            return self.last(self.conv(x).flip(2))

    found = map_fields(Turned().eval(), ["conv", "last"], (1, 9, 9))
    assert found["conv"].field.unknown is None
    assert "operation flip" in found["last"].field.unknown


class _Causal(nn.Module):
    """A residual block whose convolution sees the past, or the future."""

    def __init__(self, past):
        super().__init__()
        self.past, self.conv, self.sum = past, nn.Conv1d(2, 2, 3, dilation=2), nn.Identity()
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        sides = (4, 0) if self.past else (2, 2)
        other = x if self.past else F.pad(x[..., 1:], (0, 1))
        return self.head(self.sum(other + self.conv(F.pad(x, sides))).mean(-1))


def test_branches_of_a_causal_network_that_end_at_the_same_sample_agree():
    seen = field_of(_Causal(past=True), "sum", (2, 20)).field
    assert seen.clash is None
    assert (seen.reach[0].first_of(7), seen.reach[0].last_of(7)) == (3, 7)
    assert "centres (0.0,) and (1.0,)" in field_of(_Causal(past=False), "sum", (2, 20)).field.clash.replace(
        "(1.0,) and (0.0,)", "(0.0,) and (1.0,)"
    )
