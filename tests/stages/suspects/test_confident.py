"""Confident learning against a replica written from northcutt2021 alone, and against cleanlab's own list."""

import numpy as np
import pytest
from cleanlab.filter import find_label_issues

from convaudit.stages.suspects.confident import ABSENT, counted, estimated_errors, softmax, thresholds


def noisy(n=400, n_class=5, seed=0):
    """Labels whose noise is not symmetric: 0 becomes 3 often, 3 never becomes 0, 2 becomes 1 at times."""
    rng = np.random.default_rng(seed)
    true = rng.choice(n_class, n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    label = true.copy()
    label[(true == 0) & (rng.random(n) < 0.3)] = 3
    label[(true == 2) & (rng.random(n) < 0.15)] = 1
    return softmax(rng.normal(size=(n, n_class)) + 3.5 * np.eye(n_class)[true]), label, true


def paper(p, label):
    """Eq. 1 to 3, in loops: joint of counts, images off its diagonal, and the calibrated number of wrong labels."""
    n_class = p.shape[1]
    threshold = [sum(p[i][j] for i in range(len(p)) if label[i] == j) / max(1, sum(label == j)) for j in range(n_class)]
    joint, off, tied = np.zeros((n_class, n_class)), set(), set()
    for i in range(len(p)):
        held = [j for j in range(n_class) if sum(label == j) and p[i][j] >= threshold[j]]
        if not held:
            continue
        best = max(held, key=lambda j: p[i][j])
        joint[label[i], best] += 1
        if best != label[i]:
            off.add(i)
        if len(held) > 1 and int(np.argmax(p[i])) not in held:
            tied.add(i)
    rows = joint.sum(axis=1, keepdims=True)
    calibrated = np.divide(joint, rows, out=np.zeros_like(joint), where=rows > 0) * np.bincount(
        label, minlength=n_class
    ).reshape(-1, 1)
    calibrated *= len(label) / calibrated.sum()
    return joint, off, calibrated.sum() - np.trace(calibrated), tied


def ours(p, label):
    own = p[np.arange(len(p)), label]
    return counted(p, label, thresholds(own, label, p.shape[1]))


@pytest.mark.parametrize("seed", range(4))
def test_the_joint_is_that_of_the_paper_and_not_its_transpose(seed):
    p, label, _ = noisy(seed=seed)
    joint, off, wrong, tied = paper(p, label)
    assert not tied
    mine, against = ours(p, label)
    np.testing.assert_array_equal(mine, joint)
    assert not np.array_equal(mine, joint.T)
    assert mine[3, 0] > 5 * max(1, mine[0, 3])
    assert set(np.flatnonzero(against)) == {i for i in off if p[i].argmax() != label[i]}
    assert abs(estimated_errors(mine, label) - wrong) <= p.shape[1]


@pytest.mark.parametrize("cut", [1, 64, 399])
def test_blocks_add_up_and_agree_with_the_list_of_cleanlab(cut):
    p, label, _ = noisy()
    threshold = thresholds(p[np.arange(len(p)), label], label, 5)
    parts = [counted(p[a:b], label[a:b], threshold) for a, b in ((0, cut), (cut, len(p)))]
    whole, against = ours(p, label)
    np.testing.assert_array_equal(parts[0][0] + parts[1][0], whole)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), against)
    issues = find_label_issues(label, p, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(against, issues)


def test_where_the_most_probable_class_is_not_confident_cleanlab_departs_from_the_paper():
    threshold = np.array([0.9, 0.2, 0.1])
    p = np.array([[0.5, 0.3, 0.2]])
    joint, against = counted(p, np.array([0]), threshold)
    # The paper would count it in class 1; cleanlab takes the most probable of all, which is its label.
    assert joint.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert not against.any()


def test_thresholds_by_hand():
    own = np.array([0.2, 0.6, 0.5, np.nan, 0.9, 0.0])
    label = np.array([0, 0, 2, 2, -1, 3])
    np.testing.assert_allclose(thresholds(own, label, 5), [0.4, ABSENT, 0.5, 2e-6, ABSENT])


def test_a_class_without_images_draws_nobody():
    p = softmax(np.array([[0.0, 9, 0], [9, 0, 0], [0, 0, 9], [0, 0, 9]]))
    label = np.array([0, 0, 2, 2])
    joint, against = ours(p, label)
    assert joint[:, 1].sum() == 0
    assert joint[1].sum() == 0
    assert not against.any()
    assert estimated_errors(joint, label) == 0


def test_equal_probabilities_speak_against_nobody():
    joint, against = ours(np.full((9, 3), 1 / 3), np.arange(9) % 3)
    assert not against.any()
    assert joint.sum() == 9


def test_softmax_of_large_and_broken_logits():
    p = softmax(np.array([[1e4, 0], [np.nan, 1], [-3, -3], [np.inf, 0]], np.float32))
    np.testing.assert_allclose(p, [[1, 0], [np.nan, np.nan], [0.5, 0.5], [np.nan, np.nan]])
