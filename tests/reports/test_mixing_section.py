"""What the section on mixing shows of pairs, and that neither colour nor names alone carry it."""

import dataclasses
import re

import numpy as np
import pytest

from convaudit.reports.build import build_report
from convaudit.reports.scattered import scatter
from convaudit.stages.specs import Summary

HOSTILE = "<script>alert(1)</script>"


def _row(classes, verdict, **more):
    row = {
        "classes": classes,
        "verdict": verdict,
        "enough": True,
        "speaks": ["confusion"],
        "taken": [4, 7],
        "bounds": [0.08, 0.2],
        "crossed": [1.0, 2.5],
        "crossed_share": 0.04,
        "links": [30, 12],
        "link_share": 0.2,
        "link_chance": 0.1,
        "images": [80, 80, 80],
    }
    return row | more


ROWS = [
    _row([0, 1], "head"),
    _row([2, 3], "representation"),
    _row([0, 4], "close"),
    _row([1, 5], "inconclusive", enough=False, bounds=[None, None], crossed_share=None, link_share=None),
]
NOTES = {
    "status": "measured",
    "rows": ROWS,
    "stored": True,
    "largest": [0.25, 8.0, 2.0],
    "pairs_of_classes": 15,
    "pairs_judged": 14,
    "definitions": {"confusion": "How it is counted."},
}


def _data(n=6):
    rng = np.random.default_rng(0)
    separation, confused = rng.uniform(1, 8, (n, n)), rng.uniform(0, 0.2, (n, n))
    separation, confused = separation + separation.T, (confused + confused.T) / 2
    separation[2, 5] = separation[5, 2] = np.inf
    verdicts = np.zeros((n, n), np.int8)
    for row, code in zip(ROWS, (3, 2, 1, 4), strict=True):
        verdicts[tuple(row["classes"])] = code
    return {
        "mixing/value": np.array([[0.1375, np.inf, 1.5], [0.1, 2.0, 2.0], [0.0, 1.5, 0.5], [np.nan] * 3]),
        "mixing/rank": np.array([[1, 14, 3.5], [2, 2, 1], [9, 1, 3.5], [np.nan] * 3]),
        "mixing/joint": np.array([5, 1, 2.5, np.nan]),
        "mixing/verdict": np.array([3, 2, 1, 4], np.int8),
        "mixing/nearest": np.array([[[0, 1], [2, 3]], [[4, 5], [6, -1]], [[8, 9], [10, 11]], [[-1, -1], [-1, -1]]]),
        "mixing/taken": np.array([[[0, 12], [13, -1]], [[-1, -1], [-1, -1]], [[-1, -1], [14, 15]], [[-1] * 2] * 2]),
        "mixing/separation": separation,
        "mixing/confused": confused,
        "mixing/verdicts": verdicts,
    }


def _section(store, notes, data=None):
    summaries = store.summaries | {"mixing": Summary(notes=notes)}
    stocked = dataclasses.replace(store, summaries=summaries, data=store.data | (_data() if data is None else data))
    page = build_report(stocked, {"seed": 0})
    start = page.index('<section id="mixing"')
    return page[start : page.index("</section>", start)]


@pytest.fixture(scope="module")
def section(store):
    return _section(store, NOTES)


def test_every_verdict_is_a_word_with_an_icon(section):
    found = re.findall(r'href="#icon-(\w+)"/></svg>([^<]+)</span>', section)
    assert found == [
        ("fail", "head problem"), ("error", "representation problem"), ("warn", "close"), ("info", "too few images"),
    ]  # fmt: skip


def test_numbers_stand_with_what_they_rest_on(section):
    assert "13.8" in section
    assert "4 + 7 of 80" in section
    assert "infinite" in section, "two classes that are points"
    assert section.count("not measured") >= 3
    assert "1 · 14 · 3.5" in section
    assert "14 of 15 pairs" in section
    assert "11 more pairs" in section
    assert "nan" not in section.lower()


def test_bars_stay_within_their_tracks(section):
    widths = [float(width) for width in re.findall(r'class="mark \w+" y="1" width="([\d.]+)"', section)]
    assert len(widths) == 12
    assert max(widths) <= 100


def test_an_image_that_is_near_and_taken_is_shown_once(section):
    first = section[section.index("<tbody>", section.index("Pairs to look at first")) :]
    first = first[: first.index("</tbody>")]
    assert first.count("<li>") == 6
    assert "and near it" in first
    assert HOSTILE not in section


def test_the_scatter_tells_shapes_and_says_what_it_leaves_out(section):
    drawn = section[section.index("Confusion over separation") :]
    assert "pairs infinitely far apart or without images (1)" in drawn
    for word in ("apart (10)", "close (1)", "representation problem (1)", "head problem (1)", "inconclusive (1)"):
        assert word in drawn
    assert 'role="img"' in drawn


def test_many_classes_have_no_matrices_and_nothing_judged_says_why(store):
    told = _section(store, NOTES | {"stored": False}, {k: v for k, v in _data().items() if k != "mixing/verdicts"})
    assert "only the pairs above are stored" in told
    told = _section(store, {"status": "not applicable", "reason": "one class has images"})
    assert "Nothing to show: one class has images." in told


def test_names_cover_neither_points_nor_each_other():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 5, 60), rng.uniform(0, 0.2, 60)
    found = scatter(x, y, [(np.ones(60, bool), "dot", "cloud", "all")], [(at, "a long name/x") for at in range(60)])
    boxes = []
    for label in found.labels:
        start = label.x if label.anchor == "start" else label.x - 78
        boxes.append((start, label.y - 6.5, start + 78, label.y + 6.5))
    left, _, right, _ = found.edges
    assert found.labels
    assert all(box[0] >= left and box[2] <= right for box in boxes)
    for at, one in enumerate(boxes):
        for other in boxes[:at]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


def test_no_points_at_zero_spread_break_the_axes():
    found = scatter(np.zeros(3), np.zeros(3), [(np.ones(3, bool), "ring", "mark line", "close")], [])
    assert found.shapes[0].text == "close (3)"
    assert "nan" not in found.shapes[0].d
