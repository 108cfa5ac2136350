"""Array functions on regions of a picture: where their parts are, where to point at them, which of them overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

SHALLOW = 0.3  # of a region's greatest depth: less deep, a point lies at the rim or in a thin arm


def components(region: Bool[np.ndarray, "h w"], min_area: float = 1) -> Int[np.ndarray, "h w"]:
    """Number the 8-connected parts of a region from 1, the largest first; 0 is outside.

    Example:
        >>> components(np.array([[1, 0, 1], [0, 0, 1]], bool))
        array([[2, 0, 1],
               [0, 0, 1]], dtype=int32)

    Args:
        region: what to take apart.
        min_area: parts of fewer cells are left out.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")
    order = order[areas[order] >= min_area]
    number = np.zeros(count, np.int32)
    number[order + 1] = np.arange(1, len(order) + 1)
    return number[labels]


def fill_holes(region: Bool[np.ndarray, "h w"], area: float) -> Bool[np.ndarray, "h w"]:
    """The region with its holes of up to ``area`` cells filled; what touches the border is no hole."""
    if area <= 0:
        return region
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~region).view(np.uint8), connectivity=4)
    x, y, width, height, size = stats[:, :5].T
    touches = (x == 0) | (y == 0) | (x + width == region.shape[1]) | (y + height == region.shape[0])
    small = ~touches & (size <= area)
    small[0] = False  # the region itself
    return region | small[labels] if small.any() else region


def depth(region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Distance of each cell inside to the nearest cell outside, in cells; beyond the picture is outside."""
    padded = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def deepest_points(region: Bool[np.ndarray, "h w"], spacing: float, most: int = 16) -> Int[np.ndarray, "k 2"]:
    """Points well inside a region: the deepest one, then the deepest at least ``spacing`` away from those before.

    The first is the pole of inaccessibility. A centroid may lie outside (of a ring, of a crescent); this never does.

    Args:
        region: one part, or several.
        spacing: smallest distance between two points, in cells.
        most: largest number of points.

    Returns:
        ``(x, y)`` of cells of the region; none for an empty region.
    """
    inside = depth(region)
    floor = SHALLOW * inside.max(initial=0)
    rows, columns = np.mgrid[: region.shape[0], : region.shape[1]]
    points: list[tuple[int, int]] = []
    while len(points) < most:
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        if inside[y, x] <= 0 or inside[y, x] < floor:
            break
        points.append((int(x), int(y)))
        inside[(columns - x) ** 2 + (rows - y) ** 2 < max(spacing, 1) ** 2] = 0
    return np.array(points, np.int64).reshape(-1, 2)


def centroid_point(region: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "k 2"]:
    """The centre of gravity as one ``(x, y)`` cell, which may lie outside; none for an empty region."""
    rows, columns = np.nonzero(region)
    if not len(rows):
        return np.empty((0, 2), np.int64)
    return np.round([[columns.mean(), rows.mean()]]).astype(np.int64)


def regular_points(region: Bool[np.ndarray, "h w"], spacing: float) -> Int[np.ndarray, "k 2"]:
    """The ``(x, y)`` cells of a square lattice over the whole picture that lie inside the region."""
    ys, xs = (np.arange(spacing / 2, side, max(spacing, 1)).astype(np.int64) for side in region.shape)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return grid[region[grid[:, 1], grid[:, 0]]]


def intersections(masks: Bool[np.ndarray, "n h w"]) -> Int[np.ndarray, "n n"]:
    """How many cells each two masks share; the diagonal holds their areas."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    return np.rint(flat @ flat.T).astype(np.int64)


def iou_matrix(shared: Shaped[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Intersection over union of each two masks, from their `intersections`; 0 where both are empty."""
    areas = np.diag(shared)
    union = areas[:, None] + areas[None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 0.0)


def distinct(
    shared: Shaped[np.ndarray, "n n"], confidence: Shaped[np.ndarray, " n"], threshold: float
) -> Int[np.ndarray, " n"]:
    """Greedy removal of duplicates: for each mask the index of the one that stands for it, itself if it is kept.

    Args:
        shared: `intersections` of the masks.
        confidence: of each mask; of two duplicates the more confident is kept.
        threshold: from this IoU on, two masks are one.
    """
    ious = iou_matrix(shared)
    stands_for = np.full(len(confidence), -1)
    for i in np.argsort(-np.asarray(confidence, float), kind="stable"):
        if stands_for[i] < 0:
            rest = (ious[i] >= threshold) & (stands_for < 0)
            stands_for[rest] = i
            stands_for[i] = i
    return stands_for


def is_group(mask: Bool[np.ndarray, "h w"], others: Iterable[Bool[np.ndarray, "h w"]], share: float = 0.15) -> bool:
    """Whether a mask is several things at once: it falls into parts, and each large part is a mask of its own.

    Args:
        mask: the one in question.
        others: masks of the same class.
        share: parts below this share of the area do not count.
    """
    parts = components(mask, share * np.count_nonzero(mask))
    count = int(parts.max(initial=0))
    if count < 2:
        return False
    unmatched = [parts == number for number in range(1, count + 1)]
    for other in others:
        unmatched = [
            part for part in unmatched if np.count_nonzero(part & other) < 0.7 * np.count_nonzero(part | other)
        ]
    return not unmatched


def ranked_pairs(count: int, wins: Sequence[tuple[int, int, float]]) -> list[int]:
    """Order items so that as few and as weak wins as possible are broken, winners first.

    Wins are locked in from the strongest to the weakest, unless one would close a circle. Source: Tideman 1987,
    "Independence of clones as a criterion for voting rules" (ranked pairs).

    Args:
        count: number of items.
        wins: ``(winner, loser, strength)``.
    """
    above = np.eye(count, dtype=bool)  # above[i, j]: i stands over j
    for winner, loser, _ in sorted(wins, key=lambda win: -win[2]):
        if not above[loser, winner]:
            above |= np.outer(above[:, winner], above[loser])
    return sorted(range(count), key=lambda item: -int(above[item].sum()))
