"""Presses the heads of a sortable table the way people do: by mouse, by keyboard, and without JavaScript."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convaudit.reports import build

SCRIPT = Path(build.__file__).parent / "static" / "sort.js"
#: Name, trouble, rate: equal rates, a missing one and one that is not a number; 9 stands before 10 as a number only.
ROWS = (
    ("conv10", "dead", "0"),
    ("conv9", "rare", "0.25"),
    ("Conv2", "dead", ""),
    ("conv1", "twin", "9"),
    ("conv3", "rare", "10"),
    ("conv4", "dead", "nan"),
    ("conv5", "dead", "0.25"),
    ("conv6", "rare", "-3e-5"),
)


def table():
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{word}</td><td data-value="{rate}">about {rate or "nothing"}</td></tr>'
        for name, word, rate in ROWS
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Layer", "Trouble", "Rate"))
    return (
        '<!doctype html><html lang="en"><title>t</title><body>'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f'<table id="plain"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"<script>{SCRIPT.read_text(encoding='utf-8')}</script></body></html>"
    )


@pytest.fixture
def page(browser, tmp_path):
    path = tmp_path / "table.html"
    path.write_text(table(), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def names(page, which="table.sortable"):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(row => row.cells[0].textContent)", which
    )


def states(page):
    return page.execute_script("return [...document.querySelectorAll('.sortable th[scope=col]')].map(h => h.ariaSort)")


def press(page, column):
    page.find_elements("css selector", ".sorter")[column].click()


def expected(column, descending, start=None):
    """What an independent stable sort of the rows gives, unknown ones last."""
    rows = list(ROWS if start is None else start)
    known = [row for row in rows if row[column] not in ("", "nan")]

    def key(row):
        if column == 2:
            return float(row[2])
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row[column].lower())]

    # Reversed twice, since a descending sort has to keep the order of equals, too.
    known = sorted(reversed(known), key=key)[::-1] if descending else sorted(known, key=key)
    return known + [row for row in rows if row[column] in ("", "nan")]


def first(rows):
    return [row[0] for row in rows]


def test_best_order_stands_until_somebody_presses(page):
    assert names(page) == first(ROWS)
    assert states(page) == ["none"] * 3
    assert len(page.find_elements("css selector", ".sorter")) == 3


def test_numbers_turn_from_large_to_small_to_best_order(page):
    press(page, 2)
    assert names(page) == first(expected(2, descending=True))
    assert states(page) == ["none", "none", "descending"]
    press(page, 2)
    assert names(page) == first(expected(2, descending=False))
    assert states(page) == ["none", "none", "ascending"]
    assert names(page)[-2:] == ["Conv2", "conv4"]
    press(page, 2)
    assert names(page) == first(ROWS)
    assert states(page) == ["none"] * 3


def test_words_turn_from_the_start_with_numbers_in_them_in_order(page):
    press(page, 0)
    assert names(page) == ["conv1", "Conv2", "conv3", "conv4", "conv5", "conv6", "conv9", "conv10"]
    press(page, 0)
    assert names(page)[0] == "conv10"


def test_second_column_keeps_the_order_of_the_first_among_equals(page):
    press(page, 2)
    press(page, 1)
    assert names(page) == first(expected(1, descending=False, start=expected(2, descending=True)))
    assert states(page) == ["none", "ascending", "none"]


def test_keyboard_alone_sorts(page):
    keys = pytest.importorskip("selenium.webdriver").Keys
    page.find_elements("css selector", ".sorter")[0].send_keys("")
    page.execute_script("document.querySelector('.sorter').focus()")
    page.switch_to.active_element.send_keys(keys.TAB)
    page.switch_to.active_element.send_keys(keys.TAB)
    assert page.switch_to.active_element.text == "Rate"
    page.switch_to.active_element.send_keys(keys.ENTER)
    assert states(page)[2] == "descending"
    assert page.switch_to.active_element.text == "Rate"
    page.switch_to.active_element.send_keys(keys.SPACE)
    assert names(page) == first(expected(2, descending=False))


def test_other_tables_stay_as_they_are(page):
    press(page, 2)
    assert names(page, "#plain") == first(ROWS)


def test_without_javascript_it_is_a_table(browser, tmp_path):
    path = tmp_path / "table.html"
    path.write_text(table(), encoding="utf-8")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        assert browser.find_elements("css selector", "button") == []
        cells = browser.find_elements("css selector", ".sortable tbody th")
        assert [cell.text for cell in cells] == first(ROWS)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_script_comes_only_with_a_table_that_needs_it():
    environment = build._environment()
    with_table = environment.from_string(
        '{% extends "base.html.j2" %}{% block title %}{% endblock %}'
        '{% block body %}<table class="sortable"></table>{% endblock %}'
    ).render(symbols=())
    without = environment.from_string(
        '{% extends "base.html.j2" %}{% block title %}{% endblock %}{% block body %}{{ name }}{% endblock %}'
    ).render(symbols=(), name='<table class="sortable">')
    assert with_table.count("<script>") == 1
    assert "<script" not in without
