"""A dict that looks like `convaudit.stages.contract.Stored`, and a runner for leaves that need no network."""

from __future__ import annotations

import json
from functools import reduce

import numpy as np

from convaudit.stages.contract import Subject
from convaudit.stages.errors import StoreError
from convaudit.stages.specs import LayerSpec, Summary


class StoredFake:
    def __init__(self, arrays=(), summaries=(), failures=()):
        self.arrays, self.summaries, self.failures = dict(arrays), dict(summaries), dict(failures)

    def __getitem__(self, path):
        if path not in self.arrays:
            raise StoreError(f"no array is called {path!r}")
        return self.arrays[path]

    def summary(self, leaf):
        return self.summaries.get(leaf, Summary())

    def failure(self, leaf):
        return self.failures.get(leaf)

    def leaves(self):
        return tuple(dict.fromkeys([path.split("/")[0] for path in self.arrays] + [*self.summaries, *self.failures]))


def make_subject(label, *, class_names=None, layers=(), shard=4, **more):
    label = np.asarray(label)
    n = len(label)
    names = class_names or tuple(f"class{i}" for i in range(max(int(label.max(initial=0)) + 1, 2)))
    settings = {
        "image_id": tuple(f"image{i}" for i in range(n)),
        "label": label,
        "content": tuple(f"{i:064x}" for i in range(n)),
        "split": ("",) * n,
        "class_names": tuple(names),
        "axes": ("y", "x"),
        "input_shape": (3, 6, 5),
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "layers": tuple(layers),
        "shard": shard,
        "batch": 2,
        "seed": 0,
    }
    return Subject(**(settings | more))


def vector_layer(name="fc.input", features=5):
    return LayerSpec(name, "input", "Linear", (features,))


def run_leaf(leaf, subject, stored):
    """Run a leaf's tasks, keep what it writes in `stored` as the runner would, and hold all of it against `writes`."""
    declared = {array.path: array for array in leaf.writes(subject)}
    for path, array in declared.items():
        stored.arrays[f"{leaf.name}/{path}"] = np.full(array.shape, array.spec.fill, array.spec.dtype)
    partials = []
    for task in leaf.tasks(subject, stored):
        result = leaf.compute(task, subject, stored)
        for path, rows in result.rows.items():
            assert declared[path].dims[0] == "image"
            assert rows.dtype == declared[path].spec.dtype, path
            stored.arrays[f"{leaf.name}/{path}"][task.start : task.start + len(rows)] = rows
        if result.partial is not None:
            partials.append(result.partial)
    return settle(leaf, subject, stored, partials)


def settle(leaf, subject, stored, partials):
    """Run `finish` and hold what it gives against `writes` and against JSON."""
    declared = {array.path: array for array in leaf.writes(subject)}
    summary = leaf.finish(partials, subject, stored)
    for path, values in summary.arrays.items():
        values = np.asarray(values)
        assert values.shape == declared[path].shape, path
        assert values.dtype == declared[path].spec.dtype, path
        stored.arrays[f"{leaf.name}/{path}"] = values
    specs = {spec.path for spec in leaf.documents}
    assert {array.spec.path for array in declared.values()} <= specs
    text = json.dumps(summary.attributes(), allow_nan=False)
    again = Summary.from_attributes(json.loads(text))
    assert [m.name for m in again.measurements] == [m.name for m in summary.measurements]
    stored.summaries[leaf.name] = summary
    return summary


def values_of(summary):
    return {measurement.name: measurement.value for measurement in summary.measurements}


def codes_of(summary):
    return {finding.code: finding for finding in summary.findings}


def fold(leaf, partials):
    return reduce(leaf.combine, partials)
