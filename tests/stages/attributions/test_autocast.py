from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from convaudit.stages.attributions.autocast import Autocast, rank_correlation
from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.integrated_gradients import IntegratedGradients
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.attributions.smooth_grad import SmoothGrad
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake
from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject

N = 6
NETS = {"images": conv_net, "signals": signal_net}
INNER = {
    "saliency": Saliency(reduction="sum"),
    "grad_cam": GradCam(layers=("conv1", "conv2"), relu=False),
    "integrated_gradients": IntegratedGradients(steps=3),
    "smooth_grad": SmoothGrad(method=Saliency(), samples=2),
}


def _run(model, method, batch=3):
    subject = tiny_subject(model, N, shard=N, batch=batch)
    (leaf,) = Attributions({"short": method}).leaves()
    (task,) = leaf.tasks(subject, StoredFake())
    blocks = tiny_blocks(tiny_images(model, N), batch)
    (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    assert outcome.error is None
    stored = StoredFake({f"{leaf.name}/{path}": rows for path, rows in outcome.rows.items()})
    return outcome.rows, leaf.finish([outcome.partial], subject, stored)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 9)])
def test_rank_correlation_counts_pairs(shape):
    """Spearman's, from the number of values below and at each value."""
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, shape).astype(float), generator.standard_normal(shape)
    second[0] += first[0]

    def ranks(values):
        return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]

    for got, a, b in zip(
        rank_correlation(first, second), first.reshape(shape[0], -1), second.reshape(shape[0], -1), strict=True
    ):
        x, y = (np.array(ranks(list(values))) for values in (a, b))
        want = np.mean((x - x.mean()) * (y - y.mean())) / (x.std() * y.std())
        assert got == pytest.approx(want)
        assert got == pytest.approx(spearmanr(a, b).statistic)


def test_rank_correlation_where_there_is_none():
    line = np.arange(6.0)
    first = np.stack([line, line, np.ones(6), line])
    second = np.stack([line**3, -line, line, np.where(line == 2, np.nan, line)])
    got = rank_correlation(first, second)
    np.testing.assert_allclose(got[:2], [1, -1], rtol=1e-12)
    assert np.isnan(got[2:]).all()


@pytest.mark.parametrize("inner", sorted(INNER))
@pytest.mark.parametrize("net", sorted(NETS))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_near_the_map_in_full_precision_but_not_it(net, inner, dtype):
    model = NETS[net]()
    rows, summary = _run(model, Autocast(method=INNER[inner], dtype=dtype, every=1))
    exact, _ = _run(model, INNER[inner])
    assert set(rows) - {"agreement"} == set(exact)
    np.testing.assert_array_equal(rows["target"], exact["target"])
    for path in exact:
        if path.endswith("heatmap"):
            flat = [values[path].reshape(N, -1).astype(float) for values in (rows, exact)]
            assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(*flat, strict=True))
            assert not np.array_equal(rows[path], exact[path])
    assert (rows["agreement"] > 0.8).all()
    measured = {one.name: one for one in summary.measurements}
    mean, worst = (measured[f"attributions/short/{name}"] for name in ("agreement", "worst_agreement"))
    assert mean.value == pytest.approx(rows["agreement"].mean(dtype=float))
    assert worst.value == pytest.approx(rows["agreement"].min())
    assert mean.n == worst.n == N
    assert summary.notes["agreement"]["worst"] == worst.value
    assert summary.notes["rendering"]["kind"] == ("layer" if inner == "grad_cam" else "pixels")


def test_agreement_is_that_of_the_maps():
    model = conv_net()
    subject = tiny_subject(model, N, batch=N)
    method = Autocast(method=INNER["grad_cam"], target="all", every=1)
    (block,) = tiny_blocks(tiny_images(model, N), N)
    with opened(model, block, subject, method.inner.asks(subject)) as batch:
        got = method.attribute(batch, subject)["agreement"]
        for target in range(5):
            short, exact = (one.maps(batch, subject, target) for one in (method, method.inner))
            for i in range(N):
                each = [
                    spearmanr(short[path][i].float().flatten(), exact[path][i].flatten()).statistic for path in exact
                ]
                assert got[i, target] == pytest.approx(min(each), abs=1e-6)


def test_the_images_compared_are_chosen_by_position():
    model = conv_net()
    method = Autocast(method=INNER["saliency"], every=4)
    for batch in (1, 3, 6):
        rows, summary = _run(model, method, batch)
        assert np.flatnonzero(np.isfinite(rows["agreement"][:, 0])).tolist() == [0, 4]
        assert summary.measurements[0].n == 2


def test_everything_that_runs_is_under_autocast():
    model = conv_net()
    seen = set()
    handle = model.fc.register_forward_hook(lambda _m, _a, out: seen.add(out.dtype))
    method = Autocast(method=INNER["integrated_gradients"], every=N)
    subject = tiny_subject(model, N, batch=N)
    blocks = list(tiny_blocks(tiny_images(model, N)[1:3], N, start=1))
    try:
        with opened(model, blocks[0], subject, method.asks(subject)) as batch:
            seen.clear()
            method.attribute(batch, subject)
    finally:
        handle.remove()
    assert seen == {torch.bfloat16}


def test_what_the_inner_method_finds_is_kept():
    model = conv_net()
    rows, summary = _run(model, Autocast(method=IntegratedGradients(steps=1, tolerance=1e-6)))
    assert {"gap", "change"} <= set(rows)
    assert [finding.code for finding in summary.findings] == ["attributions/incomplete"]
    assert [one.name.rsplit("/", 1)[1] for one in summary.measurements] == ["gap", "agreement", "worst_agreement"]


def test_that_nothing_changed_is_said():
    model = conv_net().double()
    _, summary = _run(model, Autocast(method=Saliency(), every=2))
    (finding,) = summary.findings
    assert finding.code == "attributions/autocast-idle"
    assert "3 compared maps" in finding.title
    _, summary = _run(conv_net(), Autocast(method=Saliency(), every=2))
    assert summary.findings == ()


def test_scaling_the_logits_does_not_change_the_agreement():
    model, larger = conv_net(), conv_net()
    larger.fc.weight.mul_(4)
    larger.fc.bias.mul_(4)
    method = Autocast(method=Saliency(), every=1)
    first, second = (_run(net, method)[0]["agreement"] for net in (model, larger))
    np.testing.assert_allclose(second, first, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"method": "saliency"}, "Autocast.method: expected an attribution method"),
        ({"method": Saliency(), "every": 0}, "every: expected at least 1"),
    ],
)
def test_settings_that_do_not_fit(settings, why):
    with pytest.raises(ConfigError, match=why):
        Autocast(**settings)


def test_the_target_is_set_outside():
    method = Autocast(method=SmoothGrad(method=Saliency()), target=2)
    assert method.inner.inner.target == 2
    assert replace(method, target="label").inner.target == "label"
