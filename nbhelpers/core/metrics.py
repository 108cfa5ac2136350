"""Measures of agreement between masks and between class maps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from nbhelpers.core.errors import NbHelpersError


def iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h2 w2"]) -> float:
    """Intersection over union (Jaccard index) of two masks, 0 to 1; two empty masks agree fully.

    Raises:
        NbHelpersError: masks of different size.
    """
    if a.shape != b.shape:
        raise NbHelpersError("masks of different size cannot be compared", given=f"{a.shape} and {b.shape}")
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def confusion(
    truth: Integer[np.ndarray, "h w"], found: Integer[np.ndarray, "h2 w2"], classes: int, void: int | None = 255
) -> Int64[np.ndarray, "c c"]:
    """Pixels of each true class (row) that were called each class (column); add up those of several photos.

    Example:
        >>> confusion(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), classes=2)
        array([[1, 0],
               [1, 0]])

    Args:
        truth: class of each pixel, 0 to ``classes - 1``, or ``void``.
        found: class that was answered, 0 to ``classes - 1``; anything at void pixels.
        classes: how many there are.
        void: value of pixels that are not counted, as 255 is PASCAL VOC's for contours and what is hard to tell.

    Raises:
        NbHelpersError: maps of different size, or a value that is no class.
    """
    if truth.shape != found.shape:
        raise NbHelpersError("class maps of different size cannot be compared", given=f"{truth.shape}, {found.shape}")
    counted = np.ones(truth.shape, bool) if void is None else truth != void
    pairs = np.stack([truth[counted], found[counted]]).astype(np.int64)
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < classes:
        raise NbHelpersError(
            "a class map holds a value that is no class",
            given=f"{pairs.min()} to {pairs.max()}",
            expected=f"0 to {classes - 1}" + ("" if void is None else f", or {void} (void) in the truth"),
        )
    return np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).reshape(classes, classes)


def class_iou(confused: Integer[np.ndarray, "c c"]) -> Float64[np.ndarray, " c"]:
    """IoU of each class: true positives over true, false positive and false negative pixels; NaN for an absent class.

    Absent means: in no pixel of the truth. Pixels wrongly given to an absent class still count as misses of their
    own class. Source: Everingham et al. 2015, doi 10.1007/s11263-014-0733-5, section 4.1.3.
    """
    hit, true = np.diagonal(confused), confused.sum(1)
    union = true + confused.sum(0) - hit
    return np.where(true > 0, hit / np.maximum(union, 1), np.nan)


def mean_iou(confused: Integer[np.ndarray, "c c"]) -> float:
    """Mean of `class_iou` over the classes that the truth holds: PASCAL VOC's mIoU. NaN if it holds none."""
    ious = class_iou(confused)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")
