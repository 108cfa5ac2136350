"""EXIF orientation as data: pixels here are upright, while COLMAP, nerfstudio and others read them as they are stored.

Everything turns by one function a kind of value, from stored to upright; with ``INVERSE[orientation]`` and the upright
size it turns back.

Example:
    >>> orientation = orientation_of("portrait.jpg")                      # 6: stored lying on its side
    >>> stored_mask = turn(mask, INVERSE[orientation])                    # as COLMAP reads the photo
    >>> upright_xy = turn_points(stored_xy, orientation, stored_size)     # what COLMAP found, in our pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from nbhelpers.core.errors import NbHelpersError

ORIENTATION = 0x0112  # EXIF and TIFF tag
UPRIGHT = 1
SHAPE_SLACK = 1.0  # pixels by which a picture made smaller may miss its shape
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
MIRRORED = (2, 4, 5, 7)
# which way the axes go: upright (x, y) = AXES @ stored (x, y), then shifted so that the first pixel is at (0, 0) again
AXES = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, 1), (-1, 0)),
}


def is_quarter(orientation: int) -> bool:
    """Whether height and width change places."""
    return orientation in (5, 6, 7, 8)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """``(H, W)`` after turning; the same forwards and back."""
    height, width = (int(side) for side in size)
    return (width, height) if is_quarter(orientation) else (height, width)


def same_shape(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> bool:
    """Whether two ``(H, W)`` may be of one picture made smaller or larger, to a pixel."""
    (height, width), (other_height, other_width) = ([int(side) for side in size] for size in (first, second))
    across, down = other_width / width, other_height / height
    return abs(across * height - other_height) <= SHAPE_SLACK or abs(down * width - other_width) <= SHAPE_SLACK


def turn(picture: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """An array of pixels, from stored to upright; a view where that will do, as of `numpy.flip`."""
    (xx, xy), (yx, yy) = AXES[_checked(orientation)]
    out = picture.swapaxes(0, 1) if is_quarter(orientation) else picture
    return out[:: -1 if yx + yy < 0 else 1, :: -1 if xx + xy < 0 else 1]


def turn_points(points: Float[np.ndarray, "n 2"], orientation: int, size: tuple[int, int]) -> Float[np.ndarray, "n 2"]:
    """Pixel coordinates ``(x, y)``, from stored to upright; ``(0, 0)`` is the centre of the top-left pixel.

    Args:
        points: pixels of the stored picture.
        orientation: of the file.
        size: ``(H, W)`` of the stored picture.
    """
    axes, shift = _motion(orientation, size)
    return np.asarray(points, float) @ axes.T + shift


def turn_camera(
    K: Float[np.ndarray, "3 3"],  # noqa: N803 - the field's own name
    world_to_camera: Float[np.ndarray, "3 4"],
    distortion: Float[np.ndarray, " c"] | None,
    orientation: int,
    size: tuple[int, int],
    name: str = "",
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 4"], Float[np.ndarray, " c"] | None]:
    """A camera of the stored picture as a camera of the upright one; the world is unchanged.

    With ``A`` the motion of pixels and ``Q`` that of the axes alone, ``A K [R t] = (A K Q') (Q [R t])``, and ``A K Q'``
    is again an intrinsic matrix. OpenCV's tangential coefficients ``(p2, p1)`` turn as a vector does.

    Args:
        K: intrinsics in pixels.
        world_to_camera: the pose.
        distortion: 2, 4 or 5 coefficients in the order of OpenCV, or None.
        orientation: of the file.
        size: ``(H, W)`` of the stored picture.
        name: of the photo, for the error.

    Raises:
        NbHelpersError: a mirrored picture: no camera in the same world sees it.
    """
    if _checked(orientation) in MIRRORED:
        raise NbHelpersError(
            "a photo is stored mirrored, and a mirrored photo has no camera in the same world",
            given=f"{name or 'a photo'}: EXIF orientation {orientation}",
            expected="1, 3, 6 or 8",
            do="save the photos upright, without the EXIF entry, and find or write their cameras again",
        )
    axes, shift = _motion(orientation, size)
    pixels, space = np.eye(3), np.eye(3)
    pixels[:2, :2], pixels[:2, 2] = axes, shift
    space[:2, :2] = axes
    if distortion is not None and len(distortion) > 2:
        distortion = np.array(distortion, float)
        distortion[[3, 2]] = axes @ distortion[[3, 2]]
    return pixels @ K @ space.T, space @ world_to_camera, distortion


def _checked(orientation: int) -> int:
    if orientation not in AXES:
        raise NbHelpersError("there is no such EXIF orientation", given=orientation, expected="1 to 8")
    return orientation


def _motion(orientation: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    axes = np.array(AXES[_checked(orientation)], float)
    last = np.array([size[1] - 1, size[0] - 1], float)
    return axes, -np.minimum(axes * last, 0).sum(1)
