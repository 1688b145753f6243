import math

import numpy as np
import pytest
import torch

from convaudit.stages.attributions.baselines import baseline, blurred
from convaudit.stages.errors import ConfigError

MEAN, STD = (0.5, 0.25), (0.25, 0.125)


def _images(shape=(3, 2, 5, 7)):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (3, 2, 11)])
def test_zero_black_and_mean(shape):
    images = _images(shape)
    assert (baseline(images, "zero", MEAN, STD, 0.1) == 0).all()
    black = baseline(images, "black", MEAN, STD, 0.1)
    for channel in range(2):
        # Undoing the normalisation gives 0.
        assert (black[:, channel] * STD[channel] + MEAN[channel] == 0).all()
    mean = baseline(images, "mean", MEAN, STD, 0.1)
    for i in range(3):
        for channel in range(2):
            np.testing.assert_allclose(mean[i, channel], float(images[i, channel].mean()), rtol=1e-12)


def _replica(line, sigma):
    """One line, smoothed by the definition; what lies beyond its ends is what lies at them."""
    reach = round(4 * sigma)
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)]
    out = []
    for i in range(len(line)):
        values = [line[min(max(i + k, 0), len(line) - 1)] for k in range(-reach, reach + 1)]
        out.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return out


def test_blur_along_one_axis_and_along_two():
    signal = _images((2, 3, 9))
    want = [[_replica(line, 1.5) for line in image] for image in signal.tolist()]
    np.testing.assert_allclose(blurred(signal, 1.5), want, rtol=1e-12)
    images = _images((2, 1, 5, 7))
    for got, image in zip(blurred(images, 1.5), images[:, 0].tolist(), strict=True):
        rows = [_replica(line, 1.5) for line in image]
        columns = [_replica([row[x] for row in rows], 1.5) for x in range(7)]
        np.testing.assert_allclose(got[0], np.transpose(columns), rtol=1e-12)


def test_a_flat_image_stays_and_the_share_is_of_the_longest_axis():
    flat = torch.full((1, 2, 5, 7), 3.0, dtype=torch.float64)
    np.testing.assert_allclose(baseline(flat, "blur", MEAN, STD, 0.3), 3.0, rtol=1e-12)
    images = _images()
    torch.testing.assert_close(baseline(images, "blur", MEAN, STD, 0.2), blurred(images, 0.2 * 7))


@pytest.mark.parametrize("kind", ["zero", "black", "mean", "blur"])
def test_type_and_memory_format_stay(kind):
    images = _images((3, 2, 5, 7)).float().contiguous(memory_format=torch.channels_last)
    before = images.clone()
    got = baseline(images, kind, MEAN, STD, 0.1)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_another_word():
    with pytest.raises(ConfigError, match="'zero', 'black', 'mean' or 'blur', got 'grey'"):
        baseline(_images(), "grey", MEAN, STD, 0.1)
