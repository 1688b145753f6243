"""What the report draws of the stored maps."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from convaudit.reports.album import Album
from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import feature_maps
from convaudit.stages.specs import Summary

from ...reports.report_store import LAYERS, make_store

SHOWN = 10


def _store(signal=False, order="evenly", images=(5, 9)):
    rng = np.random.default_rng(0)
    store = make_store(n=40, signal=signal)
    data, n = dict(store.data), 3
    filled = len(images)
    data["feature_maps/image"] = np.array([*images, *[-1] * (n - filled)])
    for layer in LAYERS:
        head = f"feature_maps/{layer}"
        space = (23,) if signal else (6, 5)
        data[f"{head}/map"] = rng.integers(0, 256, (n, SHOWN, *space)).astype(np.uint8)
        data[f"{head}/channel"] = np.tile(np.arange(SHOWN, dtype=np.int32), (n, 1))
        data[f"{head}/range"] = rng.standard_normal((n, SHOWN, 2)).astype(np.float32)
        data[f"{head}/fires"] = np.ones((n, SHOWN), np.int8)
    data["feature_maps/block1.relu/fires"][0, [3, 4]] = 0  # channel 3 fires in no image of the audit
    data["feature_maps/silent"] = np.full((n, len(LAYERS)), 2, np.int32)
    data["feature_maps/sparsity"] = np.full((n, len(LAYERS)), 0.25)
    notes = Summary(notes={"images": filled, "layers": list(LAYERS), "order": order})
    return replace(store, data=data, summaries=store.summaries | {"feature_maps": notes})


def _drawn(store, budget=600_000, pictures=12):
    material = Material(store, {}, Limits(60, pictures))
    return feature_maps.view(material, Album(material, {"feature_maps": budget}))


def _pixels(href):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2]))).convert("L"))


def test_tiles_lie_in_order_without_loss():
    store = _store()
    grid = _drawn(store).layers[0].grids[1]
    pixels = _pixels(grid.href)
    assert pixels.shape == (12, 40)
    maps = store.data[f"feature_maps/{LAYERS[0]}/map"][1]
    for k in range(SHOWN):
        y, x = k // 8 * 6, k % 8 * 5
        np.testing.assert_array_equal(pixels[y : y + 6, x : x + 5], maps[k])
    assert (pixels[6:, 10:] == 255).all()


def test_silent_channels_are_framed_and_dead_ones_crossed_and_others_left_alone():
    layers = {layer.layer: layer for layer in _drawn(_store()).layers}
    (first, second) = layers["block1.relu"].grids
    corners = re.findall(r"M([\d.]+) ([\d.]+)h", first.silent)
    assert [(float(x) // 5, float(y) // 6) for x, y in corners] == [(3, 0), (4, 0)]
    assert len(re.findall("M", first.dead)) == 1
    assert float(re.match(r"M([\d.]+)", first.dead).group(1)) // 5 == 3
    assert "2 of them framed" in first.alt
    assert (second.silent, second.dead) == ("", "")
    assert all(not grid.silent for name, layer in layers.items() for grid in layer.grids if name != "block1.relu")


def test_without_the_activations_no_channel_is_called_dead():
    store = _store()
    store = replace(store, summaries={key: row for key, row in store.summaries.items() if key != "activations"})
    view = _drawn(store)
    assert not view.audited
    assert not any(grid.dead for layer in view.layers for grid in layer.grids)


@pytest.mark.parametrize("pictures", [1, 2, 3, 12])
def test_layers_are_spread_over_the_depth_and_the_rest_is_counted(pictures):
    view = _drawn(_store(), pictures=pictures)
    shown = [layer.layer for layer in view.layers]
    assert len(shown) == min(pictures, len(LAYERS))
    assert shown[0] == LAYERS[0]
    if pictures > 1:
        assert shown[-1] == LAYERS[-1]
    assert view.layers_hidden == len(LAYERS) - len(shown)


def test_a_small_budget_shows_fewer_layers_and_says_so():
    store = _store()
    shown = [len(_drawn(store, budget=budget).layers) for budget in range(0, 60_000, 2_500)]
    assert set(shown) == {0, 1, 2, 3, 4}
    page = build_report(_store(), {"stages": ["feature_maps"]}, ReportOptions(budget_kb={"feature_maps": 0}))
    assert "byte budget" in _section(page)


def _section(page):
    return re.search(r'<section id="feature_maps".*?</section>', page, re.DOTALL).group()


@pytest.mark.parametrize("signal", [False, True])
def test_the_section_is_drawn_for_images_and_signals(signal):
    section = _section(build_report(_store(signal), {"stages": ["feature_maps"]}, ReportOptions()))
    assert "could not be drawn" not in section
    assert "2 of 8 channels do not fire; 25 % of all values are zero or below" in section
    assert section.count('class="map"') == 2 * len(LAYERS)
    assert ('class="trace"' in section) == signal
    assert "<script>" not in section


def test_without_images_the_section_says_why():
    section = _section(build_report(_store(images=()), {"stages": ["feature_maps"]}, ReportOptions()))
    assert "No image was chosen" in section


def test_the_strongest_channels_are_called_so():
    (layer, *_) = _drawn(_store(order="strongest")).layers
    assert layer.channels == f"the {SHOWN} strongest of 8 channels"


def test_maps_that_are_not_finite_are_counted():
    store = _store()
    store.data[f"feature_maps/{LAYERS[0]}/range"][0, :3] = np.nan
    assert "3 of the maps hold values that are not finite" in _drawn(store).layers[0].grids[0].said


def test_one_layer_for_the_walk_takes_as_many_images_as_fit():
    store = _store()
    material = Material(store, {}, Limits(60, 12))
    whole = feature_maps.layer_view(material, Album(material, {"feature_maps": 10**6}), LAYERS[1])
    assert len(whole.grids) == 2
    one = feature_maps.layer_view(material, Album(material, {"feature_maps": whole.size - 1}), LAYERS[1])
    assert one.grids == whole.grids[:1]
    assert feature_maps.layer_view(material, Album(material, {"feature_maps": 0}), LAYERS[1]).grids == ()
    assert feature_maps.layer_view(material, Album(material, {"feature_maps": 10**6}), "no such layer") is None
