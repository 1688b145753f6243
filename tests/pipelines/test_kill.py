"""Whatever kills a run, the next one goes on from the finished shards and ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from .conftest import convaudit, digests

SLOW = ("tracking=none", "data.limit=160", "numerics.batch=1", "numerics.shard=4")
STAGES = "stages=[predictions,features,activations,attributions,thumbnails,confusion,filters]"
TWO_WORKERS = ("cluster=local", "cluster.workers=2", "cluster.minimum_images=0")
PATIENCE = 90.0


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    audit(digits, folder, "cluster=inprocess")
    return digests(folder / "run")


def arguments(digits, *overrides):
    return [f"model.checkpoint={digits.weights}", *SLOW, STAGES, *overrides]


def audit(digits, folder, *overrides):
    return convaudit(*arguments(digits, *overrides), cwd=folder)


def started(digits, folder):
    command = [sys.executable, "-m", "convaudit.pipelines.cli", *arguments(digits, *TWO_WORKERS)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished_shards(folder):
    return [int(np.load(path).sum()) for path in folder.glob(".work/attempts/*/done.npy")]


def wait_for_shards(process, folder, count):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before it could be killed: {process.stdout.read()}"
        if min(finished_shards(folder), default=0) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} shards in {PATIENCE} s")


def end(process):
    """Leave no process behind, whatever the test did."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def assert_resumes(digits, folder, undisturbed):
    done = min(finished_shards(folder))
    assert 0 < done < 40
    output = audit(digits, folder, "cluster=inprocess").stdout
    assert f"{done} of 40 tasks of predictions" in output.replace("\n", " ")
    assert digests(folder / "run") == undisturbed


def test_kill_9_on_the_driver(digits, tmp_path, undisturbed):
    process = started(digits, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        os.kill(process.pid, signal.SIGKILL)  # its workers are orphans now, and may still be writing
        process.wait(timeout=30)
        assert not (tmp_path / "run" / "verdict.json").exists()
        assert_resumes(digits, tmp_path, undisturbed)
    finally:
        end(process)


def test_kill_9_on_a_worker(digits, tmp_path, undisturbed):
    process = started(digits, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        workers = [
            child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
        ]
        workers[0].kill()
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        assert digests(tmp_path / "run") == undisturbed
    finally:
        end(process)


def test_ctrl_c(digits, tmp_path, undisturbed):
    process = started(digits, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        assert "run the same command again to go on" in output
        assert_resumes(digits, tmp_path, undisturbed)
    finally:
        end(process)
