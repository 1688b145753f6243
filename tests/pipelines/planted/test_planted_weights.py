"""Faults in the weights: silenced channels, swapped classes, no training, numbers that are none."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from convaudit.stages.errors import ModelError
from convaudit.stages.reference.net import DigitsNet
from convaudit.stages.verdicts.stage import headline

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
        if code.startswith("filters/") or code in ("neighbors/against-labels", "suspects/labels"):
            assert "no better than chance" in found.detail


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
