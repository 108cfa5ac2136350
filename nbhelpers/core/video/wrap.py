"""The seam of equirectangular pictures: columns added from the other side, and masks folded back.

A panorama's left and right edges meet. With columns of the other side added, an object on the seam is whole, and
tracking goes on across it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError


def wrap_columns(picture: UInt8[np.ndarray, "h w c"], wrap: int) -> UInt8[np.ndarray, "h w2 c"]:
    """The picture ``(H, W, c)`` with ``wrap`` columns of the other side at each edge: ``(H, W + 2 wrap, c)``."""
    width = picture.shape[1]
    wrap = check_wrap(wrap, width)
    return np.concatenate([picture[:, width - wrap :], picture, picture[:, :wrap]], axis=1) if wrap else picture


def wrap_mask(mask: Bool[np.ndarray, "h w"], wrap: int) -> Bool[np.ndarray, "h w2"]:
    """A mask of the original picture as a mask of the wrapped one, e.g. to be used as a prompt."""
    return wrap_columns(mask[:, :, None].view(np.uint8), wrap)[:, :, 0].view(bool)


def fold_wrap(mask: Bool[np.ndarray, "h w2"], wrap: int) -> Bool[np.ndarray, "h w"]:
    """A mask ``(H, W + 2 wrap)`` of a wrapped picture back at ``(H, W)``: what either copy of a column covers.

    Example:
        >>> fold_wrap(np.array([[True, False, False, False, False, False]]), 1)
        array([[False, False, False,  True]])

    Raises:
        NbHelpersError: the mask is too narrow to be of a picture wrapped so.
    """
    width = mask.shape[1] - 2 * wrap
    if wrap < 0 or width < max(wrap, 1):
        raise NbHelpersError("the mask is not of a picture wrapped so", given=f"width {mask.shape[1]}, wrap {wrap}")
    if not wrap:
        return mask
    folded = mask[:, wrap:-wrap].copy()
    folded[:, width - wrap :] |= mask[:, :wrap]
    folded[:, :wrap] |= mask[:, -wrap:]
    return folded


def check_wrap(wrap: int, width: int) -> int:
    """Return ``wrap`` if a picture of that width has so many columns to give.

    Raises:
        NbHelpersError: it has not.
    """
    if not 0 <= wrap <= width:
        raise NbHelpersError(
            "so many columns cannot be wrapped", given=wrap, expected=f"0 to {width}, the width of a frame"
        )
    return wrap
