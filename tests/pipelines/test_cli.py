"""The command as people meet it: wrong words end in one line, right ones in files, verdict and exit code."""

from __future__ import annotations

import errno
import io
import json
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from convaudit.pipelines import cli
from convaudit.pipelines import run as runs
from convaudit.pipelines.store import RunStore

from .conftest import SMALL, convaudit, digests

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


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: str) -> Ended:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return Ended(stop.value.code, out.getvalue(), err.getvalue())


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


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("help",), ("model=python", "--help")])
def test_help_explains_itself(words, folder):
    ended = call(*words)
    assert (ended.code, ended.err) == (0, "")
    for expected in ("convaudit sweep --config FILE", "attributions", "saliency", "smoke, standard", "--config-dir"):
        assert expected in ended.out
    assert max(map(len, ended.out.splitlines())) <= 120
    for command in cli._COMMANDS:
        assert f"convaudit {command}" in ended.out


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_every_command_explains_itself(command, folder):
    ended = call(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: convaudit {command}")


def test_version_is_the_installed_one(folder):
    from importlib.metadata import version

    assert call("--version").out == f"convaudit {version('convaudit')}\n"


def test_cfg_job_shows_the_config_and_runs_nothing(folder):
    before = sorted(folder.rglob("*"))
    ended = call("--cfg", "job", "audit=smoke", "neighbors.k=3")
    assert ended.code == 0
    tree = yaml.safe_load(ended.out)
    assert tree["neighbors"]["k"] == 3
    assert tree["stages"] == ["predictions", "features", "confusion", "neighbors"]
    assert "hydra" not in tree
    assert sorted(folder.rglob("*")) == before


def test_config_out_is_the_whole_config_and_reads_back_as_itself(folder):
    assert call("config", "--out", "deep/one.yaml", "audit=smoke", "tracking=none", "+gates.accuracy.n=5").code == 2
    assert call("config", "--out", "deep/one.yaml", "audit=smoke", "tracking=none").code == 0
    tree = yaml.safe_load((folder / "deep" / "one.yaml").read_text())
    assert tree["data"]["limit"] == 64
    assert tree["cluster"]["_target_"].endswith("InprocessCluster")


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("WARN", 0), ("FAIL", 1), ("ERROR", 2)])
def test_gate_leaves_with_the_verdict(verdict, code, folder):
    (folder / "other").mkdir()
    notes = {"verdict": verdict, "gates": [], "failures": [], "error_findings": 0, "accuracy": None}
    (folder / "other" / "verdict.json").write_text(json.dumps(notes))
    ended = call("gate", "--run", "other")
    assert ended.code == code
    assert ended.out.startswith(verdict)
    assert ended.err == ""


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """One small audit by the command alone, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, convaudit(*_small(digits), cwd=folder)


def _small(digits) -> list[str]:
    return [*SMALL, "cluster=inprocess", f"model.checkpoint={digits.weights}"]


def test_the_last_lines_are_verdict_and_paths(whole):
    folder, ended = whole
    assert ended.stderr == ""
    first, *_, verdict, report, stored, tracked = ended.stdout.splitlines()
    assert first.startswith("auditing 96 images (1 x 32 x 32, 10 classes)")
    assert re.match(r"(PASS|WARN)  \d+ of \d+ gates", verdict)
    assert report == "report  run/report.html"
    assert stored.startswith("store   run/store")
    assert tracked == "mlflow  off (tracking=none)"
    assert (folder / "run" / "report.html").is_file()
    assert {path.name for path in folder.iterdir()} == {"run", ".work"}


def test_what_failed_is_said_with_its_reason(digits, tmp_path, monkeypatch):
    from convaudit.stages.neighbors.stage import Neighbors

    def broken(self, *arguments):
        raise RuntimeError("planted fault")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Neighbors, "compute", broken)
    ended = call(*_small(digits), "audit=smoke", "data.limit=32")
    assert ended.code == 2
    verdict, failed, *_ = ended.out.splitlines()[-5:]
    assert verdict.startswith("ERROR")
    assert failed.startswith("failed  neighbors: ")
    assert "planted fault" in failed
    assert "Traceback" not in ended.out + ended.err


def test_the_parts_by_hand_give_the_same_bytes(whole, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("config", "--out", "config.yaml", *_small(digits)).code == 0
    assert call("sweep", "--config", "config.yaml").code == 0
    for stage in ("embeddings", "neighbors", "confusion", "filters", "ablation"):
        ended = call("check", stage, "--config", "config.yaml")
        assert (ended.code, ended.err) == (0, ""), ended
    ended = call("report", "--config", "config.yaml")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] in whole[1].stdout.splitlines()
    assert digests(tmp_path / "run") == digests(whole[0] / "run")
    assert call("gate").code == 0


def test_chosen_stages_and_presets(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*_small(digits), "audit=smoke", "stages=[confusion,neighbors]", "data.limit=32").code == 0
    assert set(RunStore(tmp_path / "run").leaves()) == {"predictions", "features", "confusion", "neighbors", "verdicts"}
    ended = call("clean")
    assert ended.code == 0
    assert ended.out.startswith("removed 0 unfinished pieces")


OWN_METHOD = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from convaudit.stages.attributions.method import Method
from convaudit.stages.contract import Ask
from convaudit.stages.specs import ArraySpec

HEATMAP = ArraySpec("heatmap", ("image", "*space"), "float32", "1", "The input itself.")


@dataclass(frozen=True)
class Itself(Method):
    factor: float = 1.0
    target: str = "predicted"
    signed: ClassVar[bool] = True
    conserves: ClassVar[bool] = False
    unit: ClassVar[str] = "1"
    documents: ClassVar[tuple[ArraySpec, ...]] = (HEATMAP,)

    def writes(self, subject):
        return (HEATMAP.sized((subject.n_image, *subject.input_shape[1:]), subject.axes),)

    def asks(self, subject):
        return Ask()

    def attribute(self, batch, subject):
        return {"heatmap": self.factor * batch.images[:, 0].cpu().numpy()}
"""


def test_own_options_and_methods_come_from_a_folder_of_ones_own(digits, tmp_path, monkeypatch):
    conf, code = tmp_path / "conf", tmp_path / "code"
    for folder in (conf / "model", conf / "attributions", code):
        folder.mkdir(parents=True)
    (code / "own_attribution.py").write_text(OWN_METHOD)
    (conf / "model" / "mine.yaml").write_text(
        "_target_: convaudit.pipelines.models.digits.DigitsModel\n"
        f"checkpoint: {digits.weights}\ncheckpoint_key: null\nclass_names: null\n"
    )
    (conf / "attributions" / "itself.yaml").write_text(
        "# @package attributions\n_target_: convaudit.stages.attributions.stage.Attributions\n"
        "methods:\n  itself:\n    _target_: own_attribution.Itself\n    factor: 2.0\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(code))
    own = ["--config-dir", str(conf), "model=mine", "attributions=[saliency,itself]"]
    small = [*SMALL, "cluster=inprocess", "data.limit=32", "stages=[predictions,attributions]"]
    convaudit(*own, *small, cwd=elsewhere)
    stored = RunStore(elsewhere / "run")
    assert stored["attributions/itself/heatmap"][:].max() == pytest.approx(2.0)
    monkeypatch.chdir(elsewhere)
    ended = call("--config-dir", str(conf), "model=mien")
    assert "did you mean 'mine'" in ended.err


def test_the_line_for_mlflow_is_a_command(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*_small(digits), "audit=smoke", "data.limit=32", "tracking=sqlite"]
    ended = call(*words)
    assert ended.code == 0
    line = ended.out.splitlines()[-1].removeprefix("mlflow  ")
    program, *rest = shlex.split(line)
    assert Path(program).is_file()
    assert rest[:3] == ["-m", "mlflow", "server"]
    assert f"sqlite:///{tmp_path / 'mlflow.db'}" in rest
