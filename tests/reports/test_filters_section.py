"""The table of channels in trouble: what each cell says, and that none is needed to be sorted to be read."""

import re
from dataclasses import replace

import numpy as np
import pytest

from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import ablation, filters
from convaudit.stages.filters.causes import CAUSES
from convaudit.stages.filters.troubles import TROUBLES
from convaudit.stages.specs import Summary

NAN = float("nan")
LAYERS, KINDS = ["stem.conv", "stem.relu", "sum.relu"], ["conv", "relu", "relu"]
#: layer, channel, trouble, rate, bound, cause, alive behind, repeated, gamma
ROWS = [
    (0, 0, "near_zero", 0.9, 0.95, "norm_scale", 1, 0, 0.0),
    (0, 1, "constant", 0.0, 0.015, "bias", -1, 1, NAN),
    (0, 2, "duplicate", 0.5, 0.6, "twin", -1, 0, 1.0),
    (0, 3, "none", 0.5, 0.6, "none", -1, 0, 1.0),
    (1, 1, "dead", 0.0, 0.015, "bias", -1, 0, NAN),
    (1, 4, "rare", 0.01, 0.036, "unknown", -1, 0, NAN),
    (2, 2, "dead", 0.0, 0.015, "several", 0, 0, NAN),
    (2, 3, "saturated", 1.0, 1.0, "weights", -1, 0, NAN),
]


def changed(store, edited, doubt="", grave=False, cases=(), rows=ROWS):
    """The store with another audit of filters."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    n = len(rows)
    data = {path: array for path, array in store.data.items() if not path.startswith("filters/")}
    data |= {
        "filters/layer": columns[0].astype(np.int32),
        "filters/channel": columns[1].astype(np.int32),
        "filters/trouble": np.array([TROUBLES.index(word) for word in columns[2]], np.int8),
        "filters/rate": columns[3],
        "filters/bound": columns[4],
        "filters/cause": np.array([CAUSES.index(word) for word in columns[5]], np.int8),
        "filters/alive_behind": columns[6].astype(np.int8),
        "filters/repeated": columns[7].astype(np.int8),
        "filters/gamma": columns[8],
        "filters/bias": np.full(n, -1e3),
        "filters/twin": np.full(n, 1, np.int32),
        **{f"filters/{key}": np.full(n, 0.99) for key in ("score", "norm", "beta", "outgoing", "cosine")},
    }
    notes = {
        "layers": LAYERS,
        "kinds": KINDS,
        "off_at": ["stem.relu", "stem.relu", "sum.relu"],
        "added": [["sum.relu", 2], None, ["later.relu", 0]],
        "troubles": list(TROUBLES),
        "causes": list(CAUSES),
        "definitions": {"near_zero": "next to nothing"},
        "doubt": {"text": doubt, "grave": grave},
        "n": 200,
    }
    told = {**store.summaries, "filters": Summary(notes=notes)}
    told["ablation"] = replace(told["ablation"], notes={**told["ablation"].notes, "cases": list(cases)})
    return edited(data=data, summaries=told)


def case(channel, change, flipped, **more):
    settled = {"row": 0, "layer": "stem.relu", "channels": [channel], "joint": False, "how": "run", "n": 200}
    return settled | {"change": change, "flipped": flipped, "accuracy": 0.5, "troubles": ["duplicate"]} | more


CASES = [case(2, -0.05, 12), case(4, None, 3), case(0, 0.0, 0), case(0, -0.9, 99, joint=True, channels=[0, 2])]


@pytest.fixture
def drawn(store, edited):
    return filters.view(Material(changed(store, edited, cases=CASES), {}, Limits(50, 5)), None)


def test_the_gravest_trouble_is_first_and_what_a_relu_tells_is_told_once(drawn):
    found = [(row.layer, row.channel, row.trouble) for row in drawn.filters]
    assert found == [
        ("stem.relu", 1, "dead"),
        ("sum.relu", 2, "dead"),
        ("sum.relu", 3, "saturated"),
        ("stem.conv", 2, "duplicate"),
        ("stem.conv", 0, "near zero"),
        ("stem.relu", 4, "rare"),
    ]
    assert (drawn.hidden, drawn.well) == (0, 0)


def test_each_cell_says_what_is_known(drawn):
    dead, summed, _, twin, zero, rare = drawn.filters
    assert (dead.fired, dead.at_most, dead.cause) == ("0 of 200", "< 1.5 % (3/200)", "bias of -1000")
    assert (rare.fired, rare.at_most) == ("2 of 200", "3.6 %")
    assert (twin.fired, twin.at_most) == ("", "")
    assert twin.cause == "weights like those of channel 1 (cosine 0.990)"
    # Channel 0 of the convolution flows into channel 2 behind the sum.
    assert summed.cause == "a sum, of which near zero is stem.conv 0"
    assert (zero.behind, summed.behind, dead.behind) == ("alive at sum.relu", "silent at later.relu", "")


def test_what_pruning_changes_comes_from_single_runs_alone(drawn):
    dead, _, stuck, twin, zero, rare = drawn.filters
    assert (dead.without.text, dead.without.value) == ("nothing: zero already, no run needed", 0)
    assert (twin.without.text, twin.without.value) == ("-5.00 points, 12 of 200 answers", -5)
    assert zero.without.text == "nothing"
    assert rare.without.text == "3 of 200 answers, accuracy unknown"
    assert stuck.without.text == "not run"
    assert stuck.without.value != stuck.without.value


def test_without_the_second_wave_only_evidence_speaks(store, edited):
    bare = changed(store, edited)
    bare = edited(data=bare.data, summaries={k: v for k, v in bare.summaries.items() if k != "ablation"})
    found = filters.view(Material(bare, {}, Limits(50, 5)), None).filters
    assert {row.without.text for row in found} == {"nothing: zero already, no run needed", "not measured"}


def section(page, noun):
    start = page.index(f'<section id="{noun}"')
    return page[start : page.index("</section>", start)]


def test_the_table_sorts_by_numbers_and_reads_without_a_script(store, edited):
    page = section(build_report(changed(store, edited, cases=CASES), {}), "filters")
    table = page[page.index('<table class="sortable') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 1 + 6
    assert re.search(r'data-value="0.01"[^>]*>2 of 200<', table)
    assert re.search(r'data-value="-5"[^>]*>-5.00 points', table)
    # Unknown sorts as unknown, not as text.
    assert re.search(r'data-value=""[^>]*>not run<', table)
    assert "nan" not in table.lower()


@pytest.mark.parametrize("grave", [True, False])
def test_what_has_to_be_settled_first_stands_above_the_table(store, edited, grave):
    page = section(build_report(changed(store, edited, "Settle <this> first.", grave), {}), "filters")
    assert page.index("Settle &lt;this&gt; first.") < page.index("<table class")
    assert ("First of all." in page) == grave


def test_a_network_in_order_says_so(store, edited):
    page = section(build_report(changed(store, edited, rows=ROWS[3:4]), {}), "filters")
    assert "No channel is in trouble." in page
    assert 'class="sortable"' not in page


def test_rows_beyond_the_limit_are_counted(store, edited):
    found = filters.view(Material(changed(store, edited), {}, Limits(4, 5)), None)
    assert (len(found.filters), found.hidden) == (4, 2)
    page = section(build_report(changed(store, edited), {}, ReportOptions(rows=4)), "filters")
    assert '2 more on the page of <a href="pages/filters.html">' in page


def test_the_ablation_table_names_the_trouble_and_what_took_no_run(store, edited):
    cases = [
        case(3, -0.01, 4, row=0, troubles=["near_zero"]),
        case(1, 0.0, 0, row=1, how="evidence", troubles=["dead"]),
    ]
    found = ablation.view(Material(changed(store, edited, cases=cases), {}, Limits(9, 9)), None)
    assert [row.trouble for row in found.rows] == ["near zero", "dead (no run)"]
    assert found.left_out == 28
