import numpy as np
import pytest

from convaudit.stages.attributions.windows import drop_map, intervals, render_windows, window_bounds, winning_classes
from convaudit.stages.errors import StageError


@pytest.mark.parametrize(
    ("length", "window", "stride", "start", "end"),
    [
        (10, 4, 2, [0, 2, 4, 6], [4, 6, 8, 10]),
        (11, 4, 2, [0, 2, 4, 6, 8], [4, 6, 8, 10, 11]),
        (9, 4, 4, [0, 4, 8], [4, 8, 9]),
        (5, 5, 3, [0], [5]),
        (3, 1, 1, [0, 1, 2], [1, 2, 3]),
    ],
)
def test_windows_follow_each_other_and_the_last_is_cut(length, window, stride, start, end):
    assert intervals(length, window, stride) == (start, end)


def test_bounds_run_along_the_last_axis_first():
    start, end = window_bounds([[0, 5], [1, 2, 3]], [[4, 6], [2, 3, 9]])
    assert start.tolist() == [[0, 0, 0, 5, 5, 5], [1, 2, 3, 1, 2, 3]]
    assert end.tolist() == [[4, 4, 4, 6, 6, 6], [2, 3, 9, 2, 3, 9]]


def _replica(drop, start, end, space):
    """Average over the windows that cover a pixel, one pixel and one window at a time."""
    axes = [list(zip(a, b, strict=True)) for a, b in zip(start, end, strict=True)]
    windows = list(np.ndindex(*(len(axis) for axis in axes)))
    found = np.zeros((len(drop), *space))
    for t, values in enumerate(drop):
        for pixel in np.ndindex(*space):
            covering = []
            for value, window in zip(values, windows, strict=True):
                bounds = [axes[i][k] for i, k in enumerate(window)]
                if all(a <= p < b for p, (a, b) in zip(pixel, bounds, strict=True)):
                    covering.append(value)
            found[t][pixel] = np.mean(covering)
    return found


@pytest.mark.parametrize(
    ("space", "window", "stride"), [((7, 5), (3, 2), (2, 1)), ((6, 9), (4, 4), (4, 3)), ((11,), (4,), (3,))]
)
def test_agrees_with_an_average_pixel_by_pixel(space, window, stride):
    pairs = [intervals(*numbers) for numbers in zip(space, window, stride, strict=True)]
    start, end = [a for a, _ in pairs], [b for _, b in pairs]
    n = int(np.prod([len(axis) for axis in start]))
    drop = np.random.default_rng(0).standard_normal((3, n))
    np.testing.assert_allclose(drop_map(drop, start, end, space), _replica(drop, start, end, space), atol=1e-12)


def test_where_all_windows_drop_alike_the_map_is_flat():
    start, end = intervals(13, 5, 3)
    np.testing.assert_allclose(drop_map(np.full((2, len(start)), 0.25), [start], [end], (13,)), 0.25, atol=1e-15)


def test_what_no_window_covers_is_not_known():
    found = drop_map(np.array([[1.0, 2.0]]), [[0, 3]], [[2, 4]], (5,))
    np.testing.assert_array_equal(found, [[1, 1, np.nan, 2, np.nan]])


RENDERING = {"kind": "windows", "start": [[0, 2], [0]], "end": [[2, 3], [2]]}


def test_drops_are_of_the_target_and_of_a_contrast():
    row = {
        "score": np.array([[0.1, 0.8, 0.1], [0.5, 0.3, 0.2]], np.float32),
        "base": np.array([0.2, 0.7, 0.1], np.float32),
        "target": np.array([1, 0, -1]),
        "against": np.array([-1, 2, -1]),
    }
    found = render_windows(row, RENDERING, (3, 3, 2))
    assert found.shape == (3, 3, 2)
    np.testing.assert_allclose(found[0][:, 0], [-0.1, -0.1, 0.4], atol=1e-7)
    np.testing.assert_allclose(found[1][:, 1], [0.1, 0.1, -0.2], atol=1e-7)
    assert np.isnan(found[2]).all()


def test_the_class_that_wins_under_each_window():
    score = np.array([[0.1, 0.8, 0.1], [0.5, 0.3, 0.2]], np.float32)
    assert winning_classes({"score": score}, RENDERING).tolist() == [[1], [0]]
    assert winning_classes({"winner": np.array([7, -1], np.int16)}, RENDERING).tolist() == [[7], [-1]]
    score[1, 2] = np.nan
    assert winning_classes({"score": score}, RENDERING).tolist() == [[1], [-1]]


def test_scores_that_do_not_fit_the_windows_are_refused():
    row = {"score": np.zeros((3, 2)), "base": np.zeros(2), "target": np.array([0])}
    with pytest.raises(StageError, match="expected scores of the 2 windows that are noted, got 3"):
        render_windows(row, RENDERING, (3, 3, 2))
