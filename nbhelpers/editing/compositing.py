"""Where to crop a photo for an inpainter, how its fill is feathered, and matched in colour with its surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

COARSE = 1024  # cells a side, at most, of the map on which the parts of a mask are found
CONTEXT = 0.5  # of the longer side of what is filled: how much a crop shows around it, on each side
LARGEST_SHIFT = 64.0  # levels; a larger difference at the seam is another thing, not another light
SWEEPS = 16  # smoothing steps on the finest level of `membrane`; small levels cost nothing and get more


@dataclass(frozen=True, eq=False)
class Crop:
    """A window of a photo in which one or several parts of a mask are filled.

    Attributes:
        box: ``(x0, y0, x1, y1)`` of the window, ``x1`` and ``y1`` exclusive.
        part: ``(y1 - y0, x1 - x0) bool``, what is to be filled by way of this window.
    """

    box: tuple[int, int, int, int]
    part: Bool[np.ndarray, "h w"]

    @property
    def window(self) -> tuple[slice, slice]:
        """The index of the window: ``image[crop.window]`` is a view."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)


def feather(
    distance: Float32[np.ndarray, "h w"], grow: float, width: float, start: float = 0.0
) -> Float32[np.ndarray, "h w"]:
    """Opacity of a fill: 1 up to ``grow`` pixels from the mask, then a smooth fall to exactly 0 at ``grow + width``.

    Args:
        distance: from the mask, in pixels; see `distance_to`.
        grow: how far around the mask the fill is opaque, in pixels.
        width: of the fall, in pixels; 0 gives a hard edge.
        start: added to the distance, for a fall that begins inside.

    Source: the fall is the smoothstep ``t^2 (3 - 2 t)``.
    """
    if width <= 0:
        return (distance + start <= grow).astype(np.float32)
    t = np.clip((grow + width - distance - start) / width, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def crops(mask: Bool[np.ndarray, "h w"], side: int, margin: int, context: float = CONTEXT) -> Iterator[Crop]:
    """Windows in which a mask is filled: few, as small as useful, each part of the mask in exactly one.

    A window is a square around its parts that shows ``context`` of their size on each side, and not less than
    ``side`` pixels where the photo has them, so that a model that works at ``side`` loses no detail. Parts go
    together as long as the window need not grow for it.

    Example:
        >>> [crop.box for crop in crops(mask, side=512, margin=8)]         # a small object in a 6000 x 9000 photo
        [(2740, 4100, 3252, 4612)]

    Args:
        mask: what is to be filled; only its coarse outline is looked at, so a large photo costs little.
        side: working size of the model, in pixels.
        margin: pixels around the mask that are filled too.
        context: see `CONTEXT`.

    Yields:
        the window of the largest part first.
    """
    step = -(-max(mask.shape) // COARSE)
    rows, columns = np.arange(0, mask.shape[0], step), np.arange(0, mask.shape[1], step)
    coarse = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, 0), columns, 1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(coarse.astype(np.uint8), connectivity=8)
    groups: list[tuple[np.ndarray, list[int]]] = []
    for label in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable"):
        x, y, width, height = stats[label, :4] * step
        box = np.array([x - margin, y - margin, x + width + margin, y + height + margin])
        for number, (other, members) in enumerate(groups):
            joint = np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
            if _length(joint, side, context) <= _length(other, side, context):
                groups[number] = joint, [*members, label]
                break
        else:
            groups.append((box, [label]))
    for box, members in groups:
        x0, y0, x1, y1 = window = _window(box, mask.shape, _length(box, side, context))
        mine = np.isin(labels, members)
        here = mine[np.ix_(np.arange(y0, y1) // step, np.arange(x0, x1) // step)]
        yield Crop(window, mask[y0:y1, x0:x1] & here)


def _length(box: np.ndarray, side: int, context: float) -> int:
    return max(side, int(np.ceil((1 + 2 * context) * max(box[2] - box[0], box[3] - box[1]))))


def _window(box: np.ndarray, size: tuple[int, int], length: int) -> tuple[int, int, int, int]:
    """A square of ``length`` around the middle of the box, pushed and cut into the photo."""
    spans = []
    for low, high, limit in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        start = min(max(0, int(low + high - length) // 2), max(0, limit - length))
        spans.append((start, min(start + length, limit)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def membrane(values: Float32[np.ndarray, "h w c"], known: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w c"]:
    """Known values, continued everywhere else as smoothly as can be (Laplace's equation), coarse to fine.

    A ramp that is known around a hole comes out as that ramp, within a few hundredths of its rise over the hole.
    Nothing known gives 0.

    Source: the membrane of Poisson image editing (Perez et al. 2003, section 2), solved by pull-push (Gortler et al.
    1996, section 3.4) with relaxation on each level. OpenCV's ``seamlessClone`` is not used: it solves on the
    mask's whole box, changes what lies outside the mask, and cannot take a mask at the picture's border.
    """
    if not known.any():
        return np.zeros_like(values)
    if known.all():
        return values
    weights = known.astype(np.float32)[:, :, None]
    size = (known.shape[1] + 1) // 2, (known.shape[0] + 1) // 2
    share = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)[:, :, None]
    mean = _layers(cv2.resize(values * weights, size, interpolation=cv2.INTER_AREA), values.shape[2])
    coarse = membrane(mean / np.maximum(share, 1e-6), share[:, :, 0] > 0)
    guess = _layers(cv2.resize(coarse, known.shape[::-1], interpolation=cv2.INTER_LINEAR), values.shape[2])
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    for _ in range(max(SWEEPS, 2048 // max(known.shape))):
        guess = np.where(known[:, :, None], values, guess)
        guess = _layers(cv2.filter2D(guess, -1, cross, borderType=cv2.BORDER_REFLECT), values.shape[2])
    return np.where(known[:, :, None], values, guess).astype(np.float32)


def _layers(array: np.ndarray, count: int) -> np.ndarray:
    """OpenCV drops a last axis of 1."""
    return array.reshape(*array.shape[:2], count)


def colour_shift(
    original: UInt8[np.ndarray, "h w 3"],
    fill: UInt8[np.ndarray, "h w 3"],
    known: Bool[np.ndarray, "h w"],
    side: int = 512,
) -> Float32[np.ndarray, "sh sw 3"]:
    """What must be added to a fill for its light and colour to agree with the original where that is known.

    Args:
        original: the photo.
        fill: the same place as a model painted it.
        known: where the two can be compared, e.g. a band along the seam.
        side: the shift is smooth, so it is computed at no more pixels a side than this.

    Returns:
        levels, at most `LARGEST_SHIFT` either way; smaller than the photo where that is larger than ``side``.
    """
    height, width = (max(1, round(length * min(1, side / max(known.shape)))) for length in known.shape)
    size, seen = (width, height), np.ascontiguousarray(known).view(np.uint8)
    weight = _layers(cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA), 1)
    difference = np.empty((height, width, 3), np.float32)
    for channel in range(3):  # one at a time, and only where known: the other pixels must not be mixed in
        layer = cv2.subtract(original[:, :, channel], fill[:, :, channel], mask=seen, dtype=cv2.CV_32F)
        difference[:, :, channel] = cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
    # over a few pixels along the seam, so that the grain of a texture is not taken for a colour
    sigma = max(height, width) / 100
    blurred = cv2.GaussianBlur(difference, (0, 0), sigma)
    share = _layers(cv2.GaussianBlur(weight, (0, 0), sigma), 1)
    mean = np.clip(blurred / np.maximum(share, 1e-6), -LARGEST_SHIFT, LARGEST_SHIFT)
    return membrane(mean, weight[:, :, 0] > 0)
