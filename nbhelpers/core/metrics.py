"""Measures of agreement between masks and between class maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from nbhelpers.core.errors import NbHelpersError

BOUND_TH = 0.008  # of the frame's diagonal: how far a contour may be off
RECALL_AT = 0.5
QUARTERS = 4


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


@dataclass(frozen=True)
class Summary:
    """A measure over a clip: its mean, the share of frames above one half, and what is lost from start to end.

    Attributes:
        mean: 0 to 1.
        recall: share of frames with a value above 0.5.
        decay: mean of the first quarter minus mean of the last quarter of the frames.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"]) -> float:
    """J: intersection over union, 0 to 1; two empty masks agree fully."""
    return iou(truth, found)


def contour_accuracy(
    truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"], bound_th: float = BOUND_TH
) -> float:
    """F: harmonic mean of the precision and recall of the contour pixels, 0 to 1.

    A contour pixel counts as matched when the other contour passes within a disk of ``ceil(bound_th * diagonal)``
    pixels. This dilation stands for the bipartite matching of the paper, as in the reference implementation.

    Example:
        >>> square = np.zeros((100, 100), bool); square[20:60, 20:60] = True
        >>> contour_accuracy(square, np.roll(square, 2, axis=1)), contour_accuracy(square, ~square & False)
        (1.0, 0.0)

    Args:
        truth: the true mask.
        found: the mask to judge.
        bound_th: tolerance as a share of the frame's diagonal; in pixels from 1 on.

    Raises:
        NbHelpersError: masks of different size.
    """
    if truth.shape != found.shape:
        raise NbHelpersError("masks of different size cannot be compared", given=f"{truth.shape} and {found.shape}")
    radius = int(np.ceil(bound_th if bound_th >= 1 else bound_th * np.hypot(*truth.shape)))
    true, outline = contour(truth), contour(found)
    if not outline.any() or not true.any():
        return float(outline.any() == true.any())
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    near_true, near_found = (cv2.dilate(line.astype(np.uint8), disk).astype(bool) for line in (true, outline))
    precision = np.count_nonzero(outline & near_true) / np.count_nonzero(outline)
    recall = np.count_nonzero(true & near_found) / np.count_nonzero(true)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The one pixel wide line between inside and outside.

    A pixel belongs to it when its right, lower or lower right neighbour is on the other side. The frame's own edge
    is not a contour. Source: ``_seg2bmap`` of the reference implementation.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, both = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ both)


def j_and_f(truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"]) -> float:
    """The mean of `region_similarity` and `contour_accuracy` on one frame."""
    return (region_similarity(truth, found) + contour_accuracy(truth, found)) / 2


def score_clip(
    truths: Iterable[Bool[np.ndarray, "h w"]], found: Iterable[Bool[np.ndarray, "h w"]]
) -> Float64[np.ndarray, "frames 2"]:
    """J and F of each frame of a clip; `summarize` one column, without the first and the last frame, for DAVIS.

    Raises:
        NbHelpersError: not as many masks as true ones.
    """
    try:
        pairs = list(zip(truths, found, strict=True))
    except ValueError as error:
        raise NbHelpersError("not every frame has a mask to judge", given=error) from error
    values = [(region_similarity(a, b), contour_accuracy(a, b)) for a, b in pairs]
    return np.array(values, np.float64).reshape(-1, 2)


def summarize(values: Float64[np.ndarray, " frames"]) -> Summary:
    """Mean, recall and decay of one measure over the frames of a clip.

    Source: ``db_statistics`` of the reference implementation; neighbouring quarters share a frame, as there.

    Raises:
        NbHelpersError: no frames.
    """
    if not len(values):
        raise NbHelpersError("there is no frame to summarize")
    edges = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Summary(float(values.mean()), float((values > RECALL_AT).mean()), float(np.mean(first) - np.mean(last)))
