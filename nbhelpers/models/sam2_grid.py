"""Automatic mask generation: prompts on a grid of points, filtered and without duplicates.

For SAM 2 this is ``SAM2AutomaticMaskGenerator`` of the ``sam2`` package. Other segmenters are prompted with the same
grid through `Segmenter.predict_points`, and their candidates are filtered by the same rules (Kirillov et al. 2023,
arXiv 2304.02643, appendix B).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.masks import box_of, encode_rle
from nbhelpers.models.adapters import precision_of, with_cpu_fallback
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding, Prediction

POINTS_AT_ONCE = {"cpu": 16, "mps": 32, "cuda": 128}
STABILITY_OFFSET = 1.0  # of the logits, the default of the sam2 package


@dataclass(frozen=True)
class AutomaticMask:
    """One automatic mask.

    Attributes:
        rle: at the size of the photo, as COCO RLE.
        quality: predicted IoU.
    """

    rle: Mapping[str, Any]
    quality: float


def automatic_masks(
    segmenter: Segmenter,
    image: UInt8[np.ndarray, "h w 3"],
    embedding: Embedding | None,
    points_per_side: int,
    pred_iou_thresh: float,
    stability_score_thresh: float,
    box_nms_thresh: float,
) -> list[AutomaticMask]:
    """All masks of a photo from a grid of points, by decreasing predicted IoU.

    Args:
        segmenter: SAM 2, or any other.
        image: the photo.
        embedding: of the photo, if available; the generator of SAM 2 encodes it again nevertheless.
        points_per_side: ``points_per_side`` squared points are prompted.
        pred_iou_thresh: minimum predicted IoU of a mask.
        stability_score_thresh: minimum IoU of the masks at a logit of 1 and of -1.
        box_nms_thresh: IoU of boxes from which only the mask of higher predicted IoU is kept.
    """
    from nbhelpers.models.sam2 import Sam2Segmenter

    if not isinstance(segmenter, Sam2Segmenter):
        embedding = segmenter.encode(image) if embedding is None else embedding
        return _filtered_grid(
            segmenter, embedding, points_per_side, pred_iou_thresh, stability_score_thresh, box_nms_thresh
        )
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    def run() -> list[AutomaticMask]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # sam2 scripts its transforms, which torch has deprecated
            generator = SAM2AutomaticMaskGenerator(
                segmenter.model,
                points_per_side=points_per_side,
                points_per_batch=POINTS_AT_ONCE[segmenter.device.partition(":")[0]],
                pred_iou_thresh=pred_iou_thresh,
                stability_score_thresh=stability_score_thresh,
                stability_score_offset=STABILITY_OFFSET,
                box_nms_thresh=box_nms_thresh,
                output_mode="coco_rle",
            )
        with precision_of(segmenter):
            masks = generator.generate(image)
        return [AutomaticMask(each["segmentation"], float(each["predicted_iou"])) for each in masks]

    return sorted(with_cpu_fallback(segmenter, run), key=lambda mask: -mask.quality)


def grid_points(size: tuple[int, int], points_per_side: int) -> Float32[np.ndarray, "n 2"]:
    """The centres of ``points_per_side`` squared equal cells of a photo, as ``(x, y)`` pixels."""
    ys, xs = ((np.arange(points_per_side) + 0.5) * side / points_per_side - 0.5 for side in size)
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return np.clip(points, 0, np.array([size[1] - 1, size[0] - 1])).astype(np.float32)


def _filtered_grid(
    segmenter: Segmenter,
    embedding: Embedding,
    points_per_side: int,
    pred_iou_thresh: float,
    stability_score_thresh: float,
    box_nms_thresh: float,
) -> list[AutomaticMask]:
    candidates: list[tuple[float, Prediction, int, tuple[int, int, int, int]]] = []

    def collect(number: int, prediction: Prediction) -> int:
        for index, quality in enumerate(prediction.scores.tolist()):
            logits = prediction.logits[index]
            strict, loose = np.count_nonzero(logits > STABILITY_OFFSET), np.count_nonzero(logits > -STABILITY_OFFSET)
            box = box_of(logits > 0)
            if box and quality > pred_iou_thresh and strict >= stability_score_thresh * loose:
                candidates.append((quality, prediction, index, box))
        return prediction.choice

    segmenter.predict_points(embedding, grid_points(embedding.size, points_per_side), collect)
    kept: list[tuple[float, Prediction, int, tuple[int, int, int, int]]] = []
    for each in sorted(candidates, key=lambda row: -row[0]):
        if all(_box_iou(each[3], other[3]) <= box_nms_thresh for other in kept):
            kept.append(each)
    return [AutomaticMask(encode_rle(prediction.mask(index)), quality) for quality, prediction, index, _ in kept]


def _box_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, wide) * max(0, high)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
