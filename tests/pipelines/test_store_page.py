"""docs/store.md is what the stages declare."""

from pathlib import Path

from convaudit.pipelines.store_page import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date():
    stored = (ROOT / "docs" / "store.md").read_text()
    assert stored == page(), "run: python -m convaudit.pipelines.store_page docs/store.md"


def test_every_stage_with_arrays_is_on_it():
    text = page()
    nouns = {path.name for path in (ROOT / "stages").iterdir() if (path / "stage.py").is_file()} - {"verdicts"}
    for noun in nouns:
        assert f"\n## {noun}\n" in text or f"\n## {noun}/" in text, noun
