"""Array functions of editing: where to crop, how a fill is feathered, colour-matched and pasted back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.masks import box_of
from nbhelpers.core.regions import fill_holes

COARSE = 1024  # cells a side, at most, of the map on which the parts of a mask are found
CONTEXT = 0.5  # of the longer side of what is filled: how much a crop shows around it, on each side
LARGEST_SHIFT = 64.0  # levels; a larger difference at the seam is another thing, not another light
SWEEPS = 16  # smoothing steps on the finest level of `membrane`; small levels cost nothing and get more
PINHOLE = 0.02  # of a mask's area: a smaller gap inside of it is taken for a fault of the segmenter
ROWS = 512  # rows blended at a time


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


def distance_to(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """For each pixel the distance in pixels to the nearest pixel of the mask; 0 inside, large where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.float32(1e6))
    return cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def dilate(mask: Bool[np.ndarray, "h w"], pixels: float) -> Bool[np.ndarray, "h w"]:
    """The mask, grown by a disc of that radius."""
    return distance_to(mask) <= pixels


def fill_pinholes(mask: Bool[np.ndarray, "h w"], share: float = PINHOLE) -> Bool[np.ndarray, "h w"]:
    """The mask without the small gaps that it encloses; the hole of a ring stays.

    Crumbs of an object left inside a hole would be taken for its surroundings by whatever fills it.
    """
    box = box_of(mask)
    if box is None:
        return mask
    out = mask.copy()
    inside = out[box[1] : box[3], box[0] : box[2]]
    inside[:] = fill_holes(inside, share * np.count_nonzero(inside))
    return out


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


def fit_square(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], side: int
) -> tuple[UInt8[np.ndarray, "side side 3"], Bool[np.ndarray, "side side"], tuple[int, int]]:
    """A picture of any size as a network that works on squares wants it: scaled, then continued by reflection.

    Returns:
        the picture, the mask (whatever it touched stays covered; the reflection is covered where it shows the hole)
        and the ``(height, width)`` of the part at the top left that shows the picture, for `unfit_square`.
    """
    scale = side / max(image.shape[:2])
    height, width = (min(side, max(1, round(length * scale))) for length in image.shape[:2])
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = image if scale == 1 else cv2.resize(image, (width, height), interpolation=kernel)
    # by the same kernel as the picture: no pixel that the hole's content bled into counts as known
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=kernel)
    edges = ((0, side - height), (0, side - width))
    return (
        np.pad(small, (*edges, (0, 0)), "symmetric"),
        np.pad(np.abs(share) > 1e-6, edges, "symmetric"),
        (height, width),
    )


def unfit_square(
    square: UInt8[np.ndarray, "side side 3"], inside: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of ``size`` ``(H, W)`` out of what a network made of a `fit_square`."""
    part = square[: inside[0], : inside[1]]
    if inside == size:
        return np.ascontiguousarray(part)
    kernel = cv2.INTER_AREA if size[0] < inside[0] else cv2.INTER_CUBIC
    return cv2.resize(part, size[::-1], interpolation=kernel)


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


def paste(
    target: UInt8[np.ndarray, "h w 3"],
    fill: UInt8[np.ndarray, "h w 3"],
    opacity: Float32[np.ndarray, "h w"],
    shift: Float32[np.ndarray, "sh sw 3"] | None = None,
) -> None:
    """Lay a fill over ``target``, in place; pixels of opacity 0 are not written, so they stay as they are.

    Args:
        target: changed in place; may be a view of a photo.
        fill: what is laid over.
        opacity: 0 to 1.
        shift: added to the fill, scaled up to its size; see `colour_shift`.
    """
    height, width = opacity.shape
    for top in range(0, height, ROWS):  # in strips: three float copies of a large crop would fill the memory
        rows = slice(top, min(top + ROWS, height))
        touched = opacity[rows] > 0
        if not touched.any():
            continue
        new = fill[rows].astype(np.float32)
        if shift is not None:
            new += _strip(shift, (height, width), rows)
        weight = opacity[rows][touched][:, None]
        mixed = weight * new[touched] + (1 - weight) * target[rows][touched]
        target[rows][touched] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _strip(shift: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
    """Some rows of ``shift``, enlarged to ``size``; half-pixel centres."""
    if shift.shape[:2] == size:
        return shift[rows]
    sx, sy = shift.shape[1] / size[1], shift.shape[0] / size[0]
    inverse = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, (rows.start + 0.5) * sy - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = (size[1], rows.stop - rows.start)
    return cv2.warpAffine(shift, inverse, enlarged, flags=flags, borderMode=cv2.BORDER_REPLICATE)
