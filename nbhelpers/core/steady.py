"""Temporal smoothing of outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool

from nbhelpers.core.compositing import distance_to
from nbhelpers.core.masks import box_of
from nbhelpers.core.metrics import iou

REACH = 8.0  # pixels; farther than this from a contour, all distances count the same
TRUST = 2.5  # pixels that a trembling outline is off
OVERLAP = 0.5  # IoU; a neighbour that overlaps less shows another place or another thing

Mask = Bool[np.ndarray, "h w"]


def steady(
    mask: Mask, neighbours: Sequence[tuple[int, Mask]], window: tuple[slice, slice]
) -> Bool[np.ndarray, "wh ww"]:
    """A window of the mask with an outline averaged over neighbouring frames.

    Signed distances to the outlines are averaged, so an outline that trembles comes to rest in the middle. Each
    neighbour is first moved by what its centre of gravity moved, if it then overlaps better; and where it still is
    more than a few pixels off, it counts less and less: there something really moves, such as a leg or a wheel, and
    would be worn off. An empty mask is filled if the object is there both before and after.

    Args:
        mask: of the frame.
        neighbours: ``(offset in frames, mask)``.
        window: rows and columns that are wanted.

    Source: the mean of signed distances as the mean of shapes is that of Leventon, Grimson and Faugeras (CVPR 2000).
    Weights fall as Gaussians of the offset (sigma the largest one) and of the difference, as in a bilateral filter
    (Tomasi and Manduchi, ICCV 1998).
    """
    here = mask[window]
    there = [
        (offset, aligned) for offset, other in neighbours if (aligned := _aligned(other, mask, window)) is not None
    ]
    absent = not here.any()
    if not there or (absent and len({offset > 0 for offset, _ in there}) < 2):
        return here
    sigma = max(abs(offset) for offset, _ in neighbours)
    own = _signed_distance(here)
    total = np.zeros_like(own) if absent else own.copy()
    for offset, other in there:
        distance = _signed_distance(other)
        weight = math.exp(-0.5 * (offset / sigma) ** 2)
        total += weight * (distance if absent else np.exp(-0.5 * ((distance - own) / TRUST) ** 2) * distance)
    return total > 0


def _aligned(other: np.ndarray, mask: np.ndarray, window: tuple[slice, slice]) -> np.ndarray | None:
    """The window of a neighbour's mask as it would lie on this frame, or None if it shows something else."""
    if not other.any():
        return None
    if not mask.any():
        return other[window]
    (x, y), (u, v) = _centre(mask), _centre(other)
    rows, columns = (np.arange(length)[part] for length, part in zip(mask.shape, window, strict=True))
    candidates = [other[window]]
    if (round(u - x), round(v - y)) != (0, 0):
        moved_rows = np.clip(rows + round(v - y), 0, mask.shape[0] - 1)
        moved_columns = np.clip(columns + round(u - x), 0, mask.shape[1] - 1)
        candidates.append(other[np.ix_(moved_rows, moved_columns)])
    overlaps = [iou(mask[window], candidate) for candidate in candidates]
    best = int(np.argmax(overlaps))
    return candidates[best] if overlaps[best] >= OVERLAP else None


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline in pixels, positive inside, cut off at `REACH`; half-way between pixels is 0."""
    inside, outside = distance_to(~mask), distance_to(mask)
    return np.clip(np.where(mask, inside - 0.5, 0.5 - outside), -REACH, REACH)


def _centre(mask: np.ndarray) -> tuple[float, float]:
    x0, y0, x1, y1 = box_of(mask)
    moments = cv2.moments(np.ascontiguousarray(mask[y0:y1, x0:x1]).view(np.uint8), binaryImage=True)
    return x0 + moments["m10"] / moments["m00"], y0 + moments["m01"] / moments["m00"]
