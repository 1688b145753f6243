import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from convaudit.stages.errors import StageError
from convaudit.stages.network.graph import Ref, UntraceableError, trace_graph, traced_or_reason

from ...tiny_models import ALL


def _replayed(graph, image):
    """Compute every node again from the ones before it."""
    values = [image]
    for node in graph.nodes[1:]:
        args, kwargs = tree_map(
            lambda value: values[value.index] if isinstance(value, Ref) else value,
            (node.args, dict(node.kwargs)),
            is_leaf=lambda value: isinstance(value, Ref),
        )
        result = node.op(*args, **kwargs)
        values.append(result if node.pick is None else result[node.pick])
    return values


@pytest.mark.parametrize("name", list(ALL))
def test_what_was_written_down_computes_the_same_for_another_image(name):
    model = ALL[name]().double()
    first, second = torch.randn(2, 1, *type(model).input_shape, dtype=torch.float64)
    graph = trace_graph(model, first)
    torch.testing.assert_close(_replayed(graph, second)[graph.output], model(second), rtol=0, atol=0)


@pytest.mark.parametrize("name", list(ALL))
def test_values_are_those_before_anything_was_overwritten(name):
    model = ALL[name]().double()
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64)
    graph = trace_graph(model, image)
    for got, want in zip(graph.values, _replayed(graph, image), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert all(tuple(value.shape) == node.shape for node, value in zip(graph.nodes, graph.values, strict=True))


def test_layers_are_found_before_and_after_what_writes_in_place():
    model = ALL["functional"]().double()
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64)
    names = ["stem.conv", "stem.functional_relu", "relu#1", "fc1"]
    graph = trace_graph(model, image, names)
    values = {name: graph.values[graph.layers[name]] for name in names}
    assert values["stem.conv"].min() < 0
    torch.testing.assert_close(values["stem.functional_relu"], values["stem.conv"].relu(), rtol=0, atol=0)
    assert values["relu#1"].min() == 0
    assert values["fc1"].shape == (1, 10)


def test_the_image_and_the_model_are_left_as_they_were():
    class Writer(nn.Module):
        def forward(self, x):
            return x.mul_(2).add_(1).flatten(1)

    image = torch.ones(1, 1, 2, 2)
    graph = trace_graph(Writer(), image)
    assert torch.equal(image, torch.ones(1, 1, 2, 2))
    assert [value.flatten()[0].item() for value in graph.values] == [1, 2, 3, 3]


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.register_buffer("state", torch.zeros(1, 1, 3, 3))
        self.forward = lambda x: forward(self, x)


def _through_a_view(_self, x):
    y = x * 1
    y[:, :, 0] = 5
    return y.flatten(1)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda _self, x: x.flatten(1) * (2 if x.sum() > 0 else 1), "takes a decision that depends on the values"),
        (lambda _self, x: x.flatten(1)[:, :1] * float(x.mean()), "takes a decision that depends on the values"),
        (lambda _self, x: F.dropout(x, 0.5, training=True).flatten(1), "draws random numbers"),
        (lambda _self, x: x[x > 0][None], "a shape that depends on the values"),
        (_through_a_view, "written in place through another view"),
        (lambda self, x: self.state.add_(x).flatten(1), "writes into the model's own state"),
        (lambda _self, x: {"logits": x.flatten(1)}, "returns dict"),
        (lambda _self, x: torch.from_numpy(x.numpy().copy()).flatten(1), "the output is not computed from the input"),
    ],
)
def test_what_cannot_be_followed_is_refused(forward, reason):
    with pytest.raises(UntraceableError, match=reason):
        trace_graph(Odd(forward), torch.ones(1, 1, 3, 3))
    assert reason in traced_or_reason(Odd(forward), torch.ones(1, 1, 3, 3))


def test_inference_mode_makes_no_difference():
    model = ALL["conv"]().double()
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64)
    with torch.inference_mode():
        within = trace_graph(model, image.clone())
    assert [node.name for node in within.nodes] == [node.name for node in trace_graph(model, image).nodes]


def test_an_error_of_the_network_is_a_reason():
    def fails(_self, x):
        raise ValueError("no such thing")

    assert traced_or_reason(Odd(fails), torch.ones(1, 1, 3, 3)) == "ValueError: no such thing"


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(StageError, match="no module of that name"):
        traced_or_reason(ALL["conv"](), torch.zeros(1, 3, 12, 9), ["nowhere"])
