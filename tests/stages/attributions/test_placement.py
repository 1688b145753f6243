"""Where the cells of layers lie is worked out once per network, and a failure that may pass is not remembered."""

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions.placement import place_facts, place_notes

SHAPE = (1, 9, 11)


class Failing(nn.Module):
    """A network whose first forward passes fail."""

    def __init__(self, *errors):
        super().__init__()
        self.errors, self.calls = list(errors), 0
        self.conv, self.idle, self.fc = nn.Conv2d(1, 2, 3, stride=2), nn.Conv2d(1, 1, 1), nn.Linear(2, 3)
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("planted"),
        torch.OutOfMemoryError("planted"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ran_out_is_raised_and_forgotten(error):
    model = Failing(error)
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        place_facts(model, ["conv"], SHAPE)
    facts = place_facts(model, ["conv"], SHAPE)
    np.testing.assert_array_equal(facts["stride:conv"], [2.0, 2.0])
    np.testing.assert_array_equal(facts["centre:conv"], [1.0, 1.0])


def test_what_the_network_says_is_worked_out_once():
    model = Failing()
    first = place_facts(model, ["conv", "fc"], SHAPE)
    assert model.calls == 1
    assert "space is pooled away" in str(first["unaligned:fc"])
    assert place_facts(model, ["fc", "conv"], SHAPE).keys() == first.keys()
    assert model.calls == 1
    assert place_notes(first, ["conv", "fc"]) == {
        "geometry": {"conv": {"stride": [2.0, 2.0], "centre": [1.0, 1.0]}},
        "unaligned": {"fc": str(first["unaligned:fc"])},
    }
    place_facts(model, ["conv"], (1, 10, 11))
    assert model.calls == 2


def test_a_layer_that_is_not_computed_takes_no_place_from_the_others():
    facts = place_facts(Failing(), ["conv", "idle"], SHAPE)
    assert "stride:conv" in facts
    assert "'idle' is not computed" in str(facts["unaligned:idle"])


def test_a_network_that_cannot_be_followed_says_so_for_every_layer():
    model = Failing(ValueError("no such thing"))
    facts = place_facts(model, ["conv", "fc"], SHAPE)
    assert all("ValueError: no such thing" in str(facts[f"unaligned:{layer}"]) for layer in ("conv", "fc"))
