from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.occlusion import Occlusion
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.attributions.targets import resolve_targets
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
    want = model(torch.from_numpy(images)).argmax(1).numpy()
    want[3] = -1
    np.testing.assert_array_equal(rows["target"][:, 0], want)
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
    labelled = replace(subject, label=np.zeros(6, int))
    assert resolve_targets("predicted", subject) == ("predicted",)
    assert resolve_targets("dog", subject) == (3,)
    assert resolve_targets(4, subject) == (4,)
    assert resolve_targets("top:3", subject) == ("predicted", "rank:1", "rank:2")
    assert resolve_targets("all", subject) == (0, 1, 2, 3, 4)
    assert resolve_targets("label", labelled) == ("label",)
    assert resolve_targets("contrast", labelled) == ("contrast",)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("label", "1 of 6 images have no label"),
        ("contrast", "1 of 6 images have no label"),
        (5, "0 to 4"),
        ("dogg", "did you mean 'dog'"),
        ("top:6", "top:1 to top:5"),
        ("top:0", "top:1 to top:5"),
        ("top:x", "top:1 to top:5"),
    ],
)
def test_targets_that_there_are_not(target, why):
    subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match=why):
        resolve_targets(target, subject)
    with pytest.raises(ConfigError, match=why):
        Saliency(target=target).asks(subject)


def test_all_of_too_many_classes():
    subject = replace(tiny_subject(conv_net()), class_names=tuple(f"class {i}" for i in range(101)))
    with pytest.raises(ConfigError, match="at most 100 classes, got 101"):
        resolve_targets("all", subject)


def test_several_targets_each_equal_to_one_alone():
    model = conv_net()
    subject, images = tiny_subject(model), tiny_images(model)
    (together,) = Attributions({"saliency": Saliency(target="all")}).leaves()
    rows, _ = _run(model, together, subject, images, bad=(3,))
    assert rows["heatmap"].shape == (6, 5, 12, 9)
    for target in range(5):
        (alone,) = Attributions({"saliency": Saliency(target=target)}).leaves()
        single, _ = _run(model, alone, subject, images, bad=(3,))
        np.testing.assert_array_equal(rows["heatmap"][:, target], single["heatmap"][:, 0])
        np.testing.assert_array_equal(rows["target"][:, target], single["target"][:, 0])


def test_only_images_that_are_wrong():
    model = conv_net()
    images = tiny_images(model)
    predicted = model(torch.from_numpy(images)).argmax(1).numpy()
    label = np.where(np.arange(6) % 2, predicted, (predicted + 1) % 5)
    subject = replace(tiny_subject(model), label=label)
    (every,), (some,) = (
        Attributions({"saliency": Saliency(target="label", images=which)}).leaves() for which in ("all", "wrong")
    )
    (whole, _), (part, summary) = _run(model, every, subject, images), _run(model, some, subject, images)
    wrong = np.arange(6) % 2 == 0
    np.testing.assert_array_equal(part["heatmap"][wrong], whole["heatmap"][wrong])
    assert np.isnan(part["heatmap"][~wrong]).all()
    assert (part["target"][~wrong] == -1).all()
    assert summary.findings == ()


def test_contrast_is_predicted_minus_label():
    model = conv_net().double()
    images = tiny_images(model)
    predicted = model(torch.from_numpy(images).double()).argmax(1).numpy()
    label = (predicted + np.array([0, 1, 2, 0, 3, 4])) % 5
    subject = replace(tiny_subject(model), label=label)
    maps = {}
    for target in ("contrast", "predicted", "label"):
        (leaf,) = Attributions({"saliency": Saliency(target=target, reduction="sum")}).leaves()
        rows, _ = _run(model, leaf, subject, images)
        maps[target] = rows["heatmap"][:, 0].astype(float) * rows["scale"][:, 0, None, None]
    right = label == predicted
    assert np.isnan(maps["contrast"][right]).all()
    difference = (maps["predicted"] - maps["label"])[~right]
    np.testing.assert_allclose(maps["contrast"][~right], difference, atol=2e-3 * np.abs(difference).max())


@dataclass(frozen=True)
class NoMethod:
    target: str = "predicted"


def test_what_is_no_method_is_refused():
    with pytest.raises(ConfigError, match="mine="):
        Attributions({"mine": NoMethod()})
    with pytest.raises(ConfigError, match="got none"):
        Attributions({})


class Touchy(torch.nn.Module):
    """Its logits are not finite where the first pixel is black."""

    input_shape = (3, 12, 9)

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        return self.net(x) / (x[:, :1, 0, 0] != 0)


def test_scores_that_are_not_finite_under_a_window_are_errors():
    model = Touchy().eval().requires_grad_(False)
    subject, images = tiny_subject(conv_net()), tiny_images(conv_net())
    (leaf,) = Attributions({"occlusion": Occlusion(window=4)}).leaves()
    _, summary = _run(model, leaf, subject, images, bad=(2,))
    (finding,) = [finding for finding in summary.findings if finding.code == "attributions/not-finite"]
    assert (finding.severity, finding.images) == ("error", (0, 1, 3, 4, 5))
    assert "attributions/occlusion/score of 5 images" in finding.title
