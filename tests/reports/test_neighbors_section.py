"""What the section on neighbors shows of copies, purity, layers, outliers and hubs, and in which order."""

import dataclasses
import re

import pytest

from convaudit.reports.build import build_report
from convaudit.stages.specs import Summary

HOSTILE = "<script>alert(1)</script>"
NOTES = {
    "duplicates": [[4, 9], [11, 12, 13]],
    "duplicate_groups": 7,
    "near_duplicates": [[20, 21]],
    "near_groups": 1,
    "near_definition": "Two images are near-duplicates.",
    "purity": [
        {"value": 0, "class": 0, "name": "airplane", "n": 5, "purity": 0.75, "accuracy": 0.8, "head": 0.6},
        {"value": 1, "class": 1, "name": HOSTILE, "n": 3, "purity": 0.25, "accuracy": 0.5, "head": 1.0},
        {"value": 2, "class": 2, "name": "never seen", "n": 0, "purity": None, "accuracy": None, "head": None},
    ],
    "slices": {"camera": [{"value": "", "n": 2, "purity": 0.5, "accuracy": 1.0, "head": 1.0}]},
    "layer": "block2.relu",
    "further": [{"layer": "block1.conv", "n": 200, "accuracy": 0.3125}],
    "outliers": [[30, 9.5]],
    "outlier_fence": 8.0,
    "hubs": [[40, 55], [41, 50]],
    "searched": {"float32 products": 236, "float64 products": 2, "every pair measured": 0},
}


@pytest.fixture(scope="module")
def section(store):
    images = store.table.assign(split=["train" if i % 2 else "test" for i in range(len(store.table))])
    summaries = store.summaries | {"neighbors": Summary(notes=NOTES)}
    page = build_report(dataclasses.replace(store, summaries=summaries, table=images), {"seed": 0})
    start = page.index('<section id="neighbors"')
    return page[start : page.index("</section>", start)]


def test_copies_come_before_all_else(section):
    titles = re.findall("<h3>(.*?)</h3>", section)
    assert titles[:4] == [
        "The same file", "Nearly the same picture", "Model, neighbors and label",
        "Images whose neighbors contradict their label",
    ]  # fmt: skip
    assert titles[4:] == [
        "Purity by class", "Purity by camera", "Layer by layer", "Far from all others", "Neighbors of the most images",
    ]  # fmt: skip


def test_groups_show_their_splits_and_how_many_are_left(section):
    same = section[section.index("The same file") : section.index("Nearly the same picture")]
    assert same.count("split train") + same.count("split test") == 5
    assert "5 more groups" in same
    assert "neighbors/copy" in same


def test_classes_stand_by_purity_and_the_unseen_is_left_out(section):
    table = section[section.index("Purity by class") : section.index("Purity by camera")]
    assert table.index("0.25") < table.index("0.75")
    assert "never seen" not in table
    assert HOSTILE not in section
    assert "(none)" in section[section.index("Purity by camera") :]


def test_layers_stand_in_the_order_of_the_forward_pass(section):
    table = section[section.index("Layer by layer") : section.index("Far from all others")]
    assert table.index("block1.conv") < table.index("block2.relu")
    assert "0.3125" in table


def test_outliers_hubs_and_how_neighbors_were_made_sure(section):
    assert "k-th neighbor at 9.5" in section
    assert "neighbor of 55 images" in section
    assert "236 by float32 products, 2 by float64 products, 0 by every pair measured" in section
