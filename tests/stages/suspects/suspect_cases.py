"""Worlds of logits, labels and neighbors, small enough to judge by hand."""

from __future__ import annotations

import numpy as np

from ...stored_fake import StoredFake, make_subject, run_leaf


def votes_of(label, index):
    """Plurality among labelled neighbors, ties by the nearest, and the share with the image's own label; in loops."""
    vote, agreed = np.full(len(index), -1, np.int32), np.full(len(index), np.nan, np.float32)
    for image, row in enumerate(index):
        held = [int(label[other]) for other in row if other >= 0 and label[other] >= 0]
        if held:
            vote[image] = max(held, key=lambda one: (held.count(one), -held.index(one)))
            if label[image] >= 0:
                agreed[image] = held.count(int(label[image])) / len(held)
    return vote, agreed


def stored_for(logit, label, index, status=None):
    logit, index = np.asarray(logit, np.float32), np.asarray(index, np.int64)
    finite = np.isfinite(logit).all(axis=1)
    predicted = np.where(finite, np.where(finite[:, None], logit, 0).argmax(axis=1), -1).astype(np.int32)
    vote, agreed = votes_of(np.asarray(label), index)
    return StoredFake(
        {
            "predictions/logit": logit,
            "predictions/predicted": predicted,
            "predictions/status": np.zeros(len(logit), np.int8) if status is None else np.asarray(status, np.int8),
            "neighbors/index": index,
            "neighbors/predicted": vote,
            "neighbors/agreement": agreed,
        }
    )


def among(group, k=5):
    """Neighbors of each image: the next k of its own group, cyclically."""
    group = np.asarray(group)
    index = np.full((len(group), k), -1, np.int64)
    for image, own in enumerate(group):
        others = np.flatnonzero(group == own)
        others = np.roll(others, -1 - int(np.flatnonzero(others == image)[0]))[:-1][:k]
        index[image, : len(others)] = others
    return index


def sure(true, n_class, strength=6.0, noise=0.5, seed=0):
    """Logits of a head that knows the truth."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(true), n_class)) * noise + strength * np.eye(n_class)[np.asarray(true)]


def judge(leaf, logit, label, index, status=None, **subject):
    stored = stored_for(logit, label, index, status)
    names = [f"class{i}" for i in range(np.asarray(logit).shape[1])]
    summary = run_leaf(leaf, make_subject(label, class_names=names, **({"shard": 7} | subject)), stored)
    return summary, {path.removeprefix("suspects/"): array for path, array in stored.arrays.items()}
