"""The grammar for layers, classes and images."""

import numpy as np
import pytest

from convaudit.stages.errors import ConfigError
from convaudit.stages.selectors import select_classes, select_images, select_layers
from convaudit.stages.specs import LayerSpec

LAYERS = tuple(
    LayerSpec(name, kind, module, (4, 5, 6))
    for name, kind, module in [
        ("conv1", "conv", "Conv2d"),
        ("relu#0", "relu", "ReLU"),
        ("layer1.0.conv1", "conv", "Conv2d"),
        ("layer1.0.relu", "relu", "ReLU"),
        ("relu#1", "relu", "ReLU"),
        ("layer1.functional_relu", "relu", "relu"),
        ("fc0", "linear", "Linear"),
        ("fc1.input", "input", "Linear"),
        ("fc1", "linear", "Linear"),
    ]
)


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ("conv1", ["conv1"]),
        (["fc1", "conv1", "fc1"], ["conv1", "fc1"]),
        ("relu", ["relu#0", "relu#1"]),
        ("relu#1", ["relu#1"]),
        ("*relu", ["relu#0", "layer1.0.relu", "relu#1", "layer1.functional_relu"]),
        ("layer?.*", ["layer1.0.conv1", "layer1.0.relu", "layer1.functional_relu"]),
        ("type:Conv2d", ["conv1", "layer1.0.conv1"]),
        ("kind:relu", ["relu#0", "layer1.0.relu", "relu#1", "layer1.functional_relu"]),
        (["penultimate", "last_conv"], ["layer1.0.conv1", "fc1.input"]),
        ([], []),
    ],
)
def test_layers(selectors, expected):
    assert [layer.name for layer in select_layers(selectors, LAYERS)] == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("conv2", "'conv2' matches nothing; did you mean 'conv1'"),
        ("type:Conv1d", "did you mean 'Conv2d'"),
        ("kind:conf", "did you mean 'conv'"),
        ("last_con", "did you mean 'last_conv'"),
        ("relu#2", "did you mean"),
        ("block*", "matches nothing"),
    ],
)
def test_layers_nobody_knows(selector, message):
    with pytest.raises(ConfigError, match=message):
        select_layers(["conv1", selector], LAYERS)


@pytest.mark.parametrize(("selector", "lacks"), [("last_conv", "no convolution"), ("penultimate", "no linear")])
def test_layers_that_a_model_lacks(selector, lacks):
    with pytest.raises(ConfigError, match=lacks):
        select_layers(selector, LAYERS[1:2])


def test_where_a_convolution_gives_the_logits_penultimate_is_what_comes_before_it():
    assert [layer.name for layer in select_layers("penultimate", LAYERS[:6])] == ["relu#0"]
    with pytest.raises(ConfigError, match="no linear layer, and nothing before"):
        select_layers("penultimate", LAYERS[:2])


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [("dog", (2,)), ([3, "cat"], (0, 3)), ("1", (3,)), ("2", (2,)), ("all", (0, 1, 2, 3)), ("?a*", (0,)), (2, (2,))],
)
def test_classes(selectors, expected):
    assert select_classes(selectors, ("cat", "elk", "dog", "1")) == expected


@pytest.mark.parametrize("selector", ["dig", 4, "-1", "x*"])
def test_classes_nobody_knows(selector):
    with pytest.raises(ConfigError, match=f"class selector '?{selector}".replace("*", r"\*")):
        select_classes([selector], ("cat", "elk", "dog", "1"))


FACTS = {
    "label": np.array([0, 1, 1, -1, 0, 1]),
    "predicted": np.array([0, 0, 1, 1, 1, -1]),
    "confidence": np.array([0.9, 0.5, 0.9, 0.3, 0.7, np.nan]),
    "valid": np.array([True, True, True, True, True, False]),
}
IDS = ("a", "b", "c", "errors", "e", "bad")


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("errors", (1, 4)),
        ("id:errors", (3,)),
        (["c", "a", "c", "bad"], (2, 0, 5)),
        ("most_confident:3", (0, 2, 4)),
        ("least_confident:2", (3, 1)),
        ("least_confident:99", (3, 1, 4, 0, 2)),
        ("per_class:1", (0, 1)),
        ("per_class:2", (0, 4, 1, 2)),
        (["e", "errors"], (4, 1)),
    ],
)
def test_images(selectors, expected):
    assert select_images(selectors, IDS, **FACTS) == expected


def test_images_under_a_budget():
    assert select_images(["e", "all"], IDS, budget=3, **FACTS) == (4, 0, 1)


def test_a_perfect_model_has_no_errors():
    assert select_images("errors", IDS, label=np.zeros(6, int), predicted=np.zeros(6, int)) == ()


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("per_class:0", "expected a number of images after the colon, got '0'"),
        ("most_confident", "expected a number"),
        ("f", "no image has that id"),
        ("most_confidant:3", "did you mean 'most_confident:N'"),
    ],
)
def test_images_nobody_knows(selector, message):
    with pytest.raises(ConfigError, match=message):
        select_images(selector, IDS, **FACTS)


def test_images_by_what_is_not_known():
    with pytest.raises(ConfigError, match="needs the predicted of each image"):
        select_images("errors", IDS, label=FACTS["label"])
