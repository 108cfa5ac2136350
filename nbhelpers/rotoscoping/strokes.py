"""Brush strokes over masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool

from nbhelpers.core.promptevents import Stroke

SHIFT = 4  # binary digits behind the point that OpenCV draws with


def paint(mask: Bool[np.ndarray, "h w"], strokes: Sequence[Stroke]) -> Bool[np.ndarray, "h w"]:
    """The mask with strokes painted over it, in their order; what leaves the frame is cut off.

    Example:
        >>> paint(mask, [Stroke(points=((10, 10), (60, 10)), radius=5)]).shape
        (480, 640)
    """
    canvas = mask.astype(np.uint8, order="C")
    for stroke in strokes:
        colour = 0 if stroke.erase else 1
        # the line is rounded to whole pixels of width, so discs of the true radius are set along it
        points = np.round(np.asarray(stroke.points) * 2**SHIFT).astype(np.int32)
        radius = round(stroke.radius * 2**SHIFT)
        for x, y in points:
            cv2.circle(canvas, (int(x), int(y)), radius, colour, cv2.FILLED, cv2.LINE_8, SHIFT)
        for a, b in pairwise(points):
            cv2.fillConvexPoly(canvas, _band(a, b, radius), colour, cv2.LINE_8, SHIFT)
    return canvas.view(np.bool_)


def _band(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """The four corners of what a brush covers between two places, its round ends left out."""
    along = (b - a).astype(np.float64)
    length = np.hypot(*along)
    across = np.array([-along[1], along[0]]) / (length or 1) * radius
    return np.round([a + across, b + across, b - across, a - across]).astype(np.int32)
