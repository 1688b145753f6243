from math import comb

import numpy as np
import pytest

from convaudit.stages.confusion.slices import slice_findings, slice_measurements, slice_notes, slices
from convaudit.stages.confusion.stage import Confusion
from convaudit.stages.errors import ConfigError

from ...stored_fake import StoredFake, codes_of, make_subject, settle, values_of


def cut(columns, right, min_support=10):
    return slices(columns, np.arange(len(right)), np.asarray(right, bool), min_support)


def audit(right, columns, label=None, **settings):
    right = np.asarray(right, bool)
    label = np.arange(len(right)) % 2 if label is None else label
    predicted = np.where(right, label, 1 - np.abs(label)).astype(np.int32)
    logit = np.zeros((len(right), 2), np.float32)
    logit[np.arange(len(right)), predicted] = 3
    sure = np.full(len(right), 1 / (1 + np.exp(-3)), np.float32)
    stored = StoredFake(
        {"predictions/logit": logit, "predictions/predicted": predicted, "predictions/confidence": sure}
    )
    subject = make_subject(label, class_names=("ant", "bee"), slices=columns)
    return settle(Confusion(**settings), subject, stored, [])


def test_slices_by_hand_worst_first_and_small_ones_last():
    column = ["b"] * 4 + ["a"] * 4 + ["tiny"] * 1 + ["c"] * 3
    right = [1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1]
    rows = cut({"camera": column}, right, min_support=3)
    assert [(row.value, row.right, row.n) for row in rows] == [("c", 1, 3), ("b", 2, 4), ("a", 3, 4), ("tiny", 0, 1)]
    assert [row.images.tolist() for row in rows] == [[9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert (rows[0].rest, rows[0].rest_right) == (9, 5)
    told = slice_notes(rows, 3, 3)[0]
    assert [row["small"] for row in told["values"]] == [False] * 3
    assert told["hidden"] == 1
    assert slice_measurements(rows, 3)[0].value == 1 / 3


def test_chance_counts_the_draws_that_hold_as_few_right_ones():
    rows = cut({"hospital": ["x"] * 5 + ["y"] * 9}, [1, 0, 0, 0, 1] + [1] * 8 + [0], min_support=1)
    assert [row.value for row in rows] == ["x", "y"]
    expected = sum(comb(10, k) * comb(4, 5 - k) for k in range(3)) / comb(14, 5)
    assert rows[0].chance == pytest.approx(expected)


def test_a_planted_weak_slice_is_found_with_its_errors():
    rng = np.random.default_rng(0)
    column = np.where(np.arange(400) % 4 == 0, "night", "day")
    right = rng.random(400) < np.where(column == "night", 0.7, 0.97)
    summary = audit(right, {"light": tuple(column), "nothing": ("same",) * 400})
    finding = codes_of(summary)["confusion/weak-slice"]
    assert "light is night" in finding.title
    assert set(finding.images) <= set(np.flatnonzero(~right & (column == "night")).tolist())
    assert finding.images
    worst = next(m for m in summary.measurements if m.name == "confusion/worst_slice")
    assert (worst.n, worst.value) == (100, right[column == "night"].mean())
    assert worst.low is not None
    assert worst.low < worst.value
    assert "light=night" in worst.meaning
    assert summary.notes["slices"][1]["values"][0]["rest"] is None


@pytest.mark.parametrize("seed", range(5))
def test_slices_drawn_at_random_are_not_called_weak(seed):
    rng = np.random.default_rng(seed)
    columns = {f"column{i}": tuple(rng.integers(0, 20, 600).astype(str)) for i in range(5)}
    right = rng.random(600) < 0.8
    assert "confusion/weak-slice" not in codes_of(audit(right, columns))


def test_small_slices_are_never_the_worst_nor_weak():
    column = ("one",) * 9 + ("rest",) * 200
    right = np.array([False] * 9 + [True] * 200)
    summary = audit(right, {"camera": column})
    assert values_of(summary)["confusion/worst_slice"] == 1
    assert "confusion/weak-slice" not in codes_of(summary)
    assert summary.notes["slices"][0]["values"][-1]["small"]


def test_without_slices_or_without_large_ones_it_is_not_applicable():
    for columns in ({}, {"file": tuple(map(str, range(30)))}):
        summary = audit(np.ones(30, bool), columns)
        assert "confusion/worst_slice" not in values_of(summary)
        assert "confusion/worst_slice" in summary.notes["not_applicable"]


def test_unlabelled_images_are_in_no_slice():
    label = np.array([-1] * 10 + [0, 1] * 10)
    summary = audit(np.ones(30, bool), {"camera": ("a",) * 20 + ("b",) * 10}, label)
    assert [row["n"] for row in summary.notes["slices"][0]["values"]] == [10, 10]


def test_a_gap_that_hardly_matters_is_no_finding():
    right = np.concatenate([np.arange(20_000) % 50 > 0, np.arange(20_000) % 1000 > 0])
    rows = cut({"camera": ["a"] * 20_000 + ["b"] * 20_000}, right)
    assert rows[0].chance < 1e-9
    assert not slice_findings(rows, 10, [])


def test_slice_values_out_of_range():
    with pytest.raises(ConfigError, match=r"confusion\.slice_values"):
        Confusion(slice_values=0)
