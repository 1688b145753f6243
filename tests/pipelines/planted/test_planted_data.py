"""Faults in the data: wrong and missing labels, wrong preprocessing, duplicates, hostile names."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from .conftest import DIGITS

HOSTILE = "<script>alert(1)</script>"


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
    finding = outcome.findings["neighbors/against-labels"]
    assert finding.title == f"Head and neighbors agree against {len(suspect)} of 540 labels"
    assert np.isin(finding.images, chosen).mean() > 0.8


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


@pytest.mark.parametrize("leaks", [0, 2])
def test_images_in_two_splits_fail_the_gate(leaks, audited, digits, tmp_path):
    with np.load(digits.data) as stored:
        images, labels = stored["images"][:120].reshape(120, 32, 32), stored["labels"][:120]
    images[60 : 60 + leaks], labels[60 : 60 + leaks] = images[:leaks], labels[:leaks]
    values = np.rint(images / images.max() * 255).astype(np.uint8)
    rows = ["path,label,split"]
    for row, (value, label) in enumerate(zip(values, labels, strict=True)):
        Image.fromarray(value).save(tmp_path / f"{row:03}.png")
        rows.append(f"{row:03}.png,{label},{'train' if row < 60 else 'test'}")
    (tmp_path / "images.csv").write_text("\n".join(rows))
    names = ",".join(f"'{name}'" for name in DIGITS)
    setting = ("data=manifest", f"data.path={tmp_path / 'images.csv'}", f"data.class_names=[{names}]")
    outcome = audited(*setting, "data.preprocessing.mode=L", "stages=[neighbors]")
    assert outcome.value("neighbors/leak_count") == leaks
    assert outcome.gates["leaks"] == ("FAIL" if leaks else "PASS")
    assert ("neighbors/leaking-duplicates" in outcome.findings) == bool(leaks)


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
