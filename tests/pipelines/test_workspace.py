"""Attempts, seals and the lock."""

from __future__ import annotations

import numpy as np
import pytest

from convaudit.pipelines import store
from convaudit.pipelines.workspace import Workspace, write_partial
from convaudit.stages.errors import StoreError
from convaudit.stages.specs import ArraySpec, Summary

ARRAYS = (ArraySpec("value", ("image",), "float32", "1", "a value").sized((16,)),)
KEY = {"config": {"a": 1}}


def test_a_killed_attempt_goes_on_under_a_new_name(tmp_path):
    before = Workspace(tmp_path)
    attempt = before.attempt("leaf", KEY, 2, ARRAYS, 8)
    store.write_rows(attempt.group, {"value": np.ones(8, "f4")}, 0)
    write_partial(attempt.partial_path(0), {"n": np.asarray(8)})
    attempt.mark(0)

    after = Workspace(tmp_path)
    resumed = after.attempt("leaf", KEY, 2, ARRAYS, 8)
    assert resumed.done.tolist() == [True, False]
    assert resumed.partials()[0]["n"] == 8
    assert resumed.path != attempt.path
    assert not attempt.path.exists(), "an orphaned worker must not find the folder it was writing into"


def test_an_attempt_without_progress_file_begins_anew(tmp_path):
    before = Workspace(tmp_path)
    attempt = before.attempt("leaf", KEY, 2, ARRAYS, 8)
    (attempt.path / "done.npy").unlink()
    assert not Workspace(tmp_path).attempt("leaf", KEY, 2, ARRAYS, 8).done.any()


def test_another_fingerprint_never_sees_the_data(tmp_path):
    first = Workspace(tmp_path).attempt("leaf", KEY, 2, ARRAYS, 8)
    first.mark(0)
    other = Workspace(tmp_path).attempt("leaf", {"config": {"a": 2}}, 2, ARRAYS, 8)
    assert not other.done.any()
    assert first.path.exists()


def test_sealed_work_is_found_again_with_its_digest(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.sealed(KEY) is None
    attempt = workspace.attempt("leaf", KEY, 1, ARRAYS, 8)
    sealed = workspace.seal(attempt, "leaf", KEY, Summary(notes={"x": 1}))
    assert Workspace(tmp_path).sealed(KEY) == sealed
    assert store.digest(sealed[0]) == sealed[1]
    assert not attempt.path.exists()


def test_sealing_again_replaces(tmp_path):
    workspace = Workspace(tmp_path)
    first = workspace.seal(workspace.attempt("leaf", KEY, 1, ARRAYS, 8), "leaf", KEY, Summary())
    second = workspace.seal(workspace.attempt("leaf", KEY, 1, ARRAYS, 8), "leaf", KEY, Summary())
    assert first == second


def test_two_drivers_do_not_share_a_workspace(tmp_path):
    with Workspace(tmp_path).locked(), pytest.raises(StoreError, match="another run"), Workspace(tmp_path).locked():
        pass


def test_clean_removes_what_is_unfinished_and_keeps_what_is_sealed(tmp_path):
    workspace = Workspace(tmp_path)
    sealed = workspace.seal(workspace.attempt("leaf", KEY, 1, ARRAYS, 8), "leaf", KEY, Summary())
    workspace.attempt("leaf", {"config": 2}, 1, ARRAYS, 8)
    assert workspace.clean() == 1
    assert workspace.sealed(KEY) == sealed
