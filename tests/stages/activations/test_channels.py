import numpy as np
import pytest
import torch

from convaudit.stages.activations.channels import channel_values
from convaudit.stages.activations.merging import merge, merge_ranks, ranks, summarise

SHAPES = [(5, 4, 7, 6), (5, 4, 11), (5, 4), (3, 2, 4, 3, 5), (4, 3, 1, 1), (4, 1, 5, 3)]


def _random(shape, seed=0, offset=0.0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) + np.float32(offset))


def _replica(values, upper):
    """Statistics over all images and positions, one number at a time, in float64."""
    image, channel = values.shape[:2]
    flat = values.double().reshape(image, channel, -1).tolist()
    rows = []
    for c in range(channel):
        every = [v for i in range(image) for v in flat[i][c]]
        mean = sum(every) / len(every)
        rows.append(
            {
                "fired": sum(1 for i in range(image) if any(v > 0 for v in flat[i][c])),
                "max": max(every),
                "min": min(every),
                "mean": mean,
                "variance": sum((v - mean) ** 2 for v in every) / len(every),
                "mean_abs": sum(abs(v) for v in every) / len(every),
                "saturated": float("nan") if upper is None else sum(v >= upper for v in every) / len(every),
                "sparsity": sum(v <= 0 for v in every) / len(every),
            }
        )
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def _measured(values, upper=None, top=3, valid=None, **settings):
    valid = torch.ones(len(values), dtype=torch.bool) if valid is None else valid
    seen = channel_values(values, valid, upper, top, **settings)
    keep = valid.numpy()
    more = {name: array.numpy()[keep] for name, array in seen.more.items()}
    return summarise(seen.peak.numpy()[keep], seen.mean.numpy()[keep], more), seen


def _ranked(seen, image, top):
    return ranks(seen.peak.float().numpy(), seen.position.numpy(), np.asarray(image), top)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("upper", "offset"), [(None, 0.0), (0.5, 0.0), (None, 100.0)])
def test_statistics_agree_with_loops_in_float64(shape, layout, upper, offset):
    values = _random(shape, offset=offset)
    if upper is not None:
        values = values.clamp(0, upper)
    if layout == "channels_last" and len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    before = values.clone()
    got, _ = _measured(values, upper)
    want = _replica(values, upper)
    assert torch.equal(values, before)
    assert got["n"] == shape[0]
    for key in ("fired", "max", "min"):
        np.testing.assert_array_equal(got[key], want[key], key)
    for key in ("mean", "variance", "mean_abs", "saturated", "sparsity"):
        np.testing.assert_allclose(got[key], want[key], rtol=1e-6 + abs(offset) * 1e-7, atol=1e-7, err_msg=key)


def test_a_view_with_odd_strides_gives_the_same():
    values = _random((4, 6, 9, 8))[:, ::2, 1:, ::2]
    got, seen = _measured(values)
    want, same = _measured(values.contiguous())
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-6)
    assert torch.equal(seen.position, same.position)


def _first_position(plane):
    best, where = -np.inf, 0
    for at, value in enumerate(plane.reshape(-1).tolist()):
        if value > best:
            best, where = value, at
    return best, where


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_entrants_and_positions_with_many_ties(shape, layout):
    values = torch.from_numpy(np.random.default_rng(3).integers(0, 3, shape).astype(np.float32))
    if layout == "channels_last" and len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    seen = channel_values(values, torch.ones(shape[0], dtype=torch.bool), None, top=3)
    for c in range(shape[1]):
        found = [(*_first_position(values[i, c]), i) for i in range(shape[0])]
        best = sorted(found, key=lambda row: (-row[0], row[2]))[:3]
        got = _ranked(seen, range(shape[0]), 3)
        assert got["top_image"][c].tolist() == [row[2] for row in best]
        assert got["top_position"][c].tolist() == [row[1] for row in best]


def test_bad_images_and_nan_never_enter():
    values = _random((4, 2, 3, 3))
    values[0] = 50.0
    values[2, 1, 0, 0] = torch.nan
    valid = torch.tensor([False, True, True, True])
    seen = channel_values(values, valid, None, top=4)
    got = _ranked(seen, [10, 11, 12, 13], 4)
    assert 10 not in got["top_image"]
    assert sorted(got["top_image"][0].tolist()) == [-1, 11, 12, 13]
    assert sorted(got["top_image"][1].tolist()) == [-1, -1, 11, 13]
    assert np.isneginf(got["top_value"][got["top_image"] < 0]).all()


def _pieces(values, cuts, top):
    parts = []
    for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True):
        statistics, seen = _measured(values[a:b], top=top)
        parts.append(statistics | _ranked(seen, range(a, b), top))
    whole = parts[0]
    for part in parts[1:]:
        whole = merge(whole, part) | merge_ranks(whole, part, top)
    return whole


@pytest.mark.parametrize("cuts", [[1], [4], [2, 5], [1, 2, 3, 4, 5, 6]])
def test_merging_pieces_gives_the_whole(cuts):
    values = torch.round(_random((7, 5, 6, 4), offset=3.0) * 2) / 2
    got, want = _pieces(values, cuts, 4), _pieces(values, [], 4)
    for key in want:
        if key in ("mean", "variance", "mean_abs", "sparsity"):
            np.testing.assert_allclose(got[key], want[key], rtol=1e-12, err_msg=key)
        elif key != "saturated":
            np.testing.assert_array_equal(got[key], want[key], key)


def test_a_small_variance_survives_a_large_mean():
    values = _random((3, 2, 40, 30)) * 1e-2 + 1e3
    got, _ = _measured(values)
    np.testing.assert_allclose(got["variance"], values.double().var((0, 2, 3), unbiased=False), rtol=1e-3)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_not_wanted_is_not_measured_and_the_rest_stays(layout):
    values = _random((5, 4, 7, 6))
    if layout == "channels_last":
        values = values.contiguous(memory_format=torch.channels_last)
    want, whole = _measured(values)
    for wanted in ((), ("sparsity",), ("mean_abs",), ("variance", "min")):
        got, seen = _measured(values, wanted=wanted)
        assert set(got) == {"n", "fired", "max", "mean", *wanted}
        assert torch.equal(seen.peak, whole.peak)
        assert torch.equal(seen.position, whole.position)
        for key in got:
            np.testing.assert_allclose(got[key], want[key], rtol=2e-6, atol=1e-7, err_msg=key)


def test_sparsity_counts_zero_and_below_but_not_nan():
    values = torch.tensor([[[[-1.0, -0.0, 0.0], [1e-30, 2.0, torch.nan]]]])
    for layout in (torch.contiguous_format, torch.channels_last):
        (share,) = channel_values(
            values.contiguous(memory_format=layout), torch.ones(1, dtype=torch.bool), None, 1, ("sparsity",)
        ).more["sparsity"]
        assert share.item() == pytest.approx(3 / 6)


@pytest.mark.parametrize("values", ["few", "many"])
def test_a_bar_spares_positions_and_changes_no_ranking(values):
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 3, (12, 6, 4, 3)) if values == "few" else rng.standard_normal((12, 6, 4, 3))
    tensor = torch.from_numpy(drawn.astype(np.float32))
    whole = _ranked(_measured(tensor, top=3)[1], range(12), 3)
    so_far = _ranked(_measured(tensor[:4], top=3)[1], range(4), 3)
    looked_up = []
    for a in (4, 8):
        bar = torch.from_numpy(so_far["top_value"][:, -1])
        seen = _measured(tensor[a : a + 4], top=3, bar=bar)[1]
        looked_up.append(int((seen.position >= 0).sum()))
        so_far = merge_ranks(so_far, _ranked(seen, range(a, a + 4), 3), 3)
    for key in whole:
        np.testing.assert_array_equal(so_far[key], whole[key], key)
    if values == "many":
        assert sum(looked_up) < 2 * 3 * 6


def test_the_same_images_again_after_they_have_set_the_bar():
    values = _random((6, 4, 5, 3))
    want = _ranked(_measured(values, top=3)[1], range(6), 3)
    bar = torch.from_numpy(want["top_value"][:, -1])
    got = _ranked(_measured(values, top=3, bar=bar)[1], range(6), 3)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], key)
