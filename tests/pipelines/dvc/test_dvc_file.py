"""dvc.yaml says what the stages say; it is written by hand and held against them here."""

import fnmatch
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from convaudit.pipelines import config as configs
from convaudit.pipelines.run import in_store

ROOT = Path(__file__).resolve().parents[3]
FILE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SCAFFOLD = yaml.safe_load((ROOT / "pipelines" / "scaffold" / "dvc.yaml").read_text())["stages"]
CODE = ("conf", "pipelines", "reports", "stages")
#: What every stage knows of the audited images besides arrays.
SUBJECT = {"run/store/images.parquet", "run/store/subject.json"}
TRAINED_OR_JUDGED = ("reference", "verdicts")


@pytest.fixture(scope="module")
def config():
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        return configs.check(configs.resolve(compose("config")))


def nouns(config) -> tuple[set[str], set[str]]:
    """Stages of the sweep, and those that work on what it stored."""
    swept, checks = set(), set()
    for name, stage in config.stages.items():
        if name not in TRAINED_OR_JUDGED:
            (swept if in_store(stage.leaves()) else checks).add(name)
    return swept, checks


def params(stage: dict) -> set[str]:
    return {key for entry in stage.get("params", ()) for keys in entry.values() for key in keys}


def stored(stage: dict) -> set[str]:
    return {dep for dep in stage["deps"] if dep.startswith(("run/store/", "run/checks/"))}


def code(stage: dict) -> set[str]:
    return {dep for dep in stage["deps"] if dep.split("/")[0] in CODE}


def read_nouns(config, name: str) -> set[str]:
    leaves = [leaf.name for stage in config.stages.values() for leaf in stage.leaves()]
    patterns = [read for leaf in config.stages[name].leaves() for read in leaf.reads]
    found = {leaf.split("/")[0] for pattern in patterns for leaf in leaves if fnmatch.fnmatchcase(leaf, pattern)}
    return found - {name}


def needs_model(config, name: str) -> bool:
    return any(leaf.sweeps or leaf.inspects for leaf in config.stages[name].leaves()) or name == "ablation"


def test_it_has_every_stage(config):
    _, checks = nouns(config)
    assert set(FILE) == checks | {"config", "reference", "sweep", "report"}


def test_the_sweep_depends_on_its_stages_and_on_nothing_else(config):
    swept, _ = nouns(config)
    assert params(FILE["sweep"]) == swept | {"data", "model", "numerics", "seed", "stages"}
    assert {f"stages/{name}" for name in swept} <= code(FILE["sweep"])
    assert FILE["sweep"]["outs"] == ["run/store"]
    assert stored(FILE["sweep"]) == set()


def test_each_check_depends_on_what_it_reads(config):
    swept, checks = nouns(config)
    for name in checks:
        stage = FILE[name]
        folder = {noun: "store" if noun in swept else "checks" for noun in config.stages}
        expected = {f"run/{folder[noun]}/{noun}.zarr" for noun in read_nouns(config, name)}
        assert stored(stage) == expected | SUBJECT, name
        audited = {"data", "model"} if needs_model(config, name) else set()
        assert params(stage) == {name, "numerics", "seed"} | audited, name
        assert ({"${weights}", "${data}"} <= set(stage["deps"])) == needs_model(config, name), name
        assert f"stages/{name}" in code(stage)
        assert stage["outs"] == [f"run/checks/{name}.zarr"]


def test_the_report_depends_on_everything(config):
    _, checks = nouns(config)
    stage = FILE["report"]
    assert stored(stage) == {f"run/checks/{name}.zarr" for name in checks}
    assert {"run/store", "run/config.yaml"} <= set(stage["deps"])
    made = ("checks/verdicts.zarr", "junit.xml", "pages", "report.html", "verdict.json")
    assert stage["outs"] == [f"run/{name}" for name in made]


def test_every_dependency_is_there_or_is_made():
    made = {out for stage in FILE.values() for out in stage["outs"]}
    for name, stage in FILE.items():
        for dep in stage["deps"]:
            exists = (ROOT / dep).exists() if dep.split("/")[0] in CODE else False
            assert exists or dep in made or any(dep.startswith(f"{out}/") for out in made), f"{name}: {dep}"


def test_every_setting_it_names_exists(config):
    for name, stage in FILE.items():
        assert params(stage) <= set(config.resolved), name


def test_commands_name_their_stage():
    for name, stage in FILE.items():
        words = stage["cmd"].split()
        assert words[0] == "convaudit"
        assert words[1] == (name if name in ("config", "reference", "sweep", "report") else "check")
        if words[1] == "check":
            assert words[2] == name


def test_every_out_is_ignored_by_git():
    ignored = (ROOT / ".gitignore").read_text().split()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for out in (out for stage in FILE.values() for out in stage["outs"]):
        path = values[out[2:-1]] if out.startswith("${") else out
        assert f"/{path.split('/')[0]}/" in ignored


def test_the_scaffold_is_the_same_pipeline_without_our_sources():
    expected = {}
    for name, stage in FILE.items():
        if name != "reference":
            keep = [dep for dep in stage["deps"] if dep == "conf" or dep not in code(stage)]
            expected[name] = {**stage, "deps": keep}
    actual = {name: dict(stage) for name, stage in SCAFFOLD.items()}
    assert "--config-dir conf" in actual["config"].pop("cmd")
    expected["config"].pop("cmd")
    assert actual == expected
