"""Regions of SAM 2 in a dense prediction: majority labels, and a bank of the regions of unlabelled photos.

The recipes of CorrCLIP (Zhang et al., arXiv 2411.10086) and its successor CorrCLIPv2, whose switches are those of
`nbhelpers.benchmarks.protocols.Recipe`. Restricting the attention to regions is part of the network:
`nbhelpers.models.openclip`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing
from nbhelpers.core.masks import decode_rle
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.sam2_grid import automatic_masks

THRESHOLD = 0.4  # predicted IoU and stability of CorrCLIP's masks
MAX_OVERLAP = 0.7  # of boxes, the default of SAM 2's generator


def photo_regions(
    image: UInt8[np.ndarray, "h w 3"], segmenter: Segmenter, points: int = 8, embedding: Any = None
) -> Int[np.ndarray, "h w"]:
    """The region of each pixel from 1, 0 where there is none; larger masks are laid over smaller ones.

    Source: ``generate_mask`` of CorrCLIP's reference implementation. There each point gives one mask, here three.
    """
    found = automatic_masks(segmenter, image, embedding, points, THRESHOLD, THRESHOLD, MAX_OVERLAP)
    masks = sorted((decode_rle(each.rle) for each in found), key=np.count_nonzero)
    regions = np.zeros(image.shape[:2], np.int32)
    for number, mask in enumerate(masks, 1):
        regions[mask] = number
    return regions


def majority_labels(labels: Int[np.ndarray, "h w"], regions: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Give each region the label that most of its pixels have; region 0 stays. Of equal counts the lowest label.

    Example:
        >>> majority_labels(np.array([[1, 1, 2, 3]]), np.array([[5, 5, 5, 0]]))
        array([[1, 1, 1, 3]])
    """
    count = int(labels.max(initial=0)) + 1
    votes = np.bincount(regions.ravel() * count + labels.ravel(), minlength=(int(regions.max()) + 1) * count)
    winner = votes.reshape(-1, count).argmax(1)
    return np.where(regions > 0, winner[regions], labels)


def region_means(
    features: Float32[np.ndarray, "h w d"], regions: Int[np.ndarray, "H W"]
) -> tuple[Int[np.ndarray, " r"], Float32[np.ndarray, "r d"]]:
    """The mean feature of each region, of length 1, and the regions' numbers; one smaller than a cell is left out."""
    import cv2

    height, width = features.shape[:2]
    cells = cv2.resize(regions.astype(np.int32).astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    numbers = np.unique(cells[cells > 0]).astype(np.int64)
    means = [features[cells == number].mean(0) for number in numbers]
    stacked = np.stack(means) if means else np.empty((0, features.shape[2]), np.float32)
    return numbers, (stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RegionBank:
    """Regions of unlabelled photos: what they look like, and what the text encoder sees in them.

    Example:
        >>> bank = RegionBank.build(photos, describe)           # photos of one's own, no labels
        >>> bank.save("bank.npz")
        >>> bank.retrieve(keys, support=20).shape               # (7, 384) keys of a photo's regions
        (7, 512)

    Attributes:
        keys: ``(n, k)`` of length 1, of a patch encoder.
        values: ``(n, d)`` of length 1, of the text encoder's dense features.
    """

    keys: Float32[np.ndarray, "n k"]
    values: Float32[np.ndarray, "n d"]

    @classmethod
    def build(cls, photos: Iterable[Any], describe: Any) -> RegionBank:
        """A bank of all regions of some photos.

        Args:
            photos: whatever ``describe`` takes.
            describe: gives the ``(r, k)`` keys and ``(r, d)`` values of the regions of one photo.
        """
        pairs = [describe(photo) for photo in photos]
        if not sum(len(keys) for keys, _ in pairs):
            raise NbHelpersError("the photos have no regions for a bank")
        return cls(*(np.concatenate(each).astype(np.float32) for each in zip(*pairs, strict=True)))

    def retrieve(self, keys: Float32[np.ndarray, "r k"], support: int) -> Float32[np.ndarray, "r d"]:
        """For each key the mean value of its ``support`` nearest regions by cosine, of length 1."""
        nearest = np.argsort(-(keys @ self.keys.T), axis=1, kind="stable")[:, : min(support, len(self.keys))]
        means = self.values[nearest].mean(1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def save(self, path: str | Path) -> None:
        """Write both arrays as ``.npz``."""
        with replacing(path) as temporary:
            np.savez(temporary, keys=self.keys, values=self.values)

    @classmethod
    def open(cls, path: str | Path) -> RegionBank:
        """Read the file of `save`.

        Raises:
            NbHelpersError: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                return cls(kept["keys"], kept["values"])
        except (OSError, KeyError, ValueError) as error:
            raise NbHelpersError("the bank cannot be read", given=f"{path}: {error}", do="RegionBank.build") from error


def support_logits(
    logits: Float32[np.ndarray, "n h w"],
    regions: Int[np.ndarray, "h w"],
    numbers: Shaped[np.ndarray, " r"],
    supported: Float32[np.ndarray, "r n"],
    own: float,
) -> Float32[np.ndarray, "n h w"]:
    """A photo's logits mixed with those that its regions got from a bank: ``own * logits + (1 - own) * supported``.

    Pixels of no region keep a bank logit of 0 for every name, as in the reference implementation.

    Source: ``forward_slide`` of CorrCLIPv2's reference implementation.
    """
    out = logits * np.float32(own)
    for number, row in zip(numbers.tolist(), supported, strict=True):
        out[:, regions == number] += (1 - own) * row[:, None]
    return out
