"""Whole audits of models and data in which a fault was planted: each has to find it, say so, and never pass it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file, save_file

from convaudit.pipelines import run as runs
from convaudit.pipelines.store import RunStore
from convaudit.stages.errors import ModelError
from convaudit.stages.reference.net import DigitsNet
from convaudit.stages.specs import Finding
from convaudit.stages.verdicts.stage import headline

HOSTILE = "<script>alert(1)</script>"
CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
WHOLE = ("cluster=inprocess", "tracking=none", "numerics.batch=64", "numerics.shard=256")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Outcome:
    """What an audit left behind."""

    run: Path
    verdict: dict

    @property
    def store(self) -> RunStore:
        return RunStore(self.run)

    @property
    def page(self) -> str:
        return (self.run / "report.html").read_text()

    @property
    def findings(self) -> dict[str, Finding]:
        store = self.store
        done = [leaf for leaf in store.leaves() if store.failure(leaf) is None]
        return {found.code: found for leaf in done for found in store.summary(leaf).findings}

    @property
    def gates(self) -> dict[str, str]:
        return {gate["name"]: gate["status"] for gate in self.verdict["gates"]}

    def value(self, name: str) -> float:
        return {m.name: m.value for m in self.store.summary(name.split("/")[0]).measurements}[name]

    def order(self) -> list[str]:
        """Codes of the findings as they stand on the page."""
        body = self.page[self.page.index('<section id="findings"') :]
        places = {code: body.find(str(escape(found.title))) for code, found in self.findings.items()}
        assert min(places.values(), default=0) >= 0, places
        return sorted(places, key=lambda code: places[code])


@pytest.fixture
def audited(configure, tmp_path) -> Callable[..., Outcome]:
    def audit(*overrides: str, small: tuple[str, ...] = WHOLE) -> Outcome:
        notes = runs.audit(configure(tmp_path, *overrides, small=small))
        assert json.loads((tmp_path / "run" / "verdict.json").read_text())["verdict"] == notes["verdict"]
        return Outcome(tmp_path / "run", dict(notes))

    return audit


@pytest.fixture
def planted(digits, tmp_path) -> Callable[..., str]:
    """Override for a copy of the default weights that a function has changed."""

    def plant(change: Callable[[dict[str, torch.Tensor]], None]) -> str:
        weights = {name: value.clone() for name, value in load_file(digits.weights).items()}
        change(weights)
        save_file(weights, tmp_path / "planted.safetensors")
        return f"model.checkpoint={tmp_path / 'planted.safetensors'}"

    return plant


@pytest.fixture
def given(digits, tmp_path) -> Callable[..., tuple[str, ...]]:
    """Overrides for an npz file of digits that a function has changed."""

    def give(change: Callable[[dict[str, np.ndarray]], None], n: int = 540) -> tuple[str, ...]:
        with np.load(digits.data) as stored:
            held = {"images": stored["images"][:n].copy(), "labels": stored["labels"][:n].copy()}
        held["class_names"] = np.array(DIGITS)
        change(held)
        np.savez(tmp_path / "given.npz", **held)
        return ("data=arrays", f"data.path={tmp_path / 'given.npz'}")

    return give


SILENT, STUCK = (3, 7, 8, 9, 10, 12, 13, 31), 20


def silence(weights):
    weights["block2.norm.bias"][list(SILENT)] = -1e3
    weights["block2.norm.weight"][STUCK] = 0
    weights["block2.norm.bias"][STUCK] = 0.2


def test_dead_and_constant_channels_are_named_ablated_gated_and_shown(audited, planted):
    outcome = audited(planted(silence), "data.limit=300")
    dead, constant = (outcome.findings[f"filters/{trouble}"] for trouble in ("dead", "constant"))
    assert (dead.layer, set(dead.channels) >= set(SILENT)) == ("block2.relu", True)
    assert (constant.layer, constant.channels) == ("block2.relu", (STUCK,))
    assert dead.title == f"{len(dead.channels)} of 112 channels, in block2.relu, never fired"
    assert constant.title == "1 of 112 channels, in block2.relu, says the same of every image"
    assert outcome.gates["dead_filters"] == "WARN"
    assert outcome.value("filters/dead_fraction") == len(dead.channels) / 112
    cases = outcome.store.summary("ablation").notes["cases"]
    together = [case for case in cases if case["joint"] and case["layer"] == "block2.relu"]
    assert together
    assert set(together[0]["channels"]) >= set(SILENT)
    assert (together[0]["how"], together[0]["flipped"]) == ("run", 0)
    assert "ablation/contradiction" not in outcome.findings
    section = outcome.page[outcome.page.index('<section id="filters"') :]
    for text in ("block2.relu", dead.title, str(SILENT[0])):
        assert text in outcome.page
    assert "block2.relu" in section


def swap(weights):
    for name in ("head.weight", "head.bias"):
        weights[name][[3, 8]] = weights[name][[8, 3]]


def test_two_swapped_classes_are_the_most_confused_pair_and_fail_the_gate(audited, planted):
    outcome = audited(planted(swap), "stages=[confusion]", "gates.worst_recall.level=error")
    pairs = outcome.store["confusion/pair"][:2].tolist()
    assert sorted(pairs) == [[3, 8], [8, 3]]
    assert (outcome.store["confusion/pair_count"][:2] > 40).all()
    assert outcome.gates["worst_recall"] == "FAIL"
    assert outcome.verdict["verdict"] == "FAIL"
    order = outcome.findings["confusion/class-order"]
    assert "3 as 8, 8 as 3" in order.detail
    assert set(outcome.store.images()["label"].iloc[list(order.images)]) == {3, 8}
    assert outcome.order()[0] == "confusion/class-order"


def test_wrong_labels_are_suspected_and_little_else(audited, given):
    chosen = np.sort(np.random.default_rng(5).choice(540, 54, replace=False))

    def mislabel(held):
        held["labels"][chosen] = (held["labels"][chosen] + np.random.default_rng(6).integers(1, 10, 54)) % 10

    outcome = audited(*given(mislabel), "stages=[neighbors,confusion,thumbnails]")
    store = outcome.store
    head, voted = store["predictions/predicted"][:], store["neighbors/predicted"][:]
    label = store.images()["label"].to_numpy()
    suspect = np.flatnonzero((head == voted) & (head != label))
    # Chance would find a tenth of them, and be right one time in ten.
    assert np.isin(chosen, suspect).mean() > 0.9
    assert np.isin(suspect, chosen).mean() > 0.9
    notes = store.summary("neighbors").notes["triangle"]
    assert notes["suspect"] == len(suspect)
    assert sum(notes.values()) == 540
    assert notes["both_right"] > 450
    finding = outcome.findings["neighbors/label-suspects"]
    assert finding.severity == "warning"
    assert finding.title == f"{len(suspect)} of 540 labels may be wrong"
    assert np.isin(finding.images, chosen).mean() > 0.8
    assert outcome.gates["label_suspects"] == "WARN"


def test_untrained_weights_are_the_first_thing_said_and_fail(audited, digits, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(DigitsNet().state_dict(), tmp_path / "fresh.safetensors")
    outcome = audited(f"model.checkpoint={tmp_path / 'fresh.safetensors'}", "data.limit=300")
    assert outcome.order()[0] == "confusion/at-chance"
    assert outcome.verdict["verdict"] == "FAIL"
    assert outcome.gates["accuracy"] == "FAIL"
    assert outcome.verdict["first_error"] == outcome.findings["confusion/at-chance"].title
    assert "no better than chance" in headline(outcome.verdict)
    for code, found in outcome.findings.items():
        if code.startswith("filters/") or code == "neighbors/label-suspects":
            assert "no better than chance" in found.detail


def test_wrong_preprocessing_is_said_with_the_setting(audited):
    outcome = audited("data.preprocessing.mean=[5.0]", "data.preprocessing.std=[0.1]", "stages=[confusion]")
    scale = outcome.findings["predictions/input-scale"]
    assert "mean 5 and std 0.1" in scale.detail
    assert "confusion/at-chance" in outcome.findings
    assert outcome.order()[:2] == ["confusion/at-chance", "predictions/input-scale"]
    assert outcome.verdict["verdict"] == "FAIL"
    assert outcome.value("predictions/input_mean") < -40


def test_the_right_preprocessing_is_not_suspected(audited):
    outcome = audited("stages=[confusion]", "data.limit=200")
    assert outcome.findings == {}
    assert outcome.verdict["verdict"] == "PASS"


def test_the_same_image_under_two_labels_is_told(audited, given):
    def copy(held):
        held["images"][11], held["images"][40] = held["images"][7], held["images"][90]
        held["labels"][11], held["labels"][40] = (held["labels"][7] + 1) % 10, held["labels"][90]

    outcome = audited(*given(copy, n=200), "stages=[neighbors,thumbnails]")
    assert outcome.findings["neighbors/conflicting-duplicates"].images == (7, 11)
    assert set(outcome.findings["neighbors/duplicates"].images) == {7, 11, 40, 90}
    assert outcome.gates["conflicting_duplicates"] == "WARN"
    assert outcome.value("neighbors/conflict_count") == 1
    assert "row-000007 = row-000011" in outcome.page


def unlabel(held):
    held["labels"][:] = -1


@pytest.mark.parametrize("gates", ["unlabelled", "standard"])
def test_what_was_not_measured_never_passes(gates, audited, given):
    outcome = audited(*given(unlabel, n=120), f"gates={gates}")
    for gate in outcome.verdict["gates"]:
        assert gate["status"] != "PASS" or gate["value"] is not None
    assert outcome.verdict["verdict"] == {"unlabelled": "PASS", "standard": "ERROR"}[gates]
    assert outcome.verdict["accuracy"] is None
    assert set(outcome.gates) == {"bad_images", "dead_filters"} or outcome.gates["accuracy"] == "ERROR"
    assert "predictions/unlabelled" in outcome.findings


def test_a_hostile_name_is_just_a_name(audited, given, planted):
    def rename(held):
        held["class_names"] = np.array([HOSTILE, *DIGITS[1:3], "O'Brien & <b>", *DIGITS[4:]])
        held["ids"] = np.array([f"{HOSTILE}{row}" for row in range(len(held["labels"]))])
        held["images"][1], held["labels"][1] = held["images"][0], (held["labels"][0] + 1) % 10

    def swap_with_it(weights):
        for name in ("head.weight", "head.bias"):
            weights[name][[0, 3]] = weights[name][[3, 0]]

    outcome = audited(*given(rename, n=200), planted(swap_with_it))
    assert HOSTILE in outcome.findings["confusion/class-order"].detail
    for page in outcome.run.glob("*.html"):
        assert "<script>alert" not in page.read_text()
        assert "Brien & <b>" not in page.read_text()
    assert str(escape(HOSTILE)) in outcome.page
    ElementTree.parse(outcome.run / "junit.xml")
    assert "<script" not in (outcome.run / "junit.xml").read_text()
    assert outcome.store.subject()["class_names"][0] == HOSTILE


NETS = """
from torch import nn


class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 9, padding=4)
        self.norm = nn.BatchNorm1d(8)
        self.act = nn.ReLU()
        self.deep = nn.Sequential(nn.Conv1d(8, 12, 9, stride=2), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.deep(self.act(self.norm(self.conv(x)))).mean(-1))


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, padding=2)
        self.deep = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.deep(self.conv(x)).mean((-2, -1)))
"""


def waves(shape: tuple[int, ...], n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Waves along the last axis of one of three frequencies, in noise."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % 3
    time = np.arange(shape[-1]) / shape[-1]
    phase = rng.uniform(0, 2 * np.pi, n)
    wave = np.sin(2 * np.pi * (3 * (1 + label))[:, None] * time + phase[:, None])
    wave = wave.reshape(n, *(1,) * (len(shape) - 1), shape[-1])
    return (0.5 + 0.3 * wave + rng.normal(0, 0.03, (n, *shape))).clip(0, 1).astype(np.float32), label


def own_model(folder: Path, factory: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Train the user's network on the user's arrays; overrides for both."""
    images, label = waves(shape)
    np.savez(folder / "own.npz", images=images, labels=label, class_names=np.array(["low", "middle", "high"]))
    (folder / "nets.py").write_text(NETS)
    spec = importlib.util.spec_from_file_location("planted_nets", folder / "nets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(module, factory)()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        fed, wanted = torch.from_numpy((images - 0.5) / 0.25), torch.from_numpy(label)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(fed), wanted).backward()
            optimizer.step()
    torch.save({"state_dict": model.state_dict()}, folder / "own.pt")
    return (
        "model=python",
        f"model.file={folder / 'nets.py'}",
        f"model.factory={factory}",
        f"model.checkpoint={folder / 'own.pt'}",
        "data=arrays",
        f"data.path={folder / 'own.npz'}",
        "data.preprocessing.mean=[0.5]",
        "data.preprocessing.std=[0.25]",
    )


@pytest.mark.parametrize(("factory", "shape"), [("Signals", (2, 96)), ("Wide", (3, 14, 40))])
def test_signals_and_images_that_are_not_square_go_all_the_way(factory, shape, audited, tmp_path):
    outcome = audited(*own_model(tmp_path, factory, shape), small=WHOLE)
    assert not outcome.verdict["failures"]
    assert outcome.value("predictions/accuracy") > 0.9
    store = outcome.store
    assert store["attributions/saliency/heatmap"].shape == (120, 1, *shape[1:])
    asked = set(outcome.page.split('<section id="')[1:])
    named = {text.split('"')[0] for text in asked}
    assert {"predictions", "attributions", "neighbors", "embeddings", "filters", "activations", "thumbnails"} <= named
    assert "could not be drawn" not in outcome.page
    assert outcome.page.count("<img") + outcome.page.count("<svg") + outcome.page.count("<use") > 10
    assert outcome.verdict["verdict"] in ("PASS", "WARN")


def test_weights_that_are_not_numbers_are_refused(audited, planted, tmp_path):
    def spoil(weights):
        weights["head.weight"][4, 9] = float("nan")

    with pytest.raises(ModelError, match=r"NaN or infinite weights in head\.weight"):
        audited(planted(spoil), "data.limit=100")
    assert not (tmp_path / "run" / "verdict.json").exists()


@pytest.mark.parametrize("gates", ["standard", "unlabelled"])
def test_logits_that_are_not_finite_are_an_error_whatever_the_gates_say(gates, audited, planted):
    def overflow(weights):
        weights["head.weight"][4] = 3e38

    outcome = audited(planted(overflow), "data.limit=100", f"gates={gates}", "verdicts.findings_level=off")
    assert outcome.verdict["verdict"] == "ERROR"
    assert outcome.order()[0] == "predictions/logit-not-finite"
    assert "not finite" in headline(outcome.verdict)
    assert (outcome.store["predictions/predicted"][:] == -1).all()


def test_layers_that_overflow_have_no_channel_called_dead(audited, planted):
    def overflow(weights):
        weights["block1.conv.weight"][0] = 3e38

    outcome = audited(planted(overflow), "data.limit=100", "gates=unlabelled")
    assert outcome.verdict["verdict"] == "ERROR"
    assert outcome.gates["dead_filters"] == "ERROR"
    assert "filters/dead-layer" not in outcome.findings


def test_only_the_test_part_of_the_digits_is_audited(audited, digits):
    from convaudit.stages.reference.digits import load_digits_split

    outcome = audited("stages=[predictions]")
    images, labels, is_test = load_digits_split()
    table = outcome.store.images()
    assert set(table["split"]) == {"test"}
    assert len(table) == is_test.sum() == 540
    assert abs(is_test.mean() - 0.3) < 1e-3
    np.testing.assert_array_equal(table["label"], labels[is_test])
    with np.load(digits.data) as stored:
        np.testing.assert_array_equal(stored["images"], images[is_test])
    shares = [(labels[is_test] == digit).mean() - (labels[~is_test] == digit).mean() for digit in range(10)]
    assert np.abs(shares).max() < 0.005
    assert outcome.value("predictions/accuracy") >= 0.97


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the CIFAR-10 sample (../shared/data/cifar10) is not on this machine")
def test_a_real_network_has_its_dead_channels_told_in_one_finding(audited):
    outcome = audited(
        "model=python",
        f"model.file={CIFAR / 'resnet_cifar.py'}",
        "model.factory=resnet20",
        f"model.checkpoint={CIFAR / 'resnet20.th'}",
        "data=imagefolder",
        f"data.path={CIFAR / 'images'}",
        "data.preprocessing.mean=[0.485,0.456,0.406]",
        "data.preprocessing.std=[0.229,0.224,0.225]",
        "stages=[filters]",
    )
    dead = outcome.findings["filters/dead"]
    assert dead.title == "18 of 688 channels, in 11 layers, never fired"
    assert outcome.order() == ["filters/dead", "filters/dormant"]
    assert outcome.value("predictions/accuracy") == 1627 / 2000
