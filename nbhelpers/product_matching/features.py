"""From a photo and a mask to numbers that can be compared: foreground feature averaging, and what stands beside it.

The masked thing is cut out as a padded square crop, its surroundings are painted over, and a patch encoder looks at it.
Foreground feature averaging (Lu et al. 2024, "Adapting Pre-Trained Vision Models for Novel Instance Detection and
Segmentation", arXiv 2405.17859): the tokens of the patches that the mask covers are averaged. An average forgets where
things are and what colour they have, so the tokens themselves, their places and their colours are kept as well: labels
that differ, mirrored and recoloured look-alikes need them.
"""

from __future__ import annotations

from collections.abc import Sequence

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
FILL = (124, 116, 104)  # ImageNet's mean, which is 0 after normalisation


def describe(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], encoder: PatchEncoder, side: int = SIDE
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


def describe_all(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[Bool[np.ndarray, "h w"]],
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
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], side: int
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
    x0, y0, x1, y1 = box
    wide = max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)
    left, top = (x0 + x1 - wide) / 2, (y0 + y1 - wide) / 2
    # cut first, then scale: the photo may be large and the thing small
    a, b = max(0, int(left)), max(0, int(top))
    c, d = min(image.shape[1], int(left + wide) + 2), min(image.shape[0], int(top + wide) + 2)
    crop, alpha = image[b:d, a:c], mask[b:d, a:c].astype(np.float32)
    shrink = side / wide
    if shrink < 1:  # area averaging first, so that nothing flickers
        size = max(1, round((c - a) * shrink)), max(1, round((d - b) * shrink))
        crop, alpha = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (crop, alpha))
    scale_x, scale_y = crop.shape[1] / (c - a), crop.shape[0] / (d - b)
    move = np.array(
        [
            [side / (wide * scale_x), 0, (a - left) * side / wide],
            [0, side / (wide * scale_y), (b - top) * side / wide],
        ]
    )
    move[:, 2] += 0.5 * (move[:, :2].sum(1) - 1)  # between centres of pixels
    square = cv2.warpAffine(crop, move, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(alpha, move, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
    return square, cover


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
