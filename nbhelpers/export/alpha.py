"""Masks and cut-outs as picture files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image


def cutout(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mask_h mask_w"], margin: int | None = 16
) -> UInt8[np.ndarray, "h w 4"]:
    """The photo with straight (not premultiplied) alpha: 255 inside the mask, 0 outside.

    Example:
        >>> cutout(image, mask).shape
        (480, 640, 4)

    Args:
        image: RGB.
        mask: what stays.
        margin: colours are kept so many pixels around the mask, that a program which scales or feathers the
            cut-out finds no dark fringe; beyond they are 0, which makes files small. None keeps all.

    Raises:
        NbHelpersError: image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise NbHelpersError(
            "the mask has another size than the image", given=mask.shape, expected=str(image.shape[:2])
        )
    inside = mask.astype(np.uint8)
    out = np.empty((*mask.shape, 4), np.uint8)
    out[:, :, :3] = image
    out[:, :, 3] = inside * 255
    if margin is not None:
        out[:, :, :3] *= cv2.dilate(inside, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))[:, :, None]
    return out


def save_mask(path: str | Path, mask: Bool[np.ndarray, "h w"]) -> Path:
    """Write a mask as a grey PNG, 255 inside and 0 outside; return the path."""
    return save_image(_png(path), mask.astype(np.uint8) * 255)


def save_cutout(path: str | Path, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mask_h mask_w"]) -> Path:
    """Write a `cutout` as an RGBA PNG; return the path."""
    return save_image(_png(path), cutout(image, mask))


def _png(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise NbHelpersError("masks and cut-outs are written without loss", given=path, expected="a name in .png")
    return path
