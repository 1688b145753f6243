import re
from dataclasses import replace

import numpy as np
import pytest

from convaudit.reports import atlas, figures
from convaudit.reports.atlas import chosen, mosaic
from convaudit.reports.build import ReportOptions, build_report
from convaudit.reports.views import embeddings as view_module
from convaudit.reports.views.embeddings import HEIGHT, WIDTH, _fit


def section_of(page):
    return re.search(r'<section id="embeddings".*?</section>', page, re.DOTALL).group()


def spread(points=90, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (points, 2)) * [50, 40]


def replica(points, size, columns, rows):
    """Again and again the nearest free pair, looked for among all."""
    wide, high = size[0] / columns, size[1] / rows
    grid, free = -np.ones((rows, columns), int), set(range(len(points)))
    while True:
        best = None
        for y in range(rows):
            for x in range(columns):
                for one in sorted(free) if grid[y, x] < 0 else ():
                    away = np.hypot(points[one, 0] - (x + 0.5) * wide, points[one, 1] - (y + 0.5) * high)
                    if away <= max(wide, high) and (best is None or away < best[0]):
                        best = (away, y, x, one)
        if best is None:
            return grid
        grid[best[1], best[2]] = best[3]
        free.remove(best[3])


@pytest.mark.parametrize(("columns", "rows"), [(5, 4), (6, 3)])
def test_a_grid_takes_the_nearest_free_pair_each_time(columns, rows):
    points = spread(30)
    np.testing.assert_array_equal(mosaic(points, (50, 40), columns, rows), replica(points, (50, 40), columns, rows))


def test_a_grid_shows_no_image_twice_and_leaves_gaps_open():
    points = np.concatenate([spread(40) * 0.2, [[49, 39]]])
    grid = mosaic(points, (50, 40), 10, 8)
    held = grid[grid >= 0]
    assert len(held) == len(set(held.tolist()))
    assert grid[7, 9] == 40
    assert (grid[:, 5:8] == -1).all()
    assert (mosaic(np.empty((0, 2)), (50, 40), 3, 2) == -1).all()


def test_misclassified_images_go_first_and_the_rest_is_even(monkeypatch):
    known = np.arange(0, 4000, 2)
    shown = chosen(known, np.array([2000, 8, 7]), 100)
    assert len(shown) == 100
    assert {8, 2000} <= set(shown.tolist())
    assert set(shown.tolist()) <= set(known.tolist())
    assert np.diff(shown).max() <= 3 * 4000 / 100
    assert len(np.intersect1d(chosen(known, known[::-1], 99), known[-33:])) == 33
    np.testing.assert_array_equal(chosen(known[:50], known[:3], 50), known[:50])


def test_the_origin_moves_with_the_points():
    points = np.array([[1.0, 2.0], [5.0, 3.0], [0.0, 0.0]])
    fitted, origin = _fit(points)
    np.testing.assert_allclose(origin, fitted[2])
    assert fitted[1, 0] > fitted[0, 0]
    assert fitted[1, 1] < fitted[0, 1]
    assert _fit(np.empty((0, 2)))[1].tolist() == [WIDTH / 2, HEIGHT / 2]


def test_a_section_shows_map_grid_and_arrows(store, config):
    drawn = section_of(build_report(store, config))
    assert 'class="explorer"' in drawn
    assert "Biplot" in drawn
    assert drawn.count('href="#image-atlas"') > 20
    assert drawn.count('<symbol id="image-atlas"') == 1


def test_signals_have_a_map_and_no_thumbnails(signal_store, config):
    drawn = section_of(build_report(signal_store, config))
    assert 'class="explorer"' in drawn
    assert "image-atlas" not in drawn


def test_many_images_are_a_stated_sample_over_pixels(make, config, monkeypatch):
    monkeypatch.setattr(figures, "VECTOR_POINTS", 300)
    monkeypatch.setattr(atlas, "MOST_WRONG", 10)
    drawn = section_of(build_report(make(n=1_200, size=(8, 8)), config))
    assert "1,000 images one by one, of 1,198" in drawn
    assert 'class="cloud other"' not in drawn
    # A class of few images is drawn point by point, or its pixels would drown in those of all others.
    assert drawn.count('class="cloud right" d="M') == drawn.count('class="panel"') > 1
    monkeypatch.setattr(view_module, "_FEW", 10)
    crowded = section_of(build_report(make(n=1_200, size=(8, 8)), config))
    assert crowded.count('class="cloud right" d="M') == 0


def test_a_small_budget_shows_fewer_and_none_where_none_fit(make, config):
    store = make(n=900, size=(28, 28))
    counts = []
    for size in (2000, 150):
        drawn = section_of(build_report(store, config, ReportOptions({"embeddings": size})))
        counts.append(int(re.search(r"([\d,]+) images one by one", drawn).group(1).replace(",", "")))
    assert counts[0] == 898
    assert counts[1] < 898
    assert "one by one" not in section_of(build_report(store, config, ReportOptions({"embeddings": 40})))


def test_a_map_that_was_not_made_is_told_and_not_drawn(edited, store, config):
    leaf = "embeddings/pca"
    told = replace(store.summary(leaf), notes={"left_out": "no map of 7 images: too few"})
    drawn = section_of(build_report(edited(summaries=store.summaries | {leaf: told}), config))
    assert "no map of 7 images: too few" in drawn
    assert "<h3>embeddings/pca" not in drawn


def test_classes_that_reach_into_each_other_come_first(edited, store, config):
    n = 4
    overlap = np.full((n, n), np.nan, np.float32)
    overlap[0, 1] = overlap[1, 0] = 0.3
    overlap[1, 3] = overlap[3, 1] = 1.7
    distance = np.arange(16, dtype=np.float32).reshape(n, n)
    changed = edited(data=store.data | {"embeddings/pca/overlap": overlap, "embeddings/pca/class_distance": distance})
    drawn = section_of(build_report(changed, config))
    assert drawn.index("1.7") < drawn.index("0.3000")


def test_a_map_can_be_walked_by_keys_and_stands_without_a_script(browser, store, config, tmp_path):
    path = tmp_path / "map.html"
    path.write_text(build_report(store, config), encoding="utf-8")
    keys = pytest.importorskip("selenium.webdriver").Keys
    browser.get(path.as_uri())
    figure = browser.find_element("css selector", ".explorer")
    drawing = figure.find_element("css selector", "svg.map")
    browser.execute_script("arguments[0].focus()", drawing)
    whole = drawing.get_dom_attribute("viewBox")
    browser.switch_to.active_element.send_keys("n")
    first = figure.find_element("css selector", ".seen").text
    assert "img/" in first
    assert "labelled" in first
    browser.switch_to.active_element.send_keys("n")
    assert figure.find_element("css selector", ".seen").text != first
    browser.switch_to.active_element.send_keys("+")
    browser.switch_to.active_element.send_keys(keys.ARROW_RIGHT)
    assert drawing.get_dom_attribute("viewBox") != whole
    browser.switch_to.active_element.send_keys("0")
    assert drawing.get_dom_attribute("viewBox") == whole
    every = len(figure.find_element("css selector", ".spot.right").get_dom_attribute("d"))
    browser.execute_script(
        "const s = arguments[0]; s.selectedIndex = 1; s.dispatchEvent(new Event('change'))",
        figure.find_element("css selector", "select"),
    )
    assert 0 < len(figure.find_element("css selector", ".spot.right").get_dom_attribute("d")) < every
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        assert browser.find_elements("css selector", ".explorer button") == []
        assert browser.find_element("css selector", ".explorer .spot.right").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


TWO_FINGERS = """
const [drawing, steps] = arguments, box = drawing.getBoundingClientRect();
drawing.setPointerCapture = () => {};  // no real finger is there to be captured
for (const [kind, finger, x, y] of steps)
  drawing.dispatchEvent(new PointerEvent('pointer' + kind, {
    pointerId: finger, pointerType: 'touch', bubbles: true,
    clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
return drawing.getAttribute('viewBox').split(' ').map(Number);
"""


def test_two_fingers_enlarge_a_map_around_what_is_between_them(browser, store, config, tmp_path):
    path = tmp_path / "map.html"
    path.write_text(build_report(store, config), encoding="utf-8")
    browser.get(path.as_uri())
    drawing = browser.find_element("css selector", ".explorer svg.map")
    assert drawing.value_of_css_property("touch-action") == "pan-y"  # a page can be scrolled past the whole map
    apart = [("down", 7, 0.4, 0.25), ("down", 8, 0.6, 0.25), ("move", 7, 0.3, 0.25), ("move", 8, 0.7, 0.25)]
    x, y, wide, high = browser.execute_script(TWO_FINGERS, drawing, apart)
    assert wide == pytest.approx(WIDTH / 2)
    assert high == pytest.approx(HEIGHT / 2)
    assert y == pytest.approx(HEIGHT * 0.125)
    assert x + wide / 2 == pytest.approx(WIDTH / 2, rel=0.15)
    assert drawing.value_of_css_property("touch-action") == "none"
    lifted = [("up", 7, 0.3, 0.25), ("move", 8, 0.6, 0.25)]
    moved = browser.execute_script(TWO_FINGERS, drawing, lifted)
    assert moved == pytest.approx([x + 0.1 * wide, y, wide, high])
