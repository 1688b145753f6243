from dataclasses import dataclass, replace

import numpy as np
import pytest

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.method import resolve_target
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import conv_net, tiny_blocks, tiny_images, tiny_subject


def _run(model, leaf, subject, images, bad=()):
    outcomes = []
    for task in leaf.tasks(subject, None):
        shard = images[task.images.start : task.images.stop]
        blocks = tiny_blocks(shard, batch=2, bad=bad, start=task.images.start)
        outcomes += run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    rows = {path: np.concatenate([o.rows[path] for o in outcomes]) for path in outcomes[0].rows}
    return rows, leaf.finish([outcome.partial for outcome in outcomes], subject, None)


def test_one_leaf_per_method():
    leaves = Attributions({"saliency": Saliency(), "grad_cam": GradCam(layers=("conv2",))}).leaves()
    assert [leaf.name for leaf in leaves] == ["attributions/saliency", "attributions/grad_cam"]
    assert leaves[0].config != leaves[1].config
    assert leaves[1].config["layers"] == ["conv2"]


def test_rows_target_and_bad_images():
    model = conv_net()
    subject, images = tiny_subject(model), tiny_images(model)
    (leaf,) = Attributions({"saliency": Saliency()}).leaves()
    rows, summary = _run(model, leaf, subject, images, bad=(3,))
    import torch

    want = model(torch.from_numpy(images)).argmax(1).numpy()
    want[3] = -1
    np.testing.assert_array_equal(rows["target"], want)
    assert np.isnan(rows["heatmap"][3]).all()
    assert np.isfinite(np.delete(rows["heatmap"], 3, 0)).all()
    assert summary.findings == ()
    assert summary.notes["signed"] is False


def test_blank_maps_are_named():
    model = conv_net()
    model.fc.weight.zero_()
    subject, images = tiny_subject(model), tiny_images(model)
    (leaf,) = Attributions({"cam": GradCam()}).leaves()
    _, summary = _run(model, leaf, subject, images, bad=(0,))
    (finding,) = summary.findings
    assert finding.code == "attributions/blank"
    assert finding.images == (1, 2, 3, 4, 5)


def test_maps_that_are_not_finite_are_errors():
    model = conv_net()
    model.conv1.weight[0] = float("nan")
    subject, images = tiny_subject(model), tiny_images(model)
    for leaf in Attributions({"cam": GradCam(), "saliency": Saliency()}).leaves():
        _, summary = _run(model, leaf, subject, images)
        assert [finding.severity for finding in summary.findings if finding.code == "attributions/not-finite"] == [
            "error"
        ]


def test_targets():
    subject = tiny_subject(conv_net())
    assert resolve_target("predicted", subject) == "predicted"
    assert resolve_target("dog", subject) == 3
    assert resolve_target(4, subject) == 4
    with pytest.raises(ConfigError, match="1 of 6 images have no label"):
        resolve_target("label", subject)
    assert resolve_target("label", replace(subject, label=np.zeros(6, int))) == "label"
    with pytest.raises(ConfigError, match="0 to 4"):
        resolve_target(5, subject)
    with pytest.raises(ConfigError, match="did you mean 'dog'"):
        resolve_target("dogg", subject)
    with pytest.raises(ConfigError, match="no label"):
        Saliency(target="label").asks(subject)


@dataclass(frozen=True)
class NoMethod:
    target: str = "predicted"


def test_what_is_no_method_is_refused():
    with pytest.raises(ConfigError, match="mine="):
        Attributions({"mine": NoMethod()})
    with pytest.raises(ConfigError, match="got none"):
        Attributions({})
