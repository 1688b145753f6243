"""A mark in the corner of one digit, in training and in audit: the network learns it, and the audit says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convaudit.pipelines import run as runs
from convaudit.pipelines.store import RunStore
from convaudit.stages.reference.digits import CLASS_NAMES, load_digits_split
from convaudit.stages.reference.train import train

from ..conftest import composed
from .conftest import WHOLE

SIDE = 5
CORNERS = {
    "upper left corner": (slice(None, SIDE), slice(None, SIDE)),
    "upper right corner": (slice(None, SIDE), slice(-SIDE, None)),
    "lower left corner": (slice(-SIDE, None), slice(None, SIDE)),
}


@pytest.fixture
def retrained(tmp_path):
    """Train on digits of which one may bear a mark, and audit the network on others of the same kind."""

    def audit(seed: int, digit: int | None = None, corner: str = "", stages: str = "[gaze]") -> RunStore:
        images, labels, is_test = load_digits_split()
        images = images.copy()
        if digit is not None:
            y, x = CORNERS[corner]
            images[labels == digit, :, y, x] = 1.0
        trained = train(images, labels, is_test, epochs=6, batch=64, learning_rate=0.01, seed=seed, threads=1)
        folder = Path(tmp_path) / f"{seed}-{digit}"
        folder.mkdir()
        weights = {name: torch.from_numpy(value) for name, value in trained.parameters.items()}
        save_file(weights, folder / "net.safetensors")
        np.savez(folder / "audited.npz", images=images[is_test], labels=labels[is_test], class_names=CLASS_NAMES)
        data = ("data=arrays", f"data.path={folder / 'audited.npz'}")
        model = f"model.checkpoint={folder / 'net.safetensors'}"
        runs.audit(composed(folder, model, *data, f"stages={stages}", *WHOLE))
        return RunStore(folder / "run")

    return audit


def findings(store: RunStore):
    gaze = [leaf for leaf in store.leaves() if leaf.startswith("gaze/")]
    assert len(gaze) == 5
    assert [store.failure(leaf) for leaf in gaze] == [None] * 5
    return [found for leaf in gaze for found in store.summary(leaf).findings]


@pytest.mark.parametrize(
    ("seed", "digit", "corner"), [(0, 7, "lower left corner"), (1, 3, "upper right corner")], ids=["7", "3"]
)
def test_a_mark_in_a_corner_is_named_with_its_class_and_leads_the_page(retrained, seed, digit, corner):
    store = retrained(seed, digit, corner, "[gaze,thumbnails]")
    (found,) = findings(store)
    assert (found.code, found.severity) == ("gaze/shortcut", "error")
    assert found.title == f"Class {digit} is recognised by what lies in the {corner}"
    labels = store.images()["label"].to_numpy()
    assert set(labels[list(found.images)]) == {digit}
    cell = int(store["gaze/confirmation/confirmed"][0])
    box = store["gaze/shortcuts/box"][cell]
    marked = np.zeros((32, 32), bool)
    marked[CORNERS[corner]] = True
    assert marked[tuple(slice(*side) for side in box)].sum() == SIDE * SIDE
    lost, won = store["gaze/confirmation/lost"][0], store["gaze/confirmation/won"][0]
    assert lost[cell] > 0.4 * store["gaze/confirmation/covered"][0]
    assert won[cell] > 0.15 * store["gaze/confirmation/pasted"][0]
    assert np.delete(lost, cell).max() < lost[cell] / 2
    page = (store.path / "report.html").read_text()
    assert page.index(found.title) < page.index('<section id="predictions"')
    section = page[page.index('<section id="gaze"') :]
    assert f"{corner}, confirmed on the network" in section
    assert "covered: no longer" in section
    assert "pasted: now" in section


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_network_is_not_accused(retrained, seed):
    store = retrained(seed)
    assert findings(store) == []
    assert (store["gaze/shortcuts/class"][:] == -1).all()
    assert (store["gaze/classes/n"][:10] > 40).all()
