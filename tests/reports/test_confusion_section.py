import numpy as np

from convaudit.reports.selection import selection
from convaudit.stages.confusion.selective import selective, selective_notes


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
