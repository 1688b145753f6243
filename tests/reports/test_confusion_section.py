from dataclasses import replace

import numpy as np

from convaudit.reports.album import Album
from convaudit.reports.material import Limits, Material
from convaudit.reports.selection import selection
from convaudit.reports.views import confusion
from convaudit.stages.confusion.selective import selective, selective_notes
from convaudit.stages.specs import Summary


def test_selection_shows_steps_that_differ_and_says_of_how_many():
    confidence = np.linspace(0.2, 1, 200)
    shown = selection({"selective": selective_notes(selective(confidence, confidence > 0.4))})
    assert shown is not None
    assert [step.n for step in shown.steps] == [100, 140, 160, 180, 190, 200]
    assert shown.steps[-1].share == 1
    assert shown.steps[-1].risk == 0.25
    assert shown.excess == 0


def test_selection_of_one_image_has_one_step():
    shown = selection({"selective": selective_notes(selective(np.array([0.5]), np.array([True])))})
    assert shown is not None
    assert [step.n for step in shown.steps] == [1]


def test_selection_without_notes_is_nothing():
    assert selection({}) is None


def many(store, n_class=40, budget=400_000):
    """A matrix whose label c is taken for class c + 1 in c images, and an order that runs backwards."""
    matrix = np.diag(np.full(n_class, 50)) + np.diag(np.arange(n_class - 1), 1)
    order = np.arange(n_class - 1, -1, -1, dtype=np.int32)
    data = dict(store.data) | {"confusion/matrix": matrix, "confusion/order": order}
    data["confusion/pair"], data["confusion/pair_count"] = np.full((1, 2), -1, np.int32), np.full(1, -1)
    noted = dict(store.summaries) | {"confusion": Summary(notes={"block": {"start": 2, "size": 5}})}
    described = dict(store.described) | {"class_names": [f"c{at}" for at in range(n_class)]}
    material = Material(replace(store, data=data, summaries=noted, described=described), {}, Limits(60, 12))
    return confusion.view(material, Album(material, {"confusion": budget}))


def test_of_many_classes_the_block_with_most_errors_is_a_table(store):
    shown = many(store)
    assert shown.class_names == ("c37", "c36", "c35", "c34", "c33")
    assert [cell.n for cell in shown.rows[1].cells] == [36, 50, 0, 0, 0]
    assert [cell.level for cell in shown.rows[1].cells] == ["5", "right", "0", "0", "0"]
    assert shown.rows[0].n == 50 + 37
    assert shown.inside == f"{33 + 34 + 35 + 36} of {sum(range(39))} errors"
    assert shown.picture.startswith("data:image/png")


def test_a_picture_beyond_the_budget_is_left_out(store):
    shown = many(store, budget=100)
    assert not shown.picture
    assert "40 classes" in shown.picture_alt
    assert shown.rows
