import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageFile

from convaudit.pipelines.datasets.decode import decode, read_bytes
from convaudit.pipelines.datasets.preprocessing import Preprocessing
from convaudit.stages.errors import ImageError
from convaudit.stages.specs import STATUS

RNG = np.random.default_rng(0)


def encoded(kind="PNG", size=(40, 30), mode="RGB", **options):
    values = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def failure(content, **settings):
    with pytest.raises(ImageError) as caught:
        decode(content, Preprocessing(**settings))
    assert caught.value.code in STATUS[1:]
    assert " at 0x" not in caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.code


def test_decodes_losslessly():
    values = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), Preprocessing()) * 255, values.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM"])
def test_a_file_cut_in_half_is_truncated(kind):
    content = encoded(kind)
    accept = {"accept_modes": ("RGB", "P")}
    assert failure(content[: len(content) // 2], **accept) == "truncated"


def test_truncated_files_stay_refused_whatever_the_user_does_elsewhere():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("content", [b"no image at all", b"\xff\xd8\xff", b"GIF89a", b"\0" * 500])
def test_what_is_no_image_is_undecodable(content):
    assert failure(content) == "undecodable"


def test_broken_bytes_inside_are_undecodable():
    content = bytearray(encoded("PNG"))
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    assert failure(bytes(content)) == "undecodable"


def test_empty_missing_and_unreadable_files(tmp_path):
    assert failure(b"") == "empty"
    (tmp_path / "empty.png").write_bytes(b"")
    for path, code in [(tmp_path / "empty.png", "empty"), (tmp_path / "none.png", "missing"), (tmp_path, "missing")]:
        with pytest.raises(ImageError) as caught:
            read_bytes(path)
        assert caught.value.code == code
        assert str(tmp_path) not in caught.value.reason


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_other_modes_are_bad_images_until_they_are_accepted(mode):
    content = encoded("TIFF", mode=mode)
    assert failure(content) == "wrong_mode"
    assert decode(content, Preprocessing(accept_modes=("RGB", mode))).shape == (3, 40, 30)


def test_sixteen_bit_greys_are_not_squeezed_into_eight():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    assert failure(buffer.getvalue(), mode="L") == "wrong_mode"


def test_animations_are_refused_and_still_images_are_not():
    frames = [Image.new("RGB", (6, 5), colour).convert("P") for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert failure(buffer.getvalue(), accept_modes=("P", "RGB")) == "wrong_mode"
    assert decode(encoded("GIF"), Preprocessing(accept_modes=("P", "RGB"))).shape == (3, 40, 30)


def test_size_is_judged_from_the_header_before_a_pixel_is_decoded(monkeypatch):
    content = encoded("PNG", size=(100, 100))

    def forbidden(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", forbidden)
    assert failure(content, max_pixels=9_999) == "too_large"


def test_a_decompression_bomb_is_too_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert failure(encoded("PNG")) == "too_large"


def test_exif_orientation_is_applied_only_when_asked():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("JPEG", size=(20, 12), exif=exif)
    assert decode(content, Preprocessing()).shape == (3, 20, 12)
    turned = decode(content, Preprocessing(exif=True))
    assert turned.shape == (3, 12, 20)
    np.testing.assert_array_equal(turned, np.rot90(decode(content, Preprocessing()), -1, (1, 2)))


def test_an_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("truncated", "ends too early")))
    assert (error.code, error.reason) == ("truncated", "ends too early")
