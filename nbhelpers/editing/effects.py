"""Edits without a model: blacken, colour, blur, replace the background, cut out; and compositing of inpainted crops.

Every edit takes ``image (H, W, 3) uint8`` RGB and ``mask (H, W) bool`` and returns a new image of the same size.
Compositing gives windows for the inpainter, feathering and colour matching.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import paste
from nbhelpers.core.masks import box_of, distance_to

BLUR = 1 / 40  # of the photo's longer side: sigma of `blur`

Image = UInt8[np.ndarray, "h w 3"]
Mask = Shaped[np.ndarray, "mask_h mask_w"]
COARSE = 1024  # maximum cells per side of the map on which the components of a mask are found
CONTEXT = 0.5  # surroundings on each side of a crop, as a fraction of the longer side of the filled area
LARGEST_SHIFT = 64.0  # levels; a larger difference at the seam is not due to lighting
SWEEPS = 16  # smoothing steps on the finest level of `membrane`; coarser levels get more


def checked(image: Image, mask: Mask, empty: str | None = None) -> Bool[np.ndarray, "h w"]:
    """The mask, checked against the photo.

    Args:
        image: RGB.
        mask: the object.
        empty: error message for an empty mask; None if that is allowed.

    Raises:
        NbHelpersError: another size than the photo, not bool, or empty.
    """
    if mask.shape != image.shape[:2]:
        raise NbHelpersError("the mask and the image differ in size", given=mask.shape, expected=str(image.shape[:2]))
    if mask.dtype != np.bool_:
        raise NbHelpersError("a mask must be boolean", given=mask.dtype, expected="bool", do="mask > 0")
    if empty is not None and not mask.any():
        raise NbHelpersError(empty, do="click on the object first, or lower the confidence")
    return mask


def blacken(image: Image, mask: Mask) -> Image:
    """Set the object to black."""
    return colour(image, mask, (0, 0, 0))


def white_on_black(image: Image, mask: Mask) -> Image:
    """The mask of the object as an image, white on black."""
    return np.repeat(checked(image, mask).astype(np.uint8)[:, :, None] * 255, 3, axis=2)


def colour(image: Image, mask: Mask, rgb: Sequence[int], opacity: float = 1.0, keep_light: bool = False) -> Image:
    """Colour the object.

    Args:
        image: RGB.
        mask: the object.
        rgb: red, green and blue, 0 to 255.
        opacity: 0 leaves the photo, 1 covers it.
        keep_light: preserve the object's lightness (L of CIELAB) and thereby its shading.
    """
    mask = checked(image, mask)
    if len(rgb) != 3 or not all(0 <= level <= 255 for level in rgb):
        raise NbHelpersError("the colour is out of range", given=tuple(rgb), expected="(red, green, blue), 0 to 255")
    if not 0 <= opacity <= 1:
        raise NbHelpersError("the opacity is out of range", given=opacity, expected="0 to 1")
    out = image.copy()
    new = np.full((np.count_nonzero(mask), 3), np.asarray(rgb, np.float32))
    if keep_light and len(new):
        lab = cv2.cvtColor(image[mask][:, None], cv2.COLOR_RGB2LAB)
        lab[:, :, 1:] = cv2.cvtColor(np.array([[rgb]], np.uint8), cv2.COLOR_RGB2LAB)[:, :, 1:]
        new = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[:, 0].astype(np.float32)
    out[mask] = np.rint(opacity * new + (1 - opacity) * image[mask]).astype(np.uint8)
    return out


def blur(image: Image, mask: Mask, sigma: float | None = None) -> Image:
    """Blur the object, or with ``~mask`` the background.

    Pixels outside the mask are not averaged in, so that a sharp object leaves no halo in a blurred background.

    Args:
        image: RGB.
        mask: the area to blur.
        sigma: in pixels; by default 1/40 of the photo's longer side.

    Source: a Gaussian by three box blurs (Wells 1986), as normalized convolution (Knutsson and Westin 1993).
    """
    mask = checked(image, mask)
    sigma = max(1.0, max(mask.shape) * BLUR) if sigma is None else sigma
    if not sigma > 0:
        raise NbHelpersError("sigma is out of range", given=sigma, expected="sigma above 0, in pixels")
    out = image.copy()
    box = box_of(mask)
    if box is None:
        return out
    window = slice(box[1], box[3]), slice(box[0], box[2])
    inside = mask[window]
    width = max(1, round(math.sqrt(4 * sigma**2 + 1))) | 1
    weight = np.maximum(_box_blurs(inside.astype(np.float32), width), 1e-6)
    for channel in range(3):  # one at a time, to bound the memory
        level = out[window][:, :, channel]
        soft = _box_blurs(np.where(inside, level, 0).astype(np.float32), width) / weight
        level[inside] = np.clip(np.rint(soft[inside]), 0, 255).astype(np.uint8)
    return out


def swap_background(
    image: Image, mask: Mask, background: UInt8[np.ndarray, "bh bw 3"] | Sequence[int], feather: float = 1.5
) -> Image:
    """Replace the background.

    Args:
        image: RGB.
        mask: the object.
        background: an image of any size, scaled and centre-cropped to cover the photo; or a colour.
        feather: pixels over which the edge of the object fades, inside the mask, so that no old background shows.
    """
    mask = checked(image, mask)
    if not isinstance(background, np.ndarray):
        behind = colour(image, np.ones_like(mask), background)
    else:
        behind = _cover(background, mask.shape)
    paste(behind, image, _soft(mask, feather))
    return behind


def cut_out(image: Image, mask: Mask, feather: float = 1.5) -> UInt8[np.ndarray, "h w 4"]:
    """The object as RGBA with straight alpha, transparent elsewhere; write it as PNG.

    Args:
        image: RGB.
        mask: the object.
        feather: pixels over which the edge of the object fades, inside the mask; 0 for a hard edge.
    """
    mask = checked(image, mask)
    return np.dstack([image, np.rint(255 * _soft(mask, feather)).astype(np.uint8)])


def _box_blurs(array: np.ndarray, width: int) -> np.ndarray:
    for _ in range(3):
        array = cv2.blur(array, (width, width), borderType=cv2.BORDER_REFLECT)
    return array


def _soft(mask: np.ndarray, feather: float) -> np.ndarray:
    """Opacity that decreases towards the edge, inside the mask; the border of the photo is not an edge."""
    if feather <= 0:
        return mask.astype(np.float32)
    depth = distance_to(~mask)
    return np.where(mask, np.clip(depth / (feather + 1), 0, 1), 0).astype(np.float32)


def _cover(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scale = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
    width, height = (max(low, round(n * scale)) for n, low in zip(picture.shape[1::-1], size[::-1], strict=True))
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    enlarged = cv2.resize(picture, (width, height), interpolation=kernel)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return np.ascontiguousarray(enlarged[top : top + size[0], left : left + size[1]])


@dataclass(frozen=True, eq=False)
class Crop:
    """A window of a photo in which one or several components of a mask are filled.

    Attributes:
        box: ``(x0, y0, x1, y1)`` of the window, ``x1`` and ``y1`` exclusive.
        part: ``(y1 - y0, x1 - x0) bool``, the area to fill from this window.
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
    """Opacity of a fill: 1 up to ``grow`` pixels from the mask, decreasing smoothly to exactly 0 at ``grow + width``.

    Args:
        distance: from the mask, in pixels; see `distance_to`.
        grow: pixels around the mask in which the fill is opaque.
        width: of the transition, in pixels; 0 for a hard edge.
        start: added to the distance, for a transition that starts inside the mask.

    Source: the transition is the smoothstep ``t^2 (3 - 2 t)``.
    """
    if width <= 0:
        return (distance + start <= grow).astype(np.float32)
    t = np.clip((grow + width - distance - start) / width, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def crops(mask: Bool[np.ndarray, "h w"], side: int, margin: int, context: float = CONTEXT) -> Iterator[Crop]:
    """Windows in which a mask is filled: few and small, with each component of the mask in exactly one.

    A window is a square around its components with ``context`` of their size on each side, and at least ``side`` pixels
    if the photo is large enough, so that a model with input size ``side`` loses no detail. Components total a window as
    long as it does not have to grow.

    Example:
        >>> [crop.box for crop in crops(mask, side=512, margin=8)]         # a small object in a 6000 x 9000 photo
        [(2740, 4100, 3252, 4612)]

    Args:
        mask: the area to fill; only its coarse outline is used, so large photos are fast.
        side: input size of the model, in pixels.
        margin: pixels around the mask that are filled too.
        context: see `CONTEXT`.

    Yields:
        the windows, that of the largest component first.
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
    """A square of ``length`` around the centre of the box, shifted into the photo and clipped."""
    spans = []
    for low, high, limit in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        start = min(max(0, int(low + high - length) // 2), max(0, limit - length))
        spans.append((start, min(start + length, limit)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def membrane(values: Float32[np.ndarray, "h w c"], known: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w c"]:
    """Smooth interpolation of known values (Laplace's equation), coarse to fine.

    A ramp that is known around a hole is continued with an error of a few percent of its rise over the hole. Without
    known values the result is 0.

    Source: the membrane of Poisson image editing (Perez et al. 2003, section 2), solved by pull-push (Gortler et al.
    1996, section 3.4) with relaxation on each level. OpenCV's ``seamlessClone`` is not used: it solves on the
    mask's whole box, changes pixels outside the mask, and does not support masks at the border of the image.
    """
    if not known.any():
        return np.zeros_like(values)
    if known.all():
        return values
    weights = known.astype(np.float32)[:, :, None]
    size = (known.shape[1] + 1) // 2, (known.shape[0] + 1) // 2
    total = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)[:, :, None]
    mean = _layers(cv2.resize(values * weights, size, interpolation=cv2.INTER_AREA), values.shape[2])
    coarse = membrane(mean / np.maximum(total, 1e-6), total[:, :, 0] > 0)
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
    """The smooth colour correction of a fill that makes it match the original where that is known.

    Args:
        original: the photo.
        fill: the output of a model for the same window.
        known: where the two can be compared, e.g. a band along the seam.
        side: maximum resolution at which the shift is computed, in pixels per side.

    Returns:
        Levels to add, at most `LARGEST_SHIFT` in magnitude; at most ``side`` pixels per side.
    """
    height, width = (max(1, round(length * min(1, side / max(known.shape)))) for length in known.shape)
    size, seen = (width, height), np.ascontiguousarray(known).view(np.uint8)
    weight = _layers(cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA), 1)
    difference = np.empty((height, width, 3), np.float32)
    for channel in range(3):  # one at a time, and only known pixels
        layer = cv2.subtract(original[:, :, channel], fill[:, :, channel], mask=seen, dtype=cv2.CV_32F)
        difference[:, :, channel] = cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
    # averaged over a few pixels along the seam, to suppress texture
    sigma = max(height, width) / 100
    blurred = cv2.GaussianBlur(difference, (0, 0), sigma)
    total = _layers(cv2.GaussianBlur(weight, (0, 0), sigma), 1)
    mean = np.clip(blurred / np.maximum(total, 1e-6), -LARGEST_SHIFT, LARGEST_SHIFT)
    return membrane(mean, weight[:, :, 0] > 0)
