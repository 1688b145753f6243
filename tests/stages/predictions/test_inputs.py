import numpy as np
import pytest
import torch

from convaudit.stages.predictions import inputs


def total(images, cut=3):
    parts = [inputs.count(torch.from_numpy(part)) for part in (images[:cut], images[cut:])]
    return {key: parts[0][key] + parts[1][key] for key in parts[0]}


@pytest.mark.parametrize("shape", [(7, 3, 4, 5), (7, 2, 9)])
def test_moments_are_those_of_all_values(shape):
    images = np.random.default_rng(0).normal(1.5, 0.7, shape).astype(np.float32)
    mean, spread, n = inputs.moments(total(images))
    channels = [images[:, channel].astype("f8") for channel in range(shape[1])]
    assert mean.tolist() == pytest.approx([channel.mean() for channel in channels])
    assert spread == pytest.approx(np.sqrt(np.mean([channel.var() for channel in channels])))
    assert n == images.size


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ([0.0], [1.0], False),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], False),
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], True),
        ([5.0], [0.1], True),
        ([0.5], [0.001], True),
    ],
)
def test_numbers_of_an_odd_size_are_told_with_the_setting(mean, std, told):
    pixels = np.random.default_rng(1).random((6, 3, 5, 4))
    fed = (pixels - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    found = inputs.findings(total(fed.astype(np.float32)), mean, std)
    assert [finding.code for finding in found] == ["predictions/input-scale"] * told
    for finding in found:
        assert f"mean {mean[0]:g}" in finding.detail
        assert "data.preprocessing.mean" in finding.detail


def test_no_image_says_nothing():
    nothing = inputs.count(torch.zeros(0, 3, 4, 5))
    assert inputs.findings(nothing, (0.0,), (1.0,)) == ()
    assert all(np.isnan(measurement.value) for measurement in inputs.measurements(nothing))
