"""How sparsity and magnitude change with depth, as the report draws it."""

import re
from dataclasses import replace

import numpy as np

from convaudit.reports.album import Album
from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import activations

from ...reports.report_store import LAYERS, make_store


def _store(sparsity):
    store = make_store(n=40)
    data = dict(store.data)
    for layer, share in zip(LAYERS, sparsity, strict=True):
        channels = len(data[f"activations/{layer}/rate"])
        data[f"activations/{layer}/sparsity"] = share + np.linspace(-0.1, 0.1, channels)
    kinds = [{"name": layer, "kind": layer.rpartition(".")[2], "shape": [8, 6, 8]} for layer in LAYERS]
    return replace(store, data=data, described=store.described | {"layers": kinds})


def _drawn(store):
    material = Material(store, {}, Limits(60, 12))
    return activations.view(material, Album(material, {"activations": 250_000}))


def test_layers_before_and_after_the_relu_are_two_lines_that_take_turns():
    view = _drawn(_store([0.5, 0.3, 0.7, 0.9]))
    assert [round(row.sparsity, 6) for row in view.layers] == [0.5, 0.3, 0.7, 0.9]
    sparsity, magnitude = view.depth
    before, after = (re.findall(r"([ML])([\d.]+) ([\d.]+)", mark.d) for mark in sparsity.plot.marks)
    assert [pen for pen, _, _ in before] == [pen for pen, _, _ in after] == ["M", "L"]
    xs = sorted(float(x) for _, x, _ in before + after)
    assert np.allclose(np.diff(xs), np.diff(xs)[0], atol=0.2)
    assert float(before[0][2]) > float(before[1][2])  # 0.7 is drawn above 0.5
    assert float(after[0][2]) > float(after[1][2])
    assert "after a ReLU from 0.3000 to 0.9000" in sparsity.plot.alt
    assert "absolute" in magnitude.title


def test_what_was_not_measured_is_not_drawn():
    store = _store([0.5, 0.3, 0.7, 0.9])
    data = {path: row for path, row in store.data.items() if not path.endswith(("/sparsity", "/mean_abs", "/min"))}
    view = _drawn(replace(store, data=data))
    assert view.depth == ()
    assert all(np.isnan([row.sparsity, row.magnitude, row.least]).all() for row in view.layers)
    page = build_report(replace(store, data=data), {"stages": ["activations"]}, ReportOptions())
    assert "not measured" in re.search(r'<section id="activations".*?</section>', page, re.DOTALL).group()
