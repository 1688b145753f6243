"""The section that shows heatmaps: which classes and images, what stands beside each map, and what it weighs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from convaudit.reports import build, figures, heatmaps, winners
from convaudit.reports.album import Album
from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.material import Limits, Material
from convaudit.reports.views import attributions
from convaudit.stages.specs import Finding, Summary

METHODS = ("saliency", "integrated_gradients", "smooth_grad", "guided_backprop", "deconvnet", "var_grad", "lrp", "ixg")


def material(store, rows=60, pictures=12):
    return Material(store, {}, Limits(rows, pictures))


def viewed(store, budget=10**7, pictures=12):
    seen = material(store, pictures=pictures)
    return attributions.view(seen, Album(seen, {"attributions": budget, "findings": budget}))


def section(page):
    return re.search(r'<section id="attributions".*?</section>', page, re.DOTALL).group()


def pixel_leaf(store, name, heatmap, signed=False, classes=None, target="predicted"):
    """Add a method with maps at input resolution, one target each."""
    n = len(store.table)
    leaf = f"attributions/{name}"
    data = {
        f"{leaf}/heatmap": heatmap.astype(np.float16),
        f"{leaf}/scale": np.full((n, 1), 2.0, np.float32),
        f"{leaf}/target": (store.data["predictions/predicted"] if classes is None else classes)[:, None],
    }
    notes = {"signed": signed, "rendering": {"kind": "pixels"}, "config": {"target": target}}
    return replace(store, data=store.data | data, summaries=store.summaries | {leaf: Summary(notes=notes)}, failures={})


@pytest.fixture(scope="module")
def two_methods(make_once):
    rng = np.random.default_rng(4)
    return pixel_leaf(make_once, "integrated_gradients", rng.normal(size=(240, 1, 24, 32)), signed=True)


@pytest.fixture(scope="module")
def make_once(request):
    return request.getfixturevalue("store")


def test_each_class_shows_its_most_and_least_confident_images(store):
    seen = material(store)
    for gallery in viewed(store).classes:
        place = seen.class_names.index(gallery.name)
        inside = seen.judged[seen.labels[seen.judged] == place]
        assert gallery.n == len(inside)
        right = seen.predicted[inside] == place
        assert gallery.n_right == right.sum()
        wanted = {}
        for word, positions in (("right", inside[right]), ("wrong", inside[~right])):
            if len(positions):
                wanted[f"{word}, most confident"] = seen.confidence[positions].max()
                wanted[f"{word}, least confident"] = seen.confidence[positions].min()
        shown = {line.reason: np.float32(line.evidence.confidence) for line in gallery.lines}
        assert shown == {reason: np.float32(wanted[reason]) for reason in shown}
        assert {round(float(value), 6) for value in wanted.values()} == {round(float(x), 6) for x in shown.values()}


def test_worst_recognised_class_comes_first(store):
    shares = [gallery.n_right / gallery.n for gallery in viewed(store).classes]
    assert shares == sorted(shares)
    assert len(shares) == 6


def test_a_class_with_a_finding_comes_before_all_others(store):
    seen = material(store)
    best = seen.class_names.index(viewed(store).classes[-1].name)
    images = tuple(int(position) for position in seen.judged[seen.labels[seen.judged] == best][:4])
    finding = Finding("gaze/shortcut", "error", "recognised by its corner", "Look at the corner.", images)
    mixed = Finding("gaze/other", "error", "of several classes", "", tuple(map(int, seen.judged[:9])))
    told = replace(store, summaries=store.summaries | {"gaze": Summary(findings=(mixed, finding))})
    first = viewed(told).classes[0]
    assert first.name == seen.class_names[best]
    assert first.findings == ("recognised by its corner",)
    assert "recognised by its corner" in section(build_report(told, {"seed": 0}))


def test_maps_of_an_image_stand_side_by_side(two_methods):
    view = viewed(two_methods)
    assert [(column.method, column.layer) for column in view.columns] == [
        ("Grad-CAM", "block2.relu"),
        ("Grad-CAM", "block1.relu"),
        ("Integrated gradients", ""),
    ]
    assert len(view.scales) == 2
    for gallery in view.classes:
        for line in gallery.lines:
            assert [frame.caption for frame in line.frames] == [
                "Grad-CAM, block2.relu",
                "Grad-CAM, block1.relu",
                "Integrated gradients",
            ]


def test_unknown_alignment_stands_above_the_map_it_concerns(two_methods):
    known, unknown, pixels = viewed(two_methods).columns
    assert known.caveat == pixels.caveat == ""
    assert unknown.caveat.startswith("alignment unknown: ")
    shown = section(build_report(two_methods, {"seed": 0}))
    assert shown.count("alignment unknown: ") == 1
    assert shown.count("alignment unknown</span>") == 6


def test_target_is_told_where_it_is_not_the_prediction(two_methods, store):
    label = np.asarray(store.table["label"], np.int32)
    told = pixel_leaf(store, "saliency", np.ones((240, 1, 24, 32)), classes=label, target="label")
    view = viewed(told)
    assert view.columns[-1].target == "the label"
    for gallery in view.classes:
        for line in gallery.lines:
            assert line.frames[-1].target == ("" if line.evidence.right else line.evidence.label)


def test_an_image_without_such_a_target_has_a_hole_not_another_map(store):
    """The contrast between prediction and label exists for wrong images alone."""
    predicted = store.data["predictions/predicted"]
    wrong = (predicted >= 0) & (predicted != np.asarray(store.table["label"]))
    heatmap = np.where(wrong[:, None, None, None], 1.0, np.nan) * np.ones((240, 1, 24, 32))
    told = pixel_leaf(
        store, "contrast", heatmap, True, np.where(wrong, predicted, -1).astype(np.int32), target="contrast"
    )
    lines = [line for gallery in viewed(told).classes for line in gallery.lines]
    assert {line.evidence.right for line in lines} == {True, False}
    assert all((line.frames[-1] is None) == line.evidence.right for line in lines)
    assert ">none<" in section(build_report(told, {"seed": 0}))


def test_remark_on_faithfulness_stands_with_its_method(two_methods):
    notes = {"maps": {"heatmap": {"randomisation": "fails", "similarity": 0.93}}}
    told = replace(
        two_methods,
        summaries=two_methods.summaries | {"faithfulness/integrated_gradients": Summary(notes=notes)},
    )
    remarks = [column.remark for column in viewed(told).columns]
    assert "FAILS parameter randomisation" in remarks[2]
    assert viewed(told).columns[2].fails
    assert section(build_report(told, {"seed": 0})).count('<span class="remark bad">FAILS parameter') == 6
    assert remarks[0] == remarks[1] == "not tested for faithfulness"
    assert {column.remark for column in viewed(two_methods).columns} == {""}


def test_data_without_labels_are_shown_by_prediction(store):
    table = store.table.assign(label=-1)
    view = viewed(replace(store, table=table))
    assert len(view.classes) == 6
    assert all(gallery.n_right is None for gallery in view.classes)
    assert {line.reason for gallery in view.classes for line in gallery.lines} == {"most confident", "least confident"}
    assert "predicted for" in section(build_report(replace(store, table=table), {"seed": 0}))


def test_a_method_that_cannot_be_drawn_is_named_and_costs_no_other(two_methods):
    summaries = dict(two_methods.summaries)
    leaf = "attributions/integrated_gradients"
    data = {path: array for path, array in two_methods.data.items() if path != f"{leaf}/scale"}
    view = viewed(replace(two_methods, data=data))
    assert view.blank[0][0] == leaf
    assert "expected its scale" in view.blank[0][1]
    assert all(line.frames[0] is not None for gallery in view.classes for line in gallery.lines)
    summaries[leaf] = Summary(notes={"signed": True})
    assert viewed(replace(two_methods, summaries=summaries)).blank == ((leaf, "it noted no way to draw them"),)


def test_budget_ends_with_whole_images_and_says_so(store):
    view = viewed(store, budget=60_000)
    assert 0 < len(view.classes) < 6
    assert view.budget_full
    assert view.hidden == 6 - len(view.classes)
    page = section(build_report(store, {"seed": 0}, ReportOptions(budget_kb={"attributions": 58})))
    assert "report.budget_kb.attributions" in page


def test_only_the_first_classes_are_unfolded(store):
    assert [gallery.unfolded for gallery in viewed(store).classes] == [True] * 3 + [False] * 3


def test_a_map_lies_where_its_receptive_fields_are(store):
    """One cell of a layer with stride 4, the first centred at 1.5: cell 3 is strongest at 13.5."""
    heat = np.zeros((240, 1, 6, 8), np.float32)
    heat[:, 0, 2, 3] = 1
    told = replace(store, data=store.data | {"attributions/grad_cam/block2.relu/heatmap": heat})
    seen = material(told)
    found = heatmaps.heatmap(seen, heatmaps.sources(seen)[0], 5).values
    assert found.shape == (24, 32)
    assert set(zip(*np.nonzero(found == found.max()), strict=True)) == {(9, 13), (9, 14), (10, 13), (10, 14)}


def test_signals_carry_the_colours_behind_the_line(signal_store):
    lines = [line for gallery in viewed(signal_store).classes for line in gallery.lines]
    assert all(frame.symbols[0].startswith("heat-") for line in lines for frame in line.frames)
    assert all(frame.symbols[1].startswith("image-") for line in lines for frame in line.frames)


def test_outline_runs_along_the_edges_of_a_mask():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    steps = re.findall(r"M(\d+) (\d+)([hv])(\d+)", figures.outline(mask))
    edges = {
        (int(x) + (at if way == "h" else 0), int(y) + (at if way == "v" else 0), way)
        for x, y, way, length in steps
        for at in range(int(length))
    }
    assert edges == {
        *((1, 0, "h"), (2, 0, "h"), (2, 1, "h"), (1, 2, "h")),
        *((1, 0, "v"), (1, 1, "v"), (2, 1, "v"), (3, 0, "v")),
    }
    assert figures.outline(np.zeros((3, 4), bool)) == ""


def window_store(store, scores):
    """Add occlusion: windows of 12 pixels every 8 (down) and every 10 (across) pixels of 24 by 32."""
    leaf, n = "attributions/occlusion", len(store.table)
    predicted = store.data["predictions/predicted"]
    data = {
        f"{leaf}/score": scores.astype(np.float32),
        f"{leaf}/base": np.ones((n, scores.shape[2]), np.float32),
        f"{leaf}/against": np.full((n, 1), -1, np.int32),
        f"{leaf}/target": predicted[:, None],
    }
    rendering = {"kind": "windows", "start": [[0, 8, 16], [0, 10, 20]], "end": [[12, 20, 24], [12, 22, 32]]}
    notes = {"signed": True, "config": {"target": "predicted"}, "rendering": rendering}
    return replace(store, data=store.data | data, summaries=store.summaries | {leaf: Summary(notes=notes)}, failures={})


def test_occlusion_shows_the_drop_and_the_class_that_wins(store):
    """Only the window in the middle matters: there the score of the prediction falls, and another class wins."""
    predicted = store.data["predictions/predicted"]
    scores = np.zeros((240, 9, 6))
    scores[np.arange(240), :, predicted.clip(0)] = 1
    scores[np.arange(240), 4, predicted.clip(0)] = 0
    other = (predicted.clip(0) + 1) % 6
    scores[np.arange(240), 4, other] = 0.5
    told = window_store(store, scores)
    seen, view = material(told), viewed(told)
    assert [column.method for column in view.columns[2:]] == ["Occlusion", "Occlusion: winning class"]
    assert view.winners
    drop, winner = heatmaps.sources(seen)[2:]
    assert drop.path == "heatmap"
    found = heatmaps.heatmap(seen, drop, 5).values
    assert found[13, 15] == found.max() > 0  # under the middle window alone
    assert found[2, 2] == 0
    grid = heatmaps.winners(seen, winner, 5)
    assert grid.shape == (3, 3)
    assert grid[1, 1] == other[5]
    assert (np.delete(grid.ravel(), 4) == predicted[5]).all()
    for line in (line for gallery in view.classes for line in gallery.lines):
        at = (seen.class_names.index(line.evidence.prediction) + 1) % 6
        assert line.frames[-1].keys == (("A", seen.class_names[at]),)
    page = section(build_report(told, {"seed": 0}))
    assert "while a window is covered there" in page


def test_patches_lie_around_the_middles_of_their_windows():
    edges = winners.cell_edges([0, 8, 16], [12, 20, 24], 24, 48)
    np.testing.assert_allclose(edges, [0, 20, 34, 48])  # middles at 6, 14 and 20 of 24
    grid = np.array([[7, 7, 2], [7, 3, 2], [3, 3, -1]])
    found = winners.patches(grid, (edges, edges), prediction=7)
    assert [(patch.wins, patch.letter) for patch in found] == [(3, "A"), (2, "B")]
    assert found[0].d == "M20 20H34V34H20zM0 34H34V48H0z"
    assert (found[0].x, found[0].y) == (27, 27)  # all three are as near; the first in reading order
    assert winners.patches(np.full((3, 3), 7), (edges, edges), prediction=7) == ()


def test_rare_winners_share_one_patch():
    grid = np.array([[1, 1, 1, 2, 2, 3, 3, 4, 5, 0]])
    edges = (np.array([0.0, 1]), np.arange(11.0))
    found = winners.patches(grid, edges, prediction=0)
    assert [(patch.wins, patch.letter, patch.role) for patch in found] == [
        (1, "A", 0),
        (2, "B", 1),
        (3, "C", 2),
        (-1, "+", 3),
    ]
    assert found[3].d == "M7 0H9V1H7z"


class Repeated:
    """An array whose rows are the same few again and again, so that it takes no memory."""

    def __init__(self, few, n):
        self.few, self.shape = few, (n, *few.shape[1:])

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(self.shape[0])
        return self.few[np.arange(start, stop) % len(self.few)]


def large_store(make, n_class, n):
    """Many classes, photographs of 96 pixels, ten methods on inputs of 224; the images are of the first 50 classes."""
    rng = np.random.default_rng(5)
    names = tuple(f"class {place:04}" for place in range(n_class))
    store = make(n=n, size=(4, 4), classes=names[:50], bad=())
    base = make(n=12, size=(96, 96), bad=())
    store.described.update(class_names=list(names), input_shape=[3, 224, 224])
    data = dict(store.data) | {"thumbnails/image": Repeated(base.data["thumbnails/image"], n)}
    data["confusion/matrix"] = np.pad(data["confusion/matrix"], (0, n_class - 50))
    noise = Repeated(rng.normal(size=(6, 1, 224, 224)).astype(np.float16), n)
    summaries = dict(store.summaries)
    for place, name in enumerate(METHODS):
        leaf = f"attributions/{name}"
        data |= {
            f"{leaf}/heatmap": noise,
            f"{leaf}/scale": np.ones((n, 1), np.float32),
            f"{leaf}/target": store.data["predictions/predicted"][:, None],
        }
        summaries[leaf] = Summary(notes={"signed": place % 2 == 0, "rendering": {"kind": "pixels"}, "config": {}})
    return replace(store, data=data, summaries=summaries, failures={})


def test_a_thousand_classes_with_ten_methods_stay_below_ten_megabytes(make):
    store = large_store(make, 1_000, 2_000)
    options = yaml.safe_load((Path(build.__file__).parents[1] / "conf/report/default.yaml").read_text())
    options.pop("_target_")
    page = build_report(store, {"seed": 0}, ReportOptions(**options))
    assert len(page.encode()) < 10_000_000
    shown = section(page)
    assert shown.count("<details class=") == 40
    assert "more classes not shown" in shown
    frames = shown.count('<svg class="frame"')
    assert frames % 11 == 0
    assert frames > 11 * 3 * 40


def several_targets(store, n_class=6, target="all", order=None):
    """A method with a heatmap for every class: that of class k has its one strong pixel in column k."""
    n = len(store.table)
    leaf = "attributions/saliency"
    classes = np.tile(np.arange(n_class), (n, 1)) if order is None else order
    heat = np.zeros((n, classes.shape[1], 24, 32), np.float16)
    np.put_along_axis(heat[:, :, 7], np.maximum(classes, 0)[..., None], 1, axis=2)
    data = {
        f"{leaf}/heatmap": heat,
        f"{leaf}/scale": np.ones(classes.shape, np.float32),
        f"{leaf}/target": classes.astype(np.int32),
    }
    notes = {"signed": False, "rendering": {"kind": "pixels"}, "config": {"target": target}}
    return replace(store, data=store.data | data, summaries=store.summaries | {leaf: Summary(notes=notes)}, failures={})


def test_of_several_targets_the_prediction_stands_with_the_others_and_each_is_shown_below(store):
    told = several_targets(store)
    seen = material(told)
    source = heatmaps.sources(seen)[-1]
    position = int(seen.judged[3])
    predicted = int(seen.predicted[position])
    place = heatmaps.leading(seen, source, position)
    found = heatmaps.heatmap(seen, source, position, place)
    assert (place, found.target, int(found.values[7].argmax())) == (predicted,) * 3
    names = seen.class_names
    view = viewed(told)
    assert view.columns[-1].target.startswith("6 classes")
    for line in (line for gallery in view.classes for line in gallery.lines):
        logits = seen.row("predictions/logit", seen.image_ids.index(line.evidence.image))
        wanted = [names[at] for at in np.argsort(-logits, kind="stable") if names[at] != line.evidence.prediction]
        assert [frame.target for frame in line.others] == wanted
        assert line.frames[-1].target == ""
        assert line.left_out == 0
        assert len({frame.symbols for frame in (line.frames[-1], *line.others)}) == 6
    page = section(build_report(told, {"seed": 0}))
    assert page.count("For other classes: ") == sum(len(gallery.lines) for gallery in view.classes)


def test_ranks_without_a_class_and_methods_with_one_target_add_nothing(store):
    predicted = store.data["predictions/predicted"]
    order = np.stack([predicted, np.full_like(predicted, -1)], axis=1)
    view = viewed(several_targets(store, order=order, target="top:2"))
    assert {line.others for gallery in view.classes for line in gallery.lines} == {()}
    assert "For other classes" not in section(build_report(store, {"seed": 0}))


def test_other_targets_get_what_the_budget_leaves_and_the_rest_is_said(store):
    told = several_targets(store)
    wanted = sum(len(gallery.lines) for gallery in viewed(told).classes)
    for budget in range(60_000, 10**6, 5_000):
        lines = [line for gallery in viewed(told, budget=budget).classes for line in gallery.lines]
        if len(lines) == wanted:  # the least with which every image has its leading heatmaps
            break
    assert sum(line.left_out for line in lines) > 0
    assert {len(line.others) + line.left_out for line in lines} == {5}
    options = ReportOptions(budget_kb={"attributions": budget // 1000})
    assert "more not shown)" in section(build_report(told, {"seed": 0}, options))
