"""`numerics.convolution`: planned, told, and part of what a result depends on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from convaudit.pipelines import run as runs
from convaudit.pipelines.fingerprint import Numerics
from convaudit.pipelines.store import RunStore
from convaudit.stages.errors import ConfigError
from convaudit.stages.network import winograd

from .conftest import digests
from .test_audit import Backwards

FEW = ("cluster=inprocess", "stages=[predictions,attributions]")


@pytest.fixture
def always(monkeypatch):
    """Serve small convolutions, too."""
    monkeypatch.setattr(winograd, "worth", lambda *_: True)


def test_it_is_for_cpus_alone():
    with pytest.raises(ConfigError, match=r"numerics\.convolution: expected direct for cuda, got winograd"):
        Numerics(batch=64, shard=256, device="cuda", convolution="winograd")


def test_it_is_for_one_thread_alone():
    with pytest.raises(ConfigError, match=r"numerics\.convolution: winograd expects numerics\.threads=1, got 2"):
        Numerics(threads=2, convolution="winograd")


def test_it_is_part_of_the_numerics_key():
    assert Numerics(convolution="winograd").key() != Numerics().key()


def test_a_network_of_which_nothing_would_be_faster_is_refused(configure, tmp_path):
    config = configure(tmp_path, *FEW, "numerics.convolution=winograd")
    with pytest.raises(ConfigError, match=r"got 3 convolutions, none of this kind.*set numerics\.convolution=direct"):
        runs.audit(config)


def test_another_convolution_is_another_sweep_and_the_run_tells_of_it(configure, tmp_path, always, capsys):
    direct = configure(tmp_path, *FEW)
    runs.audit(direct)
    first = RunStore(direct.run)
    logits, maps = first["predictions/logit"][:], first["attributions/saliency/heatmap"][:]

    runs.audit(configure(tmp_path, *FEW, "numerics.convolution=winograd"))

    assert "3 of 3 convolutions by Winograd" in "".join(capsys.readouterr())
    second = RunStore(direct.run)
    assert second.subject()["numerics"]["winograd"] == {"served": 3, "convolutions": 3}
    assert "winograd.served" in (direct.run / "report.html").read_text()
    assert not np.array_equal(second["predictions/logit"][:], logits)
    assert np.abs(second["predictions/logit"][:] - logits).max() <= 1e-4 * np.abs(logits).max()
    assert np.median(np.abs(second["attributions/saliency/heatmap"][:].astype("f8") - maps)) <= 1e-3


def test_bytes_do_not_depend_on_the_order_of_the_tasks(configure, tmp_path, always):
    found = []
    for name in ("forwards", "backwards"):
        config = configure(tmp_path / name, *FEW, "numerics.convolution=winograd")
        if name == "backwards":
            config = dataclasses.replace(config, cluster=Backwards())
        runs.audit(config)
        found.append(digests(config.run))
    assert found[0] == found[1]
