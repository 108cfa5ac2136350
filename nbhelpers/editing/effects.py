"""Edits without a model: blacken, colour, blur, replace the background, cut out.

Every edit takes ``image (H, W, 3) uint8`` RGB and ``mask (H, W) bool`` and returns a new image of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import paste
from nbhelpers.core.masks import box_of, distance_to

BLUR = 1 / 40  # of the photo's longer side: sigma of `blur`

Image = UInt8[np.ndarray, "h w 3"]
Mask = Shaped[np.ndarray, "mask_h mask_w"]


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
