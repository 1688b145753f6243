import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from convaudit.pipelines.config import build
from convaudit.stages.errors import ConfigError


def built(group, *overrides):
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        tree = compose("config", overrides=list(overrides))
    return build(OmegaConf.to_container(tree[group], resolve=True), group)


@pytest.mark.parametrize("override", ["model.arguments={classes: 4}", "+model.arguments.classes=4"])
def test_arguments_can_be_given_as_a_whole_or_one_by_one(override):
    model = built("model", "model=python", "model.file=net.py", "model.factory=make", override)
    assert model.arguments == {"classes": 4}


def test_a_registered_model_names_the_code_that_makes_it():
    overrides = ["model=mlflow", "model.uri=models:/net@champion", "model.tracking_uri=sqlite:///x.db"]
    model = built("model", *overrides, "model.factory.file=net.py", "model.factory.factory=make")
    assert model.factory.factory == "make"
    with pytest.raises(ConfigError, match=r"model\.uri"):
        built("model", *overrides, "model.factory.file=net.py", "model.factory.factory=make", "model.uri=net")


def test_preprocessing_and_arguments_of_the_data_come_from_config():
    data = built(
        "data", "data=torchvision", "data.name=FakeData", "data.arguments={size: 3}", "data.preprocessing.size=[8,9]"
    )
    assert data.arguments == {"size": 3}
    assert data.preprocessing.size == (8, 9)
    with pytest.raises(ConfigError, match=r"data\.preprocessing\.interpolation"):
        built("data", "data=imagefolder", "data.path=x", "data.preprocessing.interpolation=lanczos")
