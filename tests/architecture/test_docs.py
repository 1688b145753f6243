"""What the pages say of the code, as far as a machine can tell."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = [path for name in ("pipelines", "stages", "reports") for path in (ROOT / name).rglob("*.py")]
KEY = re.compile(r"\b[a-z]{3,}(?:18|19|20)\d\d\b")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target


def test_every_cited_key_is_in_the_bibliography():
    known = set(KEY.findall((ROOT / "docs" / "bibliography.md").read_text()))
    for path in SOURCES:
        assert set(KEY.findall(path.read_text())) <= known, name(path)


def test_the_glossary_defines_each_word_once():
    words = re.findall(r"^\| \*\*([^*]+)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) > 30
    assert len(words) == len(set(words))
