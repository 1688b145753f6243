import numpy as np
import pytest
import torch

from convaudit.stages.errors import ConfigError
from convaudit.stages.features.pooling import spatial_mean
from convaudit.stages.features.stage import Features
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 4, 7), (3, 4), (2, 3, 2, 4, 5)])
def test_pooling_agrees_with_a_loop(shape):
    values = np.random.default_rng(0).standard_normal(shape)
    want = [[np.mean([*values[i, c].flat]) for c in range(shape[1])] for i in range(shape[0])]
    np.testing.assert_allclose(spatial_mean(torch.from_numpy(values)), want, rtol=1e-12)


def test_pooling_does_not_hand_out_the_networks_own_memory():
    values = torch.ones(2, 3)
    pooled = spatial_mean(values)
    values.zero_()
    assert pooled.sum() == 6


def _sweep(model, leaf, bad=()):
    subject, images = tiny_subject(model), tiny_images(model)
    outcomes = []
    for task in leaf.tasks(subject, None):
        shard = images[task.images.start : task.images.stop]
        blocks = tiny_blocks(shard, batch=2, bad=bad, start=task.images.start)
        outcomes += run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    rows = {path: np.concatenate([o.rows[path] for o in outcomes]) for path in outcomes[0].rows}
    return rows, leaf.finish([outcome.partial for outcome in outcomes], subject, None)


@pytest.mark.parametrize("factory", [conv_net, signal_net])
def test_penultimate_features_times_the_last_weights_are_the_logits(factory):
    model = factory()
    rows, summary = _sweep(model, Features(), bad=(2,))
    assert set(rows) == {"fc.input", "conv2"}
    usable = [0, 1, 3, 4, 5]
    logits = model(torch.from_numpy(tiny_images(model))).numpy()
    again = rows["fc.input"] @ model.fc.weight.numpy().T + model.fc.bias.numpy()
    np.testing.assert_allclose(again[usable], logits[usable], rtol=1e-4, atol=1e-5)
    assert np.isnan(rows["fc.input"][2]).all()
    assert summary.findings == ()


def test_last_conv_is_seen_before_it_is_overwritten():
    model = conv_net()
    rows, _ = _sweep(model, Features(layers=("last_conv",)))
    caught = []
    model.conv2.register_forward_hook(lambda _m, _a, out: caught.append(out.mean((2, 3))))
    model(torch.from_numpy(tiny_images(model)))
    np.testing.assert_allclose(rows["conv2"], caught[0], rtol=1e-5, atol=1e-6)


def test_features_that_are_not_finite_are_named():
    model = conv_net()
    model.conv2.bias[1] = float("nan")
    _, summary = _sweep(model, Features(), bad=(0,))
    (finding,) = summary.findings
    assert (finding.code, finding.severity) == ("features/not-finite", "error")
    assert finding.images == (1, 2, 3, 4, 5)


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        Features(layers=())
