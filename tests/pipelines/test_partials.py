"""Partial results are read one at a time, so that a data set of any size can be folded."""

import numpy as np
import pytest

from convaudit.pipelines.workspace import Partials, write_partial


def partials(folder, n=7, **settings):
    paths = [folder / f"{task}.npz" for task in range(n)]
    for task, path in enumerate(paths):
        write_partial(path, {"n": np.full(100, task, np.float64)})
    return Partials(paths, **settings)


def test_they_come_in_task_order_and_as_often_as_asked(tmp_path):
    found = partials(tmp_path, keep=0)
    for _ in range(2):
        assert [part["n"][0] for part in found] == list(range(7))
    assert (len(found), found[-1]["n"][3], [part["n"][0] for part in found[2:4]]) == (7, 6, [2, 3])
    with pytest.raises(IndexError):
        found[7]
    assert not Partials([])


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (1600, 2), (10**6, 7)])
def test_no_more_is_kept_than_was_said(tmp_path, keep, kept):
    found = partials(tmp_path, keep=keep)
    first, second = list(found), list(found)
    assert sum(one is other for one, other in zip(first, second, strict=True)) == kept
