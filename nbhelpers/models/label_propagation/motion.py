"""What moves together with a clicked part: a click on a rider means the bicycle too.

A single click fits a part as well as the whole (Kirillov et al. 2023, arXiv 2304.02643, section 3). In a clip the
next frame tells: what belongs together moves together against the background (common fate).
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.regions import components, deepest_points

SIDE = 854  # frames are made so small before their motion is estimated
SPACING = 8  # pixels between the samples that tell the background's motion
NEAR = 15  # pixels around the part that are not taken for background
LEAST = 2.0  # pixels: a smaller motion against the background says nothing
OPENING = 5  # pixels: thinner strips are the flow's own blur


def moving_along(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """What touches a part and moves as it does, the part itself included; the part alone where nothing can be told.

    The background's motion is one affine map (RANSAC over the optical flow outside the part). A pixel moves along
    when its motion against the background is nearer to the part's median motion than half of that motion is long.

    Args:
        frame: RGB.
        other: a neighbouring frame.
        mask: the part in ``frame``.
    """
    height, width = mask.shape
    scale = min(1.0, SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = cv2.resize(mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST).astype(bool)
    motion = _against_background(*(cv2.resize(i, small, interpolation=cv2.INTER_AREA) for i in (frame, other)), part)
    if motion is None or not part.any():
        return mask
    own = np.median(motion[part], axis=0)
    speed = float(np.linalg.norm(own))
    if speed < LEAST:
        return mask
    along = np.linalg.norm(motion - own, axis=2) < speed / 2
    regions = components(along | part)
    touching = np.isin(regions, np.unique(regions[part]))
    strips = cv2.morphologyEx((touching & along).astype(np.uint8), cv2.MORPH_OPEN, np.ones((OPENING, OPENING)))
    return mask | cv2.resize(strips, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def point_beside(region: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], least: float) -> np.ndarray | None:
    """The deepest ``(x, y)`` of a region outside a mask; None where less than ``least`` of the mask's area is left."""
    rest = region & ~mask
    if np.count_nonzero(rest) < least * np.count_nonzero(mask):
        return None
    points = deepest_points(rest, 1, 1)
    return points[0] if len(points) else None


def _against_background(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], part: Bool[np.ndarray, "h w"]
) -> np.ndarray | None:
    """``(h, w, 2)`` optical flow less the background's; None where there is no background to tell."""
    height, width = part.shape
    if min(height, width) < 4 * SPACING:
        return None
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (frame, other)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    rows, columns = np.mgrid[0:height:SPACING, 0:width:SPACING]
    around = cv2.dilate(part.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2)).astype(bool)
    outside = ~around[rows, columns]
    if np.count_nonzero(outside) < 3:
        return None
    start = np.stack([columns, rows], -1)[outside].astype(np.float32)
    affine, _ = cv2.estimateAffine2D(start, start + flow[rows, columns][outside], ransacReprojThreshold=1.0)
    if affine is None:
        return None
    y, x = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack([x, y], -1)
    return flow - (places @ affine[:, :2].T + affine[:, 2] - places)
