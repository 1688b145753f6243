"""What targets stand for, against a ranking written out by hand."""

import numpy as np
import pytest
import torch

from convaudit.stages.contract import Unit
from convaudit.stages.errors import StageError
from convaudit.stages.network.targets import target_class, unit_seed

LOGITS = np.array([[0.5, 2.0, -1.0, 2.0], [3.0, 1.0, 0.0, -2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 9.0, 2.0, 3.0]])
LABELS = np.array([3, 0, -1, 2])


def classes(target, logits=LOGITS, labels=LABELS, valid=(True, True, True, True)):
    return target_class(target, torch.from_numpy(np.asarray(logits)), labels, np.array(valid)).tolist()


def ranked(row, rank):
    """The class with the (rank + 1)-th largest logit; of equal ones the first comes first."""
    left = dict(enumerate(row))
    for _ in range(rank):
        left.pop(next(c for c in left if left[c] == max(left.values())))
    return next(c for c in left if left[c] == max(left.values()))


@pytest.mark.parametrize("rank", range(4))
def test_ranks(rank):
    logits = np.round(np.random.default_rng(0).standard_normal((40, 4)) * 2)
    got = classes(f"rank:{rank}", logits, np.zeros(40, int), [True] * 40)
    assert got == [ranked(row, rank) for row in logits]
    if rank == 0:
        assert got == classes("predicted", logits, np.zeros(40, int), [True] * 40)


def test_words_and_numbers():
    assert classes("predicted") == [1, 0, 0, 1]
    assert classes("label") == [3, 0, -1, 2]
    assert classes(2) == [2, 2, 2, 2]
    assert classes("contrast") == [1, -1, -1, 1]


def test_bad_images_have_no_target():
    valid = (False, True, True, False)
    assert classes("predicted", valid=valid) == [-1, 0, 0, -1]
    assert classes("label", valid=valid) == [-1, 0, -1, -1]
    assert classes(2, valid=valid) == [-1, 2, 2, -1]
    assert classes("contrast", valid=valid) == [-1, -1, -1, -1]


def test_logits_that_are_not_finite_rank_nothing():
    logits = LOGITS.copy()
    logits[0, 1], logits[3, 0] = np.nan, np.inf
    assert classes("predicted", logits) == [-1, 0, 0, -1]
    assert classes("rank:1", logits) == [-1, 1, 1, -1]
    assert classes("contrast", logits) == [-1, -1, -1, -1]
    assert classes("label", logits) == [3, 0, -1, 2]


def test_half_precision_ranks_like_double():
    for dtype in (torch.bfloat16, torch.float16):
        got = target_class("predicted", torch.from_numpy(LOGITS).to(dtype), LABELS, np.ones(4, bool))
        assert got.tolist() == classes("predicted")


@pytest.mark.parametrize("target", [4, -1, "rank:4", "rank:", "rank:-1", "rank:1.5", "best", "contrasts", "rang:0"])
def test_targets_that_there_are_not(target):
    with pytest.raises(StageError, match=r"rank:3|from 0 to 3"):
        classes(target)


def test_a_unit_is_no_class():
    assert classes(Unit("conv", 1)) == [-1, -1, -1, -1]


VALUE = torch.tensor(
    [
        [[[0.0, 3.0, 1.0], [3.0, 2.0, -1.0]], [[-4.0, -1.0, -1.0], [-2.0, -3.0, -1.0]]],
        [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]],
    ]
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_unit_where_its_channel_is_largest(dtype):
    for channel in (0, 1):
        seed = unit_seed(VALUE.to(dtype), Unit("conv", channel))
        assert seed.dtype == dtype
        for image in range(2):
            plane = VALUE[image, channel].flatten().tolist()
            want = torch.zeros(2, 6)
            want[channel, plane.index(max(plane))] = 1
            assert torch.equal(seed[image].float(), want.view(2, 2, 3))


def test_a_unit_at_a_place():
    seed = unit_seed(VALUE, Unit("conv", 1, (1, 2)))
    assert seed.sum() == 2
    assert seed[:, 1, 1, 2].tolist() == [1, 1]
    signal = unit_seed(VALUE.flatten(2), Unit("conv", 0, (4,)))
    assert signal.sum() == 2
    assert signal[:, 0, 4].tolist() == [1, 1]


def test_a_unit_of_a_layer_without_space():
    flat = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for position in (None, ()):
        assert unit_seed(flat, Unit("fc", 1, position)).tolist() == [[0, 1], [0, 1]]


def test_a_plane_that_is_not_finite_still_marks_at_most_one():
    value = VALUE.clone()
    value[0, 0, 1, 1] = float("nan")
    assert unit_seed(value, Unit("conv", 0)).flatten(1).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    "unit",
    [Unit("conv", 2), Unit("conv", -1), Unit("conv", 0, (2, 0)), Unit("conv", 0, (0,)), Unit("conv", 0, (0, 0, 0))],
)
def test_units_that_there_are_not(unit):
    with pytest.raises(StageError, match=r"unit of conv.*\(2, 2, 3\)"):
        unit_seed(VALUE, unit)
