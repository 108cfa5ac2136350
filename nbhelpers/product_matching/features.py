"""From a photo and a mask to numbers that can be compared: foreground feature averaging, and what stands beside it.

The masked thing is cut out as a padded square crop, its surroundings are painted over, and a patch encoder looks at it.
Foreground feature averaging (Lu et al. 2024, "Adapting Pre-Trained Vision Models for Novel Instance Detection and
Segmentation", arXiv 2405.17859): the tokens of the patches that the mask covers are averaged. An average forgets where
things are and what colour they have, so the tokens themselves, their places and their colours are kept as well: labels
that differ, mirrored and recoloured look-alikes need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.product_matching.values import Features

SIDE = 224
MARGIN = 0.1  # of the longer side of the box, on each side of the crop
COVERED = 0.3  # a patch belongs to the thing from this share on
VIEWS = ((20, 0.5, 1.0, 0.0), (-20, 0.3, 0.8, 0.0), (35, 0.7, 1.2, 0.0), (-35, 0.4, 1.0, 0.0), (10, 0.3, 0.7, 0.25),
         (-10, 0.7, 1.3, 0.35))  # fmt: skip  # degrees, shrunk to, light, hidden share
AFAR = (4, 7, 10)  # patches along the longer side of a thing as a search in a photo may meet it
FILL = (124, 116, 104)  # ImageNet's mean, which is 0 after normalisation


def describe(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder, side: int = SIDE
) -> Features:
    """The features of what ``mask`` covers.

    Example:
        >>> features = describe(photo, click_session.mask, nbhelpers.load("patch_encoder"))
        >>> features.average.shape, features.patches.shape
        ((384,), (141, 384))

    Args:
        image: the photo.
        mask: the thing.
        encoder: who looks.
        side: of the square crop that it sees, in pixels.

    Raises:
        NbHelpersError: an empty mask, or one of another size than the photo.
    """
    return describe_all(image, [mask], encoder, side)[0]


def describe_reference(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder, side: int = SIDE
) -> Features:
    """`describe` for a reference, with its mirror image, views of it, and how it looks from afar.

    The mirror image tells a mirrored look-alike. The views show it as it may look in other photos, turned, smaller,
    darker, brighter, blurred and partly hidden: what they score against the reference is what a match can be
    expected to score.
    """
    crop, alpha = square_crop(image, mask, side)
    flipped = np.ascontiguousarray(crop[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
    views = [_view(crop, alpha, *how) for how in VIEWS]
    features, mirror, *seen = describe_crops([(crop, alpha), flipped, *views], encoder)
    return replace(features, mirror=mirror, views=tuple(seen), afar=seen_from_afar(image, mask, encoder))


def seen_from_afar(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], encoder: PatchEncoder
) -> Float32[np.ndarray, "n d"]:
    """The foreground feature averages of a thing that is 4, 7 and 10 patches long, among its surroundings.

    In a whole photo a thing is small and stands before something: its tokens are others than those of a large crop on
    plain ground. So these, not the crop's, are looked for there.
    """
    x0, y0, x1, y1 = box_of(mask)
    longest = max(x1 - x0, y1 - y0)
    around = np.s_[max(0, y0 - longest) : y1 + longest, max(0, x0 - longest) : x1 + longest]
    image, mask = image[around], mask[around].astype(np.float32)
    averages = []
    for patches in AFAR:
        scale = patches * encoder.patch / longest
        size = tuple(max(1, round(length * scale)) for length in mask.shape[::-1])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        tokens = encoder.tokens([cv2.resize(np.ascontiguousarray(image), size, interpolation=how)])[0]
        cover = cv2.resize(mask, tokens.shape[1::-1], interpolation=cv2.INTER_AREA)
        averages.append(foreground_average(unit(tokens), cover))
    return np.stack(averages)


def _view(crop: np.ndarray, alpha: np.ndarray, degrees: float, shrink: float, light: float, hidden: float):
    side = len(crop)
    move = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1)
    turned = cv2.warpAffine(crop, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(alpha, move, (side, side))
    small = cv2.resize(turned, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    turned = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    turned = np.clip(turned * np.float32(light), 0, 255).astype(np.uint8)
    columns = np.flatnonzero((cover > 0.5).any(0))
    if len(columns):
        cover[:, : columns[0] + round(hidden * len(columns))] = 0
    return (turned, cover) if (cover > 0.5).any() else (crop, alpha)


def describe_all(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    encoder: PatchEncoder,
    side: int = SIDE,
) -> list[Features]:
    """`describe` for several masks of one photo, encoded in batches."""
    return describe_crops([square_crop(image, mask, side) for mask in masks], encoder)


def describe_crops(
    crops: Sequence[tuple[UInt8[np.ndarray, "s s 3"], Float32[np.ndarray, "s s"]]], encoder: PatchEncoder
) -> list[Features]:
    """Features of crops with their alpha, as `square_crop` makes them."""
    seen = encoder.tokens([painted_over(crop, alpha) for crop, alpha in crops])
    return [_features(tokens, crop, alpha) for tokens, (crop, alpha) in zip(seen, crops, strict=True)]


def square_crop(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "_ _"], side: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Float32[np.ndarray, "s s"]]:
    """The square around a mask with a margin, ``side`` pixels wide, and how much of each pixel the mask covers.

    What lies outside of the photo repeats its border; nothing is stretched.
    """
    if image.shape[:2] != mask.shape:
        raise NbHelpersError(
            "the mask does not fit the photo", given=f"mask {mask.shape}, photo {image.shape[:2]}", expected="one size"
        )
    box = box_of(mask)
    if box is None:
        raise NbHelpersError("there is nothing to describe", given="an empty mask", do="click on the product")
    square = square_around(box)
    return cut_square(image, square, side), cut_square(mask, square, side)


def square_around(box: Sequence[float]) -> tuple[float, float, float]:
    """``(left, top, side)`` of the square around a box with a margin, in pixels from the photo's corner."""
    x0, y0, x1, y1 = box
    wide = max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)
    return (x0 + x1 - wide) / 2, (y0 + y1 - wide) / 2, wide


def cut_square(picture: np.ndarray, square: tuple[float, float, float], side: int) -> np.ndarray:
    """A square piece, ``side`` pixels wide: of a photo ``uint8``, of a mask ``float32`` (0 outside of the photo)."""
    left, top, wide = square
    # cut first, then scale: the photo may be large and the thing small
    a, b = max(0, int(left)), max(0, int(top))
    c, d = min(picture.shape[1], int(left + wide) + 2), min(picture.shape[0], int(top + wide) + 2)
    is_mask = picture.ndim == 2
    piece = picture[b:d, a:c].astype(np.float32) if is_mask else picture[b:d, a:c]
    shrink = side / wide
    if shrink < 1:  # area averaging first, so that nothing flickers
        size = max(1, round((c - a) * shrink)), max(1, round((d - b) * shrink))
        piece = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    zoom = side / wide * np.array([(c - a) / piece.shape[1], (d - b) / piece.shape[0]])
    shift = np.array([a - left, b - top]) * side / wide + 0.5 * (zoom - 1)  # between centres of pixels
    move = np.column_stack([np.diag(zoom), shift])
    border = cv2.BORDER_CONSTANT if is_mask else cv2.BORDER_REPLICATE
    return cv2.warpAffine(piece, move, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)


def painted_over(crop: UInt8[np.ndarray, "s s 3"], alpha: Float32[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """The crop with what is not the thing painted in the mean colour."""
    mixed = crop * alpha[..., None] + np.array(FILL, np.float32) * (1 - alpha[..., None])
    return np.round(mixed).astype(np.uint8)


def foreground_average(
    tokens: Float32[np.ndarray, "rows columns d"], cover: Float32[np.ndarray, "rows columns"]
) -> Float32[np.ndarray, " d"]:
    """The tokens averaged by how much of each patch is covered, then scaled to length 1.

    Example:
        >>> foreground_average(np.eye(2, dtype=np.float32)[None], np.array([[1, 0]], np.float32))
        array([1., 0.], dtype=float32)
    """
    return unit(np.einsum("rcd,rc->d", tokens, cover))


def unit(vectors: Float32[np.ndarray, "*n d"]) -> Float32[np.ndarray, "*n d"]:
    """Vectors scaled to length 1; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _features(tokens: np.ndarray, crop: np.ndarray, alpha: np.ndarray) -> Features:
    rows, columns, _ = tokens.shape
    cover = cv2.resize(alpha, (columns, rows), interpolation=cv2.INTER_AREA)
    inside = cover >= min(COVERED, cover.max())
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    colours = cv2.resize(lab * alpha[..., None], (columns, rows), interpolation=cv2.INTER_AREA)
    colours = colours[inside] / np.maximum(cover[inside][:, None], 1e-6)
    y, x = np.nonzero(inside)
    places = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], 1)
    return Features(
        foreground_average(tokens, cover),
        unit(tokens[inside]),
        cover[inside].astype(np.float32),
        places.astype(np.float32),
        colours.astype(np.float32),
    )
