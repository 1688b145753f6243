"""Whatever kills a run, the next one goes on from the finished shards and ends with the same bytes, bad images too."""

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

from .conftest import FLAWED, convaudit, digests

# A dozen passes over each image, so that the sweep lasts for seconds.
SLOW = (
    "tracking=none",
    "attributions=[saliency,grad_cam,smooth_grad]",
    "numerics.batch=1",
    "numerics.shard=2",
    "gates.bad_images.max=0.1",
)
TASKS = 43  # shards of the flawed folder's 85 images
STAGES = "stages=[predictions,features,activations,attributions,thumbnails,confusion,filters]"
TWO_WORKERS = ("cluster=local", "cluster.workers=2", "cluster.minimum_images=0")
PATIENCE = 90.0


@pytest.fixture(scope="module")
def flawed(digits, flawed_folder):
    """Overrides that name the default model and images of which five are bad."""
    return (f"model.checkpoint={digits.weights}", *FLAWED, f"data.path={flawed_folder}")


@pytest.fixture(scope="module")
def undisturbed(flawed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    audit(flawed, folder, "cluster=inprocess")
    return digests(folder / "run")


def arguments(flawed, *overrides):
    return [*flawed, *SLOW, STAGES, *overrides]


def audit(flawed, folder, *overrides):
    return convaudit(*arguments(flawed, *overrides), cwd=folder)


def started(flawed, folder):
    command = [sys.executable, "-m", "convaudit.pipelines.cli", *arguments(flawed, *TWO_WORKERS)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A suite in the background ignores Ctrl-C, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished_shards(folder):
    """Of each leaf that sweeps over the images; others have tasks of another kind."""
    done = [np.load(path) for path in folder.glob(".work/attempts/*/done.npy")]
    return [int(mask.sum()) for mask in done if len(mask) == TASKS]


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


def assert_resumes(flawed, folder, undisturbed):
    # The end may come after one leaf has noted a shard and before the next one has.
    done = set(finished_shards(folder))
    assert done
    assert done <= set(range(1, TASKS))
    output = audit(flawed, folder, "cluster=inprocess").stdout.replace("\n", " ")
    assert any(f"{count} of {TASKS} tasks of predictions" in output for count in done), output
    assert digests(folder / "run") == undisturbed


def test_kill_9_on_the_driver(flawed, tmp_path, undisturbed):
    process = started(flawed, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        os.kill(process.pid, signal.SIGKILL)  # its workers are orphans now, and may still be writing
        process.wait(timeout=30)
        assert not (tmp_path / "run" / "verdict.json").exists()
        assert_resumes(flawed, tmp_path, undisturbed)
    finally:
        end(process)


def test_kill_9_on_a_worker(flawed, tmp_path, undisturbed):
    process = started(flawed, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        # Workers are forked from the process that has imported everything; elsewhere than on Linux they are spawned.
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if child.ppid() != process.pid] or children
        assert len(workers) == 2
        workers[0].kill()
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        assert digests(tmp_path / "run") == undisturbed
    finally:
        end(process)


def test_ctrl_c(flawed, tmp_path, undisturbed):
    process = started(flawed, tmp_path)
    try:
        wait_for_shards(process, tmp_path, 3)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        assert "run the same command again to go on" in output
        assert_resumes(flawed, tmp_path, undisturbed)
    finally:
        end(process)
