"""DAVIS measures against cases counted by hand, and against the formulas of the reference implementation."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.metrics import contour, contour_accuracy, j_and_f, region_similarity, score_clip, summarize

EMPTY = np.zeros((100, 100), bool)


def block(rows, columns, size=(100, 100)):
    mask = np.zeros(size, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def test_region_similarity_is_intersection_over_union():
    assert region_similarity(block((0, 10), (0, 10)), block((0, 10), (5, 15))) == pytest.approx(50 / 150)
    assert region_similarity(EMPTY, EMPTY) == 1
    assert region_similarity(EMPTY, block((0, 10), (0, 10))) == 0


def test_the_contour_runs_above_and_left_of_the_change():
    mask = block((1, 3), (1, 3), (5, 5))
    expected = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert np.array_equal(contour(mask), expected)
    assert not contour(np.ones((5, 5), bool)).any()
    touching = block((0, 5), (3, 5), (5, 5))  # the frame's own edge is no contour
    assert np.array_equal(np.argwhere(contour(touching)), [[row, 2] for row in range(5)])


def test_a_contour_within_the_tolerance_is_matched_and_beyond_it_is_not():
    # of a straight edge that is shifted, all pixels are off by the same distance
    edge = block((0, 100), (0, 50))
    assert int(np.ceil(0.008 * np.hypot(100, 100))) == 2
    assert contour_accuracy(edge, block((0, 100), (0, 52))) == 1
    assert contour_accuracy(edge, block((0, 100), (0, 53))) == 0
    assert contour_accuracy(edge, block((0, 100), (0, 53)), bound_th=3) == 1


def test_contour_accuracy_is_the_harmonic_mean_of_precision_and_recall():
    truth = block((0, 100), (0, 20))  # one edge of 100 pixels
    found = truth | block((0, 100), (60, 80))  # two more edges, each of 100
    assert contour_accuracy(truth, found) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert contour_accuracy(found, truth) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))


@pytest.mark.parametrize(
    ("truth", "found", "value"),
    [(EMPTY, EMPTY, 1), (EMPTY, block((9, 20), (9, 20)), 0), (block((9, 20), (9, 20)), EMPTY, 0)],
)
def test_frames_without_the_object(truth, found, value):
    assert contour_accuracy(truth, found) == value
    assert j_and_f(truth, found) == value


def boundary_measure_by_hand(truth, found):
    """F with every distance between two contour pixels, instead of a dilation."""
    radius = np.ceil(0.008 * np.hypot(*truth.shape))
    lines = []
    for mask in (truth, found):
        rows, columns = mask.shape
        lines.append(
            [
                (row, column)
                for row in range(rows)
                for column in range(columns)
                if len(
                    {mask[y, x] for y in (row, min(row + 1, rows - 1)) for x in (column, min(column + 1, columns - 1))}
                )
                > 1
            ]
        )
    true, asked = (np.array(line, float).reshape(-1, 2) for line in lines)
    if not len(true) or not len(asked):
        return float(len(true) == len(asked))
    distance = np.hypot(*(true[:, None] - asked).transpose(2, 0, 1))
    recall, precision = ((distance.min(axis) <= radius).mean() for axis in (1, 0))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_ragged_masks_are_measured_as_the_definitions_say(seed):
    import cv2

    rng = np.random.default_rng(seed)
    size = (48, 130)  # a radius of 2 pixels
    smooth = cv2.GaussianBlur(rng.normal(size=(*size, 2)), (0, 0), rng.uniform(1, 5))
    truth = smooth[..., 0] > smooth[..., 0].std() * rng.uniform(0, 2)
    found = smooth @ (1, rng.uniform(0, 1)) > smooth[..., 0].std()
    assert contour_accuracy(truth, found) == pytest.approx(boundary_measure_by_hand(truth, found))
    both, either = (truth & found).sum(), (truth | found).sum()
    assert region_similarity(truth, found) == pytest.approx(both / either)


def test_j_and_f_is_their_mean():
    truth, found = block((0, 100), (0, 50)), block((0, 100), (0, 53))
    assert j_and_f(truth, found) == pytest.approx((50 / 53 + 0) / 2)


def test_masks_of_different_size_are_refused():
    with pytest.raises(NbHelpersError, match="different size"):
        contour_accuracy(EMPTY, EMPTY[1:])


def test_a_clip_is_scored_frame_by_frame():
    values = score_clip([EMPTY, block((0, 10), (0, 10))], [EMPTY, EMPTY])
    assert values.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(NbHelpersError, match="not every frame"):
        score_clip([EMPTY, EMPTY], [EMPTY])


def test_mean_recall_and_decay_over_quarters():
    summary = summarize(np.array([1.0, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.2]))
    assert summary.mean == pytest.approx(0.6)
    assert summary.recall == pytest.approx(5 / 9)  # 0.5 itself is not above
    assert summary.decay == pytest.approx((1 + 1 + 0.8) / 3 - (0.4 + 0.2 + 0.2) / 3)  # quarters share a frame
    with pytest.raises(NbHelpersError, match="no frame"):
        summarize(np.empty(0))
