"""Another unit for each image of one backward pass, held against one backward pass for each unit."""

import numpy as np
import pytest
import torch

from convaudit.stages.contract import Ask, Gradient, Unit, Units
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened

from ...tiny_models import conv_net, functional_net, signal_net, tiny_blocks, tiny_images, tiny_subject

CASES = {
    "conv": (conv_net, "conv2", ((0, 1, 2), (7, 2, 0), (3, 0, 1), (3, 0, 1))),
    "functional": (functional_net, "conv3", ((6, 0, 1), (0, 4, 2), (2, 3, 0), (5, 1, 1))),
    "signal": (signal_net, "conv2", ((7, 0), (1, 9), (0, 4), (2, 2))),
    "vector": (functional_net, "fc1", ((9,), (0,), (4,), (4,))),
}


@pytest.mark.parametrize("rule", ["plain", "guided", "deconvnet"])
@pytest.mark.parametrize("net", sorted(CASES))
def test_each_image_gets_the_derivative_of_its_own_unit(net, rule):
    build, layer, places = CASES[net]
    model = build().double()
    images, subject = tiny_images(model, 4), tiny_subject(model, 4)
    (block,) = tiny_blocks(images, batch=4)
    each = tuple(Gradient(Unit(layer, place[0], place[1:] or None), "input", rule) for place in places)
    together = Gradient(Units(layer, places), "input", rule)
    with opened(model, block, subject, Ask(gradients=(*each, together))) as batch:
        got = batch.gradient(together.target, "input", rule)
        want = torch.stack([batch.gradient(one.target, "input", rule)[i] for i, one in enumerate(each)])
    assert torch.equal(got, want)
    assert got.flatten(1).any(1).sum() >= 2


@pytest.mark.parametrize("net", sorted(CASES))
def test_copies_of_an_image_carry_several_of_its_units(net):
    build, layer, places = CASES[net]
    model = build().double()
    images, subject = tiny_images(model, 3), tiny_subject(model, 3)
    (block,) = tiny_blocks(images, batch=3)
    target, row = Units(layer, places), np.array([2, 0, 2, 2])
    with opened(model, block, subject, Ask()) as batch:
        part = batch.only(row)
        again = part.again(part.images, Ask(gradients=(Gradient(target, "input", "guided"),)))
        got = again.gradient(target, "input", "guided")
    for at, (image, place) in enumerate(zip(row, places, strict=True)):
        one = Gradient(Unit(layer, place[0], place[1:] or None), "input", "guided")
        (alone,) = tiny_blocks(images[image : image + 1], batch=1)
        with opened(model, alone, tiny_subject(model, 1), Ask(gradients=(one,))) as batch:
            torch.testing.assert_close(got[at], batch.gradient(one.target, "input", "guided")[0], rtol=0, atol=1e-12)


def test_a_bad_image_has_none():
    model = conv_net()
    (block,) = tiny_blocks(tiny_images(model, 3), batch=3, bad=(1,))
    target = Units("relu2", ((0, 1, 2), (7, 2, 0), (3, 0, 1)))
    with opened(model, block, tiny_subject(model, 3), Ask(gradients=(Gradient(target, "input"),))) as batch:
        got = batch.gradient(target, "input")
    assert torch.isnan(got[1]).all()
    assert torch.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize(
    ("places", "word"),
    [(((0, 1, 2),), "one for each of 2 images, got 1"), (((0, 1, 2), (8, 0, 0)), "place in"), (((0,), (1,)), "place")],
)
def test_units_that_are_not_there_are_refused(places, word):
    model = conv_net()
    (block,) = tiny_blocks(tiny_images(model, 2), batch=2)
    target = Units("relu2", places)
    with (
        opened(model, block, tiny_subject(model, 2), Ask(gradients=(Gradient(target, "input"),))) as batch,
        pytest.raises(StageError, match=word),
    ):
        batch.gradient(target, "input")
