"""A worked example is what stands in the repository, word for word, so that it is tested."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text()
#: A heading that names a file, and the first block below it.
SHOWN = re.findall(r"^## \d\. [^\n]*`([^`]+)`\n.*?^```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_formula_config_and_test_are_shown():
    assert [Path(name).parts[0] for name, _ in SHOWN] == ["stages", "conf", "tests"]


@pytest.mark.parametrize(("name", "block"), SHOWN, ids=[name for name, _ in SHOWN])
def test_the_page_shows_the_file(name, block):
    assert block == (ROOT / name).read_text()


def test_what_the_page_names_is_there():
    for name in re.findall(r"`((?:stages|conf|tests)/[\w/.-]+\.\w+)`", PAGE):
        assert (ROOT / name).is_file(), name
