"""What the report says of the tests: the line beside each heatmap and the section."""

import re

import pytest

from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import faithfulness
from convaudit.stages.faithfulness.wording import one_line
from convaudit.stages.specs import Summary

from ...reports.report_store import make_store


def told(verdict, similarity=0.1, **more):
    return {
        "randomisation": verdict,
        "similarity": similarity,
        "levels": [0.9, similarity, None, 0.2],
        "deletion": 0.2,
        "chance_deletion": 0.3,
        "insertion": 0.7,
        "chance_insertion": 0.4,
        "against_chance": {"deletion": "better", "insertion": "no different"},
        "sensitivity": 0.25,
        "bounds": {},
    } | more


def notes(**maps):
    levels = [{"modules": 1, "down_to": "fc"}, {"modules": 7, "down_to": "conv<1>"}]
    return {"maps": maps, "levels": levels, "limit": 0.5, "n": 64, "chance": "fine"}


def stored(summaries, failures=()):
    store = make_store(n=40)
    named = {f"faithfulness/{name}": Summary(notes=found) for name, found in summaries.items()}
    failed = {f"faithfulness/{name}": "it broke" for name in failures}
    return type(store)(store.data, store.summaries | named, failed, store.table, store.described)


def viewed(store):
    return faithfulness.view(Material(store, {}, Limits(60, 12)), None)


def test_failures_come_first_and_layers_stand_apart():
    store = stored(
        {
            "saliency": notes(heatmap=told("passes")),
            "grad_cam": notes(**{"early/heatmap": told("inconclusive"), "late/heatmap": told("passes")}),
            "guided": notes(heatmap=told("fails", 0.8)),
            "idle": {"maps": {}, "n": 0},
        },
        failures=["broken"],
    )
    view = viewed(store)
    assert [(row.method, row.layer, row.verdict) for row in view.rows] == [
        ("guided", "", "fails"),
        ("grad_cam", "early", "inconclusive"),
        ("grad_cam", "late", "passes"),
        ("saliency", "", "passes"),
    ]
    assert view.untried == ("idle",)
    assert not view.regions
    assert view.rows[0].deletion.said == "better than chance"
    assert view.rows[0].insertion.said == "no different from chance"
    assert view.levels == "1 (down to fc), 7 (down to conv<1>)"


def test_the_chart_starts_at_one_and_breaks_where_nothing_was_measured():
    (row,) = viewed(stored({"a": notes(heatmap=told("passes", 0.5))})).rows
    points = re.findall(r"([ML])([\d.]+) ([\d.]+)", row.spark)
    assert [pen for pen, _, _ in points] == ["M", "L", "L", "M"]
    assert [float(y) for _, _, y in points] == pytest.approx([2, 3.4, 9, 13.2])
    assert float(points[0][1]) == 2
    assert float(points[-1][1]) == 78


def test_the_page_says_it_in_words_and_escapes_names():
    store = stored({"guided": notes(heatmap=told("fails", 0.8, ssim=0.55, pointing=0.75, inside=0.5, overlap=0.25))})
    page = build_report(store, {"stages": ["faithfulness"]}, ReportOptions())
    section = re.search(r'<section id="faithfulness".*?</section>', page, re.DOTALL).group()
    for text in (
        "guided",
        "fails",
        "0.8",
        "chance 0.3",
        "better than chance",
        "SSIM 0.55",
        "Pointing",
        "0.75",
        "conv&lt;1&gt;",
    ):
        assert text in section
    assert "Random weights" in section


def test_one_line_says_whether_to_believe_a_heatmap():
    found = notes(
        **{
            "early/heatmap": told("fails", 0.81),
            "late/heatmap": told("passes", ssim=0.234, pointing=0.75, overlap=0.25),
        }
    )
    assert one_line(found, "early/heatmap") == (
        "FAILS parameter randomisation: it shows much the same with random weights (rank correlation 0.81); "
        "deletion 0.20 (chance 0.30, lower is better); insertion 0.70 (chance 0.40, higher is better)"
    )
    assert "(rank correlation 0.10, SSIM 0.23)" in one_line(found, "late/heatmap")
    assert one_line(found, "late/heatmap").endswith("; points into the region in 75%; overlap with the region 0.25")
    assert one_line(found) == one_line(found, "unknown") == one_line(found, "early/heatmap")
    assert one_line({}) == "not tested for faithfulness"
    bare = notes(heatmap=told("not measured", None, deletion=None, insertion=None))
    assert one_line(bare) == "parameter randomisation not measured"
