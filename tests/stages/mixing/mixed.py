"""Planted classes for the tests of mixing: features, answers, exact neighbors and the counts of both."""

from __future__ import annotations

import numpy as np

from convaudit.stages.confusion.stage import Confusion
from convaudit.stages.mixing.stage import Mixing
from convaudit.stages.neighbors.stage import Neighbors

from ...stored_fake import StoredFake, make_subject, run_leaf, vector_layer


def planted(features, label, predicted, *, metric="euclidean", k=5, names=None, bad=(), shard=64, **settings):
    """Run neighbors, confusion and mixing over planted features and answers; give the store and the summary."""
    features, predicted = np.asarray(features, np.float32), np.asarray(predicted, np.int32)
    n, width = features.shape
    layer = vector_layer("fc.input", width)
    subject = make_subject(np.asarray(label), class_names=names, layers=(layer,), shard=shard)
    status = np.zeros(n, np.int8)
    status[list(bad)] = 4
    logit = np.zeros((n, subject.n_class), np.float32)
    logit[np.arange(n), np.maximum(predicted, 0)] = 2
    share = np.exp(2) / (np.exp(2) + subject.n_class - 1)
    stored = StoredFake(
        {
            "features/fc.input": features,
            "predictions/predicted": predicted,
            "predictions/confidence": np.full(n, share, np.float32),
            "predictions/logit": logit,
            "predictions/status": status,
        }
    )
    run_leaf(Neighbors(layer="fc.input", metric=metric, k=k), subject, stored)
    run_leaf(Confusion(), subject, stored)
    return stored, run_leaf(Mixing(**settings), subject, stored)


def clouds(centre, each, spread, seed=0):
    """Normal clouds of `each` images around every row of `centre`, and their labels, shuffled."""
    rng = np.random.default_rng(seed)
    centre = np.asarray(centre, float)
    label = np.repeat(np.arange(len(centre)), each)
    features = centre[label] + rng.normal(0, spread, (len(label), centre.shape[1]))
    order = rng.permutation(len(label))
    return features[order], label[order]


def ring(n_class, radius=10.0, width=6):
    """Centres far from each other: along axes, both ways."""
    centre = np.zeros((n_class, max(width, (n_class + 1) // 2)))
    for at in range(n_class):
        centre[at, at // 2] = radius if at % 2 else -radius
    return centre
