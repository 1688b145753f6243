"""The folder of pages holds those of this run and no others, whatever happened before."""

from convaudit.pipelines.run import _renew, withdraw_verdict


def test_pages_of_an_earlier_run_do_not_stay(tmp_path):
    folder = tmp_path / "run" / "pages"
    _renew(folder, {"index.html": "first", "old.html": "gone later"})
    _renew(folder, {"index.html": "sécond"})
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {"index.html": "sécond"}
    assert [path.name for path in folder.parent.iterdir()] == ["pages"]


def test_what_a_crash_left_behind_is_cleared(tmp_path):
    left = tmp_path / ".pages.tmp"
    left.mkdir()
    (left / "half.html").write_text("half")
    _renew(tmp_path / "pages", {"index.html": "whole"})
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["index.html"]


def test_pages_are_withdrawn_with_the_verdict(tmp_path):
    _renew(tmp_path / "pages", {"index.html": "tonight's"})
    withdraw_verdict(tmp_path)
    assert list(tmp_path.iterdir()) == []
    withdraw_verdict(tmp_path)
