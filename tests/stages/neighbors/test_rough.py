"""The first look in bfloat16: its bound against every pair in double precision, on any processor."""

import numpy as np
import pytest
import torch

from convaudit.stages.numerics import nearest, rough
from convaudit.stages.numerics.nearest import Table, nearest_rows


def double(table, metric):
    rows = table.astype(np.float64)
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)) if metric == "cosine" else rows


def cloud(kind, n=700, feature=37):
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(n, feature))
    if kind == "far from the origin":
        rows += 40
    elif kind == "long tails":
        rows *= rng.standard_exponential((n, 1)) ** 3
    elif kind == "knots":
        rows = rows * 0.01 + rng.normal(size=(7, feature))[np.arange(n) % 7]
    elif kind == "on a line":
        # Here rounding moves rows towards each other or away, and nowhere else.
        rows[:, 0], rows[:, 1], rows[:, 2:] = rng.uniform(-1, 1, n), 1, 0
    elif kind == "small numbers":
        rows = np.maximum(rows, 0) * 1e-12
    elif kind == "one row far out":
        rows[3] *= 1e18
    elif kind == "equal rows":
        rows[100:400] = rows[5]
    return rows.astype(np.float32)


KINDS = (
    "plain",
    "far from the origin",
    "long tails",
    "knots",
    "on a line",
    "small numbers",
    "one row far out",
    "equal rows",
)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_that_was_left_out_is_nearer_than_the_bound(kind, metric):
    table, query = cloud(kind), np.arange(0, 700, 5)
    rows = double(table, metric)
    blocks = [(np.arange(a, min(a + 300, 700)), table[a : a + 300]) for a in range(0, 700, 300)]
    search = rough.RoughSearch(table[query], query, 30, metric)
    for position, values in blocks:
        search.look(position, values)
    candidate, reach = search.candidates(), search.reach()
    floor = reach.max(axis=1)
    for i, q in enumerate(query):
        squared = ((rows - rows[q]) ** 2).sum(axis=1)
        assert len({*candidate[i]}) == 30
        assert q not in candidate[i]
        assert (squared[candidate[i]] >= reach[i]).all()
        assert squared[np.setdiff1d(np.arange(700), [*candidate[i], q])].min() >= floor[i]
    if kind in {"plain", "far from the origin"}:
        # and the bound is worth something: the furthest candidate is hardly beyond it
        furthest = ((rows[candidate] - rows[query][:, None]) ** 2).sum(axis=2).max(axis=1)
        assert (floor > 0.96 * furthest).all()


@pytest.mark.parametrize("feature", [1, 6, 129, 1100])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_products_never_exceed_the_distance_of_the_rounded_rows(feature, offset):
    rng = np.random.default_rng(9)
    side = np.where(np.arange(90) % 2, offset, -offset)[:, None] * rng.normal(size=feature)
    table = (rng.normal(size=(90, feature)) + side).astype(np.float32)
    search = rough.RoughSearch(table, np.arange(90), 20, "euclidean")
    left, right = search._left, search._right(table)
    given = torch.mm(left, right.T).double().numpy()
    first, second = (-left[:, :feature] / 2).double().numpy(), right[:, :feature].double().numpy()
    true = ((first[:, None] - second[None]) ** 2).sum(axis=2)
    assert (given <= true * (1 + 2.0**-8)).all()
    lengths = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None]
    assert (given >= true * (1 - 2.0**-8) - 20 * (feature + 20) * 2.0**-24 * lengths).all()


def test_what_rounding_moves_is_measured_and_never_too_small():
    for kind in KINDS:
        for metric in ("euclidean", "cosine"):
            table = cloud(kind)
            frame = rough._Frame.around(table[:50], metric)
            held = frame.rounded(table)
            inside = (double(table, metric) - frame.centre.astype(np.float64)) * frame.scale
            known = held.length <= 2.0**40
            moved = np.sqrt(((inside - held.rows.double().numpy()) ** 2).sum(axis=1))
            assert (moved[known] <= held.moved[known]).all(), (kind, metric)
            assert (held.moved[known] <= 1.01 * moved[known] + 1e-5 * (1 + held.length[known])).all(), (kind, metric)


def test_a_search_that_settles_less_than_half_is_given_up():
    rng = np.random.default_rng(1)
    side = np.where(np.arange(6000) % 2, 30.0, -30.0)[:, None]
    table = (side + rng.normal(size=(6000, 9)) * 2e-2).astype(np.float32)
    looked = []

    def blocks():
        for a in range(0, 6000, 1500):
            looked.append(a)
            yield np.arange(a, a + 1500), table[a : a + 1500]

    query = np.arange(0, 6000, 300)
    candidate, _, floor = rough.screen_roughly(table[query], query, blocks(), 5, 37, "euclidean")
    assert looked == [0, 1500]
    assert (candidate == -1).all()
    assert (floor == 0).all()
    found = nearest_rows(Table(table, np.ones(6000, bool), "euclidean", 1500), query, table[query], 5)
    for i, q in enumerate(query):
        squared = ((table.astype(np.float64) - table[q].astype(np.float64)) ** 2).sum(axis=1)
        squared[q] = np.inf
        np.testing.assert_array_equal(found.index[i], np.lexsort((np.arange(6000), squared))[:5])


def test_rectified_features_need_no_second_look(monkeypatch):
    rng = np.random.default_rng(0)
    table = np.maximum(rng.normal(size=(3000, 96)) + rng.normal(size=(6, 96))[np.arange(3000) % 6], 0)
    table = table.astype(np.float32)
    held, query = Table(table, np.ones(3000, bool), "cosine", 800), np.arange(0, 3000, 10)
    monkeypatch.setattr(nearest, "has_short_products", lambda: False)
    want = nearest_rows(held, query, table[query], 10)
    monkeypatch.setattr(nearest, "has_short_products", lambda: True)
    screened = []
    monkeypatch.setattr(nearest, "screen", lambda query, *rest: screened.append(len(query)) or FINE(query, *rest))
    found = nearest_rows(held, query, table[query], 10)
    np.testing.assert_array_equal(found.index, want.index)
    np.testing.assert_array_equal(found.distance, want.distance)
    np.testing.assert_array_equal(found.decided, want.decided)
    assert sum(screened) <= 6


FINE = nearest.screen


def test_double_precision_is_not_rounded_to_bfloat16(monkeypatch):
    monkeypatch.setattr(nearest, "has_short_products", lambda: True)
    table = np.array([[1.0 + i * 2.0**-40, 0.0] for i in (0, 3, 1, 2)])
    found = nearest_rows(Table(table, np.ones(4, bool), "euclidean"), np.array([0]), table[:1], 3)
    np.testing.assert_array_equal(found.index, [[2, 3, 1]])


class Counted:
    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __getitem__(self, some):
        self.read += len(self.rows[some])
        return self.rows[some]


@pytest.mark.parametrize("room", [0, 1 << 28])
def test_a_table_is_read_once_where_there_is_room(room, monkeypatch):
    monkeypatch.setattr(nearest, "_KEPT", room)
    rng = np.random.default_rng(10)
    rows = rng.normal(size=(500, 8)).astype(np.float32)
    counted = Counted(rows)
    found = nearest_rows(Table(counted, np.ones(500, bool), "euclidean", 64), np.arange(40), rows[:40], 4)
    want = nearest_rows(Table(rows, np.ones(500, bool), "euclidean", 500), np.arange(40), rows[:40], 4)
    np.testing.assert_array_equal(found.index, want.index)
    np.testing.assert_array_equal(found.distance, want.distance)
    assert counted.read == 500 if room else counted.read >= 1000
