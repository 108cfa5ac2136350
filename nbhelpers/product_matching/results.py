"""What was found, without the features: light enough to hold for thousands of photos, and made of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.equirect import seam_box, seam_crop
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import box_of, decode_rle
from nbhelpers.export.masks import straight_rgba
from nbhelpers.product_matching.values import Judged


@dataclass(frozen=True, eq=False)
class Found:
    """A thing of a photo and what was made of it.

    Attributes:
        rle: its mask at the size at which the photo was searched, which may be smaller than the photo.
        box: ``(x0, y0, x1, y1)`` in pixels of the photo; in a panorama ``x1`` may pass the width and go on at the left.
        share: of the photo's area, 0 to 1.
        score: similarity to the product.
        parts: what the score is made of, see `Judged`.
        verdict: one of `nbhelpers.product_matching.values.VERDICTS`.
        why: the reason in a sentence.
        quality: the IoU that the segmenter predicts.
        reference: index of the nearest reference.
        number: index into the photo's `Candidates`.
    """

    rle: Mapping[str, Any] = field(repr=False)
    box: tuple[int, int, int, int]
    share: float
    score: float
    parts: Mapping[str, float]
    verdict: str
    why: str
    quality: float
    reference: int
    number: int

    @property
    def kept(self) -> bool:
        """Whether it is a match."""
        return self.verdict == "kept"

    @classmethod
    def of(cls, judged: Judged, size: tuple[int, int]) -> Found:
        """Its box carried up to a photo of ``size`` ``(H, W)``."""
        thing = judged.thing
        height, width = thing.rle["size"]
        down, across = size[0] / height, size[1] / width
        x0, y0, x1, y1 = thing.box
        box = int(x0 * across), int(y0 * down), int(np.ceil(x1 * across)), int(np.ceil(y1 * down))
        rle = {"size": [int(height), int(width)], "counts": thing.rle["counts"]}
        return cls(
            rle,
            box,
            thing.area / (height * width),
            float(judged.score),
            {name: float(value) for name, value in judged.parts.items()},
            judged.verdict,
            judged.why,
            float(thing.quality),
            int(judged.reference),
            judged.number,
        )


@dataclass(frozen=True, eq=False)
class MatchedPhoto:
    """One photo's results, with the ways to write them.

    Example:
        >>> for result in ProductMatcher().run(photos, "shelf/1.jpg", (250, 300)):
        ...     if not result.absent:
        ...         result.save_mask(f"out/{result.name}_mask.png")
        ...         result.save_cutout(f"out/{result.name}.png")

    Attributes:
        photo: its file.
        name: what its results are called; unique in a run.
        size: ``(H, W)``; ``(0, 0)`` when the photo could not be read.
        found: all that was considered, the most similar first.
        threshold: the score that a match needed.
        threshold_from: ``"settings"``, ``"calibration"`` or ``"person"``.
        prompts: how many prompts the segmenter was asked.
        seconds: what the search took.
        notes: what a person should know.
        error: why there is no result; empty if there is one.
        panorama: whether its left and right edges meet.
        sha256: of the photo's file; empty when it could not be read.
    """

    photo: Path
    name: str
    size: tuple[int, int] = (0, 0)
    found: tuple[Found, ...] = field(default=(), repr=False)
    threshold: float = 0.0
    threshold_from: str = "settings"
    prompts: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""
    panorama: bool = False
    sha256: str = ""

    @property
    def matches(self) -> tuple[Found, ...]:
        """What is the product, the most similar first."""
        return tuple(each for each in self.found if each.kept)

    @property
    def absent(self) -> bool:
        """Whether the product is not in this photo."""
        return not self.matches

    @property
    def likeliest(self) -> int:
        """Index into ``found`` of the best match; of a photo without, of the most similar thing."""
        return next((index for index, each in enumerate(self.found) if each.kept), 0)

    @property
    def score(self) -> float:
        """Of the best match; of a photo without, that of the most similar thing; 0 where nothing was found."""
        return self.found[self.likeliest].score if self.found else 0.0

    @property
    def status(self) -> str:
        """``"found"``, ``"absent"`` or ``"failed"``."""
        return "failed" if self.error else "absent" if self.absent else "found"

    def mask(self, index: int = 0) -> Bool[np.ndarray, "h w"]:
        """The mask of match ``index`` at the photo's size.

        Raises:
            NbHelpersError: there is no such match.
        """
        if not 0 <= index < len(self.matches):
            raise NbHelpersError(
                "there is no such match in this photo",
                given=f"{self.photo}, match {index}",
                expected=f"0 to {len(self.matches) - 1}" if self.matches else self.error or "it is absent",
            )
        return mask_at(self.matches[index].rle, self.size)

    def save_mask(self, path: str | Path, index: int = 0) -> Path:
        """Write the mask of a match as PNG, 255 inside and 0 outside, in grey and in alpha alike; return the path."""
        return save_image(_png(path), mask_picture(self.mask(index)))

    def save_cutout(self, path: str | Path, index: int = 0) -> Path:
        """Write the photo with what is not the product transparent (straight alpha); return the path."""
        mask = self.mask(index)
        return save_image(_png(path), straight_rgba(load_image(self.photo), mask.astype(np.uint8) * 255))

    def save_crop(self, path: str | Path, index: int = 0) -> Path:
        """Write the cut-out, cropped to the product; return the path."""
        mask = self.mask(index)
        return save_image(_png(path), cropped(load_image(self.photo), mask, self.panorama))


def mask_at(rle: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask found on a reduced copy, at the photo's size ``(H, W)``; its edge is drawn smoothly between pixels."""
    mask = decode_rle(rle)
    if mask.shape == tuple(size):
        return mask
    return cv2.resize(mask.view(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_LINEAR) > 127


def mask_picture(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 2"]:
    """Grey and alpha, both 255 inside: programs that read either see the mask."""
    return np.repeat(mask.astype(np.uint8)[:, :, None] * 255, 2, axis=2)


def cropped(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], panorama: bool = False
) -> UInt8[np.ndarray, "ch cw 4"]:
    """What the mask covers with straight alpha, as small as it can be; whole where it crosses a panorama's seam."""
    box = seam_box(mask) if panorama else box_of(mask)
    return straight_rgba(
        np.ascontiguousarray(seam_crop(image, box)), np.ascontiguousarray(seam_crop(mask, box)).astype(np.uint8) * 255
    )


def _png(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise NbHelpersError("masks and cut-outs are written without loss", given=path, expected="a name in .png")
    return path
