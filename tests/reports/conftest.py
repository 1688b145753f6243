"""What tests of the report share: a store, one with a network to walk through, and a browser."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from convaudit.stages.specs import Summary

from .report_store import LAYERS, make_store

CONFIG = {
    "model": {"_target_": "convaudit.pipelines.models.digits.Digits"},
    "predictions": {"_target_": "convaudit.stages.predictions.stage.Predictions"},
    "confusion": {"_target_": "convaudit.stages.confusion.stage.Confusion", "pairs": 8},
    "attributions": {"methods": {"grad_cam": {"layers": ["last_conv"], "target": "predicted"}}},
    "run": {"directory": "/somewhere/else"},
    "cluster": {"workers": 3},
    "seed": 0,
}


@pytest.fixture(scope="session")
def store():
    return make_store()


@pytest.fixture(scope="session")
def signal_store():
    return make_store(n=80, signal=True)


def weights_audit(verdict):
    return {
        "verdict": verdict, "reason": "", "planes": 24, "needed": 200, "smooth": 3, "filters": 8, "near_zero": 0,
        "duplicates": None, "spikes": 1, "values": 8, "moran": 0.2, "chance": -0.125, "p": 0.004,
        "low": 0.1, "high": 0.3, "top": 1.0, "edge": 0.5, "shuffled": 0.4,
        "near_zero_by_chance": 0.0, "duplicates_by_chance": 0.0,
    }  # fmt: skip


@pytest.fixture(scope="session")
def walked(store):
    """The store with weights and receptive fields of its four layers."""
    rng = np.random.default_rng(3)
    data = dict(store.data)
    data["weights/block1.conv/filter"] = rng.normal(size=(8, 3, 3, 5)).astype(np.float32)
    data["weights/block2.conv/slice"] = rng.normal(size=(40, 3, 5)).astype(np.float32)
    data["weights/block2.conv/slice_of"] = rng.integers(0, 8, (40, 2)).astype(np.int32)
    table = [
        {"name": name, "kind": "conv" if "conv" in name else "relu", "type": "X", "output": [8, 6, 8], "parameters": 0}
        for name in LAYERS
    ]
    for row, parameters, verdict in ((table[0], 360, "smooth"), (table[2], 1920, "noise")):
        row |= {
            "parameters": parameters,
            "kernel": [3, 5],
            "stride": [1, 2],
            "groups": 1,
            "audit": weights_audit(verdict),
        }
    whole = {"channels": [[0, 8]], "size": [0, 0], "stride": [0, 0], "centre": [0, 0], "status": "whole"}
    exact = whole | {"size": [3.0, 5.0], "stride": [1.0, 2.0], "status": "exact"}
    groups = {"block1.conv": [exact], "block1.relu": [exact, exact | {"size": [7, 9]}], "block2.conv": [whole]}
    notes = {"table": table, "lineage": {}, "first_convolution": "block1.conv", "parameters": 2280}
    summaries = store.summaries | {
        "weights": Summary(notes=notes),
        "receptive_fields/theoretical": Summary(notes={"groups": groups, "status": ["exact", "whole", "unknown"]}),
    }
    return replace(store, data=data, summaries=summaries)


@pytest.fixture
def config():
    return dict(CONFIG)


@pytest.fixture
def make():
    return make_store


@pytest.fixture
def edited(store):
    """The store with some fields replaced."""

    def edit(**changes):
        return replace(store, **changes)

    return edit


CHROME = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, CHROME)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chrome')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()
