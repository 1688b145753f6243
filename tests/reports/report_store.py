"""A store made of dictionaries, with everything in it that a report has to survive."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from convaudit.stages.specs import Finding, Measurement, Summary

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("airplane", HOSTILE, "$x_{1}$ & 'bird'", "cat with a rather long name to be shown", "deer", "dog")
LAYERS = ("block1.conv", "block1.relu", "block2.conv", "block2.relu")


@dataclass(frozen=True)
class DictStore:
    """Follows `convaudit.pipelines.store.RunStore` without a file."""

    data: dict[str, np.ndarray]
    summaries: dict[str, Summary]
    failures: dict[str, str]
    table: pd.DataFrame
    described: dict
    reads: list[str] = field(default_factory=list)

    def __getitem__(self, path):
        self.reads.append(path)
        return self.data[path]

    def leaves(self):
        return tuple(sorted({*self.summaries, *self.failures}))

    def arrays(self, leaf):
        return (
            tuple(sorted(path for path in self.data if path.startswith(f"{leaf}/")))
            if leaf not in self.failures
            else ()
        )

    def summary(self, leaf):
        return self.summaries.get(leaf, Summary())

    def failure(self, leaf):
        return self.failures.get(leaf)

    def images(self):
        return self.table.copy()

    def subject(self):
        return dict(self.described)


def smooth_image(rng, size):
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    planes = []
    for _ in range(3):
        a, b, c = rng.uniform(0.5, 4, 3)
        planes.append(
            128 + 60 * np.sin(2 * np.pi * a * x + c) + 60 * np.cos(2 * np.pi * b * y - c) + rng.normal(0, 4, x.shape)
        )
    return np.clip(planes, 0, 255).astype(np.uint8)


def make_store(n=240, signal=False, size=(24, 32), seed=0, classes=CLASSES, bad=(7, 31)):
    rng = np.random.default_rng(seed)
    k = len(classes)
    label = rng.integers(0, k, n)
    centre = rng.normal(0, 4, (k, 2))
    feature = centre[label] + rng.normal(0, 1.6, (n, 2))
    logit = -((feature[:, None] - centre[None]) ** 2).sum(-1) + rng.normal(0, 1.5, (n, k))
    logit /= 4
    predicted = logit.argmax(1).astype(np.int32)
    soft = np.exp(logit - logit.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    ordered = np.sort(logit, 1)
    confidence, margin = soft.max(1).astype(np.float32), (ordered[:, -1] - ordered[:, -2]).astype(np.float32)
    status = np.zeros(n, np.int8)
    for place, position in enumerate(bad):
        status[position] = 3 + place % 3
    broken = status != 0
    logit[broken], confidence[broken], margin[broken], predicted[broken] = np.nan, np.nan, np.nan, -1
    feature[broken] = np.nan
    data = {
        "predictions/logit": logit.astype(np.float32),
        "predictions/predicted": predicted,
        "predictions/confidence": confidence,
        "predictions/margin": margin,
        "predictions/status": status,
        "features/avgpool": feature.astype(np.float32),
        "features/block2.relu": rng.normal(size=(n, 16)).astype(np.float32),
        "embeddings/pca/coordinate": feature.astype(np.float32),
        "embeddings/pca/component": np.eye(2, dtype=np.float32),
        "embeddings/pca/explained": np.array([0.71, 0.2], np.float32),
        "embeddings/pca/centre": np.zeros(2, np.float32),
    }
    good = np.flatnonzero(~broken)
    if signal:
        time = np.linspace(0, 6, 300)
        wave = np.sin(time[None, None] * (1 + label[:, None, None])) + rng.normal(0, 0.1, (n, 2, 300))
        data["thumbnails/signal"] = wave.astype(np.float32)
        heat_shape = (n, 38)
    else:
        images = np.stack([smooth_image(rng, size) for _ in range(n)])
        images[broken] = 0
        data["thumbnails/image"] = images
        heat_shape = (n, 6, 8)
    data["attributions/grad_cam/block2.relu/heatmap"] = blobs(rng, heat_shape, broken)[:, None]
    data["attributions/grad_cam/block1.relu/heatmap"] = blobs(rng, heat_shape, broken)[:, None]
    data["attributions/grad_cam/target"] = predicted[:, None]
    add_activations(data, rng, good)
    add_checks(data, label, predicted, good, feature, k)
    table = pd.DataFrame({"id": [f"img/{i:04}.png" for i in range(n)], "key": [f"img/{i:04}.png" for i in range(n)]})
    table["label"], table["split"], table["content"] = label, "test", "0" * 64
    return DictStore(
        data,
        summaries(label, predicted, good, bad, n, 1 if signal else 2),
        failures(),
        table,
        described(classes, n, signal),
    )


def blobs(rng, shape, broken):
    grids = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape[1:]), indexing="ij")
    heat = np.empty(shape, np.float32)
    for position in range(shape[0]):
        centre = rng.uniform(-0.7, 0.7, len(grids))
        heat[position] = np.exp(-6 * sum((grid - at) ** 2 for grid, at in zip(grids, centre, strict=True)))
    heat[broken] = np.nan
    heat[0] = 0
    return heat


def add_activations(data, rng, good):
    for layer, channels in zip(LAYERS, (8, 8, 16, 16), strict=True):
        rate = rng.beta(2, 1, channels)
        rate[3] = 0
        fired = np.round(rate * len(good)).astype(np.int64)
        head = f"activations/{layer}"
        data[f"{head}/fired"], data[f"{head}/rate"] = fired, fired / len(good)
        for name in ("mean", "variance", "mean_abs"):
            data[f"{head}/{name}"] = rng.uniform(0, 1, channels)
        data[f"{head}/min"], data[f"{head}/max"] = -rng.uniform(0, 3, channels), rng.uniform(2, 9, channels)
        data[f"{head}/saturated"] = np.full(channels, np.nan)
        data[f"{head}/top_value"] = np.sort(rng.uniform(1, 9, (channels, 4)).astype(np.float32), 1)[:, ::-1]
        data[f"{head}/top_image"] = np.stack([rng.choice(good, 4, replace=False) for _ in range(channels)])
        data[f"{head}/top_position"] = np.zeros((channels, 4, 2), np.int32)


def add_checks(data, label, predicted, good, feature, k):
    n = len(label)
    distance = ((feature[:, None] - feature[None]) ** 2).sum(-1) ** 0.5
    distance[np.isnan(distance)] = np.inf
    np.fill_diagonal(distance, np.inf)
    index = np.argsort(distance, 1, kind="stable")[:, :6]
    vote = np.array([np.bincount(label[row], minlength=k).argmax() for row in index], np.int32)
    broken = np.setdiff1d(np.arange(n), good)
    near = np.take_along_axis(distance, index, 1).astype(np.float32)
    index[broken], vote[broken], near[broken] = -1, -1, np.nan
    data |= {"neighbors/index": index, "neighbors/distance": near, "neighbors/predicted": vote}
    matrix = np.zeros((k, k), np.int64)
    np.add.at(matrix, (label[good], predicted[good]), 1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong.ravel(), kind="stable")[:8]
    data |= {
        "confusion/matrix": matrix,
        "confusion/pair": np.stack(np.unravel_index(order, wrong.shape), 1).astype(np.int32),
        "confusion/pair_count": wrong.ravel()[order],
        "filters/layer": np.array([0] * 8 + [1] * 16, np.int32),
        "filters/channel": np.array([*range(8), *range(16)], np.int32),
        "filters/trouble": np.array([0, 0, 0, 1, 0, 2, 0, 0] + [0] * 14 + [1, 5], np.int8),
        "filters/rate": np.linspace(0, 1, 24),
        "filters/bound": np.linspace(0.01, 1, 24),
        "filters/score": np.linspace(0, 2, 24),
        "filters/cause": np.array([0, 0, 0, 2, 0, 1, 0, 0] + [0] * 14 + [3, 1], np.int8),
        "filters/alive_behind": np.array([-1] * 22 + [1, 0], np.int8),
        "filters/repeated": np.zeros(24, np.int8),
        **{f"filters/{key}": np.linspace(-1, 1, 24) for key in ("norm", "gamma", "beta", "outgoing", "cosine")},
        "filters/bias": np.full(24, -1e3),
        "filters/twin": np.full(24, -1, np.int32),
        "ablation/layer": np.array([0, 1, -1], np.int32),
        "ablation/channel": np.array([3, -1, -1], np.int32),
        "ablation/accuracy": np.array([0.85, 0.86, np.nan]),
        "ablation/change": np.array([-0.01, 0.0, np.nan]),
        "ablation/flipped": np.array([4, 0, -1], np.int64),
    }


def summaries(label, predicted, good, bad, n, n_axis):
    geometry = {"stride": [4.0] * n_axis, "centre": [1.5] * n_axis}
    wrong = good[label[good] != predicted[good]]
    accuracy = 1 - len(wrong) / len(good)
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(good))
    measured = Measurement(
        "predictions/accuracy", accuracy, "1", "higher", len(good), "predictions/predicted",
        "Share of images whose largest logit is that of their label; ties go to the first class.",
        accuracy - half, min(1.0, accuracy + half),
    )  # fmt: skip
    nothing = Measurement(
        "filters/dead_fraction", math.nan, "1", "lower", 0, "filters/trouble", "Share of dead channels."
    )
    speed = Measurement(
        "neighbors/median_distance", 12.5, "pixel", "neither", n, "neighbors/distance", "Median distance."
    )
    confident = Finding(
        "predictions/confident-errors", "warning", "12 images are misclassified with a confidence above 0.9",
        f"The model is sure and wrong. Look at the labels of {HOSTILE} first.", tuple(int(i) for i in wrong[:9]),
    )  # fmt: skip
    unread = Finding("predictions/bad-images", "error", "2 images could not be read", "See the list below.", tuple(bad))
    dead = Finding(
        "filters/dead", "warning", "2 channels never fire", "They can be removed.", (), "block2.conv", tuple(range(30))
    )
    rest = replace(dead, title="1 channel of another layer never fires", layer="block1.conv", channels=(3,))
    gates = [
        gate("accuracy", "predictions/accuracy", "PASS", accuracy, ">= 0.8", f"{accuracy:.4g} >= 0.8"),
        gate("bad_images", "predictions/bad_fraction", "WARN", 0.0083, "<= 0.001", "0.0083 is above 0.001"),
        gate("dead_filters", "filters/dead_fraction", "ERROR", None, "<= 0.1", f"not measured {HOSTILE}"),
        gate("leaks", "neighbors/leaks", "SKIP", None, "<= 0", "neighbors does not apply"),
    ]
    reasons = [
        {"image": position, "id": f"img/{position:04}.png", "status": 3, "reason": f"cut off {HOSTILE}"}
        for position in bad
    ]
    plain = Summary()
    return {
        "predictions": Summary({}, (measured,), (confident, unread), {"bad": reasons}),
        "features": plain,
        "activations": plain,
        "attributions/grad_cam": Summary(notes={
            "signed": False,
            "config": {"target": "predicted"},
            "rendering": {"kind": "layer", "geometry": {"block2.relu": geometry}},
        }),
        "thumbnails": plain,
        "embeddings/pca": Summary(notes={"sampled": "fitted on 10,000 of 60,000 images"}),
        "neighbors": Summary({}, (speed,)),
        "confusion": Summary(notes=confusion_notes(label[good], predicted[good])),
        "filters": Summary({}, (nothing,), (dead, rest), {
            "layers": ["block1.conv", "block2.conv"],
            "definitions": {"dead": "fires for no image"},
            "troubles": ["none", "dead", "rare", "dormant", "constant", "saturated", "duplicate", "near_zero"],
            "causes": ["none", "unknown", "bias", "norm_scale"],
            "kinds": ["relu", "relu"],
            "off_at": ["block1.conv", "block2.conv"],
            "added": [None, ["block2.relu", 0]],
            "doubt": {"text": "", "grave": False},
            "n": 240,
        }),
        "ablation": Summary(notes={
            "layers": ["block1.conv", "block2.conv"],
            "left_out": {"channels": 28, "layers": 0},
        }),
        "verdicts": Summary(notes={
            "verdict": "ERROR", "gates": gates, "error_findings": 1, "findings_level": "warn",
            "failures": [{"leaf": leaf, "reason": reason} for leaf, reason in failures().items()],
        }),
    }  # fmt: skip


def gate(name, measurement, status, value, limit, reason):
    bounds = (None, None) if value is None else (value * 0.9, min(1.0, value * 1.1))
    return {
        "name": name, "level": "error", "status": status, "measurement": measurement, "value": value,
        "low": bounds[0], "high": bounds[1], "unit": "1" if value is not None else "", "n": 0 if value is None else 238,
        "limit": limit, "min": None, "max": None, "uncertain": False, "reason": reason, "why": f"{name} matters",
    }  # fmt: skip


def confusion_notes(label, predicted):
    rows = []
    for place, name in enumerate(CLASSES):
        own, said = label == place, predicted == place
        hits, n = int((own & said).sum()), int(own.sum())
        recall = hits / n if n else None
        bounds = [None, None] if recall is None else [max(0.0, recall - 0.1), min(1.0, recall + 0.1)]
        precision = hits / int(said.sum()) if said.any() else None
        rows.append({"class": place, "name": name, "recall": recall, "recall_bounds": bounds, "precision": precision,
                     "support": n, "predicted": int(said.sum())})  # fmt: skip
    rows.append({"class": 9, "name": "never seen", "recall": None, "recall_bounds": [None, None], "precision": None,
                 "support": 0, "predicted": 0})  # fmt: skip
    bins = [{"low": 0.8, "high": 0.9, "n": 40, "confidence": 0.86, "accuracy": 0.7},
            {"low": 0.9, "high": 1.0, "n": 0, "confidence": None, "accuracy": None}]  # fmt: skip
    return {"status": "measured", "n": len(label), "classes": rows, "calibration": bins}


def failures():
    return {"attributions/saliency": f"layer 'input' has no gradient {HOSTILE}"}


def described(classes, n, signal):
    return {
        "class_names": list(classes),
        "axes": ["time"] if signal else ["y", "x"],
        "input_shape": [2, 300] if signal else [3, 24, 32],
        "mean": [0.5], "std": [0.25],
        "layers": [{"name": name, "kind": "relu", "module": "ReLU", "shape": [8, 6, 8]} for name in LAYERS],
        "seed": 0, "shard": 256, "batch": 64,
        "model": {"name": "small_net", "digest": "ab" * 32},
        "data": {"name": "planted", "digest": "cd" * 32, "n": n, "notes": {"audited": n, "in_split": 9_999}},
        "numerics": {"torch": "2.15.0", "threads": 1, "dtype": "float32"},
    }  # fmt: skip
