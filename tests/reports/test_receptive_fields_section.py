"""The section on receptive fields, on a store that real leaves have written into."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.reports.build import build_report
from convaudit.stages.network.layers import trace
from convaudit.stages.receptive_fields.stage import ReceptiveFields

from ..stored_fake import StoredFake, make_subject, settle
from .conftest import CONFIG
from .report_store import make_store


class Net(nn.Module):
    """Two branches of different size side by side, then a gate."""

    def __init__(self, kind=nn.Conv2d, channels=3):
        super().__init__()
        self.stem, self.small, self.large = kind(channels, 4, 5), kind(4, 2, 1), kind(4, 2, 3, padding=1)
        self.joined, self.gated, self.fc = nn.Identity(), nn.Identity(), nn.Linear(4, 6)

    def forward(self, x):
        x = self.stem(x)
        x = self.joined(torch.cat([self.small(x), self.large(x)], 1))
        space = tuple(range(2, x.ndim))
        x = self.gated(x * x.mean(space, keepdim=True).sigmoid())
        return self.fc(x.mean(space))


def viewed(store, shape, model, axes):
    """Add fields of a network to a store, as if gradients lay in the middle."""
    model = model.eval().requires_grad_(False)
    layers = trace(model, torch.zeros(2, *shape))
    subject = make_subject(np.zeros(6, int), input_shape=shape, axes=axes, layers=layers)
    written = StoredFake()
    theoretical, effective = ReceptiveFields(images=3, channels=2).leaves()
    (task,) = theoretical.tasks(subject, written)
    settle(theoretical, subject, written, [theoretical.inspect(model, task, subject, written).partial])
    partial = {"images": np.array(3)}
    for place, layer in enumerate(effective.chosen(subject)):
        for unit in effective.units(layer):
            weight = np.zeros(shape[1:])
            if layer.name != "small":
                weight[tuple(slice(n // 2 - 1, n // 2 + 1) for n in shape[1:])] = 3 / 2 ** len(shape[1:])
            key = f"{place}:{unit.channel}"
            partial |= {key: weight, f"silent:{key}": np.array(3 * (layer.name == "small"))}
    settle(effective, subject, written, [partial])
    arrays = {path: values for path, values in written.arrays.items() if path.startswith("receptive_fields/")}
    described = store.subject() | {
        "input_shape": list(shape),
        "layers": [vars(layer) | {"shape": list(layer.shape)} for layer in layers],
    }
    return replace(store, data=store.data | arrays, summaries=store.summaries | written.summaries, described=described)


def _section(page):
    start = page.index('<section id="receptive_fields"')
    return page[start : page.index("</section>", start)]


@pytest.fixture(scope="module")
def section():
    store = viewed(make_store(), (3, 24, 32), Net(), ("y", "x"))
    return _section(build_report(store, dict(CONFIG)))


def test_each_measured_layer_is_drawn_with_its_box_and_its_spread(section):
    assert section.count('class="panel"') == 3
    assert section.count("stroke-dasharray") == 2
    assert "sees 5 × 5, looks at 2.0 × 2.0; 6 gradients" in section
    assert "every gradient is zero" in section
    assert re.search(r'<use href="#image-\d+" class="under"/>', section)


def test_layers_by_depth_with_their_channels_and_what_is_whole(section):
    rows = dict(re.findall(r'<tr><th scope="row">([\w.]+)<span class="fine">\w+</span></th>(.*?)</tr>', section))
    assert set(rows) >= {"stem", "small", "large", "joined", "gated", "fc.input"}
    assert "fc" not in rows
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rows["large"])
    assert cells[:5] == ["2 × 20 × 28", "7", "1", "1", "2"]
    assert "sees all of the image" in rows["gated"]
    assert "sees all of the image" not in rows["large"]
    # Of the layer that joins both branches, the smaller field is told besides.
    joined = re.findall(r"<td[^>]*>(.*?)</td>", rows["joined"])
    assert (joined[1], joined[5]) == ("7", "5")


def test_signals_are_drawn_too():
    store = viewed(make_store(signal=True), (2, 300), Net(nn.Conv1d, 2), ("time",))
    section = _section(build_report(store, dict(CONFIG)))
    assert section.count("stroke-dasharray") == 2
    assert "sees 5, looks at 2.0" in section


def test_without_effective_fields_the_table_stands_alone():
    store = viewed(make_store(), (3, 24, 32), Net(), ("y", "x"))
    kept = {name: found for name, found in store.summaries.items() if name != "receptive_fields/effective"}
    section = _section(build_report(replace(store, summaries=kept), dict(CONFIG)))
    assert "By depth" in section
    assert 'class="panel"' not in section
