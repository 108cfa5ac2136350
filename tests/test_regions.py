import numpy as np
import pytest

from nbhelpers.core.masks import (
    centroid_point,
    components,
    deepest_points,
    depth,
    distinct,
    intersections,
    iou_matrix,
    is_group,
    ranked_pairs,
    regular_points,
)
from nbhelpers.core.metrics import iou


def disc(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


RING = disc((80, 100), 50, 40, 35) & ~disc((80, 100), 50, 40, 20)


def test_components_are_numbered_from_the_largest_and_small_ones_left_out():
    mask = disc((60, 120), 20, 30, 5) | disc((60, 120), 80, 30, 20)
    mask[0, 0] = True
    labels = components(mask, 2)
    assert labels.max() == 2 and labels[30, 80] == 1 and labels[30, 20] == 2 and labels[0, 0] == 0
    assert components(np.zeros((4, 5), bool)).max() == 0


def test_the_deepest_point_of_a_ring_lies_inside_and_its_centroid_does_not():
    for x, y in deepest_points(RING, 20):
        assert RING[y, x]
    x, y = centroid_point(RING)[0]
    assert (x, y) == (50, 40) and not RING[y, x]


def test_a_large_region_gets_several_points_that_are_spread():
    region = np.zeros((100, 300), bool)
    region[10:90, 5:295] = True
    points = deepest_points(region, 40)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert 6 <= len(points) <= 16 and apart.min() >= 40
    assert depth(region)[points[0, 1], points[0, 0]] == depth(region).max()
    assert len(deepest_points(region, 40, most=3)) == 3


def test_a_region_at_the_border_is_pointed_at_in_its_middle():
    assert deepest_points(np.ones((41, 41), bool), 100).tolist() == [[20, 20]]


@pytest.mark.parametrize("find", [lambda m: deepest_points(m, 5), centroid_point, lambda m: regular_points(m, 5)])
def test_an_empty_region_has_no_points(find):
    assert find(np.zeros((9, 9), bool)).shape == (0, 2)


def test_one_cell_is_a_region():
    one = np.zeros((5, 7), bool)
    one[2, 6] = True
    assert deepest_points(one, 3).tolist() == [[6, 2]]


def test_regular_points_lie_inside():
    points = regular_points(RING, 10)
    assert len(points) > 10 and RING[points[:, 1], points[:, 0]].all()


def test_the_matrices_agree_with_masks_one_by_one():
    masks = np.random.default_rng(0).random((4, 20, 30)) > 0.6
    masks[3] = False
    shared = intersections(masks)
    for i in range(4):
        for j in range(4):
            assert shared[i, j] == (masks[i] & masks[j]).sum()
            wanted = iou(masks[i], masks[j]) if (masks[i] | masks[j]).any() else 0
            assert iou_matrix(shared)[i, j] == pytest.approx(wanted)


def test_of_duplicates_the_most_confident_stays():
    a, b = disc((60, 60), 30, 30, 20), disc((60, 60), 31, 30, 20)
    other = disc((60, 60), 10, 10, 5)
    shared = intersections(np.stack([a, b, other]))
    assert distinct(shared, np.array([0.7, 0.9, 0.1]), 0.8).tolist() == [1, 1, 2]
    assert distinct(shared, np.array([0.7, 0.9, 0.1]), 0.99).tolist() == [0, 1, 2]


def test_a_mask_of_two_things_is_a_group_and_one_of_a_thing_in_two_parts_is_not():
    left, right = disc((60, 120), 25, 30, 20), disc((60, 120), 90, 30, 20)
    assert is_group(left | right, [left, right])
    assert not is_group(left | right, [left])
    assert not is_group(left, [left, right])


def test_ranked_pairs_keep_the_strong_decisions_of_a_circle():
    assert ranked_pairs(3, [(0, 1, 9.0), (1, 2, 5.0), (2, 0, 1.0)]) == [0, 1, 2]
    assert ranked_pairs(3, [(0, 1, 1.0), (1, 2, 5.0), (2, 0, 9.0)]) == [1, 2, 0]
    assert ranked_pairs(2, []) == [0, 1]
