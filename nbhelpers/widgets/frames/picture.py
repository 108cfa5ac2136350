"""What the frames widget lays over a frame, at the size of the canvas: masks, mattes, cut-outs, neighbours, a wipe."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.plots import rgb
from nbhelpers.widgets.render import Photo
from nbhelpers.widgets.view import View

TILE = 12  # canvas pixels of a square of the checkerboard
LIGHT, DARK = 235, 190
CHECKERBOARD = "checkerboard"
BACKGROUNDS = {"black": "#000000", "white": "#FFFFFF", "green": "#00B140", "magenta": "#FF00FF"}


def seen(layer: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"], view: View) -> UInt8[np.ndarray, "vh vw"]:
    """A mask or matte of frame size, 0 to 255, as ``view.placed()`` lays it on the canvas."""
    if layer.dtype == np.bool_:
        layer = layer.view(np.uint8) * np.uint8(255)
    return Photo(layer).crop(view)


def backdrop(name: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "vh vw 3"]:
    """What is behind a cut-out: `CHECKERBOARD`, or one of `BACKGROUNDS`."""
    if name != CHECKERBOARD:
        return np.full((*shape, 3), rgb(BACKGROUNDS[name]), np.uint8)
    rows, columns = (np.arange(side) // TILE % 2 for side in shape)
    squares = np.where(rows[:, None] ^ columns[None], DARK, LIGHT).astype(np.uint8)
    return grey(squares)


def grey(alpha: UInt8[np.ndarray, "vh vw"]) -> UInt8[np.ndarray, "vh vw 3"]:
    """A matte as a picture: white is the object."""
    return cv2.merge([alpha] * 3)


def cut_out_over(
    picture: UInt8[np.ndarray, "vh vw 3"], alpha: UInt8[np.ndarray, "vh vw"], background: str
) -> UInt8[np.ndarray, "vh vw 3"]:
    """The picture where ``alpha`` is 255, the background where it is 0."""
    weight: Float32[np.ndarray, "vh vw"] = alpha.astype(np.float32) / 255
    return cv2.blendLinear(np.ascontiguousarray(picture), backdrop(background, alpha.shape), weight, 1 - weight)


def wiped(
    before: UInt8[np.ndarray, "vh vw 3"], after: UInt8[np.ndarray, "vh vw 3"], column: int
) -> UInt8[np.ndarray, "vh vw 3"]:
    """``before`` to the left of a column, ``after`` from there on."""
    out = after.copy()
    out[:, : max(0, column)] = before[:, : max(0, column)]
    return out
