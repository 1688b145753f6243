"""The wheel works by itself: nothing of the checkout is needed."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "stages", "reports", "conf")
SHIPPED = (".py", ".yaml", ".j2", ".css", ".svg", ".typed")

pytestmark = pytest.mark.slow


def call(*words: str | Path, cwd: Path = Path("/")) -> str:
    result = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, f"{words}: {result.stdout[-2000:]}{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves build/ behind and believes what it finds there."""
    pytest.importorskip("setuptools", reason="needs setuptools to build the wheel")
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, source)
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", *build)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A new environment that borrows the libraries of this one, but not its convaudit."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A path in a .pth file is searched, but the .pth files in it are not read: the editable install stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_every_file_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in SHIPPED and "__pycache__" not in path.parts:
                assert f"convaudit/{path.relative_to(ROOT).as_posix()}" in packed
    for name in (".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        assert f"convaudit/pipelines/scaffold/{name}" in packed
    assert not [name for name in packed if name.startswith(("tests/", "stages/", "convaudit/tests"))]


def test_it_is_imported_from_the_new_environment(environment):
    where = call(environment / "python", "-c", "import convaudit.stages.specs as m; print(m.__file__)").strip()
    assert where.startswith(str(environment.parent))


def test_the_command_explains_itself_and_shows_its_config_from_anywhere(environment):
    assert "convaudit" in call(environment / "convaudit", "--help")
    assert "_target_: convaudit." in call(environment / "convaudit", "--cfg", "job")


def test_it_can_start_a_new_folder(environment, tmp_path):
    call(environment / "convaudit", "init", tmp_path / "mine")
    assert (tmp_path / "mine" / "dvc.yaml").is_file()
    assert (tmp_path / "mine" / "conf" / "audit" / "mine.yaml").is_file()


def test_it_audits(environment, tmp_path):
    words = ("audit=smoke", f"run={tmp_path / 'run'}", f"work={tmp_path / 'work'}", "tracking=none")
    call(environment / "convaudit", *words, cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "work"]
