"""How files are called, how long they may be, and what none of them may contain."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "stages", "reports")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools", "base"}
LONGEST_MODULE = 400
#: Folders of one machine and hosts of package registries; in pieces, so that this file is clean too.
LOCAL = re.compile(
    "|".join(("/" + "work/", "/opt" + "/venv", "pypi" + r"\.org", "npm" + r"js\.org", "python" + "hosted"))
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_is_named_for_its_content(path):
    assert path.stem not in NAMELESS


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_packages_import_each_other_relatively(path):
    """An absolute import would load a module twice where the folders themselves are on the path."""
    lines = path.read_text().splitlines()
    wrong = [line for line in lines if re.match(r"\s*(from|import) (convaudit|pipelines|stages|reports|conf)\b", line)]
    assert not wrong


def test_every_package_has_an_empty_init():
    folders = {path.parent for path in SOURCES}
    for folder in folders:
        assert (folder / "__init__.py").read_text() == "", relative(folder)


def test_conf_is_a_package_so_that_hydra_finds_it():
    assert (ROOT / "conf" / "__init__.py").is_file()


def test_test_files_have_unique_names():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_file_knows_this_machine_or_a_registry():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".npz", ".safetensors"):
            assert not LOCAL.search(path.read_text(errors="replace")), name
