"""The section on the weights, on a store that the real leaf has written into, and the sheets that it shows."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.sheets import sheet, unit_scaled
from convaudit.stages.network.layers import trace
from convaudit.stages.reference.net import DigitsNet
from convaudit.stages.weights.stage import Weights

from ..stored_fake import StoredFake, make_subject, settle
from ..tiny_models import conv_net, signal_net, tiny_subject


def weighed(store, model, shape=None):
    """Add an audit of a network's weights."""
    leaf, written = Weights(simulations=99), StoredFake()
    model = model.eval().requires_grad_(False)
    if shape is None:
        subject = tiny_subject(model)
    else:
        subject = make_subject([0, 1], layers=trace(model, torch.zeros(2, *shape)), input_shape=shape)
    partials = [leaf.inspect(model, task, subject, written).partial for task in leaf.tasks(subject, written)]
    settle(leaf, subject, written, partials)
    return replace(store, data=store.data | written.arrays, summaries=store.summaries | written.summaries)


def section_of(page):
    start = page.index('<section id="weights"')
    return page[start : page.index("</section>", start)]


def pixels_of(href):
    payload = base64.b64decode(href.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB")).astype(int)


def untrained():
    torch.manual_seed(0)
    return DigitsNet()


def test_verdicts_pictures_and_layers_are_all_there(make, config):
    page = build_report(weighed(make(), untrained(), (1, 32, 32)), config)
    section = section_of(page)
    assert "could not be drawn" not in section
    assert page.index("look like noise") < page.index('<section id="weights"')
    assert section.count('class="sheet"') == 4
    assert "16 of 178 planes" in section
    order = [section.index(f'<th scope="row">block{n}.conv</th><td>3 × 3<span') for n in (2, 3, 1)]
    assert order == sorted(order)  # the inconclusive one last
    assert "24,058 parameters" in section
    assert '<th scope="row">head</th><td>Linear</td>' in section
    assert "Each filter by itself" in section
    assert "All on one scale" in section


def test_receptive_fields_are_joined_where_there_are_any(make, config):
    store = weighed(make(), conv_net())
    assert "21 × 17" not in section_of(build_report(store, config))
    group = {"channels": [[0, 8, 1]], "size": [21.0, 17.0], "status": "exact"}
    noted = replace(store.summaries["weights"], notes={"groups": {"conv2": [group]}, "covered": ["conv2"]})
    summaries = store.summaries | {"receptive_fields/theoretical": replace(noted, findings=(), measurements=())}
    section = section_of(build_report(replace(store, summaries=summaries), config))
    assert "21 × 17" in section
    assert "1 convolution gets an input that sees the whole image already" in section


def test_signals_have_sheets_too(make, config):
    section = section_of(build_report(weighed(make(signal=True), signal_net()), config))
    assert "could not be drawn" not in section
    assert "their 2 input channels one below the other" in section
    assert section.count('class="sheet"') == 3


def test_no_budget_leaves_no_pictures_but_all_numbers(make, config):
    store = weighed(make(), conv_net())
    section = section_of(build_report(store, config, ReportOptions(default_budget_kb=0, budget_kb={})))
    assert 'class="sheet"' not in section
    assert "report.budget_kb.weights" in section
    assert "18 of 178 planes" in section


def test_every_picture_has_words(make, config):
    section = section_of(build_report(weighed(make(), conv_net()), config))
    for tag in re.findall(r"<img[^>]*>", section):
        assert re.search(r'alt="[^"]+"', tag)


@pytest.mark.parametrize("together", [False, True])
def test_scaling_is_from_the_smallest_to_the_largest(together):
    kernels = np.random.default_rng(0).standard_normal((4, 3, 3, 2))
    kernels[2] *= 0.1
    kernels[3] = 0.7
    scaled = unit_scaled(kernels, together=together)
    for place in range(4):
        part = kernels if together else kernels[place]
        low, high = part.min(), part.max()
        expected = np.full((3, 3, 2), 0.5) if low == high else (kernels[place] - low) / (high - low)
        np.testing.assert_allclose(scaled[place], expected)
    assert np.ptp(unit_scaled(kernels, together=True)[2]) < 0.2 < np.ptp(unit_scaled(kernels, together=False)[2])


def test_a_sheet_shows_each_weight_in_its_place():
    scaled = np.random.default_rng(1).uniform(size=(5, 3, 3, 3))
    drawn = sheet(scaled, 2)
    pixels = pixels_of(drawn.href)
    assert (drawn.columns, drawn.n) == (2, 5)
    assert pixels.shape == (3 * 28 + 4, 2 * 28 + 4, 3)
    for place in range(5):
        for y in range(3):
            for x in range(3):
                at = 4 + place // 2 * 28 + y * 8 + 3, 4 + place % 2 * 28 + x * 8 + 3
                np.testing.assert_array_equal(pixels[at], np.rint(255 * scaled[place, :, y, x]))
    assert (pixels[-10, -10] == pixels[0, 0]).all()  # the place of a sixth is empty


def test_planes_that_are_no_colours_stand_one_below_the_other():
    scaled = np.random.default_rng(2).uniform(size=(1, 2, 3, 3))
    pixels = pixels_of(sheet(scaled, 4).href)
    assert (pixels[4:-4, 4:-4, 0] == pixels[4:-4, 4:-4, 2]).all()
    rows = pixels[4:-4, 4:-4, 0]
    factor = rows.shape[1] // 3
    np.testing.assert_array_equal(rows[:: rows.shape[0] // 6, ::factor], np.rint(255 * scaled.reshape(6, 3)))
