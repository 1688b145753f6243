"""What the section and the page of label suspects show, in which order, and what they say is left out."""

import dataclasses
import re

import numpy as np
import pytest

from convaudit.reports.build import ReportOptions, build_pages, build_report
from convaudit.stages.specs import Summary

HOSTILE = "<script>alert(1)</script>"
SUSPECTS = (40, 12, 90, 55, 17, 60, 61, 62)


@pytest.fixture(scope="module")
def suspected(store):
    n = len(store.table)
    signal, rank, proposal = np.zeros(n, np.int8), np.full(n, -1, np.int64), np.full(n, -1, np.int32)
    signal[list(SUSPECTS)], rank[list(SUSPECTS)] = 3, np.arange(1, 9)
    proposal[list(SUSPECTS[1:])] = 1
    data = store.data | {
        "suspects/signal": signal,
        "suspects/rank": rank,
        "suspects/proposal": proposal,
        "suspects/self_confidence": np.full(n, 0.0125),
        "suspects/disagreement": np.full(n, 0.8),
    }
    rows = [
        {"class": 0, "n": 40, "suspects": 2, "one_signal": 1, "proposal": 1, "proposed": 2, "bounds": [0.01, 0.2]},
        {"class": 1, "n": 30, "suspects": 6, "one_signal": 1, "proposal": -1, "proposed": 0, "bounds": [0.1, 0.4]},
        {"class": 2, "n": 30, "suspects": 0, "one_signal": 1, "proposal": -1, "proposed": 0, "bounds": [0.0, 0.1]},
    ]
    notes = {
        "signals": {"neither": 220, "head": 3, "neighbors": 5, "both": 8},
        "n": 236,
        "unjudged": {"could not be used": 2, "without a label": 0},
        "classes": rows,
        "moved": [{"label": 0, "answer": 2, "count": 9, "n": 12, "absent": True}],
        "slices": [{"column": "camera", "hidden": 0, "values": [{"value": HOSTILE, "n": 9, "suspects": 3}]}],
        "limits": {
            "by_chance": 0.5, "agreed": 7, "estimated": 11, "answered_otherwise": 20, "doubt": "", "training": "?",
            "precision": "About 0.30 are confirmed.",
        },
        "definitions": {"suspect": "both speak against the label"},
    }  # fmt: skip
    return dataclasses.replace(store, data=data, summaries=store.summaries | {"suspects": Summary(notes=notes)})


def cut(page):
    start = page.index('<section id="suspects"')
    return page[start : page.index("</section>", start)]


@pytest.fixture(scope="module")
def section(suspected):
    return cut(build_report(suspected, {"seed": 0}))


def test_the_strongest_come_first_with_their_neighbors(section, suspected):
    titles = re.findall("<h4>(.*?)</h4>", section)
    ids = list(suspected.table["id"])
    assert [title.split(".")[0] for title in titles] == ["1", "2", "3", "4", "5", "6"]
    for title, position in zip(titles, SUSPECTS, strict=False):
        assert str(ids[position]) in title
    assert "propose different classes" in titles[0]
    assert "both say" in titles[1]
    assert "the label at 0.0125" in section
    assert "80 % bear another label" in section
    row = section[section.index(titles[0]) : section.index(titles[1])]
    assert row.count('<li class="evidence') == 6
    assert row.count("distance") == 5


def test_the_rest_stands_on_a_page_that_holds_all(section, suspected):
    assert '2 more on the page of <a href="pages/suspects.html">' in section
    page = build_pages(suspected, {"seed": 0})["suspects.html"]
    assert len(re.findall("<h4>", page)) == len(SUSPECTS)
    assert HOSTILE not in page


def test_a_page_of_few_bytes_says_what_it_leaves_out(suspected):
    page = build_pages(suspected, {"seed": 0}, ReportOptions(page_kb=130))["suspects.html"]
    shown = len(re.findall("<h4>", page))
    assert 0 < shown < len(SUSPECTS)
    assert f"{len(SUSPECTS) - shown} more" in page
    assert "report.page_kb" in page
    assert len(page.encode()) <= 130 * 1024


def test_no_bytes_are_said_to_be_the_reason(suspected):
    section = cut(build_report(suspected, {"seed": 0}, ReportOptions(budget_kb={"suspects": 0})))
    assert "8 more" in section
    assert "report.budget_kb.suspects" in section
    assert "No label has both" not in section


def test_classes_stand_by_share_and_those_without_are_left_out(section):
    table = section[section.index("Suspects by label") : section.index("Suspects by camera")]
    assert table.index("0.1000 to 0.4000") < table.index("0.0100 to 0.2000")
    assert table.count('<th scope="row">') == 2
    assert HOSTILE not in section


def test_limits_are_said(section):
    assert "9 of 12 images labelled" in section
    assert "no label names that class" in section
    assert "About 0.30 are confirmed" in section
    assert "11 wrong labels" in section
    assert "2 could not be used" in section
    assert "candidates for a look, not errors" in section


def test_nothing_judged_is_said_and_gives_no_page(store):
    notes = {"status": "not applicable", "reason": "no image has a label"}
    bare = dataclasses.replace(store, summaries=store.summaries | {"suspects": Summary(notes=notes)})
    assert "Nothing to show: no image has a label." in cut(build_report(bare, {}))
    assert "suspects.html" not in build_pages(bare, {})


def test_no_suspect_is_good_news(suspected):
    summary = suspected.summaries["suspects"]
    none = summary.notes | {"signals": summary.notes["signals"] | {"both": 0}}
    data = suspected.data | {"suspects/signal": np.zeros(len(suspected.table), np.int8)}
    clean = dataclasses.replace(suspected, data=data, summaries=suspected.summaries | {"suspects": Summary(notes=none)})
    assert "No label has both signals against it." in cut(build_report(clean, {}))
    assert "suspects.html" not in build_pages(clean, {})
