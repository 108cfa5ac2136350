"""A decoded video frame as it is meant to be seen: RGB, turned, without alpha."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image

if TYPE_CHECKING:
    import av

HDR = (16, 18)  # transfer, matrix and primaries by their codes in ITU-T H.273
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)  # those that are converted rightly: RGB, BT.709, unspecified, BT.601 and the like
UNSPECIFIED, HD = 2, 720  # rows from which on players take BT.709 for what is not said
WIDE = (8, 9, 10, 11, 12)  # primaries far from those of sRGB: film, BT.2020, XYZ, P3
FORMATS = re.compile(  # of pixels, as FFmpeg calls them: those whose conversion to RGB a test compares
    r"yuvj?4\d\dp|yuva?4\d\dp\d*(msb)?([bl]e)?|gbra?p((9|1\d)(msb)?[bl]e)?|gray|gray(9|1\d)[bl]e|ya8|ya16[bl]e|pal8|mono[bw]"
    r"|nv\d\d([bl]e)?|p[024]1[026][bl]e|(yuyv|uyvy|yvyu)422|y21[026]le|a?yuv(64[bl]e)?|vuy[ax]|uyva|vyu444"
    r"|(xv30|v30x)le|xv(36|48)[bl]e|(rgb|bgr)(24|48[bl]e|555le|565le)|(0|a)(rgb|bgr)|(rgb|bgr)(0|a|a64[bl]e)"
    r"|x2(rgb|bgr)10le|xyz12[bl]e"
)


def picture_of(frame: av.VideoFrame, matrix: Float[np.ndarray, "2 2"] | None) -> UInt8[np.ndarray, "h w 3"]:
    """The frame as ``(H, W, 3)`` RGB, turned by its `display_matrix`; what is transparent lies over white."""
    picture = frame.to_ndarray(format="rgba" if _has_alpha(frame) else "rgb24")
    return load_image(_turned(picture, matrix))


def check_format(frame: av.VideoFrame, path: Path) -> None:
    """Raise an error unless the pixel format is one of those that are known to be converted rightly.

    Raises:
        NbHelpersError: it is not: floating point, a sensor's raw data, or a graphics card's.
    """
    if not FORMATS.fullmatch(frame.format.name):
        raise NbHelpersError(
            "the pixels of the video are in a format whose conversion to RGB is not known to be right",
            given=f"{path}: {frame.format.name}",
            expected="YUV, RGB or grey with 8 to 16 bits a channel",
            do=f'ffmpeg -i "{path}" -c:v prores_ks -profile:v 4 converted.mov',
        )


def remarks_on(
    frame: av.VideoFrame, aspect: Fraction | None, matrix: Float[np.ndarray, "2 2"] | None
) -> list[tuple[str, str]]:
    """What is odd about the pictures of a video: ``(kind, text)``.

    Args:
        frame: the first.
        aspect: width over height of a pixel.
        matrix: see `display_matrix`.
    """
    told = []
    if frame.interlaced_frame:
        told.append(("interlaced", "the video is interlaced; moving edges show as combs"))
    if aspect and aspect != 1:
        told.append(("pixels", f"its pixels are not square ({aspect}); frames are given as they are stored"))
    if matrix is not None and np.abs(matrix).sum() != 2:
        told.append(("pixels", "the video is to be turned by an odd angle; frames are given as they are stored"))
    if _has_alpha(frame) and frame.to_ndarray(format="rgba")[:, :, 3].min() < 255:
        told.append(("alpha", "the video is transparent in places; it is laid over white"))
    is_rgb = frame.format.is_rgb or len(frame.format.components) < 3
    if frame.color_trc in HDR:
        told.append(("colour", "the video is HDR; colours are not tone mapped"))
    elif frame.color_primaries in WIDE:
        told.append(("colour", "the video has a wide gamut; colours are not converted to sRGB and look pale"))
    if not is_rgb and frame.colorspace not in MATRICES:
        told.append(("colour", f"colours are coded in a way that is not known (matrix {int(frame.colorspace)})"))
    if not is_rgb and frame.colorspace == UNSPECIFIED and frame.height >= HD:
        told.append(("colour", "the video does not say how its colours are coded; BT.601 is taken, as FFmpeg does"))
    return told


def _has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


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
