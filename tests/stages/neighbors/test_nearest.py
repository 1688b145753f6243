"""The exact search against a brute force that measures every pair in double precision."""

import numpy as np
import pytest
import torch

from convaudit.stages.numerics import nearest, screening
from convaudit.stages.numerics.distances import prepared
from convaudit.stages.numerics.nearest import Table, nearest_rows


@pytest.fixture(autouse=True, params=[False, True], ids=["float32", "bfloat16"])
def _first_look(request, monkeypatch):
    monkeypatch.setattr(nearest, "has_short_products", lambda: request.param)


def brute(table, query, k, metric, usable=None):
    rows = table.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    usable = np.ones(len(rows), bool) if usable is None else usable
    index, distance = np.empty((len(query), k), int), np.empty((len(query), k))
    for i, q in enumerate(query):
        squared = ((rows - rows[q]) ** 2).sum(axis=1)
        squared[q] = np.inf
        squared[~usable] = np.inf
        index[i] = sorted(range(len(rows)), key=lambda j: (squared[j], j))[:k]
        distance[i] = squared[index[i]] / 2 if metric == "cosine" else np.sqrt(squared[index[i]])
    return index, distance


def search(table, query, k, metric="euclidean", block=4096):
    return nearest_rows(Table(table, np.ones(len(table), bool), metric, block), query, table[query], k)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rectified_features_are_settled_by_float32_products(metric):
    rng = np.random.default_rng(0)
    table = np.maximum(rng.normal(size=(900, 48)) + rng.normal(size=(5, 48))[np.arange(900) % 5], 0).astype(np.float32)
    query = np.arange(0, 900, 3)
    found = search(table, query, 7, metric, block=250)
    index, distance = brute(table, query, 7, metric)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.distance, distance)
    assert (found.decided == 0).mean() > 0.99


def two_distant_knots(n=400, feature=9):
    """Two tight groups so far apart that no centre serves both: float32 products drown in their lengths."""
    rng = np.random.default_rng(1)
    side = np.where(np.arange(n) % 2, 300.0, -300.0)[:, None]
    return (side + rng.normal(size=(n, feature)) * 2e-3).astype(np.float32)


def test_what_float32_cannot_tell_is_searched_in_float64():
    table = two_distant_knots()
    query = np.arange(400)
    index, distance = brute(table, query, 5, "euclidean")
    candidate, _ = screening.screen(
        prepared(table, "euclidean"), query, Table(table, np.ones(400, bool), "euclidean").prepared(), 5 + 16
    )
    missed = sum(not set(index[i]) <= set(candidate[i]) for i in range(400))
    assert missed > 100, "float32 candidates alone ought to be wrong here"
    found = search(table, query, 5)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.distance, distance)
    assert (found.decided == 1).all()


def test_ties_deeper_than_the_spare_candidates_are_measured_pair_by_pair():
    rng = np.random.default_rng(2)
    table = rng.integers(0, 2, size=(2400, 5)).astype(np.float32)
    query = np.arange(0, 2400, 23)
    found = search(table, query, 4, block=70)
    index, distance = brute(table, query, 4, "euclidean")
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.distance, distance)
    assert (found.decided == 2).all()


@pytest.mark.parametrize("value", [0.0, 3.25, 1e-20, 1e20])
def test_equal_rows_in_any_number_take_the_lowest_positions(value):
    table = np.full((5000, 16), value, np.float32)
    query = np.array([0, 2, 4999])
    found = search(table, query, 3, block=512)
    np.testing.assert_array_equal(found.index, [[1, 2, 3], [0, 1, 3], [0, 1, 2]])
    assert (found.distance == 0).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_of_wildly_different_lengths(metric):
    rng = np.random.default_rng(3)
    table = (rng.normal(size=(200, 12)) * 10.0 ** rng.integers(-20, 20, size=(200, 1))).astype(np.float32)
    query = np.arange(200)
    found = search(table, query, 6, metric, block=64)
    index, _ = brute(table, query, 6, metric)
    np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_no_row_that_was_left_out_is_nearer_than_the_bound(dtype, scale, offset):
    rng = np.random.default_rng(4)
    table = ((rng.normal(size=(500, 31)) + offset) * scale).astype(np.float32)
    query = np.arange(0, 500, 7)
    rows = prepared(table, "euclidean")
    candidate, floor = screening.screen(rows[query], query, [(np.arange(500), rows)], 20, dtype)
    for i, q in enumerate(query):
        squared = ((rows - rows[q]) ** 2).sum(axis=1)
        left = np.setdiff1d(np.arange(500), [*candidate[i], q])
        assert squared[left].min() >= floor[i]
        # and the bound is worth something: the furthest candidate is hardly beyond it
        assert floor[i] > 0.999 * squared[candidate[i]].max()
        assert q not in candidate[i]


def test_products_by_torch_choose_the_same_and_restore_the_precision():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, 20))
    query = np.arange(0, 300, 4)
    frame = screening.Frame.around(rows[query], "float32")
    left = frame.left(rows[query])
    sieve, torched = screening._InCache(left, query, 9), screening._OnGPU(left, query, 9, "cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for a in range(0, 300, 130):
            part = np.arange(a, min(a + 130, 300))
            sieve.look(part, frame.right(rows[part]))
            torched.look(part, frame.right(rows[part]))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(np.sort(sieve.best()[0], axis=1), np.sort(torched.best()[0], axis=1))
    np.testing.assert_allclose(sieve.best()[1], torched.best()[1], rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_gpu_gives_the_same_bytes(metric):
    rng = np.random.default_rng(6)
    table = np.maximum(rng.normal(size=(3000, 128)), 0).astype(np.float32)
    held, query = Table(table, np.ones(3000, bool), metric), np.arange(0, 3000, 5)
    here, there = (nearest_rows(held, query, table[query], 10, device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(here.index, there.index)
    np.testing.assert_array_equal(here.distance, there.distance)


class Sliced:
    """Gives slices, and remembers the longest."""

    def __init__(self, rows):
        self.rows, self.longest = rows, 0

    def __getitem__(self, some):
        self.longest = max(self.longest, len(self.rows[some]))
        return self.rows[some]


def test_no_more_than_a_block_of_the_table_is_read_at_once():
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 3, size=(700, 6)).astype(np.float32)
    table = Sliced(rows)
    found = nearest_rows(Table(table, np.ones(700, bool), "euclidean", 100), np.arange(50), rows[:50], 5)
    np.testing.assert_array_equal(found.index, brute(rows, np.arange(50), 5, "euclidean")[0])
    assert table.longest == 100
