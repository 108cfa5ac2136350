"""A decoded video frame as it is meant to be seen: RGB, turned, without alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.images import load_image

if TYPE_CHECKING:
    import av


def picture_of(frame: av.VideoFrame, matrix: Float[np.ndarray, "2 2"] | None) -> UInt8[np.ndarray, "h w 3"]:
    """The frame as ``(H, W, 3)`` RGB, turned by its `display_matrix`; what is transparent lies over white."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    picture = frame.to_ndarray(format="rgba" if has_alpha else "rgb24")
    return load_image(_turned(picture, matrix))


def display_matrix(frame: av.VideoFrame) -> Float[np.ndarray, "2 2"] | None:
    """``(2, 2)`` of signs that takes stored ``(x, y)`` to shown ``(x, y)``, or None.

    To be asked once a file: PyAV then ties frame and answer together, and frees both only with the next collection.

    Source: libavutil/display.h; nine 32-bit numbers, of which the first two columns hold the turn.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    a, b, _, c, d, _, *_ = np.frombuffer(bytes(data), np.int32)
    matrix = np.array([[a, c], [b, d]], float)
    return np.sign(np.where(np.abs(matrix) > np.abs(matrix).max() / 2, matrix, 0))


def _turned(picture: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Quarter turns and mirrorings; any other angle is left as it is."""
    if matrix is None or np.abs(matrix).sum() != 2:
        return picture
    if matrix[0, 0] == 0:
        picture = picture.transpose(1, 0, 2)
        matrix = matrix[:, ::-1]
    picture = picture[:, ::-1] if matrix[0, 0] < 0 else picture
    return picture[::-1] if matrix[1, 1] < 0 else picture
