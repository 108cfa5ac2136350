"""From masks to mattes: temporal smoothing, holes, specks, size, frame edge, edge-aware refinement, feathering.

`make_matte` works in the box of the mask plus a margin, so a small object in a large frame costs little; `Mattes` makes
the mattes of a clip one at a time.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, components, distance_to, fill_holes, iou, tight_box
from nbhelpers.core.video import fold_wrap

MAX_DISTANCE = 8.0  # pixels; farther than this from a contour, all distances count the same
OUTLINE_SIGMA = 2.5  # pixels that a trembling outline is off
MIN_IOU = 0.5  # a neighbour's mask that overlaps less shows another object
COARSE = 8  # pixels of radius that are kept when the refinement is fitted on a smaller picture
LEVELS = (0.08, 0.92)  # the filter's haze: opacities below and above are taken for 0 and 1
NETWORKS = ("vitmatte",)
CONTEXT = 64  # pixels around the rim that a network sees
UNKNOWN = 128  # of a trimap
FULL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1.0}

Mask = Bool[np.ndarray, "h w"]
Matting = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]
"""Opacities ``(h, w) float32`` of photos ``(h, w, 3)`` and trimaps ``(h, w)``."""


def guided_filter(
    guide: Float32[np.ndarray, "h w 3"],
    source: Float32[np.ndarray, "h w"],
    radius: int,
    epsilon: float,
    step: int = 1,
) -> Float32[np.ndarray, "h w"]:
    """The source as, in each window, the linear function of the guide's colours that fits it best.

    Example:
        >>> guided_filter(image / np.float32(255), mask.astype(np.float32), radius=8, epsilon=4e-4).shape
        (480, 640)

    Args:
        guide: RGB, 0 to 1.
        source: the map to filter, e.g. a mask as 0 and 1; the result may leave its range a little.
        radius: of the square windows, which are ``2 radius + 1`` wide and cut at the picture's border.
        epsilon: added to the colours' covariance; edges of smaller variance are smoothed away.
        step: the linear functions are fitted on a picture that many times smaller and applied to the full one, which
            costs less by the square of it and changes little while it is well below the radius.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, equations 14 to 16 (colour guide), and the first
    author's MATLAB reference ``guidedfilter_color.m``, which cuts windows at the border in the same way. The step is
    that of He and Sun, "Fast Guided Filter", arXiv 1505.00996.
    """
    # centred first: variances as differences of large squares lose digits in 32 bit
    guide = guide - guide.reshape(-1, 3).mean(0)
    if step == 1:
        slopes, rest = _fit(guide, source, radius, epsilon)
    else:
        size = source.shape[::-1]
        small = -(-size[0] // step), -(-size[1] // step)
        coarse_guide, coarse = (cv2.resize(array, small, interpolation=cv2.INTER_AREA) for array in (guide, source))
        slopes, rest = _fit(coarse_guide, coarse, max(1, round(radius / step)), epsilon)
        slopes = [cv2.resize(slope, size, interpolation=cv2.INTER_LINEAR) for slope in slopes]
        rest = cv2.resize(rest, size, interpolation=cv2.INTER_LINEAR)
    for channel, slope in enumerate(slopes):
        rest += slope * guide[:, :, channel]
    return rest


def _fit(guide: np.ndarray, source: np.ndarray, radius: int, epsilon: float) -> tuple[list[np.ndarray], np.ndarray]:
    """For each pixel the mean slopes and rest of the linear functions of all windows that hold it."""
    size = (2 * radius + 1, 2 * radius + 1)

    def total(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, cv2.CV_32F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)

    weight = 1 / total(np.ones_like(source))

    def mean(values: np.ndarray) -> np.ndarray:
        return total(values) * weight

    channels = [np.ascontiguousarray(guide[:, :, c]) for c in range(3)]
    means = [mean(channel) for channel in channels]
    level = mean(source)
    right = [mean(channel * source) - m * level for channel, m in zip(channels, means, strict=True)]
    variance = {}
    for i in range(3):
        for j in range(i, 3):
            variance[i, j] = mean(channels[i] * channels[j]) - means[i] * means[j]
            if i == j:
                variance[i, j] += epsilon
    slopes = _solve(variance, right)
    rest = level - sum(slope * m for slope, m in zip(slopes, means, strict=True))
    return [mean(slope) for slope in slopes], mean(rest)


def _solve(m: dict[tuple[int, int], np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """At each pixel the solution of a symmetric 3 x 3 system, by its adjugate."""
    cofactor = {
        (0, 0): m[1, 1] * m[2, 2] - m[1, 2] ** 2,
        (0, 1): m[0, 2] * m[1, 2] - m[0, 1] * m[2, 2],
        (0, 2): m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1],
        (1, 1): m[0, 0] * m[2, 2] - m[0, 2] ** 2,
        (1, 2): m[0, 1] * m[0, 2] - m[0, 0] * m[1, 2],
        (2, 2): m[0, 0] * m[1, 1] - m[0, 1] ** 2,
    }
    determinant = sum(m[0, j] * cofactor[0, j] for j in range(3))
    products = [[cofactor[min(i, j), max(i, j)] * right[j] for j in range(3)] for i in range(3)]
    return [(first + second + third) / determinant for first, second, third in products]


def smooth_outline(
    mask: Mask, neighbours: Sequence[tuple[int, Mask]], window: tuple[slice, slice]
) -> Bool[np.ndarray, "wh ww"]:
    """A window of the mask with an outline averaged over neighbouring frames.

    Signed distances to the outlines are averaged, so an outline that trembles comes to rest in the middle. Each
    neighbour is first moved by what its centre of gravity moved, if it then overlaps better; and where it still is
    more than a few pixels off, it counts less and less: there something really moves, such as a leg or a wheel, and
    would be worn off. An empty mask is filled if the object is there both before and after.

    Args:
        mask: of the frame.
        neighbours: ``(offset in frames, mask)``.
        window: rows and columns that are wanted.

    Source: the mean of signed distances as the mean of shapes is that of Leventon, Grimson and Faugeras (CVPR 2000).
    Weights fall as Gaussians of the offset (sigma the largest one) and of the difference, as in a bilateral filter
    (Tomasi and Manduchi, ICCV 1998).
    """
    here = mask[window]
    there = [
        (offset, aligned) for offset, other in neighbours if (aligned := _aligned(other, mask, window)) is not None
    ]
    absent = not here.any()
    if not there or (absent and len({offset > 0 for offset, _ in there}) < 2):
        return here
    sigma = max(abs(offset) for offset, _ in neighbours)
    own = _signed_distance(here)
    total = np.zeros_like(own) if absent else own.copy()
    for offset, other in there:
        distance = _signed_distance(other)
        weight = math.exp(-0.5 * (offset / sigma) ** 2)
        total += weight * (distance if absent else np.exp(-0.5 * ((distance - own) / OUTLINE_SIGMA) ** 2) * distance)
    return total > 0


def _aligned(other: np.ndarray, mask: np.ndarray, window: tuple[slice, slice]) -> np.ndarray | None:
    """The window of a neighbour's mask as it would lie on this frame, or None if it shows something else."""
    if not other.any():
        return None
    if not mask.any():
        return other[window]
    (x, y), (u, v) = _centre(mask), _centre(other)
    rows, columns = (np.arange(length)[part] for length, part in zip(mask.shape, window, strict=True))
    candidates = [other[window]]
    if (round(u - x), round(v - y)) != (0, 0):
        moved_rows = np.clip(rows + round(v - y), 0, mask.shape[0] - 1)
        moved_columns = np.clip(columns + round(u - x), 0, mask.shape[1] - 1)
        candidates.append(other[np.ix_(moved_rows, moved_columns)])
    overlaps = [iou(mask[window], candidate) for candidate in candidates]
    best = int(np.argmax(overlaps))
    return candidates[best] if overlaps[best] >= MIN_IOU else None


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline in pixels, positive inside, cut off at `MAX_DISTANCE`; half-way between pixels is 0."""
    inside, outside = distance_to(~mask), distance_to(mask)
    return np.clip(np.where(mask, inside - 0.5, 0.5 - outside), -MAX_DISTANCE, MAX_DISTANCE)


def _centre(mask: np.ndarray) -> tuple[float, float]:
    """Centre of gravity ``(x, y)`` of a mask."""
    x0, y0, x1, y1 = tight_box(mask)
    moments = cv2.moments(np.ascontiguousarray(mask[y0:y1, x0:x1]).view(np.uint8), binaryImage=True)
    return x0 + moments["m10"] / moments["m00"], y0 + moments["m01"] / moments["m00"]


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
            photo's edges by a guided filter; or ``"vitmatte"``, by a network, which sees hair and blur.
        rim: pixels on each side of the outline in which a network looks for the opacity.
        detail: how faint an edge of the photo the refinement adapts to: the square root of the filter's epsilon, in
            the photo's range 0 to 1. Small values adapt to more edges and are noisier.
        feather: pixels over which the edge fades, centred on it.
    """

    steady: int = 0
    fill_holes: int = 0
    drop_specks: int = 0
    grow: float = 0.0
    frame_edge: int = 0
    refine: int | str = 0
    rim: int = 12
    detail: float = 0.02
    feather: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "refine" and isinstance(value, str):
                if value not in NETWORKS:
                    raise NbHelpersError(
                        "there is no such refinement", given=value, expected=f"pixels, or {', '.join(NETWORKS)}"
                    )
                continue
            whole = isinstance(field.default, int)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (whole and value != int(value)):
                raise NbHelpersError(
                    f"the setting {field.name} is no {'whole ' if whole else ''}number", given=repr(value)
                )
            if value < 0 and field.name != "grow":
                raise NbHelpersError(f"the setting {field.name} cannot be negative", given=value, expected="0 or more")
            object.__setattr__(self, field.name, int(value) if whole else float(value))
        if self.needs_network and not self.rim:
            raise NbHelpersError("the setting rim must be above 0", given=self.rim, expected="5 to 30 pixels")
        if not self.detail:  # flat areas of the photo would cause a division by zero
            raise NbHelpersError("the setting detail must be above 0", given=self.detail, expected="0.001 to 0.1")

    @property
    def needs_image(self) -> bool:
        """Whether `make_matte` has to see the photo."""
        return self.refine != 0

    @property
    def needs_network(self) -> bool:
        """Whether `make_matte` needs a network for matting."""
        return isinstance(self.refine, str)

    @property
    def margin(self) -> int:
        """Pixels around the mask that the matte can reach or depends on."""
        reach = self.rim + CONTEXT if isinstance(self.refine, str) else 2 * self.refine
        return 2 + math.ceil(max(self.grow, 0) + self.frame_edge + reach + 2 * self.feather)


def make_matte(
    mask: Shaped[np.ndarray, "h w"],
    settings: MatteSettings,
    image: UInt8[np.ndarray, "h2 w2 3"] | None = None,
    neighbours: Sequence[tuple[int, Shaped[np.ndarray, "_ _"]]] = (),
    dtype: type | np.dtype = np.uint8,
    matting: Matting | None = None,
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
        matting: ``alphas`` of a `nbhelpers.models.protocols.MattingModel`; for a refinement by a network.

    Raises:
        NbHelpersError: a mask that is not bool, sizes that differ, or a refinement without an image or a network.
    """
    full = full_of(dtype)
    _check(mask, settings, image, neighbours)
    if settings.needs_network and matting is None:
        raise NbHelpersError(
            "this refinement needs its network",
            given=settings.refine,
            do='pass matting=nbhelpers.load("matting").alphas',
        )
    out = np.zeros(mask.shape, dtype)
    near = [(offset, other) for offset, other in neighbours if 0 < abs(offset) <= settings.steady]
    box = box_of(mask)
    for _, other in near if box is None else ():  # a frame in which the object flickered out
        box = box_of(other) if box is None else box
    if box is None:
        return out
    margin = settings.margin + (math.ceil(MAX_DISTANCE) if near else 0)
    x0, y0 = max(0, box[0] - margin), max(0, box[1] - margin)
    window = slice(y0, box[3] + margin), slice(x0, box[2] + margin)
    part = smooth_outline(mask, near, window)
    part = fill_holes(part, settings.fill_holes)
    part = remove_small_components(part, settings.drop_specks)
    part = grow_mask(part, settings.grow)
    touches = (window[0].start == 0, window[1].start == 0, y0 + part.shape[0] == mask.shape[0],
               x0 + part.shape[1] == mask.shape[1])  # fmt: skip
    part = reach_frame_edge(part, settings.frame_edge, touches)
    if not (settings.refine or settings.feather):
        np.multiply(part, full, out=out[window])
        return out
    soft = part.astype(np.float32)
    if settings.needs_network and image is not None and matting is not None:
        (soft,) = matting([np.ascontiguousarray(image[window])], [make_trimap(part, settings.rim)])
    elif not isinstance(settings.refine, str) and settings.refine and image is not None:
        soft = refine_matte(soft, image[window], settings.refine, settings.detail)
    soft = feather_matte(soft, settings.feather)
    out[window] = soft if full == 1 else np.rint(soft * full)
    return out


def make_trimap(mask: Mask, rim: int) -> UInt8[np.ndarray, "h w"]:
    """255 inside the mask, 0 outside, 128 within ``rim`` pixels of its outline.

    Example:
        >>> make_trimap(mask, 12).dtype                                  # (480, 640) bool
        dtype('uint8')
    """
    inside, outside = distance_to(~mask), distance_to(mask)
    return np.where(mask, np.where(inside > rim, 255, UNKNOWN), np.where(outside > rim, 0, UNKNOWN)).astype(np.uint8)


def full_of(dtype: type | np.dtype) -> Any:
    """The value of full opacity in a matte of that type, as a scalar of it: 255, 65535 or 1.0.

    Raises:
        NbHelpersError: mattes have no such type.
    """
    if np.dtype(dtype) not in FULL:
        raise NbHelpersError("a matte has no such type", given=dtype, expected="uint8, uint16 or float32")
    return np.dtype(dtype).type(FULL[np.dtype(dtype)])


def combine_mattes(mattes: Sequence[Shaped[np.ndarray, "_ _"]]) -> Shaped[np.ndarray, "_ _"]:
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


def remove_small_components(mask: Mask, area: int) -> Mask:
    """The mask without its separate parts of fewer than ``area`` pixels."""
    return mask if area <= 1 else components(mask, area) > 0


def grow_mask(mask: Mask, pixels: float) -> Mask:
    """The mask, grown by a disc of that radius, or shrunk by it if negative; the frame's edge does not eat it."""
    if pixels > 0:
        return distance_to(mask) <= pixels
    return distance_to(~mask) > -pixels if pixels < 0 else mask


def reach_frame_edge(mask: Mask, pixels: int, sides: tuple[bool, bool, bool, bool] = (True, True, True, True)) -> Mask:
    """The mask, carried on to the frame's edge where it stops ``pixels`` or fewer before it.

    Trackers work on a small copy of the frame and often leave a rim of a few pixels free.

    Args:
        mask: the object, or a window on it.
        pixels: width of the rim that is filled.
        sides: which borders are the frame's: top, left, bottom, right.
    """
    if pixels <= 0:
        return mask
    out = mask.copy()
    for view, at_frame in zip((out, out.T, out[::-1], out.T[::-1]), sides, strict=True):
        if at_frame and len(view) > pixels:
            view[:pixels] |= view[pixels]
    return out


def refine_matte(
    matte: Float32[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], radius: int, detail: float
) -> Float32[np.ndarray, "h w"]:
    """The matte, fitted to the photo's edges within ``radius`` pixels of its own.

    Args:
        matte: 0 to 1.
        image: RGB of the same window.
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


def feather_matte(matte: Float32[np.ndarray, "h w"], pixels: float) -> Float32[np.ndarray, "h w"]:
    """The matte with an edge that fades over ``pixels``: a Gaussian of a quarter of that; the frame's edge stays."""
    if pixels <= 0:
        return matte
    return cv2.GaussianBlur(matte, (0, 0), pixels / 4, borderType=cv2.BORDER_REPLICATE)


def _check(mask: np.ndarray, settings: MatteSettings, image: np.ndarray | None, neighbours: Sequence) -> None:
    """Raise an error if mask, neighbours and image do not fit together."""
    for other in (mask, *(other for _, other in neighbours)):
        if other.dtype != np.bool_:
            raise NbHelpersError("a mask is true and false", given=other.dtype, expected="bool", do="mask > 0")
        if other.shape != mask.shape:
            raise NbHelpersError("neighbouring masks differ in size", given=other.shape, expected=str(mask.shape))
    if settings.needs_image and image is None:
        raise NbHelpersError("the edge-aware refinement needs the photo", do="pass image=, or set refine=0")
    if settings.needs_image and image is not None and image.shape[:2] != mask.shape:
        raise NbHelpersError(
            "the mask has another size than the image", given=mask.shape, expected=str(image.shape[:2])
        )


UNCHANGED = MatteSettings()


class Mattes:
    """The matte of each frame of a clip, from its masks; computed when it is accessed.

    Example:
        >>> mattes = Mattes(frames, session.masks, MatteSettings(fill_holes=100, refine=8))
        >>> mattes.make(12).shape                                       # (480, 640) uint8
        (480, 640)

    Args:
        frames: the clip; see `nbhelpers.models.protocols.FrameSequence`.
        masks: a sequence, or a function of the frame's index. Each item is a mask ``(H, W) bool``; or a dictionary
            of masks by object; or, for frames without the object, None.
        settings: for all objects, or by object (others are left as they are).
        objects: which objects take part, if not all; their mattes become one.
        invert: the surroundings instead of the objects, e.g. to keep the scene and drop the people in it.
        matting: for settings that need a network, see `make_matte`.

    Attributes:
        size: ``(H, W)`` of every matte.
        names: a file name for each frame: its own, or a numbered one.
        paths: the originals, or None where frames are no files.

    Masks of a clip opened with ``wrap`` (see `nbhelpers.core.video.Frames`) may have the wrapped or the true width;
    mattes have the true one. Thread-safe; ``masks`` is called by one thread at a time.
    """

    def __init__(
        self,
        frames: Any,
        masks: Sequence | Callable[[int], Any],
        settings: MatteSettings | Mapping[Any, MatteSettings] = UNCHANGED,
        objects: Collection | None = None,
        invert: bool = False,
        matting: Matting | None = None,
    ):
        if not callable(masks) and len(masks) != len(frames):
            raise NbHelpersError(
                "each frame needs its mask", given=f"{len(masks)} masks", expected=f"{len(frames)} frames"
            )
        self.frames, self.settings, self.invert, self.matting = frames, settings, invert, matting
        self.wrap = int(getattr(frames, "wrap", 0))
        self.size = frames.size[0], frames.size[1] - 2 * self.wrap
        names, paths = getattr(frames, "names", None), getattr(frames, "paths", None)
        self.names = [f"{index:06d}.png" for index in range(len(frames))] if names is None else list(names)
        self.paths = None if paths is None else [Path(path) for path in paths]
        self.objects = None if objects is None else tuple(objects)
        self._masks = masks if callable(masks) else masks.__getitem__
        self._lock = threading.Lock()
        self._packed: OrderedDict[int, dict[Any, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.frames)

    def only(self, objects: Collection) -> Mattes:
        """The mattes of some of the objects, e.g. to export each on its own."""
        return Mattes(self.frames, self._masks, self.settings, objects, self.invert, self.matting)

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The frame itself, RGB, without the columns that ``wrap`` added."""
        image = self.frames[index]
        return image[:, self.wrap : image.shape[1] - self.wrap]

    def make(
        self, index: int, image: UInt8[np.ndarray, "h w 3"] | None = None, dtype: type | np.dtype = np.uint8
    ) -> Shaped[np.ndarray, "h w"]:
        """The matte of frame ``index``.

        Args:
            index: of the frame.
            image: the frame, where the caller has it already; else it is decoded if a setting needs it.
            dtype: ``uint8`` (0 to 255), ``uint16`` (0 to 65535) or ``float32`` (0 to 1).

        Raises:
            NbHelpersError: the frame's mask has another size or type; the message names the frame.
        """
        parts = list(self.make_each(index, image, dtype).values())
        matte = combine_mattes(parts) if parts else np.zeros(self.size, dtype)
        return full_of(dtype) - matte if self.invert else matte

    def make_each(
        self, index: int, image: UInt8[np.ndarray, "h w 3"] | None = None, dtype: type | np.dtype = np.uint8
    ) -> dict[Any, Shaped[np.ndarray, "h w"]]:
        """The matte of each object on frame ``index``, never inverted; arguments and errors as of `make`."""
        mattes = {}
        for name, mask in self._named(index).items():
            settings = self._settings(name)
            around = [(offset, self._named(index + offset).get(name)) for offset in self._offsets(index, settings)]
            near = [(offset, other) for offset, other in around if other is not None]
            if settings.needs_image and image is None:
                image = self.image(index)
            mattes[name] = make_matte(mask, settings, image, near, dtype, self.matting)
        return mattes

    def signature(self, index: int) -> str:
        """A short text that changes when the matte of this frame would; needs no decoding."""
        sums = []
        for name, mask in self._named(index).items():
            settings = self._settings(name)
            window = [mask] + [self._named(index + offset).get(name) for offset in self._offsets(index, settings)]
            sums.append((name, settings, [None if part is None else zlib.crc32(np.packbits(part)) for part in window]))
        return f"{zlib.crc32(repr((self.size, self.invert, sums)).encode()):08x}"

    def _settings(self, name: Any) -> MatteSettings:
        """The settings of an object."""
        return self.settings if isinstance(self.settings, MatteSettings) else self.settings.get(name, UNCHANGED)

    def _offsets(self, index: int, settings: MatteSettings) -> list[int]:
        """Offsets of the neighbouring frames that take part in the smoothing."""
        near = range(-settings.steady, settings.steady + 1)
        return [offset for offset in near if offset and 0 <= index + offset < len(self)]

    def _named(self, index: int) -> dict[Any, np.ndarray]:
        """The masks of a frame by object, of the frame's true size; the latest are kept, packed to bits."""
        with self._lock:
            if index not in self._packed:
                self._packed[index] = {name: np.packbits(mask) for name, mask in self._fetch(index).items()}
                every = [self.settings] if isinstance(self.settings, MatteSettings) else self.settings.values()
                room = 4 + 2 * max((settings.steady for settings in every), default=0)
                while len(self._packed) > room:
                    self._packed.popitem(last=False)
            packed = self._packed[index]
        pixels = self.size[0] * self.size[1]
        return {
            name: np.unpackbits(bits, count=pixels).view(np.bool_).reshape(self.size) for name, bits in packed.items()
        }

    def _fetch(self, index: int) -> dict[Any, np.ndarray]:
        """The masks of a frame by object, as given."""
        given = self._masks(index)
        if given is None:
            return {}
        masks = dict(given) if isinstance(given, Mapping) else {None: given}
        if self.objects is not None and isinstance(given, Mapping):
            masks = {name: mask for name, mask in masks.items() if name in self.objects}
        return {name: self._true_size(index, np.asarray(mask)) for name, mask in masks.items() if mask is not None}

    def _true_size(self, index: int, mask: np.ndarray) -> np.ndarray:
        """A mask without the columns that ``wrap`` added."""
        wrapped = (self.size[0], self.size[1] + 2 * self.wrap)
        if mask.dtype != np.bool_ or mask.shape not in (self.size, wrapped):
            raise NbHelpersError(
                f"the mask of frame {index} does not fit the clip",
                given=f"{mask.shape} {mask.dtype}",
                expected=f"{self.size} bool",
            )
        if mask.shape == self.size:
            return mask
        return fold_wrap(mask, self.wrap)
