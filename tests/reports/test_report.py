from __future__ import annotations

import dataclasses
import html.parser
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from convaudit.reports import appendix, build, figures, sections
from convaudit.reports.album import Album
from convaudit.reports.build import ReportOptions, StageTime, build_nightly, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import embeddings
from convaudit.stages.errors import ConfigError
from convaudit.stages.specs import Summary

HOSTILE = "<script>alert(1)</script>"
TEMPLATES = Path(build.__file__).parent / "templates"


class Outline(html.parser.HTMLParser):
    """Collects tags, ids and headings, and refuses tags that are closed in another order than they were opened."""

    void = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.headings, self.targets, self.open = [], [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if attributes.get("href", "").startswith("#"):
            self.targets.append(attributes["href"][1:])
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(store):
    return build_report(store, {"seed": 0})


def section_of(page, noun):
    found = re.search(rf'<section id="{noun}".*?</section>', page, re.DOTALL)
    assert found, noun
    return found.group()


def material(store, rows=60, pictures=12):
    return Material(store, {}, Limits(rows, pictures))


def test_same_bytes_twice_and_wherever_the_run_lies(make, config):
    first = build_report(make(), config)
    elsewhere = config | {"run": "/another/place", "cluster": {"workers": 64}, "tracking": {"uri": "http://x"}}
    assert build_report(make(), elsewhere) == first


def test_other_results_give_another_page(make, config):
    assert build_report(make(seed=1), config) != build_report(make(seed=2), config)


def test_another_setting_gives_another_page(store, config):
    assert build_report(store, config | {"seed": 7}) != build_report(store, config)


def test_names_are_text(page):
    assert "<script>alert" not in page.lower()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "$x_{1}$ &amp; &#39;bird&#39;" in page


def test_a_name_cannot_leave_an_attribute(make, config):
    sly = '" onload="alert(1)'
    outline = Outline(build_report(make(n=40, classes=("a", sly, "b", "c", "d", "e")), config))
    assert not [attributes for _, attributes in outline.tags if any(key.startswith("on") for key in attributes)]
    assert any(sly in attributes.get("aria-label", "") for _, attributes in outline.tags)


def test_page_is_well_formed_and_needs_nothing_else(page):
    outline = Outline(page)
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"iframe", "object", "embed"}
    assert all(not attributes for tag, attributes in outline.tags if tag == "script")
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.targets) <= set(outline.ids)
    for tag, attributes in outline.tags:
        beside = tag == "a" and re.fullmatch(r"pages/[a-z]+\.html(#.*)?", attributes.get("href", ""))
        for key in ("src", "href", "srcset"):
            assert beside or attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page


def test_headings_and_tables_can_be_walked(page):
    outline = Outline(page)
    assert outline.headings.count(1) == 1
    assert outline.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.tags if tag == "th")
    assert dict(outline.tags)["html"]["lang"] == "en"


def test_answer_comes_first(page):
    places = [page.index(f'<section id="{noun}"') for noun in ("verdict", "findings", "predictions", "provenance")]
    assert places == sorted(places)
    findings = section_of(page, "findings")
    assert findings.index("could not be read") < findings.index("channels never fire")


def test_findings_of_one_kind_stand_together(page):
    findings = section_of(page, "findings")
    assert findings.count("<article") == 3
    assert re.search(r"channels never fire.*?1 more of this kind.*?<h4>1 channel of another layer", findings, re.DOTALL)
    assert 'Findings <span class="count">4<' in page


def test_failed_leaf_is_a_red_section_with_its_reason(page, store):
    attributions = section_of(page, "attributions")
    assert 'class="stage failed"' in attributions
    assert "layer &#39;input&#39; has no gradient" in attributions
    assert "attributions/saliency" in section_of(page, "verdict")
    assert "attributions/grad_cam" in attributions


def test_failed_stage_without_any_result_is_a_red_section(edited, config):
    broken = edited(failures={"neighbors": "no memory left"}, summaries={"predictions": Summary()})
    neighbors = section_of(build_report(broken, config), "neighbors")
    assert "no memory left" in neighbors
    assert "failed" in neighbors


def test_failed_verdict_is_an_error(edited, config):
    page = build_report(edited(failures={"verdicts": "gate on nothing"}), config)
    assert '<p class="verdict error">' in page
    assert "gate on nothing" in page


def test_stage_that_was_asked_for_but_is_nowhere_is_a_red_section(edited, config):
    store = edited(summaries={"predictions": Summary()}, failures={})
    page = build_report(store, config | {"stages": ["predictions", "confusion"]})
    assert "the store holds nothing of it" in section_of(page, "confusion")


def test_stage_that_was_not_asked_for_is_listed(edited, config):
    page = build_report(edited(summaries={"predictions": Summary()}, failures={}), config)
    provenance = section_of(page, "provenance")
    for noun in ("filters", "neighbors", "embeddings"):
        assert f'id="{noun}"' not in page
        assert re.search(rf'<th scope="row">{noun}</th><td>.*?not asked', provenance, re.DOTALL)


def test_section_that_cannot_be_drawn_says_so_and_leaves_the_others(edited, store, config):
    data = {path: array for path, array in store.data.items() if path != "neighbors/predicted"}
    page = build_report(edited(data=data), config)
    assert "could not be drawn: KeyError" in section_of(page, "neighbors")
    assert "could not be drawn" not in section_of(page, "confusion")


def test_stage_without_a_page_of_its_own_is_still_shown(edited, store, config):
    page = build_report(
        edited(summaries=store.summaries | {"corruptions": Summary(notes={"told": "something"})}), config
    )
    assert "something" in section_of(page, "corruptions")


def test_numbers_stand_with_n_interval_definition_and_path(page):
    row = re.search(r'<tr><th scope="row">predictions/accuracy</th>.*?</tr>', page, re.DOTALL).group()
    assert "238" in row
    assert " to " in row
    assert "Share of images whose largest logit" in row
    assert "predictions/predicted" in row
    assert "not measured" in section_of(page, "filters")
    assert "12.50 pixel" in section_of(page, "neighbors")


def test_what_was_sampled_or_capped_is_told(page):
    provenance = section_of(page, "provenance")
    assert "fitted on 10,000 of 60,000 images" in provenance
    assert "channels: 28<" in provenance
    assert "240 of 9999 images" in provenance
    assert "abab" in provenance
    assert "2.15.0" in provenance


def test_unreadable_images_are_listed_and_have_no_picture(page, store):
    predictions = section_of(page, "predictions")
    assert "img/0007.png" in predictions
    assert "cut off &lt;script&gt;" in predictions
    assert "no picture" in section_of(page, "findings")
    assert 'id="image-7"' not in page


def test_each_picture_is_embedded_once(page):
    payloads = re.findall(r'href="(data:image/[^"]+)"', page)
    names = re.findall(r'<symbol id="(image-\d+)"', page)
    assert len(names) == len(set(names))
    assert len(re.findall(r'<use href="#image-', page)) > len(names)
    assert len(payloads) == len([name for name in re.findall(r'<symbol id="((?:image|heat)-[^"]+)"', page)])


def test_every_section_keeps_its_budget(make):
    store = make(n=400, size=(96, 96))
    for size in (0, 4_000, 40_000):
        album = Album(material(store), {"findings": size, "predictions": size})
        for section in ("findings", "predictions"):
            before = sum(symbol.size for symbol in album.symbols)
            gallery = album.gallery(section, np.arange(100, 400) if section == "predictions" else range(100), limit=200)
            assert sum(symbol.size for symbol in album.symbols) - before <= size
            assert gallery.budget_full
            assert gallery.hidden + len(gallery.items) == (300 if section == "predictions" else 100)


def test_what_a_budget_left_out_is_told(make, config):
    store = make(n=400, size=(96, 96))
    tight = build_report(store, config, ReportOptions(default_budget_kb=20))
    assert "report.budget_kb.predictions" in section_of(tight, "predictions")
    assert len(tight) < len(build_report(store, config, ReportOptions()))


def test_no_budget_leaves_a_page_without_pictures(store, config):
    page = build_report(store, config, ReportOptions(default_budget_kb=0))
    assert "data:image" not in page
    assert "report.budget_kb.embeddings" in section_of(page, "embeddings")


def test_large_data_stay_below_five_megabytes(make, config):
    options = yaml.safe_load((Path(build.__file__).parents[1] / "conf/report/default.yaml").read_text())
    options.pop("_target_")
    page = build_report(make(n=1_500, size=(96, 96)), config, ReportOptions(**options))
    assert len(page.encode()) < 5_000_000


def test_many_points_become_pixels(make, config, monkeypatch):
    monkeypatch.setattr(figures, "VECTOR_POINTS", 300)
    monkeypatch.setattr(embeddings, "_FEW", 1)
    names = tuple(f"class {place}" for place in range(30))
    drawn = section_of(build_report(make(n=400, size=(8, 8), classes=names), config), "embeddings")
    assert 'class="cloud right" d=' not in drawn.replace("cloud right big-dot", "")
    assert drawn.count("data:image/png") == 12 * 2 + 1
    assert "18 more classes not shown" in drawn


def test_signals_are_drawn_as_lines(signal_store, config):
    page = build_report(signal_store, config)
    assert 'class="trace trace-0"' in page
    assert 'class="trace trace-1"' in page


def test_unused_rows_of_a_capped_table_are_not_shown(page):
    ablation = section_of(page, "ablation")
    assert ablation.count('<th scope="row">block') == 2
    assert "all idle together" in ablation


def test_heatmap_of_the_deepest_layer_comes_first(store):
    album = Album(material(store), {"findings": 10**6})
    frames = album.gallery("findings", [5], heat=2).items[0].frames
    assert [frame.caption for frame in frames] == ["", "Grad-CAM, block2.relu", "Grad-CAM, block1.relu"]
    assert frames[1].symbols == ("image-5", "heat-0-5")


def test_confident_errors_come_first(store):
    seen = material(store)
    confidence = seen.confidence[seen.wrong]
    assert (np.diff(confidence) <= 0).all()
    assert (seen.labels[seen.wrong] != seen.predicted[seen.wrong]).all()
    assert not set(seen.wrong) & {7, 31}


def test_every_view_has_its_template_and_words():
    views = {path.stem for path in (TEMPLATES.parent / "views").glob("*.py")} - {"__init__"}
    templates = {path.name.removesuffix(".html.j2") for path in TEMPLATES.glob("*.html.j2")}
    assert views - {"verdicts"} <= templates
    assert set(sections.ORDER) == views - {"verdicts", "provenance"}
    pages = {path.stem for path in (TEMPLATES.parent / "pages").glob("*.py")} - {"__init__"}
    assert set(appendix.ORDER) == pages
    assert {f"{name}_page" for name in pages} <= templates


def test_templates_never_switch_escaping_off():
    text = "".join(path.read_text() for path in TEMPLATES.glob("*.j2"))
    assert "safe" not in re.findall(r"\|\s*(\w+)", text)
    assert "autoescape" not in text


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"pictures": -1}, {"default_budget_kb": -1}, {"budget_kb": {"findings": -5}}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"report\."):
        ReportOptions(**wrong)


def test_options_of_another_kind_are_refused(store, config):
    with pytest.raises(ConfigError, match="ReportOptions"):
        build_report(store, config, {"rows": 3})


def test_store_is_only_read(make, config):
    store = make(n=60)
    before = {path: array.copy() for path, array in store.data.items()}
    build_report(store, config)
    for path, array in before.items():
        np.testing.assert_array_equal(array, store.data[path])


def test_bare_store_gives_a_page(edited, config):
    page = build_report(edited(summaries={}, failures={}), config)
    assert "NOT JUDGED" in page
    assert "Nothing was found" in page


def test_nightly_tells_what_belongs_to_tonight(store):
    notes = dict(store.summary("verdicts").notes)
    times = [
        StageTime("predictions", 10.0, 1_000),
        StageTime("confusion", None, None, "reused"),
        StageTime("x", 7_500.0),
    ]
    links = {"Report": "report.html", "Server": "https://localhost/x", "Sly": "javascript:alert(1)"}
    page = build_nightly(notes, times, {"commit": "abc", "branch": HOSTILE}, links, {"date": "2026-01-02"})
    outline = Outline(page)
    assert outline.headings.count(1) == 1
    assert "<script" not in page
    assert ">100<" in page
    assert "2 h 05 min" in page
    assert "reused" in page
    assert "2026-01-02" in page
    assert [attributes["href"] for tag, attributes in outline.tags if tag == "a"] == [
        "report.html",
        "https://localhost/x",
    ]
    assert '<p class="verdict error">' in page


def test_unknown_verdict_is_an_error():
    assert '<p class="verdict error">' in build_nightly({"verdict": "FINE", "gates": []}, [], {}, {})


def test_nan_of_a_gate_is_not_a_number(store):
    gates = [{"name": "g", "status": "ERROR", "value": math.nan, "limit": ">= 1", "unit": "1", "n": 3}]
    assert "not measured" in build_nightly({"verdict": "ERROR", "gates": gates}, [], {}, {})


def test_report_options_are_what_the_config_says():
    options = yaml.safe_load((Path(build.__file__).parents[1] / "conf/report/default.yaml").read_text())
    assert options.pop("_target_") == "convaudit.reports.build.ReportOptions"
    assert set(options) == {field.name for field in dataclasses.fields(ReportOptions)}
    assert set(options["budget_kb"]) <= {"findings", *sections.ORDER}
