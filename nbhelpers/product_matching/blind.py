"""Candidates by a blind grid: everything in a photo, whatever is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.masks import decode_rle
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.sam2_grid import automatic_masks
from nbhelpers.models.values import Embedding
from nbhelpers.product_matching.features import square_crop
from nbhelpers.product_matching.settings import Settings


@dataclass(frozen=True, eq=False)
class BlindReading:
    """An automatic mask as something to be looked at; like `nbhelpers.product_matching.candidates.Reading`."""

    rle: Mapping[str, Any]
    quality: float

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """At the photo's size."""
        return decode_rle(self.rle)

    def glance(self, image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[np.ndarray, np.ndarray]:
        """A small square crop with its alpha."""
        return square_crop(image, self.mask, side)


def blind_readings(
    image: UInt8[np.ndarray, "h w 3"], segmenter: Segmenter, embedding: Embedding | None, settings: Settings
) -> tuple[list[BlindReading], int]:
    """All automatic masks of allowed size, and how many points were asked."""
    masks = automatic_masks(
        segmenter,
        image,
        embedding,
        settings.sam2_points_per_side,
        settings.sam2_pred_iou_thresh,
        settings.sam2_stability_score_thresh,
        settings.nms_iou_threshold,
    )
    allowed = settings.min_mask_area_ratio, settings.max_mask_area_ratio
    readings = [BlindReading(mask.rle, mask.quality) for mask in masks]
    readings = [reading for reading in readings if allowed[0] <= reading.mask.mean() <= allowed[1]]
    return readings, settings.sam2_points_per_side**2
