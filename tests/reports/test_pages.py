"""The pages beside the report: complete, linked both ways, within their bytes, the same every time."""

from __future__ import annotations

import posixpath
import re

import numpy as np
import pytest

from convaudit.reports.build import PAGES, ReportOptions, build_pages, build_report
from convaudit.reports.pages import filters as filters_page
from convaudit.stages.errors import ConfigError
from convaudit.stages.specs import Summary

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def pages(store):
    return build_pages(store, {"seed": 0})


@pytest.fixture(scope="module")
def files(store, pages):
    """Everything by its path in the run folder."""
    return {"report.html": build_report(store, {"seed": 0})} | {f"{PAGES}/{name}": text for name, text in pages.items()}


def addresses(page):
    return re.findall(r'<a [^>]*href="([^"]*)"', page)


def test_every_link_leads_to_a_file_and_a_place_in_it(files):
    for path, page in files.items():
        for address in addresses(page):
            target, _, place = address.partition("#")
            found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
            assert found in files, (path, address)
            assert not place or f'id="{place}"' in files[found], (path, address)


def test_report_and_index_lead_to_every_page_and_each_leads_back(files):
    pages = {path for path in files if path.startswith(PAGES)} - {f"{PAGES}/index.html"}
    assert pages
    assert pages <= {address.partition("#")[0] for address in addresses(files["report.html"])}
    for path in pages:
        assert posixpath.basename(path) in addresses(files[f"{PAGES}/index.html"])
        assert {"../report.html", "index.html"} <= set(addresses(files[path]))


def test_each_page_is_complete_by_itself(pages):
    for text in pages.values():
        assert not re.search(r"url\((?!#)", text)
        assert "@import" not in text
        assert not re.search(r"<(link|script|img|iframe)[^>]* (href|src)=\"(?!data:)", text)
        assert len(re.findall("<h1", text)) == 1
        assert HOSTILE not in text


def test_same_bytes_twice_and_wherever_the_run_lies(make, config, pages):
    assert build_pages(make(), {"seed": 0}) == pages
    elsewhere = config | {"run": "/another/place", "cluster": {"workers": 64}}
    assert build_pages(make(), elsewhere) == build_pages(make(), config)


def test_it_is_said_that_a_frame_keeps_links_shut(files):
    for path, page in files.items():
        assert "list of artifacts" in page, path


def test_run_without_results_has_an_index_all_the_same(edited):
    bare = edited(summaries={"predictions": Summary()}, failures={})
    pages = build_pages(bare, {})
    assert set(pages) == {"index.html"}
    assert "stands in the report" in pages["index.html"]
    assert f"{PAGES}/" not in build_report(bare, {})


def test_page_that_cannot_be_drawn_says_so_and_costs_nothing_else(store, pages, monkeypatch):
    def broken(*_):
        raise KeyError("planted")

    monkeypatch.setattr(filters_page, "page", broken)
    left = build_pages(store, {"seed": 0})
    assert "could not be drawn: KeyError" in left["filters.html"]
    assert set(left) == set(pages) > {"index.html", "network.html"}


def crowded(store, edited, n):
    """A network of `n` dead channels."""
    data = {path: array for path, array in store.data.items() if not path.startswith("filters/")}
    columns = {path: array for path, array in store.data.items() if path.startswith("filters/")}
    repeats = -(-n // 24)
    data |= {path: np.concatenate([array] * repeats)[:n] for path, array in columns.items()}
    data["filters/channel"] = np.arange(n, dtype=np.int32)
    data["filters/trouble"] = np.ones(n, np.int8)
    return edited(data=data)


@pytest.mark.parametrize("kilobytes", [150, 1000])
def test_large_network_keeps_the_page_within_its_bytes_and_says_what_is_left_out(store, edited, kilobytes):
    page = build_pages(crowded(store, edited, 26_560), {}, ReportOptions(page_kb=kilobytes))["filters.html"]
    assert len(page.encode()) <= 1024 * kilobytes
    assert len(page.encode()) > 300 * kilobytes
    assert re.search(r"[\d,]+ more", page)


def test_page_has_all_rows_where_the_report_has_few(store, edited):
    full = crowded(store, edited, 500)
    options = ReportOptions(rows=10)
    rows = r'<tr[^>]*><th scope="row">block[12].conv'
    assert len(re.findall(rows, build_pages(full, {}, options)["filters.html"])) > 450
    assert len(re.findall(rows, build_report(full, {}, options))) < 30


def test_impossible_size_is_refused(store):
    with pytest.raises(ConfigError, match=r"report\.page_kb"):
        ReportOptions(page_kb=-1)
    with pytest.raises(ConfigError, match="ReportOptions"):
        build_pages(store, {}, {"rows": 3})
