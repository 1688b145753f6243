import threading
import time

import numpy as np
import pytest

from convaudit.pipelines.datasets.prefetch import blocks
from convaudit.pipelines.datasets.source import Reader
from convaudit.stages.errors import ConfigError, ImageError
from convaudit.stages.specs import STATUS

SHAPE = (2, 3, 4)


class Numbers(Reader):
    """Image `p` is full of `p`; some are bad; later ones are ready sooner."""

    def __init__(self):
        self.begun = []
        self.lock = threading.Lock()

    def read(self, position):
        with self.lock:
            self.begun.append(position)
        time.sleep(0.002 * (position % 3 == 0))
        if position == 5:
            raise ImageError("truncated", "ends too early")
        if position == 8:
            return np.ones((2, 4, 3), np.float32)
        if position == 99:
            raise ConfigError("a wrong setting")
        return np.full(SHAPE, position, np.float32)

    def content(self, position):
        return ""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_order_places_and_statuses_do_not_hang_on_batch_or_threads(batch, threads):
    found = list(blocks(Numbers(), range(3, 14), batch, threads, SHAPE))
    assert all(len(block.positions) <= batch for block in found)
    assert np.concatenate([block.positions for block in found]).tolist() == list(range(3, 14))
    images = np.concatenate([block.images for block in found])
    valid = np.concatenate([block.valid for block in found])
    status = np.concatenate([block.status for block in found])
    reasons = [reason for block in found for reason in block.reasons]
    assert images.dtype == np.float32
    for place, position in enumerate(range(3, 14)):
        good = position not in (5, 8)
        assert valid[place] == good
        assert (images[place] == (position if good else 0)).all()
    assert status.dtype == np.int8
    assert [STATUS[code] for code in status[[2, 5]]] == ["truncated", "wrong_size"]
    assert reasons[2] == "ends too early"
    assert reasons[5] == "is 2x4x3 once prepared, expected 2x3x4"


def test_chosen_positions_and_none_at_all():
    found = list(blocks(Numbers(), (9, 2, 7), 2, 2, SHAPE))
    assert [block.positions.tolist() for block in found] == [[9, 2], [7]]
    assert list(blocks(Numbers(), range(0), 4, 1, SHAPE)) == []


def test_no_more_than_two_batches_wait():
    reader = Numbers()
    stream = blocks(reader, range(10, 90), 4, 2, SHAPE)
    next(stream)
    time.sleep(0.2)
    assert max(reader.begun) < 10 + 4 * 3
    stream.close()
    assert "decode" not in " ".join(thread.name for thread in threading.enumerate())


def test_what_is_no_fault_of_an_image_ends_the_iteration():
    with pytest.raises(ConfigError, match="a wrong setting"):
        list(blocks(Numbers(), range(95, 105), 2, 2, SHAPE))
