"""Windows of a clip's frames around an object that is small or has thin parts, encoded at their own resolution.

SAM 2 resizes a frame of any size to one square, so a small object covers few cells of its features. A window around it
covers more: its features vote, and its decoder predicts the mask (`LabelPropagation` with ``windows``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers.core.masks import box_of, contour

EXTENTS, MIN_EXTENTS = 2.0, 1.3  # side of a window, in extents of the object, and the least of it
MIN_SIDE = 128  # pixels: a smaller window shows no more
MAX_SIDE = 0.8  # of the frame's shorter side
FINER = 2  # cells of a mask from a window for one of the decoder's grid: thin parts are narrower than its cells
MAX_THICKNESS = 8.0  # of an object that needs windows, in cells of the decoder's grid: two of the coarsest features


@dataclass(frozen=True)
class Window:
    """A square part of a frame, in pixels."""

    left: int
    top: int
    side: int

    def cut(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "a a 3"]:
        """The part of an image."""
        return np.ascontiguousarray(image[self._rows, self._columns])

    def cut_map(self, values: Float[np.ndarray, "h w"], size: tuple[int, int], side: int) -> Float32[np.ndarray, "s s"]:
        """The part of a map over a frame of ``size``, as a map of ``side`` cells over the window."""
        whole = cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        return _resize(whole[self._rows, self._columns], (side, side))

    def paste_map(
        self, part: Float[np.ndarray, "s s"], values: Float[np.ndarray, "a a"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "b b"]:
        """A map over a frame of ``size``, `FINER` than ``part``, which replaces ``values`` inside of the window."""
        whole = cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        whole[self._rows, self._columns] = _resize(part.astype(np.float32), (self.side, self.side))
        return _resize(whole, (FINER * len(part), FINER * len(part)))

    def cut_points(self, points: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"] | None:
        """Points ``(x, y)`` of the frame in pixels of the window; None if one lies outside of it."""
        moved = points - np.array([self.left, self.top], np.float32)
        return moved if ((moved >= -0.5) & (moved <= self.side - 0.5)).all() else None

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.side)

    @property
    def _columns(self) -> slice:
        return slice(self.left, self.left + self.side)


def thickness(mask: Bool[np.ndarray, "s s"]) -> float:
    """Mean width of a mask's parts in cells: twice its area by the length of its contour."""
    return 2 * np.count_nonzero(mask) / max(1, np.count_nonzero(contour(mask)))


def window_around(
    mask: Bool[np.ndarray, "s s"], others: Iterable[Bool[np.ndarray, "s s"]], size: tuple[int, int]
) -> Window | None:
    """A window around an object, twice as large as its largest extent, or less if the frame is not large enough.

    Args:
        mask: of the object on the frame, on the decoder's grid.
        others: its masks on other frames: the window is large enough for each.
        size: ``(H, W)`` of the frame.

    Returns:
        None if the mask is empty, or so large that a window would show hardly less than the frame does.
    """
    scale = np.array(size[::-1]) / mask.shape[0]
    boxes = [np.array(box).reshape(2, 2) * scale for each in (mask, *others) if (box := box_of(each)) is not None]
    if not mask.any():
        return None
    extent = max(float((high - low).max()) for low, high in boxes)
    side = round(min(max(EXTENTS * extent, MIN_SIDE), MAX_SIDE * min(size)))
    if side < max(MIN_EXTENTS * extent, MIN_SIDE):
        return None
    left, top = np.clip(np.rint(boxes[0].mean(0) - side / 2).astype(int), 0, np.array(size[::-1]) - side).tolist()
    return Window(left, top, side)


def _resize(values: Float32[np.ndarray, "h w"], shape: tuple[int, int]) -> Float32[np.ndarray, "a b"]:
    """Area means for fewer cells, bilinear for more."""
    mode = cv2.INTER_AREA if shape[0] < values.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(values, shape[::-1], interpolation=mode)
