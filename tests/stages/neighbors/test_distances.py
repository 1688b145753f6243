import numpy as np
import pytest

from convaudit.stages.numerics import distances
from convaudit.stages.numerics.nearest import Table, nearest_rows


def nearest(table, usable, query, k, metric, block=8192):
    found = nearest_rows(Table(table, usable, metric, block), query, table[query], k)
    assert found.decided.dtype == np.int8
    return found.index, found.distance


def brute(table, usable, query, k, metric):
    index, value = [], []
    rows = table.astype(np.float64)
    for q in query:
        found = []
        for j in range(len(rows)):
            if j == q or not usable[j]:
                continue
            if metric == "cosine":
                cosine = np.dot(rows[q], rows[j]) / (np.linalg.norm(rows[q]) * np.linalg.norm(rows[j]))
                found.append((round(1 - cosine, 12), j))
            else:
                found.append((round(float(np.linalg.norm(rows[q] - rows[j])), 12), j))
        found.sort()
        index.append([j for _, j in found[:k]])
        value.append([d for d, _ in found[:k]])
    return np.array(index), np.array(value)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [3, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 4])
def test_nearest_rows_are_those_of_a_loop_over_pairs(metric, block, k):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(61, 5)).astype(np.float32)
    usable = np.ones(61, bool)
    usable[[4, 30]] = False
    table[30] = np.nan
    query = np.array([0, 7, 33, 60])
    index, value = nearest(table, usable, query, k, metric, block)
    expected_index, expected = brute(table, usable, query, k, metric)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(value, expected, atol=1e-10)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [2, 5, 17, 100])
def test_among_many_equal_rows_the_lowest_positions_are_taken(metric, block):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 33)).astype(np.float32) + 9
    same = np.arange(3, 40, 2)
    table[same] = table[3]
    query = np.array([3, 39, 5])
    index, value = nearest(table, np.ones(40, bool), query, 4, metric, block)
    np.testing.assert_array_equal(index, [[5, 7, 9, 11], [3, 5, 7, 9], [3, 7, 9, 11]])
    assert (value == 0).all()


def test_all_rows_equal_and_k_as_large_as_can_be():
    index, _ = nearest(np.ones((5, 2), np.float32), np.ones(5, bool), np.arange(5), 4, "euclidean", 2)
    np.testing.assert_array_equal(index[2], [0, 1, 3, 4])


def test_near_equal_rows_far_from_the_origin_keep_their_order():
    # |q|^2 + |x|^2 - 2 qx loses these distances altogether; the second, row-wise measurement does not.
    table = np.array([[1e6, 0], [1e6 + 1, 0], [1e6 + 0.25, 0], [1e6 - 0.5, 0], [0, 0]], np.float64)
    index, value = nearest(table, np.ones(5, bool), np.array([0]), 3, "euclidean", 2)
    np.testing.assert_array_equal(index, [[2, 3, 1]])
    np.testing.assert_allclose(value, [[0.25, 0.5, 1.0]])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_result_does_not_depend_on_blocks_to_the_bit(metric):
    rng = np.random.default_rng(5)
    table = rng.normal(size=(300, 65)).astype(np.float32)
    usable = np.ones(300, bool)
    runs = [nearest(table, usable, np.arange(300), 5, metric, block) for block in (300, 37, 128)]
    parts = [nearest(table, usable, np.arange(a, a + 100), 5, metric) for a in (0, 100, 200)]
    for index, value in [*runs[1:], tuple(np.concatenate(half) for half in zip(*parts, strict=True))]:
        np.testing.assert_array_equal(index, runs[0][0])
        np.testing.assert_array_equal(value, runs[0][1])


def test_cosine_ignores_length_and_stays_finite_for_tiny_and_huge_rows():
    table = np.array([[1e-30, 0], [1e30, 0], [0, 2], [-3, 0]], np.float32)
    index, value = nearest(table, np.ones(4, bool), np.array([0]), 3, "cosine")
    np.testing.assert_array_equal(index, [[1, 2, 3]])
    np.testing.assert_allclose(value, [[0, 1, 2]], atol=1e-12)


def test_rows_without_a_distance_are_named():
    table = np.array([[0, 0], [1, np.nan], [1, np.inf], [1, 2]], np.float32)
    assert distances.usable_rows(table, "cosine").tolist() == [False, False, False, True]
    assert distances.usable_rows(table, "euclidean").tolist() == [True, False, False, True]
