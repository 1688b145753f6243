"""The section on the gaze, on a store that real leaves have written into."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape

from convaudit.reports.build import ReportOptions, build_report
from convaudit.stages.gaze.stage import Gaze
from convaudit.stages.specs import LayerSpec

from ..stored_fake import StoredFake, make_subject, run_leaf, settle

SUSPECT = 1


def gazed(store, signal=False):
    """Add a gaze at planted heatmaps, with a suspect whose trial is confirmed."""
    described = store.subject()
    label = store.images()["label"].to_numpy()
    predicted = store.data["predictions/predicted"]
    rng = np.random.default_rng(0)
    space = (12,) if signal else (6, 8)
    heatmap = rng.uniform(size=(len(label), 1, *space)).astype(np.float32)
    own = label == SUSPECT
    heatmap[(own, 0, *(slice(-2, None),) * len(space))] += 30
    subject = make_subject(
        label,
        class_names=tuple(described["class_names"]),
        layers=(LayerSpec("block2.relu", "relu", "ReLU", (8, *space)),),
        axes=tuple(described["axes"]),
        input_shape=tuple(described["input_shape"]),
        shard=50,
    )
    written = StoredFake(
        {
            "attributions/grad_cam/block2.relu/heatmap": heatmap,
            "attributions/grad_cam/target": predicted[:, None],
            "predictions/predicted": predicted,
        }
    )
    classes, clusters, shortcuts, patches, confirmation = Gaze(layer="block2.relu").leaves()
    for leaf in (classes, clusters, shortcuts):
        run_leaf(leaf, subject, written)
    total = {"sum:0": np.full(subject.input_shape, 5.0), "n:0": np.array(10)}
    settle(patches, subject, written, [total])
    settle(confirmation, subject, written, [answers(written, label, predicted)])
    data = {path: values for path, values in written.arrays.items() if path.startswith("gaze/")}
    return replace(store, data=store.data | data, summaries=store.summaries | written.summaries)


def answers(written, label, predicted):
    """In the suspected cell every image of the class is lost, and every other becomes it."""
    cells = written["gaze/shortcuts/border_cell"]
    suspected = (cells == written["gaze/shortcuts/cell"][0]).all(axis=1)
    right = np.flatnonzero((label == predicted) & (predicted >= 0))
    pasting = label[right] != SUSPECT
    whole = np.repeat(predicted[right][:, None], len(cells), axis=1).astype(np.int64)
    whole[:, suspected] = np.where(pasting, SUSPECT, 0)[:, None]
    return {"candidate": np.zeros(len(right), np.int64), "pasting": pasting, "position": right, "answer": whole}


def section_of(page):
    start = page.index('<section id="gaze"')
    return page[start : page.index("</section>", start)]


@pytest.fixture(scope="module")
def page():
    from .conftest import CONFIG
    from .report_store import make_store

    return build_report(gazed(make_store()), dict(CONFIG))


def test_the_finding_leads_and_names_are_text(page):
    assert page.index("is recognised by what lies in the lower right corner") < page.index('<section id="gaze"')
    section = section_of(page)
    assert "<script>alert" not in section
    assert str(escape("<script>alert(1)</script>")) in section
    assert "lower right corner, confirmed on the network" in section


def test_before_and_after_are_drawn_over_the_same_picture(page):
    section = section_of(page)
    assert section.count("covered: no longer") == 2 * section.count('fill="#')
    assert 'fill="#' in section
    assert "pasted: now" in section
    assert re.search(r'<image class="pixels" x="[\d.]+" y="[\d.]+"', section)


def test_means_share_one_scale_and_every_class_has_its_line(page):
    section = section_of(page)
    assert "One scale for all pictures below" in section
    assert "Mean heatmap of each confused pair" in section
    assert section.count('class="panel"') >= 6
    table = section[section.index('aria-label="Evidence on the border"') :]
    assert table[: table.index("</table>")].count("<tr>") == 7


def test_equal_stores_give_equal_pages(make, config):
    assert section_of(build_report(gazed(make(seed=3)), config)) == section_of(
        build_report(gazed(make(seed=3)), config)
    )


def test_signals_have_strips(make, config):
    section = section_of(build_report(gazed(make(signal=True), signal=True), config))
    assert "could not be drawn" not in section
    assert "end, confirmed on the network" in section
    assert 'class="panel"' in section


@pytest.mark.parametrize("lost", ["clusters", "shortcuts", "confirmation", "classes"])
def test_a_part_that_failed_is_told_and_the_others_are_shown(make, config, lost):
    store = gazed(make())
    summaries = {leaf: summary for leaf, summary in store.summaries.items() if leaf != f"gaze/{lost}"}
    broken = replace(store, summaries=summaries, failures=store.failures | {f"gaze/{lost}": "out of luck"})
    section = section_of(build_report(broken, config))
    assert "out of luck" in section
    assert "could not be drawn" not in section
    assert ("Mean heatmap of each class" in section) == (lost != "classes")


def test_no_budget_leaves_no_pictures_but_all_numbers(make, config):
    section = section_of(build_report(gazed(make()), config, ReportOptions(default_budget_kb=0, budget_kb={})))
    assert 'class="panel"' not in section
    assert "confirmed on the network" in section
    assert "Evidence on the border" in section
