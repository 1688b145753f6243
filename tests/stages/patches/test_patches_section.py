"""What the report shows of patches."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from convaudit.reports import patchwork
from convaudit.reports.album import Album
from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import patches
from convaudit.stages.patches.stage import Patches
from convaudit.stages.specs import Summary

from ...reports.report_store import DictStore
from ...tiny_models import conv_net, signal_net
from .test_patches_stage import CONV_FIELDS, SIGNAL_FIELDS, run, silenced, world


def stored(model, fields, **settings):
    _, subject, _, kept = done = world(model, fields, flags={("relu2", 3)})
    run(Patches(**settings), *done)
    wanted = {path: array for path, array in kept.arrays.items() if path.partition("/")[0] != "predictions"}
    described = {
        "class_names": list(subject.class_names),
        "input_shape": list(subject.input_shape),
        "axes": list(subject.axes),
        "layers": [{"name": layer.name, "kind": layer.kind} for layer in subject.layers],
    }
    ids = [f"<b>{name}" for name in subject.image_id]
    table = pd.DataFrame({"id": ids, "label": subject.label, "split": "test", "content": subject.content})
    summaries = {"activations": Summary(), "patches": kept.summaries["patches"]}
    return DictStore(wanted, summaries, {}, table, described)


def material(store):
    return Material(store, {}, Limits(60, 12))


def pixels(panel):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.href.partition(",")[2]))).convert("RGBA"))


def test_channels_with_findings_come_first_and_nine_images_stand_beside_their_projections():
    one = material(stored(conv_net(), CONV_FIELDS, side=12, rank=7))
    view = patches.view(one, Album(one, {"patches": 10**6}))
    assert [layer.layer for layer in view.layers] == ["relu1", "relu2"]
    first = view.layers[1].channels[0]
    assert (first.channel, first.flagged) == (3, True)
    assert [panel.title for panel in first.panels] == ["Patches", "Deconvnet", "Guided"]
    assert len({(panel.width, panel.height) for panel in first.panels}) == 1
    fired = (one.array("activations/relu2/top_value")[3] > 0).sum()
    assert len(first.sightings) == fired
    assert "8 × 6 pixels" in first.field
    best = one.array("patches/conv1/cosine")[:, 0]
    assert (view.stem, view.angles[0][0]) == ("conv1", int(best.argmin()))
    assert view.angles[0][1] == f"{best.min():.2f}, {np.degrees(np.arccos(best.min())):.0f}°"
    assert view.layers[0].hidden == len(one.notes("patches")["layers"][0]["shown"]) - 2


def test_beyond_the_image_there_is_nothing():
    crop = np.full((3, 4, 4), 200, np.uint8)
    within = patchwork.inside(np.array([[-2, 2], [6, 10]]), (12, 9), np.array([4, 4]))
    assert within == (slice(2, 4), slice(0, 3))
    alpha = pixels(patchwork.pictures("", "", [crop, None], [within, None]))[..., 3]
    factor = 6
    assert not alpha[: 2 * factor].any()
    assert (alpha[2 * factor : 4 * factor, : 3 * factor] == 255).all()
    assert not alpha[:, 3 * factor :].any()


def test_zero_stays_grey_and_both_signs_can_be_told_apart():
    flat = np.full((1, 9, 9), 128, np.uint8)
    flat[0, 2, 2], flat[0, 5, 5] = 148, 118
    bright = patchwork.brightened(flat)[0]
    assert bright[2, 2] == 255
    assert bright[5, 5] < 80
    assert (np.delete(bright.ravel(), [20, 50]) == 128).all()
    assert (patchwork.brightened(np.full((3, 2, 2), 128, np.uint8)) == 128).all()


def test_the_budget_holds_and_it_is_said():
    one = material(stored(conv_net(), CONV_FIELDS, side=12))
    whole = patches.view(one, Album(one, {"patches": 10**6}))
    least = whole.layers[0].channels[0].size
    view = patches.view(one, Album(one, {"patches": least + 10}))
    assert view.budget_full
    assert sum(len(layer.channels) for layer in view.layers) == 1
    assert view.rest == 1
    every = patches.layer_view(one, Album(one, {"patches": 10**6}), "relu2")
    assert len(every.channels) == len(one.notes("patches")["layers"][1]["shown"])
    assert patches.layer_view(one, Album(one, {"patches": 0}), "fc") is None


@pytest.mark.parametrize("signal", [False, True])
def test_the_page_names_images_classes_and_values(signal):
    store = stored(signal_net(), SIGNAL_FIELDS) if signal else stored(silenced(), CONV_FIELDS, side=12)
    page = build_report(store, {"stages": ["patches"]}, ReportOptions())
    section = re.search(r'<section id="patches".*?</section>', page, re.DOTALL).group()
    assert "&lt;b&gt;image-00" in section
    assert "<b>image" not in section
    assert "Deconvnet" in section
    assert section.count('role="img"') >= 3
    assert ("trace" in section) == signal
    assert ("never excited" in section) != signal or signal
    assert re.search(r"it sees \d+", section)


def test_unknown_fields_and_silence_are_said():
    one = material(stored(conv_net(), {}, side=12))
    view = patches.view(one, Album(one, {"patches": 10**6}))
    assert all("not cropped" in channel.field for layer in view.layers for channel in layer.channels)
    none = stored(conv_net(), {}, side=12)
    rows = [row | {"shown": [], "never_excited": row["channels"]} for row in none.summaries["patches"].notes["layers"]]
    notes = {**none.summaries["patches"].notes, "layers": rows}
    silent = replace(none, summaries=none.summaries | {"patches": Summary(notes=notes)})
    page = build_report(silent, {"stages": ["patches"]}, ReportOptions())
    assert "there is no patch" in page


def test_a_projection_that_is_not_finite_leaves_a_gap_and_the_number_judged_is_said():
    store = stored(conv_net(), CONV_FIELDS, side=12)
    store.data["patches/relu1/peak"][0, 0, 1] = np.inf
    one = material(store)
    view = patches.view(one, Album(one, {"patches": 10**6}))
    crops, deconvnet, guided = (pixels(panel) for panel in view.layers[0].channels[0].panels)
    corner = (slice(crops.shape[0] // 4), slice(crops.shape[1] // 4), 3)
    assert crops[corner].any()
    assert deconvnet[corner].any()
    assert not guided[corner].any()
    assert guided[..., 3].any()
    assert "Whether projections stay within the receptive field of their unit: measured for " in build_report(
        store, {"stages": ["patches"]}, ReportOptions()
    )


def test_a_single_sample_leaves_a_mark():
    (cell,) = patchwork.signals("Patches", "alt", [np.array([[1.0], [2.0]])], [None]).cells
    for path in cell.paths:
        across = [float(x) for x in re.findall(r"[ML]([\d.]+) ", path)]
        assert across == [0, cell.width]
