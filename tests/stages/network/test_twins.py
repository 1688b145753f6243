import gc
import weakref

import pytest
import torch
from torch import nn

from convaudit.stages.contract import Ablate, Ask, Identity, Randomise
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.twins import twin
from convaudit.stages.network.variants import altered, redrawn

from ...tiny_models import conv_net, tiny_blocks, tiny_images, tiny_subject


def _images(model):
    return torch.from_numpy(tiny_images(model, 3))


def _twin(model, variant=None):
    with altered(model, variant or Identity()) as state:
        return twin(model, state, _images(model))


def test_a_copy_answers_like_the_model_and_is_made_once():
    model = conv_net()
    made = _twin(model)
    assert made is _twin(model)
    assert made is not model
    torch.testing.assert_close(made(_images(model)), model(_images(model)))
    assert not made.relu1.inplace
    assert model.relu1.inplace


def test_other_parameters_are_copied_and_what_was_copied_is_left():
    model = conv_net()
    drawn = redrawn(model, ("fc",), 3)
    made = _twin(model, Randomise(("fc",), 3))
    torch.testing.assert_close(made.fc.weight, drawn["fc.weight"])
    torch.testing.assert_close(_twin(model).fc.weight, model.fc.weight)


def test_a_model_that_was_written_on_is_copied_anew():
    model = conv_net()
    made = _twin(model)
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert _twin(model) is not made
    torch.testing.assert_close(_twin(model).fc.weight, model.fc.weight)


def test_what_a_layer_puts_out_cannot_be_changed_in_a_copy():
    with pytest.raises(StageError, match="channels of conv2 set to zero"):
        _twin(conv_net(), Ablate("conv2", (1,)))


class Overwritten(nn.Module):
    """Reads again what a ReLU has written into."""

    input_shape = (3, 12, 9)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.conv(x)
        return (self.relu(x) + x).mean((2, 3))


def test_a_network_that_counts_on_overwriting_keeps_it():
    model = Overwritten().eval()
    made = _twin(model)
    assert made.relu.inplace
    torch.testing.assert_close(made(_images(model)), model(_images(model)))


def test_work_that_fails_throws_the_copy_away():
    model = conv_net()
    subject = tiny_subject(model, 3)
    (block,) = tiny_blocks(tiny_images(model, 3), batch=3)
    with opened(model, block, subject, Ask()) as batch:
        made = None

        def fail():
            nonlocal made
            with batch.twin() as made:
                made.fc.register_forward_hook(lambda *_: None)
                raise ValueError("planted")

        with pytest.raises(ValueError, match="planted"):
            fail()
        with batch.twin() as again:
            assert again is not made
            assert not again.fc._forward_hooks


def test_copies_go_with_the_model():
    model = conv_net()
    gone = weakref.ref(_twin(model))
    del model
    gc.collect()
    assert gone() is None
