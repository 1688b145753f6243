"""Batches that run the network again on other versions of their images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from convaudit.stages.contract import Ablate, Ask, Gradient, Randomise
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.variants import redrawn

from ...tiny_models import ALL, conv_net, functional_net, residual_net, tiny_blocks, tiny_images, tiny_subject

ASK = Ask(gradients=(Gradient("predicted", "input"),))


def _world(model, n=4, bad=()):
    (block,) = tiny_blocks(tiny_images(model, n), batch=n, bad=bad)
    return tiny_subject(model, n), block


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_same_images_again_give_the_same(name):
    model = ALL[name]().double()
    subject, block = _world(model)
    with opened(model, block, subject, ASK) as batch:
        again = batch.again(batch.images, ASK)
        assert again.logits.equal(batch.logits)
        assert again.gradient("predicted", "input").equal(batch.gradient("predicted", "input"))
        assert batch.call(batch.images).equal(batch.logits)


def test_targets_are_those_of_the_first_look():
    model = conv_net().double()
    model.fc.bias.sub_(model(torch.from_numpy(tiny_images(model, 4)).double()).mean(0))
    subject, block = _world(model)
    with opened(model, block, subject, Ask()) as batch:
        first = batch.target_class("predicted")
        other = batch.images.flip(0) * -30
        again = batch.again(torch.cat([other, batch.images]), ASK)
        assert again.target_class("predicted").tolist() == [*first, *first]
        assert (again.logits.argmax(1).numpy()[:4] != first).any(), "the other versions must be seen as something else"
        images = torch.cat([other, batch.images]).clone().requires_grad_()
        picked = model(images)[torch.arange(8), torch.from_numpy(np.tile(first, 2))].sum()
        (want,) = torch.autograd.grad(picked, images)
        torch.testing.assert_close(again.gradient("predicted", "input"), want)
        assert again.ids == batch.ids * 2


def test_some_images_alone():
    model = residual_net().double()
    subject, block = _world(model)
    rows = np.array([3, 1])
    with opened(model, block, subject, ASK) as batch:
        part = batch.only(rows)
        assert part.ids == (batch.ids[3], batch.ids[1])
        assert part.gradient("predicted", "input").equal(batch.gradient("predicted", "input")[[3, 1]])
        again = part.again(part.images, ASK)
        torch.testing.assert_close(again.logits, batch.logits[[3, 1]])
        assert again.target_class("predicted").tolist() == batch.target_class("predicted")[rows].tolist()
        nested = again.again(torch.cat([part.images] * 3) * 0.5, Ask())
        assert nested.target_class("predicted").tolist() == [*batch.target_class("predicted")[rows]] * 3


@pytest.mark.parametrize("variant", [Ablate("conv2", (0, 3)), Randomise(("conv2",), 0)])
def test_the_variant_stays(variant):
    model = conv_net().double()
    subject, block = _world(model)
    with opened(model, block, subject, Ask(), variant) as batch:
        assert batch.altered
        assert not batch.logits.allclose(model(batch.images))
        torch.testing.assert_close(batch.call(batch.images), batch.logits)
        torch.testing.assert_close(batch.again(batch.images, ASK).logits, batch.logits)


def test_any_number_of_images_can_be_called():
    model = functional_net().double()
    subject, block = _world(model)
    with opened(model, block, subject, Ask()) as batch:
        assert not batch.altered
        images = torch.cat([batch.images, batch.images[:3] * 2])
        before = images.clone()
        torch.testing.assert_close(batch.call(images), model(before.clone()))
        assert images.equal(before), "the model writes into its input, which must be a copy"
        assert not batch.call(images).requires_grad


def test_autocast_reaches_what_is_run_from_there():
    model = conv_net()
    subject, block = _world(model)
    with opened(model, block, subject, Ask()) as batch:
        low = batch.again(batch.images, ASK, autocast=torch.bfloat16)
        assert not low.logits.float().equal(batch.logits)
        torch.testing.assert_close(low.logits.float(), batch.logits, rtol=0.1, atol=0.1)
        assert low.call(batch.images).float().equal(low.logits.float())
        assert low.again(batch.images, Ask()).logits.float().equal(low.logits.float())
        assert batch.call(batch.images).equal(batch.logits)


def test_what_is_not_a_whole_version_is_refused():
    model = conv_net()
    subject, block = _world(model)
    with opened(model, block, subject, Ask()) as batch:
        with pytest.raises(StageError, match="expected whole versions of 4 images to look at, got 6 images"):
            batch.again(torch.cat([batch.images, batch.images[:2]]), Ask())
        with pytest.raises(StageError, match="nothing can be observed"):
            batch.again(batch.images, Ask(observe=("conv1",)))


def test_bad_images_stay_bad():
    model = conv_net().double()
    subject, block = _world(model, bad=(1,))
    subject = replace(subject, label=np.arange(4))
    with opened(model, block, subject, Ask()) as batch:
        again = batch.again(torch.cat([batch.images] * 2), ASK)
        assert again.target_class("label").tolist() == [0, -1, 2, 3] * 2
        assert (
            again.gradient("predicted", "input").flatten(1).isnan().all(1).tolist() == [False, True, False, False] * 2
        )


@pytest.mark.parametrize("name", sorted(ALL))
def test_under_a_variant_targets_are_those_of_the_first_look(name):
    model = ALL[name]().double()
    subject, block = _world(model)
    variant = Randomise(("",), seed=3)
    with opened(model, block, subject, Ask()) as batch:
        part = batch.only(np.array([2, 0]))
        other = part.under(variant, ASK)
        assert other.altered
        assert not batch.altered
        assert other.ids == part.ids
        assert other.target_class("predicted").tolist() == part.target_class("predicted").tolist()
        images = part.images.clone().requires_grad_()
        drawn = torch.func.functional_call(model, redrawn(model, ("",), 3), (images,))
        torch.testing.assert_close(other.logits, drawn.detach())
        picked = drawn[torch.arange(2), torch.from_numpy(part.target_class("predicted")).long()].sum()
        (want,) = torch.autograd.grad(picked, images)
        torch.testing.assert_close(other.gradient("predicted", "input"), want)
        # What runs again from there stays under the variant, and means the same classes.
        again = other.again(torch.cat([other.images] * 2), ASK)
        torch.testing.assert_close(again.gradient("predicted", "input")[:2], want)
        torch.testing.assert_close(other.call(other.images), other.logits)


def test_nothing_is_observed_under_a_variant():
    model = conv_net()
    subject, block = _world(model)
    with opened(model, block, subject, Ask()) as batch, pytest.raises(StageError, match="nothing can be observed"):
        batch.under(Randomise(("fc",), 0), Ask(observe=("fc",)))


def test_what_leaves_share_is_worked_out_once_for_the_same_images():
    model = conv_net()
    subject, block = _world(model)
    calls = []

    def work():
        calls.append(1)
        return len(calls)

    with opened(model, block, subject, Ask()) as batch:
        part = batch.only(np.array([1, 2]))
        assert [batch.once("a", work), batch.once("a", work), batch.once("b", work), part.once("a", work)] == [
            1, 1, 2, 3,
        ]  # fmt: skip
        assert batch.only(np.array([1, 2])).once("a", work) == 3
    with opened(model, block, subject, Ask()) as batch:
        assert batch.once("a", work) == 4


def test_regions_follow_their_images():
    model = conv_net()
    subject, block = _world(model)
    regions = np.random.default_rng(0).random((4, *subject.input_shape[1:])) < 0.5
    with opened(model, replace(block, regions=regions), subject, Ask()) as batch:
        np.testing.assert_array_equal(batch.regions, regions)
        part = batch.only(np.array([3, 1]))
        np.testing.assert_array_equal(part.regions, regions[[3, 1]])
        again = part.again(torch.cat([part.images] * 2), Ask())
        np.testing.assert_array_equal(again.regions, regions[[3, 1, 3, 1]])
    with opened(model, block, subject, Ask()) as batch:
        assert batch.regions is None
