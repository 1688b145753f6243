from fractions import Fraction

import numpy as np
import pytest

from convaudit.stages.gaze.grids import (
    border,
    border_share,
    boxes,
    cell_edges,
    centres,
    coarser,
    distributions,
    overlaps,
    place_name,
    pooled,
    spreads,
)

RNG = np.random.default_rng(3)


def slow_overlap(places, cells):
    """Exact shares of area, in fractions."""
    found = np.zeros((cells, places))
    for i in range(cells):
        for j in range(places):
            low = max(Fraction(i * places, cells), Fraction(j))
            high = min(Fraction((i + 1) * places, cells), Fraction(j + 1))
            found[i, j] = float(max(high - low, Fraction(0)))
    return found


def even(lengths):
    return [np.linspace(0, 10 * n, n + 1) for n in lengths]


@pytest.mark.parametrize(("places", "cells"), [(7, 4), (14, 14), (9, 2), (5, 1), (56, 14)])
def test_overlaps_are_shares_of_area(places, cells):
    np.testing.assert_allclose(overlaps(places, cells), slow_overlap(places, cells), atol=1e-12)
    np.testing.assert_allclose(overlaps(places, cells).sum(axis=0), 1)


@pytest.mark.parametrize(("space", "grid"), [((7, 10), (4, 3)), ((5, 8), (5, 8)), ((23,), (6,)), ((6, 9), (1, 9))])
def test_pooling_adds_up_what_lies_in_each_cell(space, grid):
    heatmap = RNG.normal(size=(3, *space))
    want = np.zeros((3, *grid))
    weights = [slow_overlap(n, cells) for n, cells in zip(space, grid, strict=True)]
    for cell in np.ndindex(*grid):
        for place in np.ndindex(*space):
            weight = np.prod([weights[axis][cell[axis], place[axis]] for axis in range(len(space))])
            want[(slice(None), *cell)] += weight * heatmap[(slice(None), *place)]
    np.testing.assert_allclose(pooled(heatmap, grid), want, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_distributions_are_shares_of_the_positive_part_whatever_the_magnitude(size):
    heatmap = RNG.normal(size=(4, 6, 9))
    heatmap[1] = -1
    heatmap[2, 3, 3] = np.nan
    found = distributions(heatmap * size, (3, 4))
    for row in (0, 3):
        positive = np.where(heatmap[row] > 0, heatmap[row], 0)
        np.testing.assert_allclose(found[row], pooled(positive[None] / positive.sum(), (3, 4))[0], atol=1e-12)
        assert found[row].sum() == pytest.approx(1)
    assert not found[1].any()
    assert np.isnan(found[2]).all()


def test_evidence_in_one_cell_lies_there():
    shares = np.zeros((2, 4, 6))
    shares[0, 1, 4] = 1
    shares[1, 0, 5] = 1
    edges = even((4, 6))
    np.testing.assert_allclose(centres(shares, edges), [[1.5 / 4, 4.5 / 6], [0.5 / 4, 5.5 / 6]])
    np.testing.assert_allclose(spreads(shares, edges), 0, atol=1e-7)
    np.testing.assert_allclose(border_share(shares), [0, 1])


def test_even_evidence_is_centred_and_spread_as_a_uniform_distribution():
    flat = np.full((1, 50, 70), 1 / 3500)
    np.testing.assert_allclose(centres(flat, even((50, 70))), [[0.5, 0.5]])
    np.testing.assert_allclose(spreads(flat, even((50, 70))), np.sqrt(2 / 12), rtol=1e-3)
    np.testing.assert_allclose(spreads(np.full((1, 90), 1 / 90), even((90,))), np.sqrt(1 / 12), rtol=1e-3)
    np.testing.assert_allclose(border_share(flat), 1 - 48 * 68 / 3500)


def test_centre_and_spread_are_moments_over_uneven_cells():
    shares = RNG.dirichlet(np.ones(12), 3).reshape(3, 3, 4)
    edges = [np.array([0, 2, 7, 20.0]), np.array([0, 5, 6, 7, 11.0])]
    for row in range(3):
        mean, square = np.zeros(2), 0.0
        points = {
            (i, j): np.array([(edges[0][i] + edges[0][i + 1]) / 40, (edges[1][j] + edges[1][j + 1]) / 22])
            for i in range(3)
            for j in range(4)
        }
        for cell, point in points.items():
            mean += shares[row][cell] * point
        for cell, point in points.items():
            square += shares[row][cell] * ((point - mean) ** 2).sum()
        np.testing.assert_allclose(centres(shares, edges)[row], mean)
        assert spreads(shares, edges)[row] == pytest.approx(square**0.5)


def test_a_map_without_evidence_lies_nowhere():
    shares = np.zeros((1, 3, 4))
    assert np.isnan(border_share(shares)).all()
    assert np.isnan(centres(shares, even((3, 4)))).all()
    assert np.isnan(spreads(shares, even((3, 4)))).all()


def test_mirrored_maps_have_mirrored_centres():
    shares = RNG.dirichlet(np.ones(20), 2).reshape(2, 4, 5)
    there, back = centres(shares, even((4, 5))), centres(shares[:, :, ::-1], even((4, 5)))
    np.testing.assert_allclose(back, there * [1, -1] + [0, 1])
    np.testing.assert_allclose(spreads(shares[:, ::-1], even((4, 5))), spreads(shares, even((4, 5))))


def test_the_border_is_the_outer_ring_and_everything_where_there_is_no_inside():
    assert border((4, 5)).sum() == 14
    assert border((2, 5)).all()
    assert border((1, 1)).all()
    assert border((6,)).tolist() == [True, False, False, False, False, True]


def test_edges_by_receptive_fields_put_every_pixel_to_the_nearest_centre():
    geometry = {"stride": [32, 4], "centre": [-0.2, 1.5]}
    tall, wide = cell_edges((224, 32), (7, 8), (7, 8), geometry)
    for length, edge, stride, centre in ((224, tall, 32, -0.2), (32, wide, 4, 1.5)):
        nearest = [int(np.abs(centre + stride * np.arange(len(edge) - 1) - pixel).argmin()) for pixel in range(length)]
        assert [int(np.searchsorted(edge, pixel + 0.5, side="right")) - 1 for pixel in range(length)] == nearest
    assert tall[0] == 0
    assert tall[-1] == 224
    assert tall[1] == pytest.approx(16.3)


def test_edges_in_proportion_and_coarser_ones():
    edges = cell_edges((224, 30), (14, 6), (14, 6), None)
    np.testing.assert_allclose(edges[0], np.arange(15) * 16)
    np.testing.assert_allclose(coarser(edges, (4, 3))[0], [0, 56, 112, 168, 224])
    np.testing.assert_allclose(coarser(edges, (4, 3))[1], [0, 10, 20, 30])


@pytest.mark.parametrize("edges", [even((4, 3)), [np.array([0, 0, 0.4, 3]), np.array([0, 8.5, 9, 9])], even((5,))])
def test_boxes_have_pixels_inside_the_image(edges):
    for cell, box in boxes(edges).items():
        assert len(cell) == len(box) == len(edges)
        for (first, last), edge in zip(box, edges, strict=True):
            assert 0 <= first < last <= edge[-1]


def test_boxes_of_whole_cells_tile_the_image():
    seen = np.zeros((40, 30), int)
    for box in boxes(even((4, 3))).values():
        seen[tuple(slice(*side) for side in box)] += 1
    assert (seen == 1).all()


def test_places_have_names():
    grid = (4, 5)
    names = {cell: place_name(cell, grid) for cell in ((0, 0), (0, 4), (3, 0), (3, 4), (0, 2), (3, 1), (2, 0), (1, 4))}
    assert list(names.values()) == [
        "upper left corner", "upper right corner", "lower left corner", "lower right corner",
        "upper edge", "lower edge", "left edge", "right edge",
    ]  # fmt: skip
    assert [place_name((0,), (4,)), place_name((3,), (4,))] == ["beginning", "end"]
