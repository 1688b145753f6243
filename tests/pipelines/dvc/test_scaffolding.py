"""`convaudit init`: complete, packaged, and never over somebody's work."""

import re
from pathlib import Path

import pytest
import yaml

from convaudit.pipelines.scaffolding import init
from convaudit.stages.errors import ConfigError

FILES = [".dvcignore", ".gitignore", "conf/audit/mine.yaml", "dvc.yaml", "params.yaml"]


def test_it_copies_every_file(tmp_path):
    written = init(tmp_path / "new" / "audit")
    assert [path.relative_to(tmp_path / "new" / "audit").as_posix() for path in written] == FILES
    assert set(yaml.safe_load((tmp_path / "new" / "audit" / "params.yaml").read_text())) == {
        "weights",
        "data",
        "overrides",
    }


@pytest.mark.parametrize("name", FILES)
def test_it_never_overwrites(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=re.escape(str(mine))):
        init(tmp_path)
    assert mine.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder"):
        init(Path(tmp_path / "file"))
