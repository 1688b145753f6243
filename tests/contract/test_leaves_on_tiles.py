"""What leaves hold with PyTorch's own convolutions, with 3x3 convolutions on tiles: `numerics.convolution=winograd`."""

from functools import partial

import pytest

from convaudit.stages.network import winograd
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.network.winograd import Winograd

from . import test_leaves
from .test_leaves import _assert_close, _finish, _sweep, _world, every_leaf


@pytest.fixture
def on_tiles(monkeypatch):
    """Switch to convolutions on tiles, also where they are too small to be worth it; gives the calls so far."""
    calls, convolve = [], winograd.convolve

    def counting(*given):
        calls.append(given)
        return convolve(*given)

    def switch():
        monkeypatch.setattr(winograd, "convolve", counting)
        monkeypatch.setattr(winograd, "worth", lambda *_: True)
        monkeypatch.setattr(test_leaves, "run_tasks", partial(run_tasks, winograd=Winograd()))
        return calls

    return switch


@every_leaf
def test_every_leaf_finds_the_same_on_tiles_and_in_any_shards(leaf, on_tiles):
    model, subject, images = _world("images")
    rows, partials = _sweep(leaf, model, subject, images, bad=(4,))
    want = _finish(leaf, subject, rows, partials).arrays
    calls = on_tiles()
    tiled, pieces = _sweep(leaf, model, subject, images, bad=(4,))
    assert calls or leaf.name == "thumbnails", "thumbnails alone need no network"
    _assert_close(tiled, rows, tolerance=1e-5)
    _assert_close(_finish(leaf, subject, tiled, pieces).arrays, want, tolerance=1e-5)
    split, _ = _sweep(leaf, model, test_leaves.replace(subject, shard=3), images, bad=(4,))
    _assert_close(split, tiled, tolerance=0)
