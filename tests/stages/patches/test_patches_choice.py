"""Which channels are shown."""

import numpy as np
import pytest

from convaudit.stages.errors import ConfigError
from convaudit.stages.patches.choice import Tops, asked_channels, chosen_channels, quotas
from convaudit.stages.patches.selectivity import Selectivity
from convaudit.stages.specs import LayerSpec

LAYERS = (LayerSpec("conv1", "conv", "Conv2d", (8, 4, 4)), LayerSpec("a.relu#1", "relu", "ReLU", (12, 2, 2)))


@pytest.mark.parametrize(
    ("per_layer", "total", "want"),
    [(64, 1000, (16, 64, 30)), (20, 1000, (16, 20, 20)), (64, 60, (16, 22, 22)), (64, 3, (1, 1, 1)), (2, 6, (2, 2, 2))],
)
def test_the_budget_is_cut_evenly(per_layer, total, want):
    assert quotas([16, 100, 30], per_layer, total, [0, 0, 0]) == want


@pytest.mark.parametrize(
    ("asked", "total", "want"),
    [
        ([0] * 7, 2, (0, 1, 0, 0, 0, 1, 0)),
        ([0] * 7, 1, (0, 0, 0, 1, 0, 0, 0)),
        ([0] * 7, 6, (1, 1, 1, 0, 1, 1, 1)),
        ([0, 0, 0, 0, 0, 0, 2], 2, (0, 0, 0, 0, 0, 0, 2)),
        ([0, 0, 0, 0, 0, 0, 2], 4, (0, 1, 0, 0, 1, 0, 2)),
        ([3, 0, 0, 0, 0, 0, 2], 1, (0, 0, 0, 0, 0, 0, 1)),
        ([3, 0, 0, 0, 0, 0, 2], 3, (1, 0, 0, 1, 0, 0, 1)),
        ([9, 0, 0, 0, 0, 0, 0], 13, (6, 1, 1, 1, 1, 1, 1)),
        ([9, 0, 0, 0, 0, 0, 0], 20, (6, 2, 2, 2, 2, 2, 2)),
    ],
)
def test_a_small_budget_serves_what_is_asked_for_then_layers_all_over_the_depth(asked, total, want):
    found = quotas([8] * 7, 6, total, asked)
    assert found == want
    assert sum(found) <= total


@pytest.mark.parametrize("layers", [1, 2, 5, 49])
def test_a_budget_below_the_number_of_layers_is_spent_to_the_last_and_evenly(layers):
    for total in range(1, layers):
        found = quotas([3] * layers, 64, total, [0] * layers)
        at = np.flatnonzero(found)
        assert (max(found), sum(found)) == (1, total)
        middles = (np.arange(total) + 0.5) * layers / total - 0.5
        assert np.abs(at - middles).max() <= 0.5


def test_channels_are_asked_for_by_name():
    assert asked_channels(("a.relu#1:3,5-7", "conv1:0"), LAYERS) == {"a.relu#1": (3, 5, 6, 7), "conv1": (0,)}
    assert asked_channels(("kind:relu:2", "a.*:2,1"), LAYERS) == {"a.relu#1": (2, 1)}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("conv1", "expected '<layer>:<channels>'"),
        ("conv1:a", "expected channels"),
        ("conv1:8", "0 to 7"),
        ("x:1", "no"),
    ],
)
def test_what_is_asked_for_has_to_be_there(text, word):
    with pytest.raises(ConfigError, match=word):
        asked_channels((text,), LAYERS)


def test_named_ones_come_first_then_findings_then_the_selective():
    chance = np.array([0.5, 1e-6, np.nan, 1e-3, 1e-3, 0.2])
    share = np.array([0.5, 1.0, np.nan, 0.4, 0.8, 0.3])
    value = np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    image = np.array([0, 1, 2, 3, 4, -1])[:, None]
    none = np.zeros(6, int)
    flagged = np.array([False, False, True, False, False, True])
    tops = Tops(LAYERS[1], value, image, none[:, None, None], flagged, Selectivity(none, share, none, chance), ())
    assert chosen_channels(tops, 6, (0, 5)) == (0, 2, 1, 4, 3)
    assert chosen_channels(tops, 2, ()) == (2, 1)
