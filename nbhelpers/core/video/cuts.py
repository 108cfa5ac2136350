"""Where one shot of a clip ends and the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.images import fit

LONGEST = 96  # pixels of the longer side at which frames are compared
BINS = [16, 8, 8]  # of hue, saturation and value
AROUND = 8  # frames on each side whose median change is the usual one
MIN_CHANGE, MIN_RATIO = 0.3, 3.0  # of a cut: fraction of the colours that change, and how many times the usual
STILL = 0.02  # added to what is usual, so that a still shot does not make every flicker a cut


def find_cuts(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], progress: Callable[[int], object] | None = None
) -> list[int]:
    """The frames at which a new shot seems to begin: where to split a clip before tracking. One pass, few bytes kept.

    Example:
        >>> find_cuts(Frames("bikes.mp4"))
        [30, 76, 137, 187, 242]

    A cut is a peak of the change between neighbours that stands out from the frames around it, in colours as well as
    in brightness at each place: so fast motion, which lasts for a while, is none. Slow fades are not found.

    Args:
        frames: the clip, or any part of it.
        progress: called with the index of each frame that was decoded.
    """
    colours, places, last = [], [], None
    for number, frame in enumerate(frames):
        here = _descriptors(frame)
        if last is not None:
            colours.append(1 - np.minimum(here[0], last[0]).sum())
            places.append(np.abs(here[1] - last[1]).mean() / 255)
        last = here
        if progress is not None:
            progress(number)
    changed, moved = np.array(colours), np.array(places)
    is_peak = (_against_usual(changed) > MIN_RATIO) & (_against_usual(moved) > MIN_RATIO / 2)
    found: list[int] = []
    for index in np.flatnonzero(is_peak & (changed > MIN_CHANGE)):
        near = slice(max(0, index - 2), index + 3)  # a cut through a blended frame is one cut
        if changed[index] == changed[near].max() and (not found or index + 1 - found[-1] > 2):
            found.append(int(index) + 1)
    return found


def _descriptors(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour histogram and small grey copy of a frame."""
    small = fit(frame, LONGEST)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel()
    return histogram / histogram.sum(), cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _against_usual(change: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Each change over the median of those around it."""
    usual = [
        np.median(
            np.concatenate([change[max(0, i - AROUND) : i], change[i + 1 : i + 1 + AROUND], [0] * (len(change) < 3)])
        )
        for i in range(len(change))
    ]
    return change / (np.array(usual) + STILL)
