import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from convaudit.pipelines.models.mlflow import MlflowModel
from convaudit.pipelines.models.python import PythonModel
from convaudit.pipelines.models.torchvision import TorchvisionModel
from convaudit.stages.errors import ConfigError, ModelError

NET = """
from torch import nn
from {neighbour} import width

class Net(nn.Sequential):
    pass

def small(classes=3):
    return Net(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

def broken():
    raise RuntimeError("first line\\nsecond line")

def nothing():
    return 3

def lazy():
    return nn.LazyLinear(4)

number = 7
"""


@pytest.fixture
def mine(tmp_path, request):
    neighbour = "layers_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    (tmp_path / f"{neighbour}.py").write_text("width = 4\n")
    path = tmp_path / "net.py"
    path.write_text(NET.format(neighbour=neighbour))
    torch.manual_seed(1)
    state = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "net.pth")
    return path, tmp_path / "net.pth", tmp_path / f"{neighbour}.py", state


def source(mine, **changes):
    return PythonModel(**({"file": str(mine[0]), "checkpoint": str(mine[1]), "factory": "small"} | changes))


def test_builds_frozen_in_evaluation_mode_with_the_weights_of_the_file(mine, tmp_path):
    resolved = source(mine).resolve(tmp_path)
    model = resolved.build()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, mine[3][name])
    text = json.dumps(resolved.description)
    assert str(tmp_path) not in text
    assert resolved.description["checkpoint_prefix"] == "module."
    assert resolved.description["parameters"] == sum(value.numel() for value in mine[3].values())


def test_another_process_builds_the_same_from_the_pickle(mine, tmp_path):
    resolved = source(mine).resolve(tmp_path)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(resolved))
    program = (
        "import pickle, sys, torch; model = pickle.load(open(sys.argv[1], 'rb')).build();"
        "print(model(torch.ones(1, 1, 8, 9)).tolist()); print(len(pickle.loads(pickle.dumps(model))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.pkl")],
        capture_output=True,
        text=True,
        cwd="/",
        check=True,
    )
    expected = resolved.build()(torch.ones(1, 1, 8, 9)).tolist()
    assert done.stdout.splitlines() == [str(expected), "5"]


def test_digest_follows_weights_source_neighbours_and_settings_but_not_the_place(mine, tmp_path):
    first = source(mine).resolve(tmp_path).digest
    assert source(mine).resolve(tmp_path).digest == first
    assert source(mine, arguments={"classes": 3}).resolve(tmp_path).digest != first
    neighbour = mine[2].read_text()
    mine[2].write_text(neighbour + "# changed\n")
    assert source(mine).resolve(tmp_path).digest != first
    mine[2].write_text(neighbour)
    renamed = tmp_path / "again.pth"
    renamed.write_bytes(mine[1].read_bytes())
    assert source(mine, checkpoint=str(renamed)).resolve(tmp_path).digest == first
    changed = {name: value + 1 for name, value in mine[3].items()}
    torch.save(changed, renamed)
    assert source(mine, checkpoint=str(renamed)).resolve(tmp_path).digest != first


def test_a_file_that_changes_after_resolving_is_noticed(mine, tmp_path):
    resolved = source(mine).resolve(tmp_path)
    torch.save({name: value + 1 for name, value in mine[3].items()}, mine[1])
    with pytest.raises(ModelError, match="not those the run began with"):
        resolved.build()
    resolved = source(mine).resolve(tmp_path)
    mine[0].write_text(mine[0].read_text() + "\n")
    with pytest.raises(ModelError, match="changed since the run began"):
        resolved.build()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"factory": "smal"}, ConfigError, "did you mean 'small'"),
        ({"factory": "number"}, ConfigError, "got int"),
        ({"arguments": {"clases": 3}}, ConfigError, "did you mean 'classes'"),
        ({"arguments": {"classes": 9}}, ModelError, "wrongly shaped"),
        ({"factory": "broken"}, ModelError, "RuntimeError: first line$"),
        ({"factory": "nothing"}, ModelError, "got int"),
        ({"factory": "lazy"}, ModelError, "has no shape yet"),
        ({"checkpoint": None}, ConfigError, "neither"),
        ({"own_weights": True}, ConfigError, "both"),
        ({"file": "nowhere.py"}, ConfigError, "no such file"),
        ({"file": None, "module": "no.such.module"}, (ConfigError, ModelError), "no"),
        ({"checkpoint": "nowhere.pt"}, ModelError, "no such checkpoint"),
    ],
)
def test_mistakes_are_told_in_one_line(mine, tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words) as caught:
        source(mine, **changes).resolve(tmp_path)
    assert "\n" not in str(caught.value)


def test_file_and_module_exclude_each_other(mine):
    with pytest.raises(ConfigError, match="both"):
        source(mine, module="torch")
    with pytest.raises(ConfigError, match="neither"):
        source(mine, file=None)


def test_a_syntax_error_names_the_file(mine, tmp_path):
    mine[0].write_text("def small(:\n")
    with pytest.raises(ModelError, match=r"net\.py.*SyntaxError"):
        source(mine).resolve(tmp_path)


def test_a_module_of_a_package_counts_with_its_own_package_only(tmp_path, monkeypatch):
    package = tmp_path / "mine_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("width = 4\n")
    (package / "net.py").write_text(
        "import torch\nfrom .parts import width\n\n\ndef make():\n    return torch.nn.Linear(width, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = PythonModel(module="mine_pkg.net", factory="make", own_weights=True)
    names = [name for name, _ in model.architecture().files()]
    assert names == ["mine_pkg/net.py", "mine_pkg/parts.py"]
    assert model.resolve(tmp_path).build().in_features == 4


def test_own_weights_must_come_out_alike_each_time(tmp_path):
    (tmp_path / "net.py").write_text(
        "import itertools, torch\ncount = itertools.count()\n\n\ndef make():\n    model = torch.nn.Linear(2, 2)\n"
        "    torch.nn.init.constant_(model.weight, next(count))\n    return model\n"
    )
    resolved = PythonModel(file=str(tmp_path / "net.py"), factory="make", own_weights=True).resolve(tmp_path)
    with pytest.raises(ModelError, match="not those the run began with"):
        resolved.build()


def test_a_hidden_neighbour_is_refused(tmp_path):
    (tmp_path / "numpy.py").write_text("width = 1\n")
    (tmp_path / "net.py").write_text("import numpy, torch\n\n\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    with pytest.raises(ModelError, match="hidden by"):
        PythonModel(file=str(tmp_path / "net.py"), factory="make", own_weights=True).resolve(tmp_path)


def test_torchvision_builds_by_name_with_a_checkpoint(tmp_path):
    import torchvision

    torch.manual_seed(0)
    trained = torchvision.models.squeezenet1_1(num_classes=4)
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    model = TorchvisionModel(name="squeezenet1_1", arguments={"num_classes": 4}, checkpoint=str(tmp_path / "net.pt"))
    resolved = model.resolve(tmp_path)
    assert torch.equal(resolved.build().classifier[1].weight, trained.classifier[1].weight)
    assert resolved.description["factory"] == "squeezenet1_1"


def test_torchvision_random_weights_are_the_same_each_time_and_leave_the_seed_alone(tmp_path):
    model = TorchvisionModel(name="squeezenet1_1", arguments={"num_classes": 4}, random_weights=True)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = model.resolve(tmp_path)
    assert torch.equal(torch.rand(1), expected)
    assert model.resolve(tmp_path).digest == first.digest
    first.build()


def test_torchvision_published_weights_come_from_the_local_copy(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    published = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    trained = torchvision.models.squeezenet1_1()
    torch.save(trained.state_dict(), folder / published.url.rpartition("/")[2])
    resolved = TorchvisionModel(name="squeezenet1_1", weights="IMAGENET1K_V1").resolve(tmp_path)
    assert torch.equal(resolved.build().features[0].weight, trained.features[0].weight)
    assert resolved.class_names[0] == "tench"
    torch.save(trained, folder / published.url.rpartition("/")[2])
    with pytest.raises(ModelError):
        TorchvisionModel(name="squeezenet1_1", weights="IMAGENET1K_V1").resolve(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "resnet19", "random_weights": True}, "did you mean 'resnet18'"),
        ({"name": "fcn_resnet50", "random_weights": True}, "no classifier 'fcn_resnet50'"),
        ({"name": "resnet18"}, "model.random_weights=true, got 0"),
        ({"name": "resnet18", "random_weights": True, "checkpoint": "x.pt"}, "got 2"),
        ({"name": "resnet18", "weights": "IMAGENET1K_V2"}, "did you mean 'IMAGENET1K_V1'"),
        ({"name": "resnet18", "random_weights": True, "arguments": {"weights": "DEFAULT"}}, "outside of arguments"),
    ],
)
def test_torchvision_mistakes(tmp_path, fields, words):
    with pytest.raises(ConfigError, match=words):
        TorchvisionModel(**fields).resolve(tmp_path)


def test_mlflow_takes_the_file_from_the_registry_and_the_code_from_config(mine, tmp_path, monkeypatch):
    from convaudit.pipelines import tracking

    asked = []

    def download(uri, tracking_uri, destination, artifact=None):
        asked.append((uri, tracking_uri, artifact))
        destination.mkdir(parents=True)
        target = destination / "weights.pth"
        target.write_bytes(mine[1].read_bytes())
        return target

    monkeypatch.setattr(tracking, "download_state_dict", download)
    factory = PythonModel(file=str(mine[0]), factory="small")
    model = MlflowModel(uri="models:/net@champion", tracking_uri="http://user:secret@host", factory=factory)
    resolved = model.resolve(tmp_path / "work")
    assert asked == [("models:/net@champion", "http://user:secret@host", None)]
    assert torch.equal(resolved.build()[0].weight, mine[3]["0.weight"])
    assert "secret" not in json.dumps(resolved.description)
    assert resolved.description["uri"] == "models:/net@champion"


@pytest.mark.parametrize("uri", ["net@champion", "models:/net", "models:/net/latest", "runs:/1234/model"])
def test_mlflow_wants_an_exact_version(mine, uri):
    with pytest.raises(ConfigError, match=r"model\.uri: expected models:/NAME@ALIAS"):
        MlflowModel(uri=uri, tracking_uri="sqlite:///x.db", factory=source(mine, checkpoint=None))


def test_mlflow_refuses_a_checkpoint_of_its_own(mine):
    with pytest.raises(ConfigError, match="leave the checkpoint out"):
        MlflowModel(uri="models:/net/1", tracking_uri="sqlite:///x.db", factory=source(mine))
