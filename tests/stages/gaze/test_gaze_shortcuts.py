import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.occlusion import Occlusion
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.errors import ConfigError
from convaudit.stages.gaze.candidates import Limits, border_cells, suspects
from convaudit.stages.gaze.outcomes import confirmed_cell
from convaudit.stages.gaze.stage import Gaze
from convaudit.stages.gaze.trials import covered, pasted
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.specs import Summary

from ...stored_fake import StoredFake, codes_of, settle, values_of
from ...tiny_models import tiny_blocks, tiny_subject

RNG = np.random.default_rng(2)
LIMITS = Limits(share=0.15, ratio=5.0, deviations=3.0, images=10)
SHAPE = (2, 16, 24)


def slow_suspects(heatmap, n, limits):
    """Loops over cells and classes; `heatmap` at the coarse resolution."""
    found = []
    for k in range(len(heatmap)):
        best = None
        others = [j for j in range(len(heatmap)) if j != k and n[j] > 0]
        if n[k] < limits.images or not others:
            continue
        for cell in np.ndindex(*heatmap.shape[1:]):
            if all(0 < c < length - 1 for c, length in zip(cell, heatmap.shape[1:], strict=True)):
                continue
            rest = sum(heatmap[j][cell] for j in others) / len(others)
            if best is None or heatmap[k][cell] - rest > best[0]:
                best = (heatmap[k][cell] - rest, cell, heatmap[k][cell], rest)
        _, cell, share, rest = best
        z = math.inf
        if len(others) >= 3:
            variance = sum((heatmap[j][cell] - rest) ** 2 for j in others) / (len(others) - 1)
            z = (share - rest) / variance**0.5
        if share >= limits.share and share >= limits.ratio * rest and z >= limits.deviations:
            found.append((k, cell))
    return found


def planted(n_class, label, cell, share, grid=(4, 5)):
    heatmap = RNG.dirichlet(np.full(math.prod(grid), 30.0), n_class).reshape(n_class, *grid)
    heatmap[label] *= 1 - share
    heatmap[label][cell] += share
    return heatmap


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("n_class", [2, 3, 8])
def test_suspects_are_those_of_the_definition(n_class, share):
    heatmap = planted(n_class, 1, (3, 0), share)
    n = np.full(n_class, 12)
    found = [(one.label, one.cell) for one in suspects(heatmap, n, (4, 5), LIMITS)]
    assert found == slow_suspects(heatmap, n, LIMITS)
    assert found == ([(1, (3, 0))] if share == 0.4 else found)
    assert all(one.group == -1 for one in suspects(heatmap, n, (4, 5), LIMITS))
    assert not found or share > 0.05


def test_the_middle_of_the_image_is_no_shortcut():
    assert suspects(planted(6, 2, (1, 2), 0.6), np.full(6, 50), (4, 5), LIMITS) == ()


def test_a_habit_of_all_classes_is_no_shortcut():
    heatmap = RNG.dirichlet(np.full(20, 30.0), 6).reshape(6, 4, 5)
    heatmap[:, 0, 0] += 1
    assert suspects(heatmap / 2, np.full(6, 50), (4, 5), LIMITS) == ()


def test_classes_with_few_or_no_images_are_neither_suspected_nor_in_the_way():
    heatmap, n = planted(6, 1, (0, 2), 0.5), np.full(6, 50)
    n[1] = 9
    assert suspects(heatmap, n, (4, 5), LIMITS) == ()
    n[1], n[4] = 50, 0
    heatmap[4] = np.nan
    assert [one.label for one in suspects(heatmap, n, (4, 5), LIMITS)] == [1]
    assert suspects(heatmap[1:2], n[1:2], (4, 5), LIMITS) == ()


def test_signals_have_two_ends():
    assert border_cells((4,)) == ((0,), (3,))
    heatmap = np.full((5, 8), 1 / 8)
    heatmap[3] = [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.44, 0.5]
    heatmap[[0, 1, 2, 4], 6:] = [[0.02, 0.03]]
    (found,) = suspects(heatmap, np.full(5, 20), (4,), LIMITS)
    assert (found.label, found.cell) == (3, (3,))
    assert found.share == pytest.approx(0.94)
    assert found.rest == pytest.approx(0.05)
    assert found.deviations == math.inf


def test_groups_are_suspected_where_their_class_is_not():
    heatmap, n = np.full((5, 4, 5), 1 / 20), np.full(5, 40)
    parts, sizes = np.full((5, 3, 4, 5), np.nan), np.zeros((5, 3), int)
    parts[2, :2], sizes[2, :2] = 1 / 20, (25, 15)
    parts[2, 1, 0, 0] += 0.5
    parts[3, 0], sizes[3, 0] = parts[2, 1], 40
    found = suspects(heatmap, n, (4, 5), LIMITS, parts, sizes)
    assert [(one.label, one.group, one.cell) for one in found] == [(2, 1, (0, 0))]
    sizes[2, 1] = 9
    assert suspects(heatmap, n, (4, 5), LIMITS, parts, sizes) == ()
    sizes[2, 1], heatmap[2] = 15, parts[2, 1]
    found = suspects(heatmap, n, (4, 5), LIMITS, parts, sizes)
    assert [(one.label, one.group) for one in found] == [(2, -1)]


@pytest.mark.parametrize("space", [(6, 9), (12,)])
def test_a_covered_place_has_the_colour_of_the_rim_elsewhere(space):
    images = torch.from_numpy(RNG.normal(size=(3, 2, *space)))
    before, box = images.clone(), tuple((length - 3, length) for length in space)
    found = covered(images, box)
    for image in range(3):
        for channel in range(2):
            rim = []
            for place in np.ndindex(*space):
                inside = all(a <= p < b for p, (a, b) in zip(place, box, strict=True))
                on_rim = any(p in (0, length - 1) for p, length in zip(place, space, strict=True))
                if on_rim and not inside:
                    rim.append(float(images[(image, channel, *place)]))
                if not inside:
                    assert found[(image, channel, *place)] == images[(image, channel, *place)]
            for place in np.ndindex(*(3,) * len(space)):
                own = tuple(length - 3 + p for p, length in zip(place, space, strict=True))
                assert float(found[(image, channel, *own)]) == pytest.approx(np.mean(rim))
    assert torch.equal(images, before)


def test_a_rim_that_is_covered_whole_lends_the_colour_of_itself():
    images = torch.arange(4.0).reshape(1, 1, 4)
    assert covered(images, ((0, 4),)).tolist() == [[[1.5] * 4]]


def test_pasting_changes_the_place_alone():
    images, other = torch.zeros(2, 3, 5, 7), torch.ones(3, 5, 7, dtype=torch.float64)
    found = pasted(images, other, ((1, 3), (0, 2)))
    assert found.dtype == images.dtype
    assert found[:, :, 1:3, 0:2].eq(1).all()
    assert found.sum() == 2 * 3 * 4
    assert not images.any()


CELLS = np.array(border_cells((4, 4)))


def counts(**cells):
    found = np.zeros(len(CELLS), int)
    for cell, count in cells.items():
        found[int(cell[1:])] = count
    return found


def test_a_cell_is_confirmed_where_both_trials_change_answers_beyond_the_usual():
    assert confirmed_cell(counts(c8=40), 48, counts(c8=20), 96, 8, CELLS, 0.1) == 8
    assert confirmed_cell(counts(c8=40), 48, counts(), 96, 8, CELLS, 0.1) == -1
    assert confirmed_cell(counts(), 48, counts(c8=90), 96, 8, CELLS, 0.1) == -1
    assert confirmed_cell(counts() + 40, 48, counts() + 20, 96, 8, CELLS, 0.1) == -1
    assert confirmed_cell(counts(c8=4), 48, counts(c8=90), 96, 8, CELLS, 0.1) == -1
    assert confirmed_cell(counts(), 0, counts(), 0, 8, CELLS, 0.1) == -1


def test_a_touching_cell_may_stand_in_but_no_distant_one():
    touching = [cell for cell in range(len(CELLS)) if np.abs(CELLS[cell] - CELLS[8]).max() == 1]
    for cell in range(len(CELLS)):
        found = confirmed_cell(counts(**{f"c{cell}": 40}), 48, counts(**{f"c{cell}": 40}), 96, 8, CELLS, 0.1)
        assert found == (cell if cell in (8, *touching) else -1)


class CornerNet(nn.Module):
    """Answers class 1 by the lower right corner, by the middle, or by either; else what another pixel says."""

    input_shape = SHAPE

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.conv = nn.Conv2d(2, 2, 1, groups=2, bias=False).requires_grad_(False)
        self.conv.weight.fill_(10)

    def forward(self, x):
        x = self.conv(x)
        corner, middle = x[:, 0, 12:, 18:].mean((1, 2)), x[:, 0, 5:11, 9:15].mean((1, 2))
        marked = {"corner": corner, "middle": middle, "either": corner.maximum(middle)}[self.where] - 5
        other = x[:, 1, 8, 12] / 10
        return torch.stack([0 * other, marked, other - 1, 0 * other - 9], dim=1)


def world(where, n=60, shard=16):
    net = CornerNet(where).eval()
    images = 0.1 * RNG.normal(size=(n, *SHAPE)).astype(np.float32)
    label = np.arange(n) % 3
    images[label == 1, 0, 12:, 18:] += 1
    images[label == 1, 0, 5:11, 9:15] += 1
    images[:, 1, 8, 12] = np.where(label == 2, 2, -1)
    subject = replace(tiny_subject(net, n, shard=shard, batch=8), label=label, class_names=("cat", "dog", "elk", "fox"))
    with torch.no_grad():
        predicted = net(torch.from_numpy(images)).argmax(1).numpy().astype(np.int32)
    assert (predicted == label).all()
    return net, images, subject, predicted


def sweep(leaf, net, images, subject, stored, bad=()):
    partials = []
    for task in leaf.tasks(subject, stored):
        first = task.images[0] // subject.shard * subject.shard
        part = images[first : first + subject.shard]
        blocks = list(tiny_blocks(part, batch=subject.batch, bad=bad, start=first))
        (outcome,) = run_tasks(net, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
        assert outcome.error is None
        partials.append(outcome.partial)
    return settle(leaf, subject, stored, partials)


def tried(where, heatmap_in_corner=True, shard=16, bad=(), group=False, n=20, **settings):
    net, images, subject, predicted = world(where, shard=shard)
    predicted[list(bad)] = -1
    source = {"source": "attributions/occlusion", "layer": None, "cells": 8}
    _, _, shortcuts, patches, confirmation = Gaze(**source, **settings).leaves()
    heatmap = np.full((4 + 12, 8, 8), 1 / 64)
    if heatmap_in_corner:
        heatmap[1] = 0.001
        heatmap[1, 6:, 6:] = 1 - 0.06
    cluster, size, parts = np.full(60, -1), np.zeros((4, 5), int), np.full((4, 5, 8, 8), np.nan)
    if group:
        # Every other image of the class, whose heatmap has what the mean of the class has not.
        cluster[1::3] = np.arange(20) % 2
        size[1, :2], parts[1, 0], parts[1, 1] = 10, heatmap[0], heatmap[1]
        heatmap[1] = heatmap[0]
    clusters = {"cluster": cluster, "size": size, "heatmap": parts}
    arrays = {f"gaze/clusters/{name}": values for name, values in clusters.items()}
    arrays |= {"gaze/classes/heatmap": heatmap, "gaze/classes/n": np.array([n, n, n, 0, *[0] * 12])}
    edges = [np.linspace(0, length, 9).tolist() for length in SHAPE[1:]]
    stored = StoredFake(
        {**arrays, "predictions/predicted": predicted}, {"gaze/classes": Summary(notes={"edges": edges})}
    )
    settle(shortcuts, subject, stored, [])
    sweep(patches, net, images, subject, stored, bad)
    return sweep(confirmation, net, images, subject, stored, bad), stored, images, subject


@pytest.mark.parametrize("shard", [16, 64])
def test_a_corner_that_decides_is_an_error_with_counts_and_images(shard):
    summary, stored, images, subject = tried("corner", shard=shard)
    found = codes_of(summary)["gaze/shortcut"]
    assert found.severity == "error"
    assert found.title == "Class dog is recognised by what lies in the lower right corner"
    assert "loses the class in 20 of 20 images" in found.detail
    assert "turns 40 of 40 into dog" in found.detail
    assert "pixels y 12 to 15, x 18 to 23" in found.detail
    assert set(found.images) <= set(np.flatnonzero(subject.label == 1).tolist())
    assert len(found.images) == 12
    assert values_of(summary)["gaze/shortcuts"] == 1
    cell = stored["gaze/confirmation/confirmed"][0]
    assert stored["gaze/shortcuts/border_cell"][cell].tolist() == [3, 3]
    assert stored["gaze/shortcuts/box"][cell].tolist() == [[12, 16], [18, 24]]
    assert stored["gaze/confirmation/lost"][0].sum() == 20
    mean = images[subject.label == 1].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(stored["gaze/patches/mean"][0], mean, atol=1e-6)
    assert stored["gaze/patches/n"].tolist() == [20, -1, -1, -1]


def test_a_group_within_a_class_is_tried_by_itself():
    summary, stored, images, subject = tried("corner", group=True)
    found = codes_of(summary)["gaze/shortcut"]
    assert found.title == "Part of class dog is recognised by what lies in the lower right corner"
    assert "of 10 of 20 of its images" in found.detail
    own = np.flatnonzero(subject.label == 1)[1::2]
    assert set(found.images) == set(own.tolist())
    assert stored["gaze/shortcuts/group"].tolist() == [1, -1, -1, -1]
    assert stored["gaze/confirmation/covered"][0] == 10
    np.testing.assert_allclose(stored["gaze/patches/mean"][0], images[own].astype(float).mean(axis=0), atol=1e-6)


def test_a_group_that_the_network_does_not_hang_on_is_no_finding():
    summary, stored, _, _ = tried("middle", group=True)
    assert summary.findings == ()
    assert stored["gaze/confirmation/covered"][0] == 10


def test_a_corner_that_makes_the_class_without_being_needed_is_a_warning():
    summary, stored, _, subject = tried("either")
    found = codes_of(summary)["gaze/shortcut-made"]
    assert found.severity == "warning"
    assert found.title.startswith("What lies in the lower right corner makes other images class dog")
    assert "in 0 of 20 images" in found.detail
    assert "turns 40 of 40 into dog" in found.detail
    assert 1 not in subject.label[list(found.images)]
    assert values_of(summary)["gaze/shortcuts"] == 0
    assert (stored["gaze/confirmation/confirmed"] == -1).all()


def test_a_corner_that_only_the_heatmaps_point_at_is_for_information():
    summary, stored, _, _ = tried("middle")
    assert list(codes_of(summary)) == ["gaze/shortcut-suspected"]
    found = codes_of(summary)["gaze/shortcut-suspected"]
    assert found.severity == "info"
    assert "in 0 of 20 images" in found.detail
    assert values_of(summary)["gaze/shortcuts"] == 0
    assert (stored["gaze/confirmation/confirmed"] == -1).all()


def test_without_candidates_nothing_is_run():
    summary, stored, _, _ = tried("corner", heatmap_in_corner=False)
    assert summary.findings == ()
    assert summary.notes["status"] == "nothing to try"
    assert values_of(summary)["gaze/shortcuts"] == 0
    assert np.isnan(stored["gaze/patches/mean"]).all()


def test_budgets_hold_and_bad_images_take_no_part():
    summary, stored, _, _ = tried("corner", images=7, others=9, bad=(1, 4))
    assert stored["gaze/confirmation/covered"].tolist() == [7, -1, -1, -1]
    assert stored["gaze/confirmation/pasted"].tolist() == [9, -1, -1, -1]
    assert not {1, 4} & set(codes_of(summary)["gaze/shortcut"].images)
    again, _, _, _ = tried("corner", images=7, others=9, bad=(1, 4))
    assert [found.images for found in again.findings] == [found.images for found in summary.findings]


@pytest.mark.parametrize(
    "setting",
    [
        {"share": 0.0}, {"share": 1.5}, {"ratio": 0.5}, {"deviations": -1.0}, {"cells": 0}, {"pairs": -1},
        {"clusters": 0}, {"cluster_images": 1}, {"shortcut_cells": 1}, {"candidates": 0}, {"images": 0}, {"others": 0},
        {"effect": 0.0}, {"source": "grad_com", "methods": {"grad_cam": GradCam()}},
    ],
)  # fmt: skip
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match=r"^gaze\."):
        Gaze(**setting)


@pytest.mark.parametrize(
    ("methods", "setting", "leaf", "layer"),
    [
        ({"saliency": Saliency(), "grad_cam": GradCam()}, {}, "grad_cam", "last_map"),
        ({"mine": GradCam(layers=("conv1", "conv2"))}, {}, "mine", "conv2"),
        ({"mine": GradCam(layers=("conv1", "conv2"))}, {"layer": "conv1"}, "mine", "conv1"),
        ({"saliency": Saliency(), "occlusion": Occlusion()}, {}, "occlusion", None),
        ({"grad_cam": GradCam(), "saliency": Saliency()}, {"source": "attributions/saliency"}, "saliency", None),
    ],
)
def test_it_looks_at_what_is_configured(methods, setting, leaf, layer):
    source = Gaze(methods=methods, **setting).leaves()[0].source
    assert (source.leaf, source.layer) == (f"attributions/{leaf}", layer)


def test_classes_of_too_few_images_are_said_and_are_no_error():
    summary, _, _, _ = tried("corner", n=2)
    assert summary.measurements == ()
    assert summary.notes["not_applicable"]["gaze/shortcuts"].startswith("no class has ")
    assert tried("corner", heatmap_in_corner=False)[0].notes["not_applicable"] == {}
