"""From a mask to a matte: holes, specks, size, frame edge, steady in time, true to the photo's edges, soft.

Everything is done in the box of the mask plus a margin, so a small object in a large frame costs little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from nbhelpers.core.compositing import distance_to
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.guided import guided_filter
from nbhelpers.core.masks import box_of
from nbhelpers.core.regions import components, fill_holes
from nbhelpers.core.steady import REACH, steady

COARSE = 8  # pixels of radius that are kept when the refinement is fitted on a smaller picture
LEVELS = (0.08, 0.92)  # the filter's haze: opacities below and above are taken for 0 and 1
FULL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1.0}

Mask = Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class MatteSettings:
    """How a mask becomes a matte; a step whose number is 0 is left out, and all are by default.

    Example:
        >>> MatteSettings(fill_holes=200, drop_specks=200, refine=12, feather=2)

    The steps are taken in this order.

    Attributes:
        steady: frames on each side that take part in the temporal smoothing of the outline.
        fill_holes: holes of up to so many pixels are filled; an open bay at the frame's edge is no hole.
        drop_specks: separate parts of fewer pixels are dropped.
        grow: pixels by which the mask grows, or shrinks if negative; fractions count.
        frame_edge: where the mask stops so many pixels or fewer before the frame's edge, it is carried on to it.
        refine: radius in pixels, about as far as the outline may be off, in which the matte is fitted to the
            photo's edges by a guided filter.
        detail: how faint an edge of the photo the refinement follows: the square root of the filter's epsilon, in
            the photo's range 0 to 1. Small follows more and is noisier.
        feather: pixels over which the edge fades, centred on it.
    """

    steady: int = 0
    fill_holes: int = 0
    drop_specks: int = 0
    grow: float = 0.0
    frame_edge: int = 0
    refine: int = 0
    detail: float = 0.02
    feather: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            whole = isinstance(field.default, int)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (whole and value != int(value)):
                raise NbHelpersError(
                    f"the setting {field.name} is no {'whole ' if whole else ''}number", given=repr(value)
                )
            if value < 0 and field.name != "grow":
                raise NbHelpersError(f"the setting {field.name} cannot be negative", given=value, expected="0 or more")
            object.__setattr__(self, field.name, int(value) if whole else float(value))
        if not self.detail:  # flat places of the photo would be divided by nothing
            raise NbHelpersError("the setting detail must be above 0", given=self.detail, expected="0.001 to 0.1")

    @property
    def needs_image(self) -> bool:
        """Whether `make_matte` has to see the photo."""
        return self.refine > 0

    @property
    def margin(self) -> int:
        """Pixels around the mask that the matte can reach or depends on."""
        return 2 + math.ceil(max(self.grow, 0) + self.frame_edge + 2 * self.refine + 2 * self.feather)


def make_matte(
    mask: Shaped[np.ndarray, "h w"],
    settings: MatteSettings,
    image: UInt8[np.ndarray, "h2 w2 3"] | None = None,
    neighbours: Sequence[tuple[int, Shaped[np.ndarray, "_ _"]]] = (),
    dtype: type | np.dtype = np.uint8,
) -> Shaped[np.ndarray, "h w"]:
    """The soft matte of one mask.

    Example:
        >>> make_matte(mask, MatteSettings(refine=12), image).shape       # (480, 640) uint8, 0 to 255
        (480, 640)

    Args:
        mask: the object on this frame.
        settings: see `MatteSettings`.
        image: RGB; only for ``settings.refine``.
        neighbours: ``(offset in frames, mask)`` of the frames around; only for ``settings.steady``.
        dtype: ``uint8`` (0 to 255), ``uint16`` (0 to 65535) or ``float32`` (0 to 1).

    Raises:
        NbHelpersError: a mask that is not bool, sizes that differ, or a refinement without an image.
    """
    full = full_of(dtype)
    _check(mask, settings, image, neighbours)
    out = np.zeros(mask.shape, dtype)
    near = [(offset, other) for offset, other in neighbours if 0 < abs(offset) <= settings.steady]
    box = box_of(mask)
    for _, other in near if box is None else ():  # a frame in which the object flickered out
        box = box_of(other) if box is None else box
    if box is None:
        return out
    margin = settings.margin + (math.ceil(REACH) if near else 0)
    x0, y0 = max(0, box[0] - margin), max(0, box[1] - margin)
    window = slice(y0, box[3] + margin), slice(x0, box[2] + margin)
    part = steady(mask, near, window)
    part = fill_holes(part, settings.fill_holes)
    part = drop_specks(part, settings.drop_specks)
    part = grow(part, settings.grow)
    touches = (window[0].start == 0, window[1].start == 0, y0 + part.shape[0] == mask.shape[0],
               x0 + part.shape[1] == mask.shape[1])  # fmt: skip
    part = reach_frame_edge(part, settings.frame_edge, touches)
    if not (settings.refine or settings.feather):
        np.multiply(part, full, out=out[window])
        return out
    soft = part.astype(np.float32)
    if settings.refine:
        soft = refine(soft, image[window], settings.refine, settings.detail)
    soft = feather(soft, settings.feather)
    out[window] = soft if full == 1 else np.rint(soft * full)
    return out


def full_of(dtype: type | np.dtype) -> np.generic:
    """The value of full opacity in a matte of that type, as a scalar of it: 255, 65535 or 1.0.

    Raises:
        NbHelpersError: mattes have no such type.
    """
    if np.dtype(dtype) not in FULL:
        raise NbHelpersError("a matte has no such type", given=dtype, expected="uint8, uint16 or float32")
    return np.dtype(dtype).type(FULL[np.dtype(dtype)])


def combine(mattes: Sequence[Shaped[np.ndarray, "_ _"]]) -> Shaped[np.ndarray, "_ _"]:
    """Several objects' masks or mattes of one frame as one: the strongest at each pixel.

    Raises:
        NbHelpersError: none given, or sizes or types differ.
    """
    if not mattes:
        raise NbHelpersError("there is nothing to combine", expected="one mask or more")
    first = mattes[0]
    for other in mattes[1:]:
        if other.shape != first.shape or other.dtype != first.dtype:
            raise NbHelpersError(
                "masks to combine must be alike",
                given=f"{other.shape} {other.dtype}",
                expected=f"{first.shape} {first.dtype}",
            )
    return first if len(mattes) == 1 else np.maximum.reduce(list(mattes))


def drop_specks(mask: Mask, area: int) -> Mask:
    """The mask without its separate parts of fewer than ``area`` pixels."""
    return mask if area <= 1 else components(mask, area) > 0


def grow(mask: Mask, pixels: float) -> Mask:
    """The mask, grown by a disc of that radius, or shrunk by it if negative; the frame's edge does not eat it."""
    if pixels > 0:
        return distance_to(mask) <= pixels
    return distance_to(~mask) > -pixels if pixels < 0 else mask


def reach_frame_edge(mask: Mask, pixels: int, sides: tuple[bool, bool, bool, bool] = (True, True, True, True)) -> Mask:
    """The mask, carried on to the frame's edge where it stops ``pixels`` or fewer before it.

    Trackers work on a small copy of the frame and often leave a rim of a few pixels free.

    Args:
        mask: the object, or a window on it.
        pixels: width of the rim that is made anew.
        sides: which borders are the frame's: top, left, bottom, right.
    """
    if pixels <= 0:
        return mask
    out = mask.copy()
    for view, at_frame in zip((out, out.T, out[::-1], out.T[::-1]), sides, strict=True):
        if at_frame and len(view) > pixels:
            view[:pixels] |= view[pixels]
    return out


def refine(
    matte: Float32[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], radius: int, detail: float
) -> Float32[np.ndarray, "h w"]:
    """The matte, fitted to the photo's edges within ``radius`` pixels of its own.

    Args:
        matte: 0 to 1.
        image: RGB of the same place.
        radius: of the filter's window, in pixels.
        detail: see `MatteSettings`.

    Source: guided image filtering (He, Sun and Tang, ECCV 2010, section 4 on matting); see `guided_filter`.
    """
    step = max(1, radius // COARSE)
    halo = -(-2 * radius // step) * step  # a multiple, so that all tiles share one coarse grid
    side = -(-max(256, 4 * radius) // step) * step
    low, high = LEVELS
    out = matte.copy()
    for top in range(0, matte.shape[0], side):  # in tiles, and only where there is an edge
        for left in range(0, matte.shape[1], side):
            tile = slice(top, top + side), slice(left, left + side)
            first = max(0, top - halo), max(0, left - halo)
            around = slice(first[0], top + side + halo), slice(first[1], left + side + halo)
            near = matte[around]
            if near.min() == near.max():
                continue
            guide = image[around].astype(np.float32) / 255
            soft = guided_filter(guide, near, radius, detail**2, step)
            soft = soft[top - first[0] :, left - first[1] :][: out[tile].shape[0], : out[tile].shape[1]]
            out[tile] = np.clip((soft - low) / (high - low), 0, 1)
    return out


def feather(matte: Float32[np.ndarray, "h w"], pixels: float) -> Float32[np.ndarray, "h w"]:
    """The matte with an edge that fades over ``pixels``: a Gaussian of a quarter of that; the frame's edge stays."""
    if pixels <= 0:
        return matte
    return cv2.GaussianBlur(matte, (0, 0), pixels / 4, borderType=cv2.BORDER_REPLICATE)


def _check(mask: np.ndarray, settings: MatteSettings, image: np.ndarray | None, neighbours: Sequence) -> None:
    for other in (mask, *(other for _, other in neighbours)):
        if other.dtype != np.bool_:
            raise NbHelpersError("a mask is true and false", given=other.dtype, expected="bool", do="mask > 0")
        if other.shape != mask.shape:
            raise NbHelpersError("neighbouring masks differ in size", given=other.shape, expected=str(mask.shape))
    if settings.needs_image and image is None:
        raise NbHelpersError("the edge-aware refinement needs the photo", do="pass image=, or set refine=0")
    if settings.needs_image and image.shape[:2] != mask.shape:
        raise NbHelpersError(
            "the mask has another size than the image", given=mask.shape, expected=str(image.shape[:2])
        )
