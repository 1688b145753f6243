from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from convaudit.stages.errors import ConfigError
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.thumbnails import pictures
from convaudit.stages.thumbnails.stage import Thumbnails

from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def test_denormalising_undoes_the_normalisation():
    raw = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    mean, std = (0.1, 0.5, 0.9), (0.2, 1.0, 3.0)
    fed = (raw - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    np.testing.assert_allclose(pictures.denormalised(torch.from_numpy(fed), mean, std), raw, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size", "want"),
    [((224, 224), 96, (96, 96)), ((100, 50), 96, (96, 48)), ((32, 20), 96, (32, 20)), ((1000, 3), 96, (96, 1))],
)
def test_shapes(shape, size, want):
    assert pictures.thumbnail_shape(*shape, size) == want


def test_shrinking_agrees_with_pillow():
    image = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
    small = pictures.shrunk(torch.from_numpy(image / 255.0)[None, None], (10, 14))
    want = np.asarray(Image.fromarray(image).resize((14, 10), Image.Resampling.BILINEAR))
    assert np.abs(pictures.as_bytes(small)[0, 0].numpy().astype(int) - want).max() <= 1


def test_bytes_round_to_the_nearest():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.2, -0.1, torch.nan]).view(1, 1, 1, 7)
    assert pictures.as_bytes(values).flatten().tolist() == [0, 0, 1, 255, 255, 0, 0]


def _sweep(model, leaf, subject, images, bad=()):
    outcomes = []
    for task in leaf.tasks(subject, None):
        shard = images[task.images.start : task.images.stop]
        blocks = tiny_blocks(shard, batch=2, bad=bad, start=task.images.start)
        outcomes += run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=True)
    rows = {path: np.concatenate([o.rows[path] for o in outcomes]) for path in outcomes[0].rows}
    return rows, leaf.finish([outcome.partial for outcome in outcomes], subject, None)


def test_pictures_come_back_byte_for_byte():
    model = conv_net()
    subject = tiny_subject(model)
    raw = np.random.default_rng(0).integers(0, 256, (6, *subject.input_shape), dtype=np.uint8)
    fed = ((raw / 255 - 0.5) / 0.25).astype(np.float32)
    rows, summary = _sweep(model, Thumbnails(), subject, fed, bad=(4,))
    want = raw.copy()
    want[4] = 0
    np.testing.assert_array_equal(rows["image"], want)
    assert summary.findings == ()


def test_cutting_off_is_never_silent():
    model = conv_net()
    subject = tiny_subject(model)
    images = np.zeros((6, *subject.input_shape), np.float32)
    images[2, 0, 0, 0] = 3.0
    images[5, 1, 2, 2] = np.float32((1 + 0.3 / 255 - 0.5) / 0.25)
    _, summary = _sweep(model, Thumbnails(size=6), subject, images, bad=(1,))
    (finding,) = summary.findings
    assert (finding.code, finding.severity, finding.images) == ("thumbnails/outside-range", "warning", (2,))
    assert "1.25" in finding.detail


def test_signals_are_kept_as_they_are():
    model = signal_net()
    subject = tiny_subject(model)
    images = tiny_images(model)
    rows, summary = _sweep(model, Thumbnails(), subject, images, bad=(0,))
    np.testing.assert_allclose(rows["signal"][1:], images[1:] * 0.25 + 0.5, rtol=1e-6)
    assert np.isnan(rows["signal"][0]).all()
    assert summary.findings == ()
    (array,) = Thumbnails().writes(subject)
    assert array.dims == ("image", "channel", "time")


def test_what_has_no_picture_is_refused():
    subject = replace(tiny_subject(conv_net()), input_shape=(1, 2, 3, 4), axes=("z", "y", "x"))
    with pytest.raises(ConfigError, match="1 or 2 spatial axes"):
        Thumbnails().writes(subject)
    with pytest.raises(ConfigError, match="1 to 96"):
        Thumbnails(size=97)
