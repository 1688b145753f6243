"""Opens the pages the way people do: light and dark, on a phone, in a sandboxed frame, without JavaScript."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convaudit.reports.build import PAGES, StageTime, build_nightly, build_pages, build_report

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("report", "signals", "nightly", "pages/index", "pages/network", "pages/filters")
SHOWN = """
const bad = [];
for (const image of document.querySelectorAll('img'))
  if (!image.complete || !image.naturalWidth) bad.push('img ' + image.alt);
for (const use of document.querySelectorAll('use')) {
  const symbol = document.getElementById(use.getAttribute('href').slice(1));
  const box = use.getBoundingClientRect();
  const open = !use.closest('details:not([open])') && !use.closest('symbol');
  if (!symbol || (open && !(box.width && box.height))) bad.push(use.getAttribute('href'));
}
const loads = [...document.querySelectorAll('image')].map(image => {
  const copy = new Image(); copy.src = image.getAttribute('href');
  return copy.decode().then(() => null, () => 'undecodable ' + image.parentNode.id);
});
Promise.all(loads).then(found => arguments[0]([...bad, ...found.filter(Boolean)]));
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, store, signal_store, walked):
    folder = tmp_path_factory.mktemp("pages")
    notes = dict(store.summary("verdicts").notes)
    times = [StageTime("predictions", 1.5, 240), StageTime("saliency", None, None, "failed")]
    texts = {
        "report": build_report(store, {"seed": 0}),
        "signals": build_report(signal_store, {"seed": 0}),
        "nightly": build_nightly(notes, times, {"commit": "abc"}, {"Report": "report.html"}, {"date": "2026-01-02"}),
    } | {f"{PAGES}/{name.removesuffix('.html')}": text for name, text in build_pages(walked, {"seed": 0}).items()}
    (folder / PAGES).mkdir()
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


def show(browser, path, scheme="light", width=1200):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(path.as_uri())


def console(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def axe():
    places = [Path(os.environ.get("CONVAUDIT_AXE", "")), ROOT / ".venv" / "axe" / "axe.min.js"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip("axe-core is neither at $CONVAUDIT_AXE nor at .venv/axe/axe.min.js")
    return found.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_missing_or_complains(browser, pages, name, scheme):
    show(browser, pages[name], scheme)
    assert browser.execute_async_script(SHOWN) == []
    assert console(browser) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [390, 800, 1200])
def test_page_never_scrolls_sideways(browser, pages, name, width):
    show(browser, pages[name], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_is_dark_and_light_is_light(browser, pages):
    lightness = {}
    for scheme in ("light", "dark"):
        show(browser, pages["report"], scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        lightness[scheme] = sum(int(part) for part in colour.strip("rgb()").split(","))
    assert lightness["dark"] < 150 < 600 < lightness["light"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(browser, pages, axe, name, scheme):
    show(browser, pages[name], scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(item => item.open = true)")
    browser.execute_script(axe)
    found = browser.execute_async_script("axe.run(document).then(result => arguments[0](result.violations))")
    told = [(item["id"], [node["html"][:160] for node in item["nodes"][:3]]) for item in found]
    assert told == []


@pytest.mark.parametrize("way", ["srcdoc", "blob"])
def test_sandboxed_frame_shows_everything(browser, pages, tmp_path, way):
    outside = tmp_path / "outside.html"
    outside.write_text("<!doctype html><title>outside</title><body></body>", encoding="utf-8")
    show(browser, outside)
    browser.execute_async_script(
        """
        const [page, way, done] = arguments, frame = document.createElement('iframe');
        frame.setAttribute('sandbox', 'allow-scripts');
        frame.style.width = '1000px'; frame.style.height = '800px';
        frame.onload = () => done();
        if (way === 'srcdoc') frame.srcdoc = page;
        else frame.src = URL.createObjectURL(new Blob([page], {type: 'text/html'}));
        document.body.append(frame);
        """,
        pages["report"].read_text(encoding="utf-8"),
        way,
    )
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    assert browser.execute_script("return document.querySelectorAll('h1').length") == 1
    assert browser.execute_async_script(SHOWN) == []
    browser.switch_to.default_content()
    assert console(browser) == []


@pytest.mark.parametrize("name", ["report", "pages/network", "pages/filters"])
def test_page_reads_the_same_without_javascript(browser, pages, name):
    show(browser, pages[name])
    # Buttons of a script that is off would do nothing, so they are not there.
    browser.execute_script("for (const part of document.querySelectorAll('.controls, .seen')) part.remove()")
    text = browser.find_element("css selector", "body").text
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, pages[name])
        assert browser.find_element("css selector", "body").text == text
        if name == "report":
            browser.find_element("css selector", "summary").click()
            assert browser.find_element("css selector", "details").get_attribute("open") is not None
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_pages_are_walked_by_their_links(browser, pages):
    show(browser, pages["report"])
    browser.find_element("css selector", "#network li a").click()
    assert browser.current_url.endswith("pages/network.html#layer-0")
    browser.find_element("css selector", "#layer-0 .steps a").click()
    assert browser.current_url.endswith("#layer-2")
    browser.find_element("css selector", ".brand a").click()
    assert browser.current_url == pages["report"].as_uri()
    show(browser, pages["pages/index"])
    browser.find_element("link text", "All channels in trouble").click()
    assert browser.current_url == pages["pages/filters"].as_uri()


def test_table_of_channels_sorts_where_it_stands(browser, pages):
    show(browser, pages["pages/filters"])
    rows = (
        "return [...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(row => row.cells[1].innerText)"
    )
    before = browser.execute_script(rows)
    browser.find_elements("css selector", "table.sortable .sorter")[1].click()
    assert browser.execute_script(rows) == sorted(before, key=int, reverse=True)


def test_print_hides_navigation_and_shows_what_is_folded(browser, pages):
    show(browser, pages["report"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        seen = "return getComputedStyle(document.querySelector(arguments[0])).display"
        assert browser.execute_script(seen, "nav") == "none"
        height = "return document.querySelector('details pre').getBoundingClientRect().height"
        assert browser.execute_script(height) > 20
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
