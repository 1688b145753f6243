import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convaudit.pipelines.models.checkpoint import load_into, read_checkpoint
from convaudit.stages.errors import ConfigError, ModelError


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, classes)


class Wrapped(nn.Module):
    """Has a part of the name that is also a prefix."""

    def __init__(self):
        super().__init__()
        self.model = Net()


@pytest.fixture
def trained():
    torch.manual_seed(3)
    return Net().state_dict()


def assert_loaded(model, state):
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt"])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
def test_reads_bare_and_nested_files(tmp_path, trained, suffix, nest):
    content = trained
    for key in reversed(nest):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / f"net{suffix}")
    checkpoint = read_checkpoint(tmp_path / f"net{suffix}")
    assert checkpoint.key == ".".join(nest)
    model = Net()
    assert load_into(model, checkpoint) == ""
    assert_loaded(model, trained)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module._orig_mod."]
)
def test_takes_prefixes_off_in_any_combination(tmp_path, trained, prefix):
    torch.save({"state_dict": prefixed(trained, prefix)}, tmp_path / "net.pt")
    model = Net()
    assert load_into(model, read_checkpoint(tmp_path / "net.pt")) == prefix
    assert_loaded(model, trained)


def test_keeps_a_prefix_that_belongs_to_the_model(tmp_path):
    state = Wrapped().state_dict()
    torch.save(state, tmp_path / "net.pt")
    model = Wrapped()
    assert load_into(model, read_checkpoint(tmp_path / "net.pt")) == ""
    assert_loaded(model, state)


def test_takes_the_mark_of_a_compiled_part_out_of_the_middle(tmp_path):
    state = Wrapped().state_dict()
    torch.save(
        {name.replace("model.", "model._orig_mod."): value for name, value in state.items()}, tmp_path / "net.pt"
    )
    model = Wrapped()
    load_into(model, read_checkpoint(tmp_path / "net.pt"))
    assert_loaded(model, state)


def test_reads_safetensors(tmp_path, trained):
    save_file(prefixed(trained, "module."), tmp_path / "net.safetensors")
    model = Net()
    load_into(model, read_checkpoint(tmp_path / "net.safetensors"))
    assert_loaded(model, trained)


def test_reads_settings_and_scores_beside_the_weights(tmp_path, trained):
    settings = argparse.Namespace(lr=0.1, folder=Path("somewhere"))
    torch.save({"args": settings, "best": np.float64(0.9), "model": trained}, tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "net.pt").key == "model"


def test_old_files_without_counts_of_batches_load(tmp_path, trained):
    del trained["norm.num_batches_tracked"]
    torch.save(trained, tmp_path / "net.pt")
    load_into(Net(), read_checkpoint(tmp_path / "net.pt"))


def test_lists_missing_unexpected_and_wrongly_shaped_keys_and_loads_nothing(tmp_path, trained):
    del trained["conv.weight"], trained["norm.running_var"]
    trained["extra.weight"] = torch.ones(2)
    trained["head.weight"] = torch.ones(7, 5)
    torch.save(prefixed(trained, "module."), tmp_path / "net.pt")
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_into(model, read_checkpoint(tmp_path / "net.pt"))
    text = str(caught.value)
    assert "\n" not in text
    assert "2 missing: conv.weight, norm.running_var" in text
    assert "1 unexpected: extra.weight" in text
    assert "head.weight (file (7, 5), model (4, 5))" in text
    assert_loaded(model, before)


def test_long_lists_are_cut_and_counted(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(
        ModelError, match=r"8 missing: conv\.weight, conv\.bias, norm\.weight, \.\.\., 1 unexpected: other"
    ):
        load_into(Net(), read_checkpoint(tmp_path / "net.pt"))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/convaudit-should-never-exist"),))


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"state_dict": Evil()}])
def test_pickled_objects_are_refused_and_not_run(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"save torch\.save\(model\.state_dict\(\), path\)") as caught:
        read_checkpoint(tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/convaudit-should-never-exist").exists()


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelError, match="TorchScript"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path, trained, name):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(trained, path)
    whole = path.read_bytes()
    for content, words in [
        (whole[: len(whole) // 2], "again"),
        (b"not a checkpoint", "checkpoint|safetensors"),
        (b"", "empty"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ModelError, match=words) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(ModelError, match="no such checkpoint"):
        read_checkpoint(path)


def test_several_places_ask_for_a_choice(tmp_path, trained):
    other = {name: value + 1 if value.is_floating_point() else value for name, value in trained.items()}
    torch.save({"model": trained, "state_dict": other, "ema": {"inner": trained}}, tmp_path / "net.pt")
    with pytest.raises(ConfigError, match="checkpoint_key"):
        read_checkpoint(tmp_path / "net.pt")
    model = Net()
    load_into(model, read_checkpoint(tmp_path / "net.pt", "state_dict"))
    assert_loaded(model, other)
    assert read_checkpoint(tmp_path / "net.pt", "ema.inner").key == "ema.inner"
    with pytest.raises(ConfigError, match="did you mean 'ema'"):
        read_checkpoint(tmp_path / "net.pt", "emma")


def test_weights_under_an_unknown_key_are_not_guessed(tmp_path, trained):
    torch.save({"generator": trained, "epoch": 1}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="the file holds generator, epoch"):
        read_checkpoint(tmp_path / "net.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path, trained):
    trained["head.bias"][1] = float("nan")
    torch.save(trained, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"NaN or infinite weights in head\.bias"):
        read_checkpoint(tmp_path / "net.pt")


def test_versions_of_modules_survive_the_prefix(tmp_path):
    """MNASNet refuses weights whose version it does not know."""
    import torchvision

    source = torchvision.models.mnasnet0_5(num_classes=3)
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "net.pt")
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    for name in ("net.pt", "net.safetensors"):
        model = torchvision.models.mnasnet0_5(num_classes=3)
        load_into(model, read_checkpoint(tmp_path / name))
        assert_loaded(model, source.state_dict())
