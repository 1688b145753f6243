import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import EfficientNet_B0_Weights, ResNet18_Weights, Swin_T_Weights
from torchvision.transforms import functional as eager

from convaudit.pipelines.datasets.preprocessing import Preprocessing, prepare_array, prepare_picture
from convaudit.stages.errors import ConfigError, ImageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height, width, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (257, 256), (64, 90)])
@pytest.mark.parametrize(
    ("weights", "settings"),
    [
        (ResNet18_Weights.IMAGENET1K_V1, {"size": 256, "crop": 224}),
        (EfficientNet_B0_Weights.IMAGENET1K_V1, {"size": 256, "crop": 224, "interpolation": "bicubic"}),
        (Swin_T_Weights.IMAGENET1K_V1, {"size": 232, "crop": 224, "interpolation": "bicubic"}),
    ],
)
def test_equals_the_transforms_that_come_with_published_weights(size, weights, settings):
    image = picture(*size)
    expected = weights.transforms()(image)
    actual = prepare_picture(image, Preprocessing(mean=MEAN, std=STD, **settings))
    assert actual.dtype == np.float32
    assert torch.equal(torch.from_numpy(actual), expected)


def test_resize_to_exact_height_and_width_and_rectangular_crop():
    image = picture(40, 30)
    actual = prepare_picture(image, Preprocessing(size=(20, 26), crop=(12, 8)))
    expected = eager.to_tensor(eager.center_crop(eager.resize(image, [20, 26], antialias=True), [12, 8]))
    assert actual.shape == (3, 12, 8)
    assert torch.equal(torch.from_numpy(actual), expected)


def test_arrays_are_resized_as_torchvision_resizes_tensors():
    row = np.random.default_rng(1).random((2, 40, 31), dtype=np.float32)
    actual = prepare_array(row, Preprocessing(size=(20, 17), mean=(0.5, 0.25), std=(2.0, 4.0)))
    resized = eager.resize(torch.from_numpy(row), [20, 17], antialias=True)
    expected = eager.normalize(resized, (0.5, 0.25), (2.0, 4.0))
    assert torch.equal(torch.from_numpy(actual), expected)


def test_normalisation_of_signals_by_hand():
    row = np.asarray([[0, 51], [102, 255]], dtype=np.uint8)
    actual = prepare_array(row, Preprocessing(mean=(0.2, 0.4), std=(0.5, 0.25)))
    np.testing.assert_allclose(actual, [[-0.4, 0.0], [0.0, 2.4]], atol=1e-6)


def test_one_mean_serves_all_channels_and_a_wrong_number_is_refused():
    assert Preprocessing(mean=(0.5,), std=(0.1,)).per_channel(3) == ((0.5,) * 3, (0.1,) * 3)
    with pytest.raises(ConfigError, match="expected 1 or 4 numbers"):
        Preprocessing(mean=MEAN, std=STD).per_channel(4)


def test_grey_pictures_have_one_channel_and_modes_are_converted():
    assert prepare_picture(picture(9, 7, "L"), Preprocessing(mode="L")).shape == (1, 9, 7)
    assert prepare_picture(picture(9, 7, "CMYK"), Preprocessing()).shape == (3, 9, 7)


def test_a_crop_larger_than_the_image_is_a_bad_image_and_not_padded():
    with pytest.raises(ImageError, match="is 20x30 pixels, smaller than the crop of 24x24") as caught:
        prepare_picture(picture(20, 30), Preprocessing(crop=24))
    assert caught.value.code == "wrong_size"


def test_a_sliver_is_refused_before_its_resize_fills_the_memory():
    with pytest.raises(ImageError, match="once resized") as caught:
        prepare_picture(picture(1, 900), Preprocessing(size=256, max_pixels=1_000_000))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_bad_images(value):
    row = np.zeros((1, 4, 5), dtype=np.float32)
    row[0, 1, 2] = value
    with pytest.raises(ImageError) as caught:
        prepare_array(row, Preprocessing())
    assert caught.value.code == "not_finite"


def test_whole_numbers_of_other_than_eight_bits_need_a_scaling():
    row = np.full((1, 2, 2), 1000, dtype=np.uint16)
    with pytest.raises(ConfigError, match="uint16"):
        prepare_array(row, Preprocessing())
    np.testing.assert_allclose(prepare_array(row, Preprocessing(scaling=4000)), 0.25)


def test_signals_cannot_be_resized():
    with pytest.raises(ConfigError, match="null for signals"):
        prepare_array(np.zeros((2, 9), np.float32), Preprocessing(size=4))


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0}, {"crop": (3, 0)}, {"mean": (0.1, 0.2)}, {"mean": ()}, {"std": (0.0,)}, {"std": (float("nan"),)},
        {"mean": (float("inf"),)}, {"scaling": 0.0}, {"max_pixels": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range(fields):
    with pytest.raises(ConfigError, match=r"data\.preprocessing"):
        Preprocessing(**fields)
