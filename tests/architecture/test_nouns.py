"""One noun, five rooms: what is called `confusion` is called so everywhere."""

import importlib
from pathlib import Path

import pytest

from convaudit.stages.contract import Stage

ROOT = Path(__file__).resolve().parents[2]
#: Folders below stages/ that are no stage: the kernel of the sweep, and maths with a second user.
NOT_STAGES = {"network", "numerics"}
#: Rooms that a stage lacks, by name: the verdict opens every page and so has no section of its own, and the reference
#: network is trained before there is an audit to report.
WITHOUT = {"verdicts": {"template"}, "reference": {"template", "view"}}
NOUNS = sorted(
    path.name
    for path in (ROOT / "stages").iterdir()
    if path.is_dir() and path.name not in NOT_STAGES and path.name != "__pycache__"
)


@pytest.mark.parametrize("noun", NOUNS)
def test_it_has_a_config(noun):
    assert list((ROOT / "conf" / noun).glob("*.yaml"))


@pytest.mark.parametrize("noun", NOUNS)
def test_it_has_a_thin_stage_that_bears_its_name(noun):
    module = importlib.import_module(f"convaudit.stages.{noun}.stage")
    stages = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Stage) and item.__module__ == module.__name__
    ]
    assert [stage.name for stage in stages] == [noun]


@pytest.mark.parametrize("noun", NOUNS)
def test_it_has_a_section_in_the_report(noun):
    rooms = {
        "view": ROOT / "reports" / "views" / f"{noun}.py",
        "template": ROOT / "reports" / "templates" / f"{noun}.html.j2",
    }
    assert {room for room, path in rooms.items() if not path.is_file()} == WITHOUT.get(noun, set())


@pytest.mark.parametrize("noun", NOUNS)
def test_it_has_tests(noun):
    assert list((ROOT / "tests" / "stages" / noun).glob("test_*.py"))


def test_no_room_stands_empty():
    """A section, a config or a test of a stage that is gone would say that it is still there."""
    views = {path.stem for path in (ROOT / "reports" / "views").glob("*.py")} - {"__init__"}
    tested = {path.name for path in (ROOT / "tests" / "stages").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert views - set(NOUNS) <= {"provenance"}
    assert tested - set(NOUNS) <= NOT_STAGES
