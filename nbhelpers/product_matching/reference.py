"""The product as a person shows it: a photo and a click, a box or a mask, checked before anything is built on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.masks import encode_rle
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.features import describe_reference
from nbhelpers.product_matching.results import cropped
from nbhelpers.product_matching.search import LONGEST
from nbhelpers.product_matching.values import Features

FULL = 0.9  # of the photo: a reference that covers more leaves nothing to tell it from
BORDER = 0.3  # of a border of the photo that background covers
THUMB = 192  # pixels of a reference's picture
WAYS = ("click", "box", "mask", "confirmed", "rejected")


@dataclass(frozen=True, eq=False)
class Reference:
    """One look at the product.

    Attributes:
        photo: name of the photo.
        how: one of `WAYS`.
        rle: the mask, at the size of the picture that was shown.
        features: what the patch encoder sees of it.
        picture: the product on transparent ground, at most 192 pixels a side.
        share: of the photo's area, 0 to 1.
        source: the photo's file; empty for an array.
    """

    photo: str
    how: str
    rle: Mapping[str, Any] = field(repr=False)
    features: Features = field(repr=False)
    picture: UInt8[np.ndarray, "h w 4"] = field(repr=False)
    share: float
    source: str = ""


def shown(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    *,
    point: Sequence[float] | None = None,
    box: Sequence[float] | None = None,
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
) -> Bool[np.ndarray, "h w"]:
    """The mask of what a click ``(x, y)``, a box or a mask shows.

    Raises:
        NbHelpersError: none or several of them, a prompt outside of the photo, or a mask that can be no product: empty,
            of another size, of nearly the whole photo, or clicked background.
    """
    if sum(given is not None for given in (point, box, mask)) != 1:
        raise NbHelpersError("show the product in one way", expected="a point, a box, or a mask")
    if mask is None:
        prompt = Prompt(points=[point] if point is not None else (), box=box).check_inside(image.shape[:2])
        mask = segmenter.predict(segmenter.encode(image), prompt).best
    elif mask.shape != image.shape[:2]:
        raise NbHelpersError(
            "the mask has another size than the photo", given=mask.shape, expected=str(image.shape[:2])
        )
    return checked(mask, clicked=point is not None)


def checked(mask: Bool[np.ndarray, "h w"], clicked: bool) -> Bool[np.ndarray, "h w"]:
    """Return a mask that can be a product's; see `shown`."""
    share = float(mask.mean())
    if not mask.any():
        raise NbHelpersError("the reference is empty", do="click on the product, or draw a box around it")
    if share > FULL:
        raise NbHelpersError(
            "the reference covers nearly the whole photo",
            given=f"{share:.0%} of it",
            expected="a product with something around it",
            do="click on the product, or draw a box around it",
        )
    rims = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    if clicked and sum(float(rim.mean()) >= BORDER for rim in rims) >= 3:
        raise NbHelpersError(
            "the click seems to be on the background",
            given=f"its mask covers {share:.0%} of the photo and runs along three of its borders or more",
            do="click on the product; if this is the product, draw a box around it or give its mask",
        )
    return mask


def reference_of(
    photo: str,
    how: str,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    encoder: PatchEncoder,
    side: int,
    features: Features | None = None,
    source: str = "",
) -> Reference:
    """The reference that a mask of a photo makes.

    Args:
        photo: its name.
        how: one of `WAYS`.
        image: the photo; a huge one is looked at on a reduced copy, as in a search.
        mask: what the product covers.
        encoder: who looks.
        side: of the square crop that it sees, in pixels.
        features: where they are known; then the mask may cross a panorama's seam.
        source: the photo's file.
    """
    small = fit(image, LONGEST)
    if features is None:
        reduced = mask if small.shape[:2] == mask.shape else _fit_mask(mask, LONGEST)
        features = describe_reference(small, reduced, encoder, side)
        picture = cropped(image, mask)
    else:
        picture = cropped(image, mask, panorama=True)
    if max(picture.shape[:2]) > THUMB:
        colours = fit(np.ascontiguousarray(picture[:, :, :3]), THUMB)
        picture = np.dstack([colours, _fit_mask(picture[:, :, 3] > 127, THUMB).view(np.uint8) * 255])
    return Reference(photo, how, encode_rle(mask), features, picture, float(mask.mean()), source)


def _fit_mask(mask: Bool[np.ndarray, "h w"], longest: int) -> Bool[np.ndarray, "h2 w2"]:
    return fit(np.repeat(mask.view(np.uint8)[:, :, None] * 255, 3, axis=2), longest)[:, :, 0] > 127
