"""Whatever a person gets wrong ends in one line, exit code 2 and nothing half-written."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch
import yaml

from convaudit.pipelines import cli
from convaudit.pipelines import run as runs

from .conftest import call, convaudit

NETWORK = """
import torch

def three_classes():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )

def colour():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 10))

def broken():
    raise RuntimeError("planted fault\\nof two lines")
"""
OWN = ("model=python", "model.file=net.py", "model.own_weights=true")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a few files to be given by mistake."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "wrong.py").write_text("def three(:\n")
    (tmp_path / "garbage.pt").write_bytes(b"no checkpoint at all" * 20)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save({"head.weight": torch.zeros(3, 3), "tail": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "little.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(folder: Path, message: str, *arguments: str) -> None:
    """Expect one line on stderr, exit code 2 and nothing left behind."""
    before = sorted(folder.rglob("*"))
    ended = call(*arguments)
    assert ended.code == 2, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert re.search(message, ended.err), ended.err
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


WRONG_SETTINGS = {
    "neighbors.kk=3": r"neighbors\.kk: no such setting; did you mean 'k'\?",
    "neighbors.k=abc": r"neighbors\.k: expected an integer, got 'abc'",
    "model=digts": r"model: no option is called 'digts'; did you mean 'digits'\?.*torchvision",
    "modle=digits": r"modle: no such setting; did you mean 'model'\?",
    "attributions=[salency]": r"attributions: no option is called 'salency'; did you mean 'saliency'\?",
    "audit=smok": r"audit: no option is called 'smok'; did you mean 'smoke'\?",
    "+extra=1": r"extra: no such setting; there are: model, data",
    "+data.extra=1": r"data\.extra: no such setting; there are: .*limit",
    "+data.preprocessing.extra=1": r"data\.preprocessing\.extra: no such setting",
    "stages=[confussion]": r"stages: no stage is called 'confussion'; did you mean 'confusion'\?",
    "stages=confusion": r"stages: expected a list in brackets, got 'confusion'",
    "stages=[]": r"stages: expected at least one stage; there are",
    "stages=[reference]": r"stages: reference runs by itself",
    "model=python": r"model\.factory: a value is needed; set model\.factory=\.\.\.",
    "tracking=server": r"tracking\.uri: a value is needed",
    "a=[": r"a=\[: cannot be read as key=value",
    "audit=smoke=2": r"audit=smoke=2: cannot be read as key=value",
    "seed=1,2": r"seed=1,2: expected one value; write a list as 'seed=\[1,2\]'",
    "seed=abc": r"seed: expected an integer, got 'abc'",
    "=3": r"=3: ",
    "neighbors=null": r"neighbors=null: .*must be a string",
    "~model": r"model: the config lacks this key",
    "run=": r"run: expected a folder, got ''; write run=\.",
    "run=file": r"run: .*file is a file; expected a folder",
    "run=file/below": r"run: .*file is a file; expected a folder",
    "work=file": r"work: .*file is a file; expected a folder",
    "numerics.batch=0": r"numerics\.batch: expected at least 1, got 0",
    "data.limit=0": r"data\.limit: expected at least 1",
    "data.split=nowhere": r"data\.split: no image is in split 'nowhere'; there are: test, train",
    "gates.acuracy.min=0.5": r"gates\.acuracy: no such setting; did you mean 'accuracy'\?",
    "gates.accuracy.min=high": r"gates\.accuracy\.min: expected a number, got 'high'",
    "seed=${nowhere}": r"seed: Interpolation key 'nowhere' not found",
    "neighbors._target_=no.such.Thing": r"neighbors\._target_: cannot import 'no\.such\.Thing'",
    "neighbors._target_=os.system": r"neighbors\._target_: ",
    "model.checkpoint=nowhere.pt": r"nowhere\.pt: no such checkpoint",
    "model.checkpoint=empty_folder": r"empty_folder: no such checkpoint",
    "model.checkpoint=garbage.pt": r"garbage\.pt: not a torch checkpoint",
    "model.checkpoint=empty.safetensors": r"empty\.safetensors: the checkpoint is empty",
    "model.checkpoint=other.pt": r"other\.pt: .*tail",
    "--bogus": r"unrecognized arguments: --bogus; see `convaudit --help`",
    "--cfg=jobb": r"--cfg.*invalid choice: 'jobb'",
    "--config-dir=nowhere": r"nowhere' not found",
    "--config-name=nowhere": r"nowhere",
    "--multirun": r"--multirun: expected one audit",
    "adit": r"no command is called 'adit'; there are: .*sweep",
    "swep": r"no command is called 'swep'; did you mean 'sweep'",
}


@pytest.mark.parametrize("word", WRONG_SETTINGS)
def test_a_wrong_word_ends_in_one_line_that_names_it(word, folder):
    refused(folder, WRONG_SETTINGS[word], word)


WRONG_DATA_AND_MODELS = [
    (("data=imagefolder", "data.path=nowhere"), r"data\.path: .*nowhere: no such folder"),
    (("data=imagefolder", "data.path=empty_folder"), r"data\.path: .*expected one folder per class, got no folder"),
    (("data=imagefolder", "data.path=file"), r"data\.path: .*file: no such folder"),
    (("data=arrays", "data.path=nowhere.npz"), r"data\.path: .*nowhere\.npz: no such file"),
    (("data=arrays", "data.path=garbage.pt"), r"data\.path: .*garbage\.pt: cannot be read"),
    (("data=arrays", "data.path=empty_folder"), r"data\.path: .*empty_folder: expected a Zarr group"),
    (("data=manifest", "data.path=nowhere.csv"), r"data\.path: .*nowhere\.csv: no such file"),
    (("data=manifest", "data.path=file"), r"data\.path: .*file: expected a \.csv or \.parquet"),
    (("model=torchvision", "model.name=resnet17", "model.random_weights=true"), r"model\.name: .*mean 'resnet18'"),
    (("model=torchvision", "model.name=resnet18"), r"model: expected one of model\.checkpoint=FILE"),
    ((*OWN, "model.factory=three_clases"), r"model\.factory: .*did you mean 'three_classes'"),
    ((*OWN, "model.factory=broken"), r"broken\(\) failed: RuntimeError: planted fault$"),
    ((*OWN, "model.factory=f", "model.file=nowhere.py"), r"model\.file: .*nowhere\.py: no such file"),
    ((*OWN, "model.factory=f", "model.file=wrong.py"), r"wrong\.py: cannot be imported: SyntaxError"),
    ((*OWN, "model.factory=three_classes"), r"data have 10 classes .*model has 3 outputs; set data\.class_names"),
    ((*OWN, "model.factory=colour"), r"the model fails on a batch of 2 x 1 x 32 x 32 .*RuntimeError"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_DATA_AND_MODELS, ids=lambda value: str(value)[:60])
def test_wrong_data_and_models_end_in_one_line(words, message, folder):
    refused(folder, message, *words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("features.layers=[nowhere]", r"features: layer selector 'nowhere' matches nothing; there are: block1\.conv"),
        ("attributions.methods.grad_cam.layers=[blok3]", r"attributions/grad_cam: .*did you mean 'block3'"),
    ],
)
def test_a_wrong_layer_ends_in_one_line(word, message, folder, digits):
    refused(folder, message, f"model.checkpoint={digits.weights}", word)


WRONG_COMMANDS = [
    ("check confusion", r"convaudit check: .*required: --config"),
    ("check nowhere --config {config}", r"check: no stage is called 'nowhere'; there are: .*confusion"),
    ("check confusion --config {config}", r"expected a run with store/subject\.json"),
    ("report --config {config}", r"expected a run with store/subject\.json"),
    ("sweep --config missing.yaml", r"--config missing\.yaml: no such file; write it with `convaudit config"),
    ("sweep --config wrong_key.yaml", r"neighbors\.kk: no such setting; did you mean 'k'\?"),
    ("sweep --config broken.yaml", r"--config broken\.yaml: not YAML"),
    ("sweep --config list.yaml", r"--config list\.yaml: expected a mapping, got list"),
    ("sweep --config little.yaml", r"model: the config lacks this key"),
    ("sweep --config .", r"--config \."),
    ("sweep --bogus", r"convaudit sweep: .*--config"),
    ("sweep --config {config} neighbors.k=3", r"unrecognized arguments: neighbors\.k=3"),
    ("config", r"convaudit config: .*required: --out"),
    ("config --out", r"--out: expected one argument"),
    ("config --out out.yaml neighbors.kk=3", r"neighbors\.kk: no such setting"),
    ("config --out out.yaml --bogus", r"unrecognized arguments: --bogus"),
    ("config --out file/out.yaml", r"file"),
    ("reference", r"convaudit reference: .*required: --weights, --data"),
    ("reference --weights w --data d --config {config} seed=1", r"expected --config or overrides, got both"),
    ("gate --run nowhere", r"gate: nowhere/verdict\.json is missing"),
    ("gate extra", r"unrecognized arguments: extra"),
    ("publish --run nowhere", r"publish: nowhere/config\.yaml is missing"),
    ("publish --config {config}", r"publish: tracking is off"),
    ("clean --work nowhere", r"clean: nowhere is no work folder"),
    ("init", r"convaudit init: .*required: directory"),
    ("init file", r"file"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_COMMANDS, ids=[line for line, _ in WRONG_COMMANDS])
def test_a_wrong_command_ends_in_one_line(line, message, folder):
    assert call("config", "--out", "config.yaml", "tracking=none").code == 0
    tree = yaml.safe_load(Path("config.yaml").read_text())
    tree["neighbors"]["kk"] = tree["neighbors"].pop("k")
    Path("wrong_key.yaml").write_text(yaml.safe_dump(tree))
    refused(folder, message, *line.format(config="config.yaml").split())


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"verdict": "MAYBE"}'])
def test_a_broken_verdict_is_no_verdict(text, folder):
    (folder / "run").mkdir()
    (folder / "run" / "verdict.json").write_text(text)
    refused(folder, r"gate: run/verdict\.json holds no verdict; write it again", "gate")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/store"), r"run/store: No space left.*free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), r"run: Permission denied; choose other folders"),
        (OSError("something\nelse"), r"error: something else; check the path"),
    ],
)
def test_what_the_disk_refuses_ends_in_one_line(raised, message, folder, monkeypatch):
    def refuse(config):
        raise raised

    monkeypatch.setattr(runs, "audit", refuse)
    refused(folder, message)


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(folder, monkeypatch):
    # Permissions would not keep the superuser out, so the answer of the system is made up.
    monkeypatch.setattr(cli.os, "access", lambda path, _mode: path != folder / "empty_folder")
    refused(
        folder, r"run: .*empty_folder cannot be written to; choose another folder with run=", "run=empty_folder/run"
    )


def test_a_defect_is_never_taken_for_a_failed_gate(folder, monkeypatch):
    def defect(config):
        raise ZeroDivisionError("planted fault")

    monkeypatch.setattr(runs, "audit", defect)
    ended = call()
    assert ended.code == 2
    assert "planted fault" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: this is a defect of convaudit")


def test_an_interrupted_run_says_that_it_can_go_on(folder, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "audit", interrupted)
    ended = call()
    assert ended.code == 130
    assert "run the same command again to go on" in ended.err


@pytest.mark.parametrize("words", [("model=digts",), ("--bogus",), ("adit",), ("a=[",)])
def test_a_process_of_its_own_ends_the_same(words, tmp_path):
    ended = convaudit(*words, cwd=tmp_path, check_code=2)
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
