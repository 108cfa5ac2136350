"""RGBA whose colours go on under the edge of the matte, so that resizing brings no dark fringe."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of
from nbhelpers.core.mattes import full_of

REACH = 64  # pixels around the matte with colours of the nearby edge; beyond, one colour, which makes files small
SOLID = 0.9  # opacity from which a pixel shows the object alone
STRIP = 1024  # rows that are mixed at a time

Picture = Shaped[np.ndarray, "h w 3"]


def straight_rgba(image: Picture, alpha: Shaped[np.ndarray, "h w"], reach: int = REACH) -> Shaped[np.ndarray, "h w 4"]:
    """The picture with straight (unpremultiplied) alpha and colours bled outward.

    Fully opaque pixels keep their colours exactly. Transparent ones get those of the object nearby, and in between
    the two are mixed, since a soft edge shows the background too, which would stay as a halo.

    Example:
        >>> straight_rgba(image, make_matte(mask, settings)).shape
        (480, 640, 4)

    Args:
        image: RGB, ``uint8`` or ``uint16``.
        alpha: matte of the same size and type.
        reach: how far colours are bled, in pixels; farther out is the object's mean colour.

    Raises:
        NbHelpersError: sizes or types differ.
    """
    full = _check(image, alpha)
    box = box_of(alpha > 0)
    if box is None:
        return np.zeros((*alpha.shape, 4), image.dtype)
    solid = alpha.dtype.type(round(SOLID * int(full)))
    inside = alpha[box[1] : box[3], box[0] : box[2]]
    if inside.max() < solid:  # a matte that is nowhere solid: its strongest part must do
        solid = inside.max()
    rows = slice(max(0, box[1] - reach), box[3] + reach)
    columns = slice(max(0, box[0] - reach), box[2] + reach)
    near, opacity = image[rows, columns], alpha[rows, columns]
    coarse, mean = _coarse(near, opacity >= solid)
    out = _flat(alpha.shape, mean, image.dtype)
    target = out[rows, columns]
    for top in range(0, len(near), STRIP):  # in strips: a large picture must not be held many times over
        part = slice(top, top + STRIP)
        own, share = near[part], opacity[part]
        colours = _enlarged(coarse, top, share.shape)
        cv2.copyTo(own, (share == full).view(np.uint8), colours)
        soft = (share > 0) & (share < full)
        if soft.any():
            weight = share[soft].astype(np.float32)[:, None] / np.float32(full)
            filled = colours[soft]
            colours[soft] = np.rint(weight * own[soft] + (1 - weight) * filled)
        cv2.mixChannels([colours, np.ascontiguousarray(share)], [target[part]], [0, 0, 1, 1, 2, 2, 3, 3])
    return out


def premultiplied_rgba(image: Picture, alpha: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h w 4"]:
    """The picture with its colours multiplied by alpha, black where transparent; arguments as of `straight_rgba`."""
    full = int(_check(image, alpha))
    out = np.empty((*alpha.shape, 4), image.dtype)
    for top in range(0, len(alpha), STRIP):  # in strips: the products take twice or four times the room
        rows = slice(top, top + STRIP)
        product = image[rows].astype(np.uint32) * alpha[rows, :, None]
        out[rows, :, :3] = (product + full // 2) // full
    out[:, :, 3] = alpha
    return out


def fill_outward(image: Picture, known: Bool[np.ndarray, "h w"]) -> tuple[Picture, Shaped[np.ndarray, " 3"]]:
    """The picture with what is not known filled smoothly from what is, and the mean of what is known.

    Args:
        image: RGB, ``uint8`` or ``uint16``; not changed.
        known: which pixels count; some must.

    Source: pull-push (Gortler, Grzeszczuk, Szeliski and Cohen, "The Lumigraph", SIGGRAPH 1996, section 3.4), with
    weights of 0 and 1.
    """
    if known.all():
        return image.copy(), np.array(cv2.mean(image)[:3])
    coarse, mean = _coarse(image, known)
    filled = _enlarged(coarse, 0, known.shape)
    cv2.copyTo(image, known.view(np.uint8), filled)
    return filled, mean


def _coarse(image: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The filled picture at half the size, rounded up, and the mean."""
    bottom, right = (length % 2 for length in known.shape)
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        known = np.pad(known, ((0, bottom), (0, right)))
    small = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    count = sum(known[i::2, j::2].view(np.uint8) for i in (0, 1) for j in (0, 1))
    # only where some of four are known their plain mean is wrong, and such places are few
    rows, columns = np.nonzero((count > 0) & (count < 4))
    total = np.zeros((len(rows), 3), np.uint32)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += image[2 * rows + i, 2 * columns + j] * known[2 * rows + i, 2 * columns + j, None].astype(np.uint32)
    share = count[rows, columns, None].astype(np.uint32)
    small[rows, columns] = (total + share // 2) // share
    return fill_outward(small, count > 0)


def _enlarged(coarse: np.ndarray, top: int, size: tuple[int, int]) -> np.ndarray:
    """Rows of the picture of which ``coarse`` is half the size: ``size`` of them, from an even ``top``."""
    first = max(0, top // 2 - 1)
    part = coarse[first : (top + size[0] + 1) // 2 + 1]
    double = cv2.resize(part, (2 * part.shape[1], 2 * part.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(double[top - 2 * first :][: size[0], : size[1]])


def _flat(size: tuple[int, int], colour: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A transparent RGBA picture of one colour, written a whole pixel at a time."""
    pixel = np.zeros(4, dtype)
    pixel[:3] = np.rint(colour)
    return np.full(size, pixel.view(np.uint32 if dtype == np.uint8 else np.uint64)[0]).view(dtype).reshape(*size, 4)


def _check(image: np.ndarray, alpha: np.ndarray) -> np.generic:
    if image.shape[:2] != alpha.shape or image.dtype != alpha.dtype:
        raise NbHelpersError(
            "the matte does not fit the picture",
            given=f"{alpha.shape} {alpha.dtype}",
            expected=f"{image.shape[:2]} {image.dtype}",
        )
    return full_of(alpha.dtype)
