import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions.scores import (
    SLOTS,
    ScoreRows,
    check_kept,
    column,
    kept_classes,
    score_arrays,
    score_documents,
    scores_of,
    target_scores,
)
from convaudit.stages.contract import Ask
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened

from ...tiny_models import tiny_blocks, tiny_images, tiny_subject


class Wide(nn.Module):
    """As many classes as asked, of a 3-channel image."""

    input_shape = (3, 4, 5)

    def __init__(self, n_class):
        super().__init__()
        self.conv = nn.Conv2d(3, n_class, (4, 5))

    def forward(self, x):
        return self.conv(x).flatten(1)


def _world(n_class, n=4):
    torch.manual_seed(0)
    model = Wide(n_class).double().eval().requires_grad_(False)
    subject = replace(tiny_subject(model, n), class_names=tuple(f"class-{i}" for i in range(n_class)))
    images = tiny_images(model, n)
    logits = model(torch.from_numpy(images).double()).numpy()
    order = np.argsort(-logits, axis=1)
    # Label among the five, no label, label that is the prediction, label far down.
    return model, replace(subject, label=np.array([order[0, 2], -1, order[2, 0], order[3, 50]])), images, order


def _written(n_class, length=6):
    model, subject, images, order = _world(n_class)
    (block,) = tiny_blocks(images, batch=len(images), bad=())
    drawn = np.random.default_rng(1).standard_normal((len(images), length, n_class))
    with opened(model, block, subject, Ask()) as batch:
        rows = ScoreRows(batch, subject, ("predicted", "contrast"), length, batch.logits.numpy())
        # In two pieces, out of order, the second of several images at once; the last version never comes.
        rows.put(2, np.arange(length - 1), drawn[2, : length - 1])
        image, version = (part.ravel() for part in np.meshgrid([3, 0, 1], np.arange(length - 1), indexing="ij"))
        rows.put(image, version, drawn[image, version])
        found = rows.rows()
        found["target"] = np.stack([batch.target_class(t) for t in ("predicted", "contrast")], axis=1)
        base = batch.logits.numpy()
    return subject, found, drawn.astype(np.float32), base.astype(np.float32), order


def test_up_to_a_hundred_classes_all_are_kept():
    _, found, drawn, base, _ = _written(100)
    np.testing.assert_array_equal(found["score"][:, :-1], drawn[:, :-1])
    assert np.isnan(found["score"][:, -1]).all()
    np.testing.assert_array_equal(found["base"], base)
    row = {path: values[3] for path, values in found.items()}
    np.testing.assert_array_equal(scores_of(row, 17)[:-1], drawn[3, :-1, 17])
    assert scores_of(row, 17, "base") == base[3, 17]
    assert np.isnan(scores_of(row, -1)).all()
    assert column(row, 100) is None


def test_above_a_hundred_slots_hold_the_five_largest_and_the_label():
    _, found, drawn, base, order = _written(101)
    want = np.concatenate([order[:, :5], [[-1], [-1], [-1], [order[3, 50]]]], axis=1)
    np.testing.assert_array_equal(found["slot_class"], want)
    for i in range(4):
        row = {path: values[i] for path, values in found.items()}
        for place, wanted in enumerate(want[i]):
            if wanted < 0:
                assert np.isnan(row["slot_score"][:, place]).all()
                assert np.isnan(row["slot_base"][place])
                continue
            np.testing.assert_array_equal(scores_of(row, wanted)[:-1], drawn[i, :-1, wanted])
            assert np.isnan(scores_of(row, wanted)[-1])
            assert scores_of(row, wanted, "base") == base[i, wanted]
        assert np.isnan(scores_of(row, order[i, 60])).all()
        assert column(row, order[i, 60]) is None
        assert column(row, -1) is None
    np.testing.assert_array_equal(found["winner"][:, :-1], drawn[:, :-1].argmax(axis=2))
    assert (found["winner"][:, -1] == -1).all()


@pytest.mark.parametrize("n_class", [100, 101])
def test_a_contrast_is_a_difference_of_columns(n_class):
    _, found, drawn, base, order = _written(n_class)
    np.testing.assert_array_equal(found["against"], [[-1, order[0, 2]], [-1, -1], [-1, -1], [-1, order[3, 50]]])
    row = {path: values[3] for path, values in found.items()}
    first, second = drawn[3, :-1, order[3, 0]].astype(float), drawn[3, :-1, order[3, 50]].astype(float)
    np.testing.assert_array_equal(target_scores(row)[:, :-1], [first, first - second])
    gap = base[3, order[3, 0]].astype(float) - base[3, order[3, 50]]
    np.testing.assert_array_equal(target_scores(row, "base"), [base[3, order[3, 0]], gap])
    right = {path: values[2] for path, values in found.items()}
    assert np.isnan(target_scores(right)[1]).all()


@pytest.mark.parametrize("n_class", [100, 101])
def test_arrays_are_those_declared(n_class):
    subject, found, *_ = _written(n_class)
    arrays = {array.path: array for array in score_arrays(subject, "window", 6, ("predicted", "contrast"))}
    assert {array.spec for array in arrays.values()} <= set(score_documents("window"))
    assert set(arrays) == set(found) - {"target"}
    for path, array in arrays.items():
        assert found[path].shape == array.shape
        assert found[path].dtype == array.spec.dtype
    assert arrays["score" if n_class == 100 else "slot_score"].dims[1] == "window"


def test_without_a_contrast_nothing_is_held_against_a_class():
    model, subject, images, order = _world(100)
    (block,) = tiny_blocks(images, batch=len(images))
    with opened(model, block, subject, Ask()) as batch:
        rows = ScoreRows(batch, subject, ("predicted",), 2, batch.logits.numpy()).rows()
        base = batch.logits.numpy().astype(np.float32)
    assert set(rows) == {array.path for array in score_arrays(subject, "mask", 2, ("predicted",))} == {"score", "base"}
    row = {path: values[0] for path, values in rows.items()} | {"target": order[0, :2]}
    np.testing.assert_array_equal(target_scores(row, "base"), base[0, order[0, :2]])


def test_a_score_that_is_not_a_number_has_no_winner():
    model, subject, images, _ = _world(101)
    (block,) = tiny_blocks(images, batch=len(images))
    scores = np.zeros((2, 101))
    scores[0, 7] = np.nan
    scores[1, 8] = 1
    with opened(model, block, subject, Ask()) as batch:
        rows = ScoreRows(batch, subject, ("predicted",), 2, batch.logits.numpy())
        rows.put(0, np.arange(2), scores)
        assert rows.rows()["winner"][0].tolist() == [-1, 8]


def test_bad_images_keep_no_class():
    model, subject, images, _ = _world(101)
    (block,) = tiny_blocks(images, batch=len(images), bad=(3,))
    with opened(model, block, subject, Ask()) as batch:
        classes = kept_classes(batch, 101)
        rows = ScoreRows(batch, subject, ("contrast",), 2, batch.logits.numpy()).rows()
    assert classes.shape == (4, SLOTS)
    assert (classes[3] == -1).all()
    assert np.isnan(rows["slot_base"][3]).all()
    assert rows["against"][3].tolist() == [-1]


def test_targets_that_are_not_kept_are_refused():
    _, subject, *_ = _world(101)
    check_kept(("predicted", "label", "contrast", "rank:4"), subject)
    for target in (3, "rank:5"):
        with pytest.raises(ConfigError, match="above 100 classes, got 101"):
            check_kept((target,), subject)
        check_kept((target,), _world(100)[1])


def test_more_classes_than_a_winner_can_name_are_refused():
    _, subject, *_ = _world(101)
    score_arrays(replace(subject, class_names=("",) * 32767), "mask", 2, ("predicted",))
    with pytest.raises(ConfigError, match="at most 32767 classes, got 32768"):
        score_arrays(replace(subject, class_names=("",) * 32768), "mask", 2, ("predicted",))


def test_reports_can_read_scores_without_torch():
    code = "import sys, convaudit.stages.attributions.scores; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
