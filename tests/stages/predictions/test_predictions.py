import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.predictions import scores
from convaudit.stages.predictions.stage import Predictions
from convaudit.stages.specs import STATUS

from ...tiny_models import conv_net, tiny_blocks, tiny_images, tiny_subject


def _replica(row):
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    ordered = sorted(row, reverse=True)
    return row.index(top), max(weights) / sum(weights), ordered[0] - ordered[1]


def test_scores_agree_with_plain_python():
    logit = np.random.default_rng(0).standard_normal((20, 7)).astype(np.float32) * 30
    want = [_replica([float(value) for value in row]) for row in logit]
    np.testing.assert_array_equal(scores.predicted_class(logit), [row[0] for row in want])
    np.testing.assert_allclose(scores.confidence(logit), [row[1] for row in want], rtol=1e-12)
    np.testing.assert_allclose(scores.margin(logit), [row[2] for row in want], rtol=1e-12)


def test_ties_go_to_the_lowest_class_and_scores_do_not_move_with_the_logits():
    logit = np.float32([[1, 3, 3, 0], [2, 2, 2, 2]])
    assert scores.predicted_class(logit).tolist() == [1, 0]
    assert scores.margin(logit).tolist() == [0, 0]
    assert scores.confidence(logit)[1] == 0.25
    np.testing.assert_allclose(scores.confidence(logit + 1000), scores.confidence(logit))


def test_rows_that_are_not_finite_say_nothing():
    logit = np.float32([[0, np.nan], [np.inf, 0], [-np.inf, 0], [1, 0]])
    assert scores.predicted_class(logit).tolist() == [-1, -1, -1, 0]
    assert np.isnan(scores.confidence(logit)).tolist() == [True, True, True, False]
    assert np.isnan(scores.margin(logit)).tolist() == [True, True, True, False]
    assert np.isnan(scores.margin(np.zeros((2, 1)))).all()
    assert scores.confidence(np.zeros((2, 1))).tolist() == [1, 1]


def _sweep(model, subject, images, bad=()):
    leaf, outcomes = Predictions(), []
    for task in leaf.tasks(subject, None):
        shard = images[task.images.start : task.images.stop]
        blocks = tiny_blocks(shard, batch=2, bad=bad, start=task.images.start)
        outcomes += run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    rows = {path: np.concatenate([o.rows[path] for o in outcomes]) for path in outcomes[0].rows}
    summary = leaf.finish([outcome.partial for outcome in outcomes], subject, None)
    return rows, summary, {measurement.name: measurement for measurement in summary.measurements}


def test_bad_and_unlabelled_images_take_no_part():
    model = conv_net()
    subject, images = tiny_subject(model, 9), tiny_images(model, 9)
    rows, summary, measured = _sweep(model, subject, images, bad=(2, 6))
    logit = model(torch.from_numpy(images)).numpy()
    usable = [0, 1, 3, 4, 5, 7, 8]
    labelled = [i for i in usable if subject.label[i] >= 0]
    np.testing.assert_allclose(rows["logit"][usable], logit[usable], atol=1e-6)
    assert np.isnan(rows["logit"][[2, 6]]).all()
    assert rows["status"].tolist() == [0, 0, 4, 0, 0, 0, 4, 0, 0]
    assert rows["predicted"][[2, 6]].tolist() == [-1, -1]
    accuracy = measured["predictions/accuracy"]
    right = sum(int(logit[i].argmax() == subject.label[i]) for i in labelled)
    assert (accuracy.value, accuracy.n) == (right / len(labelled), len(labelled))
    assert accuracy.low <= accuracy.value <= accuracy.high
    confidence = torch.from_numpy(logit[usable]).double().softmax(1).amax(1).mean()
    assert measured["predictions/mean_confidence"].value == pytest.approx(float(confidence), rel=1e-6)
    assert measured["predictions/bad_fraction"].value == pytest.approx(2 / 9)
    assert summary.notes["bad"] == [
        {"image": i, "id": f"image-{i:03d}", "status": STATUS[4], "reason": "cannot be decoded"} for i in (2, 6)
    ]
    (finding,) = summary.findings
    assert (finding.code, finding.images) == (f"predictions/bad-image-{STATUS[4]}", (2, 6))
    assert "image-002, image-006" in finding.detail


def test_without_labels_accuracy_is_unknown_and_never_a_pass():
    model = conv_net()
    subject, images = tiny_subject(model), tiny_images(model)
    _, summary, measured = _sweep(model, replace(subject, label=np.full(6, -1)), images)
    assert math.isnan(measured["predictions/accuracy"].value)
    assert measured["predictions/accuracy"].n == 0
    assert measured["predictions/accuracy"].low is None
    assert [(f.code, f.severity) for f in summary.findings] == [("predictions/unlabelled", "info")]


def test_logits_that_are_not_finite_count_as_wrong_and_are_named():
    model = conv_net()
    model.fc.bias[0] = float("nan")
    subject, images = tiny_subject(model), tiny_images(model)
    rows, summary, measured = _sweep(model, subject, images, bad=(5,))
    assert (rows["predicted"] == -1).all()
    assert measured["predictions/accuracy"].value == 0
    assert math.isnan(measured["predictions/mean_confidence"].value)
    finding = summary.findings[0]
    assert (finding.code, finding.severity) == ("predictions/logit-not-finite", "error")
    assert finding.images == (0, 1, 2, 3, 4)


def test_every_image_bad():
    model = conv_net()
    subject, images = tiny_subject(model, 4), tiny_images(model, 4)
    _, summary, measured = _sweep(model, subject, images, bad=(0, 1, 2, 3))
    assert measured["predictions/bad_fraction"].value == 1
    assert measured["predictions/accuracy"].n == 0
    assert len(summary.notes["bad"]) == 4
