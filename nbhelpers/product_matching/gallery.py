"""The gallery of a session: features of the product, features of rejected objects, and their common component.

The tokens of any two photos have a large common component, so all cosines are high. It is subtracted: the mean token of
the session's photos, and the directions of largest variance. These encode the position of a patch in the image and
whether it belongs to a subject, not its content (INSID3 subtracts them against positional bias).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.masks import encode_rle, seam_box, seam_crop, tight_box
from nbhelpers.core.prompts import Prompt
from nbhelpers.export.masks import straight_rgba
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.features import MAX_SIDE, InstanceFeatures, describe_reference, unit

MEAN_SIDE = 336  # pixels: low resolution is enough for a mean
N_DIRECTIONS = 2  # of largest variance: position in the image, and subject against surroundings
MAX_COVERAGE = 0.9  # of the photo: a reference that covers more leaves no background to compare with
MIN_BORDER_COVERAGE = 0.3  # of a border of the photo, if the mask is background
PICTURE_SIDE = 192  # pixels of a reference's thumbnail
REFERENCE_KINDS = ("click", "box", "mask", "confirmed", "rejected")


@dataclass(frozen=True, eq=False)
class Gallery:
    """Features of the product and of rejected objects, and the common component that is subtracted from all of them.

    Example:
        >>> gallery = Gallery((describe_mask(photo, mask, encoder),), mean=mean_feature(photos, encoder))
        >>> gallery = gallery.add(proposal.features)       # a confirmed match

    Attributes:
        positives: features of the product, at least one.
        negatives: features of rejected objects.
        mean: ``(m, d)``, the common component of the session's photos from `mean_feature`: the mean patch token, then
            orthonormal directions; None to subtract nothing.
    """

    positives: tuple[InstanceFeatures, ...]
    negatives: tuple[InstanceFeatures, ...] = ()
    mean: Float32[np.ndarray, "m d"] | None = field(default=None, repr=False)

    def __post_init__(self):
        widths = {len(each.average) for each in (*self.positives, *self.negatives)}
        widths |= set() if self.mean is None else {self.mean.shape[-1]}
        if not self.positives or len(widths) != 1:
            raise NbHelpersError(
                "the features of the gallery do not match",
                given=f"{len(self.positives)} references, features of length {sorted(widths)}",
                expected="at least one reference, all described by one patch encoder",
                do="confirm a reference first; describe all of them again after a change of the encoder",
            )

    def add(self, features: InstanceFeatures) -> Gallery:
        """A gallery with one more reference."""
        return replace(self, positives=(*self.positives, features))

    def reject(self, features: InstanceFeatures) -> Gallery:
        """A gallery with one more negative."""
        return replace(self, negatives=(*self.negatives, features))

    def centred(self, vectors: Float32[np.ndarray, "*n d"]) -> Float32[np.ndarray, "*n d"]:
        """Vectors of length 1 without their common component, scaled to length 1 again."""
        if self.mean is None:
            return vectors
        mean, directions = self.mean[0], self.mean[1:]
        rest = vectors - mean
        return unit(rest - (rest @ directions.T) @ directions)

    @cached_property
    def averages(self) -> Float32[np.ndarray, "p d"]:
        """The centred averages of the positives."""
        return self.centred(np.stack([each.average for each in self.positives]))

    @cached_property
    def coarse(self) -> Float32[np.ndarray, "n d"]:
        """Coarse descriptors of the positives; for a positive without them, its average."""
        return np.concatenate([each.average[None] if each.coarse is None else each.coarse for each in self.positives])

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of all features: galleries with equal digests give equal results."""
        digest = hashlib.sha256(b"" if self.mean is None else _bytes(self.mean))
        for sign, members in ((b"+", self.positives), (b"-", self.negatives)):
            for each in members:
                digest.update(sign)
                for name in ("average", "patches", "weights", "positions", "colours"):
                    digest.update(_bytes(getattr(each, name)))
                digest.update(b"" if each.coarse is None else _bytes(each.coarse))
        return digest.hexdigest()

    @property
    def guide(self) -> Gallery:
        """The gallery without its negatives, which do not influence the search for proposals."""
        return replace(self, negatives=())


def mean_feature(
    images: Iterable[UInt8[np.ndarray, "_ _ 3"]], encoder: PatchEncoder, limit: int = 8
) -> Float32[np.ndarray, "m d"]:
    """The common component of the patch tokens, each of length 1, of some photos.

    Args:
        images: photos, including that of the reference; those after the first ``limit`` are ignored.
        encoder: computes the patch tokens.
        limit: maximum number of photos.

    Returns:
        ``(3, d)``: their mean, then the 2 orthonormal directions of largest variance.

    Raises:
        NbHelpersError: there are no photos.
    """
    grids: list[np.ndarray] = []
    for image, _ in zip(images, range(limit), strict=False):
        tokens = unit(encoder.tokens([fit(image, MEAN_SIDE)])[0])
        grids.append(tokens.reshape(-1, tokens.shape[-1]))
    if not grids:
        raise NbHelpersError("the mean feature needs at least one photo", given="no photos")
    return common_components(grids)


def common_components(groups: Iterable[Float32[np.ndarray, "_ d"]]) -> Float32[np.ndarray, "m d"]:
    """The common component of groups of tokens, each of length 1: their mean, then the directions of largest variance.

    Each group has the same weight, whatever its number of tokens. Only sums are kept in memory.
    """
    count, total, squares = 0, np.zeros(0), np.zeros(0)
    for tokens in groups:
        wide = tokens.astype(np.float64)
        if not count:
            total, squares = np.zeros(wide.shape[1]), np.zeros((wide.shape[1],) * 2)
        count, total, squares = count + 1, total + wide.mean(0), squares + wide.T @ wide / len(wide)
    mean = total / count
    _, directions = np.linalg.eigh(squares - count * np.outer(mean, mean))  # in ascending order
    return np.concatenate([mean[None], directions[:, : -N_DIRECTIONS - 1 : -1].T]).astype(np.float32)


def evenly_spaced(items: Sequence, limit: int) -> list:
    """At most ``limit`` evenly spaced items of a sequence, including the first and the last."""
    picks = np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int)) if items else []
    return [items[index] for index in picks]


def _bytes(array: np.ndarray) -> bytes:
    """The bytes of the array as float32."""
    return np.ascontiguousarray(array, np.float32).tobytes()


@dataclass(frozen=True, eq=False)
class Reference:
    """One view of the product.

    Attributes:
        photo: name of the photo.
        how: one of `REFERENCE_KINDS`.
        rle: the mask, at the size of the given image.
        features: of the masked product.
        picture: the product with a transparent background, at most 192 pixels per side.
        coverage: fraction of the photo's area, 0 to 1.
        source: the photo's file; empty for an array.
    """

    photo: str
    how: str
    rle: Mapping[str, Any] = field(repr=False)
    features: InstanceFeatures = field(repr=False)
    picture: UInt8[np.ndarray, "h w 4"] = field(repr=False)
    coverage: float
    source: str = ""


def reference_mask(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    *,
    point: Sequence[float] | None = None,
    box: Sequence[float] | None = None,
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
) -> Bool[np.ndarray, "h w"]:
    """The mask of the product from a click ``(x, y)``, a box or a mask.

    Raises:
        NbHelpersError: none or several of them; a prompt outside the photo; a mask that is empty, has another size,
            covers nearly the whole photo, or is background.
    """
    if sum(given is not None for given in (point, box, mask)) != 1:
        raise NbHelpersError("exactly one prompt of the product is needed", expected="a point, a box, or a mask")
    if mask is None:
        prompt = Prompt(points=[point] if point is not None else (), box=box).check_inside(image.shape[:2])
        mask = segmenter.predict(segmenter.encode(image), prompt).best
    elif mask.shape != image.shape[:2]:
        raise NbHelpersError("the mask and the photo differ in size", given=mask.shape, expected=str(image.shape[:2]))
    return check_reference_mask(mask, clicked=point is not None)


def check_reference_mask(mask: Bool[np.ndarray, "h w"], clicked: bool) -> Bool[np.ndarray, "h w"]:
    """The mask, if it can be that of a product; raises the errors of `reference_mask`."""
    coverage = float(mask.mean())
    if not mask.any():
        raise NbHelpersError("the reference is empty", do="click on the product, or draw a box around it")
    if coverage > MAX_COVERAGE:
        raise NbHelpersError(
            "the reference covers nearly the whole photo",
            given=f"{coverage:.0%} of it",
            expected="a product with some background around it",
            do="click on the product, or draw a box around it",
        )
    borders = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    if clicked and sum(float(border.mean()) >= MIN_BORDER_COVERAGE for border in borders) >= 3:
        raise NbHelpersError(
            "the click seems to be on the background",
            given=f"its mask covers {coverage:.0%} of the photo and runs along three of its borders or more",
            do="click on the product; if this is the product, draw a box around it or pass its mask",
        )
    return mask


def make_reference(
    photo: str,
    how: str,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    encoder: PatchEncoder,
    side: int,
    features: InstanceFeatures | None = None,
    source: str = "",
) -> Reference:
    """A reference from a photo and the mask of the product.

    Args:
        photo: its name.
        how: one of `REFERENCE_KINDS`.
        image: the photo; large photos are described on a reduced copy, as in a search.
        mask: of the product.
        encoder: computes the patch tokens.
        side: of the encoded square crop, in pixels.
        features: of the product, if known; the mask may then cross the seam of a panorama.
        source: the photo's file.
    """
    small = fit(image, MAX_SIDE)
    if features is None:
        reduced = mask if small.shape[:2] == mask.shape else _fit_mask(mask, MAX_SIDE)
        features = describe_reference(small, reduced, encoder, side)
        picture = crop_cutout(image, mask)
    else:
        picture = crop_cutout(image, mask, panorama=True)
    if max(picture.shape[:2]) > PICTURE_SIDE:
        colours = fit(np.ascontiguousarray(picture[:, :, :3]), PICTURE_SIDE)
        picture = np.dstack([colours, _fit_mask(picture[:, :, 3] > 127, PICTURE_SIDE).view(np.uint8) * 255])
    return Reference(photo, how, encode_rle(mask), features, picture, float(mask.mean()), source)


def _fit_mask(mask: Bool[np.ndarray, "h w"], longest: int) -> Bool[np.ndarray, "h2 w2"]:
    """A mask, reduced to at most ``longest`` pixels per side."""
    return fit(np.repeat(mask.view(np.uint8)[:, :, None] * 255, 3, axis=2), longest)[:, :, 0] > 127


def crop_cutout(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], panorama: bool = False
) -> UInt8[np.ndarray, "ch cw 4"]:
    """The masked pixels with straight alpha, cropped to the box of the mask, also across the seam of a panorama."""
    box = (seam_box(mask) if panorama else None) or tight_box(mask)
    return straight_rgba(
        np.ascontiguousarray(seam_crop(image, box)), np.ascontiguousarray(seam_crop(mask, box)).astype(np.uint8) * 255
    )
