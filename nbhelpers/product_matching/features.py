"""Features of a masked object: foreground feature averaging, patch tokens and patch colours.

The object is cropped to a padded square, its surroundings are filled with one colour, and the crop is
encoded. Foreground feature averaging (Lu et al. 2024, "Adapting Pre-Trained Vision Models for Novel Instance Detection
and Segmentation", arXiv 2405.17859) takes the mean of the tokens of the patches that the mask covers. The mean discards
position and colour, so the tokens, their positions and their colours are kept as well: they distinguish
look-alikes with other labels, in other colours, or mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import rgb_to_lab
from nbhelpers.core.masks import box_of, tight_box
from nbhelpers.models.protocols import PatchEncoder

MAX_SIDE = 2048  # pixels; larger photos are searched on a reduced copy, since the networks resolve no more
CROP_SIDE = 224  # pixels
MARGIN = 0.1  # of the longer side of the box, on each side of the crop
MIN_COVERAGE = 0.3  # fraction of a patch under the mask from which it belongs to the object
AUGMENTATIONS = (  # of a reference: degrees, scale, brightness, hidden fraction
    (20, 0.5, 1.0, 0.0), (-20, 0.3, 0.8, 0.0), (35, 0.7, 1.2, 0.0), (-35, 0.4, 1.0, 0.0), (10, 0.3, 0.7, 0.25),
    (-10, 0.7, 1.3, 0.35),
)  # fmt: skip
COARSE_LENGTHS = (4, 7, 10)  # patches along the longer side of an object as it appears in a whole photo
FILL = (124, 116, 104)  # the mean of ImageNet, which is 0 after normalisation


@dataclass(frozen=True, eq=False)
class InstanceFeatures:
    """What a patch encoder computes for one masked object.

    Attributes:
        average: ``(d,)``, the foreground feature average, of length 1.
        patches: ``(k, d)``, the tokens of patches that the mask covers, each of length 1.
        weights: ``(k,)``, fraction of each of these patches under the mask, 0 to 1.
        positions: ``(k, 2)``, centre of each patch in the square crop: x right, y down, 0 to 1.
        colours: ``(k, 3)``, mean CIELAB colour of the masked pixels of each patch: L 0 to 100, a and b about
            -100 to 100.
        mirror: of a reference, the features of the same crop mirrored left to right; else None.
        views: of a reference, the features of the same crop rotated, smaller, darker, partly occluded.
        coarse: ``(n, d)``, of a reference, its coarse descriptors: foreground feature averages of the object at a
            length of a few patches, in its surroundings, as it appears in a whole photo; else None.
    """

    average: Float32[np.ndarray, " _"]
    patches: Float32[np.ndarray, "_ _"] = field(repr=False)
    weights: Float32[np.ndarray, " _"] = field(repr=False)
    positions: Float32[np.ndarray, "_ 2"] = field(repr=False)
    colours: Float32[np.ndarray, "_ 3"] = field(repr=False)
    mirror: InstanceFeatures | None = field(default=None, repr=False)
    views: tuple[InstanceFeatures, ...] = field(default=(), repr=False)
    coarse: Float32[np.ndarray, "_ _"] | None = field(default=None, repr=False)

    def __post_init__(self):
        k, d = self.patches.shape
        if not k or (self.average.shape, self.weights.shape, self.positions.shape, self.colours.shape) != (
            (d,),
            (k,),
            (k, 2),
            (k, 3),
        ):
            raise NbHelpersError(
                "the arrays of the features do not match",
                given=f"average {self.average.shape}, patches {self.patches.shape}, weights {self.weights.shape}, "
                f"positions {self.positions.shape}, colours {self.colours.shape}",
                expected="average (d,), patches (k, d), weights (k,), positions (k, 2), colours (k, 3), k at least 1",
            )


def describe_mask(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder, side: int = CROP_SIDE
) -> InstanceFeatures:
    """The features of the object under ``mask``.

    Example:
        >>> features = describe_mask(photo, click_session.mask(), nbhelpers.load("patch_encoder"))
        >>> features.average.shape, features.patches.shape
        ((384,), (141, 384))

    Args:
        image: the photo.
        mask: of the object.
        encoder: computes the patch tokens.
        side: of the encoded square crop, in pixels.

    Raises:
        NbHelpersError: the mask is empty, or its size is not that of the photo.
    """
    return describe_masks(image, [mask], encoder, side)[0]


def describe_reference(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder, side: int = CROP_SIDE
) -> InstanceFeatures:
    """`describe_mask` for a reference, with its mirror image, augmented views and coarse descriptors.

    The mirror image identifies mirrored look-alikes. The augmented views show the reference as it may appear in other
    photos: rotated, smaller, darker, brighter, blurred and partly occluded. Their scores against the reference are
    those expected of matches.
    """
    crop, alpha = square_crop(image, mask, side)
    flipped = np.ascontiguousarray(crop[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
    views = [_view(crop, alpha, *how) for how in AUGMENTATIONS]
    features, mirror, *augmented = describe_crops([(crop, alpha), flipped, *views], encoder)
    return replace(features, mirror=mirror, views=tuple(augmented), coarse=coarse_descriptors(image, mask, encoder))


def coarse_descriptors(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder
) -> Float32[np.ndarray, "n d"]:
    """Foreground feature averages of an object at a length of 4, 7 and 10 patches, with its surroundings.

    In a whole photo an object is small and has a background, so its tokens differ from those of a large crop on a plain
    background. The search in a photo therefore compares with these descriptors.
    """
    x0, y0, x1, y1 = tight_box(mask)
    longest = max(x1 - x0, y1 - y0)
    around = np.s_[max(0, y0 - longest) : y1 + longest, max(0, x0 - longest) : x1 + longest]
    image, mask = image[around], mask[around].astype(np.float32)
    averages = []
    for patches in COARSE_LENGTHS:
        scale = patches * encoder.patch / longest
        size = tuple(max(1, round(length * scale)) for length in mask.shape[::-1])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        tokens = encoder.tokens([cv2.resize(np.ascontiguousarray(image), size, interpolation=how)])[0]
        cover = cv2.resize(mask, tokens.shape[1::-1], interpolation=cv2.INTER_AREA)
        averages.append(foreground_average(unit(tokens), cover))
    return np.stack(averages)


def _view(crop: np.ndarray, alpha: np.ndarray, degrees: float, shrink: float, light: float, hidden: float):
    """A crop and its alpha, rotated, at lower resolution, at another brightness, a fraction of its left side hidden."""
    side = len(crop)
    move = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1)
    rotated = cv2.warpAffine(crop, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(alpha, move, (side, side))
    small = cv2.resize(rotated, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    rotated = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    rotated = np.clip(rotated * np.float32(light), 0, 255).astype(np.uint8)
    columns = np.flatnonzero((cover > 0.5).any(0))
    if len(columns):
        cover[:, : columns[0] + round(hidden * len(columns))] = 0
    return (rotated, cover) if (cover > 0.5).any() else (crop, alpha)


def describe_masks(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    encoder: PatchEncoder,
    side: int = CROP_SIDE,
) -> list[InstanceFeatures]:
    """`describe_mask` for several masks of one photo, encoded in batches."""
    return describe_crops([square_crop(image, mask, side) for mask in masks], encoder)


def describe_crops(
    crops: Sequence[tuple[UInt8[np.ndarray, "s s 3"], Float32[np.ndarray, "s s"]]], encoder: PatchEncoder
) -> list[InstanceFeatures]:
    """Features of crops with their alpha, from `square_crop`."""
    grids = encoder.tokens([fill_background(crop, alpha) for crop, alpha in crops])
    return [_features(tokens, crop, alpha) for tokens, (crop, alpha) in zip(grids, crops, strict=True)]


def square_crop(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], side: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Float32[np.ndarray, "s s"]]:
    """The square around a mask with a margin, ``side`` pixels wide, and the coverage of each pixel by the mask.

    The border of the photo is replicated outside; the aspect ratio is kept.
    """
    if image.shape[:2] != mask.shape:
        raise NbHelpersError(
            "the mask and the photo differ in size",
            given=f"mask {mask.shape}, photo {image.shape[:2]}",
            expected="one size",
        )
    box = box_of(mask)
    if box is None:
        raise NbHelpersError("the mask to describe is empty", given="an empty mask", do="click on the product")
    square = square_around(box)
    return cut_square(image, square, side), cut_square(mask, square, side)


def square_around(box: Sequence[float]) -> tuple[float, float, float]:
    """``(left, top, side)`` of the square around a box with a margin, in pixels from the corner of the photo."""
    x0, y0, x1, y1 = box
    wide = max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)
    return (x0 + x1 - wide) / 2, (y0 + y1 - wide) / 2, wide


def cut_square(picture: np.ndarray, square: tuple[float, float, float], side: int) -> np.ndarray:
    """A square crop, ``side`` pixels wide: of a photo ``uint8``, of a mask ``float32`` (0 outside the photo)."""
    left, top, wide = square
    # crop first, then scale: the photo may be large and the object small
    a, b = max(0, int(left)), max(0, int(top))
    c, d = min(picture.shape[1], int(left + wide) + 2), min(picture.shape[0], int(top + wide) + 2)
    is_mask = picture.ndim == 2
    piece = picture[b:d, a:c].astype(np.float32) if is_mask else picture[b:d, a:c]
    shrink = side / wide
    if shrink < 1:  # area averaging first, against aliasing
        size = max(1, round((c - a) * shrink)), max(1, round((d - b) * shrink))
        piece = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    zoom = side / wide * np.array([(c - a) / piece.shape[1], (d - b) / piece.shape[0]])
    shift = np.array([a - left, b - top]) * side / wide + 0.5 * (zoom - 1)  # between centres of pixels
    move = np.column_stack([np.diag(zoom), shift])
    border = cv2.BORDER_CONSTANT if is_mask else cv2.BORDER_REPLICATE
    return cv2.warpAffine(piece, move, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)


def fill_background(crop: UInt8[np.ndarray, "s s 3"], alpha: Float32[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """The crop with its background filled with the mean colour."""
    mixed = crop * alpha[..., None] + np.array(FILL, np.float32) * (1 - alpha[..., None])
    return np.round(mixed).astype(np.uint8)


def foreground_average(
    tokens: Float32[np.ndarray, "rows columns d"], cover: Float32[np.ndarray, "rows columns"]
) -> Float32[np.ndarray, " d"]:
    """The mean of the tokens, weighted by the coverage of each patch, scaled to length 1.

    Example:
        >>> foreground_average(np.eye(2, dtype=np.float32)[None], np.array([[1, 0]], np.float32))
        array([1., 0.], dtype=float32)
    """
    return unit(np.einsum("rcd,rc->d", tokens, cover))


def unit(vectors: Float32[np.ndarray, "*n d"]) -> Float32[np.ndarray, "*n d"]:
    """Vectors scaled to length 1; zero vectors are unchanged."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _features(tokens: np.ndarray, crop: np.ndarray, alpha: np.ndarray) -> InstanceFeatures:
    """Features from the tokens of a crop."""
    rows, columns, _ = tokens.shape
    cover = cv2.resize(alpha, (columns, rows), interpolation=cv2.INTER_AREA)
    inside = cover >= min(MIN_COVERAGE, cover.max())
    colours = cv2.resize(rgb_to_lab(crop) * alpha[..., None], (columns, rows), interpolation=cv2.INTER_AREA)
    colours = colours[inside] / np.maximum(cover[inside][:, None], 1e-6)
    y, x = np.nonzero(inside)
    positions = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], 1)
    return InstanceFeatures(
        foreground_average(tokens, cover),
        unit(tokens[inside]),
        cover[inside].astype(np.float32),
        positions.astype(np.float32),
        colours.astype(np.float32),
    )


def patch_colours(grids: Sequence[Float32[np.ndarray, "_ _ d"]]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Patch tokens as colours: their first three principal components become red, green and blue.

    Equal colours mean equal features, within an image and between images. Source: the figures of Oquab et al. 2023,
    arXiv 2304.07193, section 7.5 (principal components of patch features).

    Args:
        grids: tokens of some images, from one encoder.
    """
    tokens = np.concatenate([unit(grid).reshape(-1, grid.shape[-1]) for grid in grids])
    mean = tokens.mean(0)
    _, directions = np.linalg.eigh(np.cov(tokens - mean, rowvar=False))
    axes = directions[:, :-4:-1]
    low, high = np.quantile((tokens - mean) @ axes, (0.02, 0.98), axis=0)
    return [
        np.clip(255 * ((unit(grid) - mean) @ axes - low) / np.maximum(high - low, 1e-9), 0, 255).astype(np.uint8)
        for grid in grids
    ]


def enlarge_patches(grid: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "_ _ 3"]:
    """An image of patches at the size ``(H, W)`` of a photo, each patch a square."""
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_NEAREST)
