"""The walk through the network: every layer in its place, what wants a look first, and what is missing said."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from convaudit.reports import attention
from convaudit.reports.blocks import Blocks
from convaudit.reports.build import ReportOptions, build_pages, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.walk import _field
from convaudit.stages.specs import Finding, Summary

LAYERS = ("block1.conv", "block1.relu", "block2.conv", "block2.relu")


@pytest.fixture
def full(walked):
    return walked


def findings(*rows):
    return Summary({}, (), tuple(Finding("x/y", severity, title, "d", (), layer) for severity, title, layer in rows))


@pytest.fixture
def noted(edited, full):
    """The same with a note on every layer, so that each has a place in the walk."""
    told = findings(*(("info", f"about {name}", name) for name in LAYERS))
    return edited(data=full.data, summaries=full.summaries | {"features": told})


def network(store, **options):
    return build_pages(store, {"seed": 0}, ReportOptions(**options))["network.html"]


def stop(page, name):
    found = re.search(
        rf'<section id="layer-\d+"[^>]*>\s*<h2[^>]*>[^\n]*</span> {re.escape(name)}</h2>.*?</section>', page, re.S
    )
    assert found, name
    return found.group()


def test_layers_come_in_the_order_of_the_network_and_lead_to_each_other(noted):
    page = network(noted)
    anchors = re.findall(r'<section id="(layer-\d+)"', page)
    assert anchors == [f"layer-{place}" for place in range(4)]
    for here, name in enumerate(LAYERS):
        steps = re.search(r'<p class="steps">(.*?)</p>', stop(page, name), re.S).group(1)
        near = [place for place in (here - 1, here + 1) if 0 <= place < 4]
        assert re.findall(r'href="#(layer-\d+)"', steps) == [f"layer-{place}" for place in near]


def test_layer_with_nothing_to_see_has_a_row_and_no_more(full):
    page = network(full)
    assert re.findall(r'<section id="(layer-\d+)"', page) == ["layer-0", "layer-2"]
    assert re.findall(r'<th scope="row" data-value="\d">(.*?)</th>', page)[1] == "block1.relu"


def test_what_is_known_of_a_layer_stands_with_it(noted):
    page = network(noted)
    first, second = stop(page, "block1.conv"), stop(page, "block2.conv")
    assert "360" in first
    assert "3 × 5 pixels, every 1 × 2" in first
    assert "the whole input" in second
    assert "2 kinds of channels: 3 × 5 pixels, every 1 × 2; 7 × 9" in stop(page, "block1.relu")
    assert first.count('<img class="sheet"') == 2
    assert second.count('<img class="sheet"') == 1
    assert re.search(r"<dt>verdict</dt><dd>noise", second)
    assert "cannot tell" in second


def test_channels_in_trouble_stand_with_their_layer_alone(noted):
    page = network(noted)
    rows = [len(re.findall(r'<tr><th scope="row" class="r">', stop(page, name))) for name in LAYERS]
    assert rows == [2, 0, 2, 0]


def test_gravest_finding_then_the_share_in_trouble_comes_first(full, edited):
    told = findings(
        ("info", "a note", "block1.relu"), ("error", "an error", "block2.relu"), ("info", "of no layer", "elsewhere")
    )
    summaries = {name: Summary(notes=one.notes) for name, one in full.summaries.items()} | {"features": told}
    news = attention.news(Material(edited(data=full.data, summaries=summaries), {}, Limits(60, 12)))
    assert [row.layer for row in news] == ["block2.relu", "block1.relu", "block1.conv", "block2.conv"]
    assert [row.severity for row in news] == ["error", "info", "", ""]
    assert [row.share for row in news] == [0, 0, 2 / 8, 2 / 16]
    assert news[2].reasons == ("of 8 channels: 1 dead, 1 rare",)


def test_more_findings_than_are_told_are_counted(full, edited):
    told = findings(*(("warning", f"reason {place}", "block1.relu") for place in range(5)))
    store = edited(data=full.data, summaries=full.summaries | {"features": told})
    (row,) = [row for row in attention.news(Material(store, {}, Limits(60, 12))) if row.layer == "block1.relu"]
    assert row.reasons == ("reason 0", "reason 1", "reason 2", "2 more findings")


def test_report_leads_to_the_layers_that_want_a_look(full):
    page = build_report(full, {"seed": 0})
    section = re.search(r'<section id="network".*?</section>', page, re.S).group()
    linked = re.findall(r'href="pages/network.html#(layer-\d+)"', section)
    assert set(linked) <= set(re.findall(r'<section id="(layer-\d+)"', network(full)))
    assert linked == ["layer-0", "layer-2"]
    assert page.index('id="network"') < page.index('<section id="weights"')


def test_nothing_in_trouble_is_said(full, edited):
    healthy = {**full.data, "filters/trouble": np.zeros(24, np.int8)}
    summaries = {name: Summary(notes=one.notes) for name, one in full.summaries.items()}
    assert "No finding names a layer" in network(edited(data=healthy, summaries=summaries))


def test_stage_that_is_missing_or_failed_is_named(full, edited):
    page = network(edited(data=full.data, summaries=full.summaries, failures={"feature_maps": "no memory <left>"}))
    assert re.search(r"<code>feature_maps</code>: failed: feature_maps: no memory &lt;left&gt;", page)
    assert re.search(r"<code>patches</code>: was not run", page)
    assert "<code>weights</code>: " not in page


def test_walk_needs_no_stage_in_particular(full, edited):
    for leaf in ("weights", "filters", "receptive_fields/theoretical", "activations"):
        alone = {"predictions": Summary(), leaf: full.summaries[leaf]}
        page = network(edited(data=full.data, summaries=alone, failures={}))
        assert "All layers" in page
        assert "could not be drawn" not in page


def test_layer_that_cannot_be_drawn_says_so_and_costs_no_other(full, monkeypatch):
    whole = Blocks.weights

    def broken(self, name):
        if name == "block1.conv":
            raise ValueError("planted")
        return whole(self, name)

    monkeypatch.setattr(Blocks, "weights", broken)
    page = network(full)
    assert "could not be drawn: ValueError: planted" in stop(page, "block1.conv")
    assert "could not be drawn" not in stop(page, "block2.conv")


def test_pictures_that_the_bytes_do_not_reach_for_are_said_to_be_left_out(full):
    page = network(full, page_kb=44)
    assert "more bytes than this layer may have" in page
    assert '<img class="sheet"' not in page
    assert len(page.encode()) <= 44 * 1024


def test_headings_can_be_walked(full):
    levels = [int(level) for level in re.findall(r"<h([1-6])", network(full))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_same_bytes_twice(full):
    assert network(full) == network(full)


def test_signals_have_samples_and_one_is_one():
    group = {"status": "exact", "stride": [1.0], "size": [1.0]}
    assert _field(group) == "1 sample, every 1"
    assert _field(group | {"size": [8.0]}) == "8 samples, every 1"
