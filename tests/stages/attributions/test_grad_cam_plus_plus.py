import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from convaudit.stages.attributions.grad_cam_plus_plus import GradCamPlusPlus, explained, grad_cam_plus_plus
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.contract import Ask
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _replica(activation, gradient, score, relu):
    """Chattopadhay et al. 2018 for ``Y = exp(S)``, one number at a time; derivatives of Y are written out."""
    image, channel = activation.shape[:2]
    space = activation.shape[2:]
    heatmap = np.zeros((image, *space))
    for i in range(image):
        factor = 1.0 if score is None else math.exp(score[i])
        for k in range(channel):
            total = sum(activation[i, k][at] for at in np.ndindex(*space))
            weight = 0.0
            for at in np.ndindex(*space):
                g = gradient[i, k][at]
                first, second, third = factor * g, factor * g**2, factor * g**3
                below = 2 * second + total * third
                alpha = second / below if below else 0.0
                weight += alpha * max(first, 0.0)
            for at in np.ndindex(*space):
                heatmap[i][at] += weight * activation[i, k][at]
    return np.maximum(heatmap, 0) if relu else heatmap


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 4, 7), (2, 3, 2, 3, 4)])
def test_agrees_with_the_equations(shape, relu, scored):
    rng = np.random.default_rng(0)
    # Also negative activations, though the paper has none: without them the last ReLU does nothing.
    activation, gradient = rng.standard_normal(shape), rng.standard_normal(shape)
    gradient[0, 0] = 0
    gradient[0, 1].flat[0] = 0
    score = rng.normal(0, 3, shape[0]) if scored else None
    got = grad_cam_plus_plus(
        torch.from_numpy(activation),
        torch.from_numpy(gradient),
        None if score is None else torch.from_numpy(score),
        relu,
    )
    np.testing.assert_allclose(got.numpy(), _replica(activation, gradient, score, relu), rtol=1e-9, atol=1e-12)


def test_derivatives_of_the_exponential_are_what_the_closed_form_takes():
    """For a score that is linear in the layer: alpha from second and third derivatives by autograd."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(1, 2, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(1, 2, 2, 3, dtype=torch.float64, generator=generator)
    logit = (activation * weight).sum()
    (first,) = torch.autograd.grad(logit.exp(), activation, create_graph=True)
    want = torch.zeros(2, 3, dtype=torch.float64)
    for k in range(2):
        total, mass = 0.0, float(activation[0, k].sum())
        for at in np.ndindex(2, 3):
            one = first[0, k][at]
            second = torch.autograd.grad(one, activation, create_graph=True)[0][0, k][at]
            third = torch.autograd.grad(second, activation, retain_graph=True)[0][0, k][at]
            total += float(second / (2 * second + mass * third) * one.relu())
        want += total * activation.detach()[0, k]
    got = grad_cam_plus_plus(activation.detach(), weight, logit.detach()[None], relu=True)[0]
    assert want.max() > 0
    torch.testing.assert_close(got, want.relu(), rtol=1e-9, atol=0)


def _rows(model, method, name):
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rows = method.attribute(batch, subject)[f"{name}/heatmap"]
        return rows, batch.logits.numpy(), method.told(method.facts(batch, subject), subject)


def _by_autograd(model, layer, target):
    kept = []

    def keep(_module, _inputs, output):
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    logits = model(torch.from_numpy(tiny_images(model, 4)).double().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept[0])
    return kept[0].detach().numpy(), gradient.numpy(), logits[:, target].detach().numpy()


@pytest.mark.parametrize("score", ["exp", "logit"])
@pytest.mark.parametrize(
    ("factory", "layer"), [(conv_net, "pool"), (residual_net, "block1"), (signal_net, "conv1"), (conv_net, "gap")]
)
def test_on_a_network_it_is_the_replica_of_a_plain_backward_pass(factory, layer, score):
    model = factory().double()
    rows, _, (notes, _, _) = _rows(model, GradCamPlusPlus(layers=(layer,), target="all", score=score), layer)
    for target in range(5):
        activation, gradient, logit = _by_autograd(model, layer, target)
        want = _replica(activation, gradient, logit if score == "exp" else None, relu=True)
        np.testing.assert_allclose(rows[:, target], want, rtol=1e-5, atol=1e-9)
    assert notes["score"] == score
    assert notes["unit"] == {"exp": "exp(logit)", "logit": "logit"}[score]
    assert notes["rendering"]["kind"] == "layer"


def test_the_factor_is_the_exponential_of_the_logit():
    model = conv_net().double()
    with_factor, logits, _ = _rows(model, GradCamPlusPlus(target="all"), "relu2")
    without, _, _ = _rows(model, GradCamPlusPlus(target="all", score="logit"), "relu2")
    assert without.max() > 0
    np.testing.assert_allclose(with_factor, without * np.exp(logits)[:, :, None, None], rtol=1e-5)


def test_what_is_explained():
    model = conv_net().double()
    subject = replace(tiny_subject(model, 4), label=np.array([0, 1, -1, 3]))
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4, bad=(3,))
    with opened(model, block, subject, Ask()) as batch:
        logits, predicted = batch.logits.numpy(), batch.target_class("predicted")
        rows = np.arange(4)
        want = logits[rows, predicted]
        want[3] = np.nan
        np.testing.assert_array_equal(explained(batch, "predicted").numpy(), want)
        label = np.array([logits[0, 0], logits[1, 1], np.nan, np.nan])
        np.testing.assert_array_equal(explained(batch, "label").numpy(), label)
        contrast = np.where(predicted == subject.label, np.nan, want - label)
        np.testing.assert_array_equal(explained(batch, "contrast").numpy(), contrast)


def _swept(model, method):
    subject, images = tiny_subject(model, shard=6), tiny_images(model)
    (leaf,) = Attributions({"map": method}).leaves()
    (task,) = leaf.tasks(subject, None)
    (outcome,) = run_tasks(
        model, [(leaf, task)], tiny_blocks(images, bad=(0,)), subject, device="cpu", channels_last=False
    )
    assert outcome.error is None
    return outcome.rows, leaf.finish([outcome.partial], subject, None)


def test_maps_that_are_negative_are_warned_of():
    _, summary = _swept(conv_net(), GradCamPlusPlus(layers=("conv2", "relu2")))
    (finding,) = (found for found in summary.findings if found.code == "attributions/negative-map")
    assert (finding.layer, finding.severity) == ("conv2", "warning")


def test_logits_whose_exponential_overflows():
    model = conv_net()
    model.fc.bias += 100
    _, summary = _swept(model, GradCamPlusPlus())
    found = {finding.code: finding for finding in summary.findings}
    assert "in 5 images" in found["attributions/large-score"].title
    assert "attributions/not-finite" in found
    rows, summary = _swept(model, GradCamPlusPlus(score="logit"))
    assert summary.findings == ()
    assert np.isfinite(rows["relu2/heatmap"][1:]).all()
