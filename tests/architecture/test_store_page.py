"""docs/store.md is what the specs say."""

from pathlib import Path

import pytest

from convaudit.pipelines.store_page import documented
from convaudit.pipelines.store_page import page as make_page

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return make_page()


def test_the_page_is_up_to_date(page):
    written = (ROOT / "docs" / "store.md").read_text()
    assert written == page, "run: python -m convaudit.pipelines.store_page > docs/store.md"


def test_every_method_in_conf_is_on_it():
    leaves = documented()
    for stage in ("attributions", "embeddings"):
        for path in (ROOT / "conf" / stage).glob("*.yaml"):
            assert leaves[f"{stage}/{path.stem}"]


def test_every_stage_with_arrays_is_on_it(page):
    nouns = {path.name for path in (ROOT / "stages").iterdir() if (path / "stage.py").is_file()} - {"verdicts"}
    for noun in nouns:
        assert f"\n### {noun}\n" in page or f"\n### {noun}/" in page, noun


def test_every_array_says_what_it_is():
    for leaf, specs in documented().items():
        assert len({spec.path for spec in specs}) == len(specs), leaf
        for spec in specs:
            assert spec.unit, (leaf, spec.path)
            assert spec.meaning.endswith("."), (leaf, spec.path)
            assert "|" not in spec.path
