"""Rank correlation, cascades, noise and the verdict."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from convaudit.stages.faithfulness.judgements import Mean, against_chance, decisive, mean_of, randomisation_verdict
from convaudit.stages.faithfulness.noise import relative_change, uniform_noise
from convaudit.stages.faithfulness.randomisation import cascade, drawable_modules, rank_correlation

from ...tiny_models import ALL, tiny_subject


@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 30)])
def test_rank_correlation_is_spearmans_of_magnitudes(shape):
    generator = np.random.default_rng(0)
    first = generator.integers(-4, 5, shape).astype(float)
    second = first + generator.standard_normal(shape) * 3
    want = [spearmanr(np.abs(a).ravel(), np.abs(b).ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), want, rtol=1e-12)


def test_rank_correlation_ignores_sign_and_scale_and_knows_its_ends():
    heatmap = np.random.default_rng(1).standard_normal((3, 4, 5))
    np.testing.assert_allclose(rank_correlation(heatmap, -7 * heatmap), 1)
    np.testing.assert_allclose(rank_correlation(heatmap, 1 / heatmap), -1)


def test_a_blank_heatmap_has_nothing_to_lose_and_a_blank_answer_nothing_in_it():
    heatmap, blank, broken = np.arange(12.0).reshape(1, 3, 4), np.zeros((1, 3, 4)), np.full((1, 3, 4), np.nan)
    assert rank_correlation(heatmap, blank)[0] == 0
    for first, second in ((blank, heatmap), (blank, blank), (broken, heatmap), (heatmap, broken)):
        assert np.isnan(rank_correlation(first, second)[0])


def test_a_cascade_grows_from_the_logits_to_everything():
    assert cascade(list("abcdefg"), 4) == (("a",), tuple("abc"), tuple("abcde"), tuple("abcdefg"))
    assert cascade(list("ab"), 5) == (("a",), ("a", "b"))
    assert cascade(list("abc"), 1) == (("a", "b", "c"),)
    assert cascade([], 3) == cascade(list("ab"), 0) == ()


@pytest.mark.parametrize("name", sorted(ALL))
def test_all_parameters_can_be_drawn_the_logits_first(name):
    model = ALL[name]()
    drawable, elsewhere = drawable_modules(model, tiny_subject(model).layers)
    assert drawable[0] in ("fc", "fc2")
    assert elsewhere == 0
    assert set(drawable) == {key for key, module in model.named_modules() if list(module.parameters(recurse=False))}


def test_noise_is_a_share_of_each_images_range_and_its_own():
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    images[1] *= 100
    noise = uniform_noise(images, ["a", "b"], 0.1, 0, seed=0)
    for image, drawn in zip(images, noise, strict=True):
        edge = 0.1 * (image.max() - image.min())
        assert np.abs(drawn).max() <= edge
        assert drawn.std() == pytest.approx(edge / np.sqrt(3), rel=0.25)
    np.testing.assert_array_equal(uniform_noise(images[1:], ["b"], 0.1, 0, seed=0)[0], noise[1])
    assert not np.array_equal(uniform_noise(images, ["a", "b"], 0.1, 1, seed=0), noise)


def test_change_is_relative_to_the_heatmap():
    first = np.array([[[3.0, 4.0]], [[0.0, 0.0]]])
    second = np.array([[[3.0, 5.0]], [[1.0, 0.0]]])
    np.testing.assert_allclose(relative_change(first, second), [0.2, np.nan])
    np.testing.assert_allclose(relative_change(9 * first, 9 * second), [0.2, np.nan])


def test_a_mean_has_bounds_from_two_images_on():
    assert mean_of(np.array([np.nan, 2.0])) == Mean(2.0, None, None, 1)
    assert np.isnan(mean_of(np.empty(0)).value)
    found = mean_of(np.array([1.0, 2.0, np.nan, 3.0]))
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - found.value == pytest.approx(1.96 / np.sqrt(3))


@pytest.mark.parametrize(
    ("value", "half", "n", "want"),
    [
        (0.3, 0.1, 64, "passes"),
        (0.45, 0.1, 64, "inconclusive"),
        (0.55, 0.1, 64, "inconclusive"),
        (0.7, 0.1, 64, "fails"),
        (-0.7, 0.1, 64, "fails"),
        (-0.3, 0.1, 64, "passes"),
        (0.0, 0.01, 7, "inconclusive"),
        (np.nan, 0.0, 0, "not measured"),
    ],
)
def test_the_verdict_needs_its_bounds_on_one_side(value, half, n, want):
    assert randomisation_verdict(Mean(value, value - half, value + half, n), 0.5) == want


def test_the_layer_of_the_logits_alone_does_not_decide():
    levels = [Mean(value, value, value, 9) for value in (0.9, 0.2, -0.4, 0.1)]
    assert decisive(levels) == 2
    assert decisive(levels[:1]) == 0
    assert decisive([]) is None
    unmeasured = Mean(float("nan"), None, None, 0)
    assert decisive([levels[0], unmeasured]) is None
    assert decisive([levels[0], unmeasured, levels[3]]) == 2


def test_chance_is_beaten_by_bounds_alone():
    assert against_chance(Mean(-0.2, -0.3, -0.1, 64), lower_is_better=True) == "better"
    assert against_chance(Mean(-0.2, -0.3, -0.1, 64), lower_is_better=False) == "worse"
    assert against_chance(Mean(-0.2, -0.5, 0.1, 64), lower_is_better=True) == "no different"
    assert against_chance(Mean(0.2, 0.1, 0.3, 64), lower_is_better=False) == "better"
    assert against_chance(Mean(0.2, 0.1, 0.3, 5), lower_is_better=False) == "not measured"
