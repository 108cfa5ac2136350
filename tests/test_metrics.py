"""Measures against counts made by hand."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.metrics import class_iou, confusion, iou, mean_iou

TRUTH = np.array([[0, 0, 1, 1], [0, 2, 255, 1]])
FOUND = np.array([[0, 1, 1, 1], [0, 1, 2, 3]])


def test_iou_of_two_masks():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(4 / 12)
    with pytest.raises(NbHelpersError, match="different size"):
        iou(a, b[:2])


def test_confusion_counts_what_is_not_void():
    confused = confusion(TRUTH, FOUND, classes=4)
    assert confused.sum() == 7
    assert confused.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_class_iou_and_mean_over_the_classes_present():
    confused = confusion(TRUTH, FOUND, classes=4)
    np.testing.assert_allclose(class_iou(confused), [2 / 3, 2 / 5, 0, np.nan])
    assert mean_iou(confused) == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)


def test_the_photos_of_a_set_are_added_up_and_not_averaged():
    one = confusion(np.zeros((1, 9), int), np.zeros((1, 9), int), 2)
    two = confusion(np.zeros((1, 1), int), np.ones((1, 1), int), 2)
    assert mean_iou(one + two) == pytest.approx(0.9)


def test_random_maps_agree_with_the_iou_of_their_masks():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, (2, 40, 50))
    each = class_iou(confusion(truth, found, 5, void=None))
    np.testing.assert_allclose(each, [iou(truth == k, found == k) for k in range(5)])


def test_nothing_to_count_is_nan():
    assert np.isnan(mean_iou(confusion(np.full((2, 2), 255), np.zeros((2, 2), int), 3)))


def test_bytes_do_not_overflow():
    truth = np.full((20, 20), 19, np.uint8)
    assert confusion(truth, truth, 20)[19, 19] == 400


@pytest.mark.parametrize(
    ("truth", "found", "match"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "different size"),
        (np.full((2, 2), 7), np.zeros((2, 2), int), "no class"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "no class"),
    ],
)
def test_wrong_maps_are_refused(truth, found, match):
    with pytest.raises(NbHelpersError, match=match):
        confusion(truth, found, classes=3)
