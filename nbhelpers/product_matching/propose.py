"""Object proposals of a photo, prompted only where its patch features are similar to the gallery.

The photo's patches are compared with the gallery at several scales. Local maxima of the similarity map become point
prompts, regions of high similarity become box prompts. All masks of a point (subpart, part, whole) are kept until the
most similar ones are described by the patch encoder. The best of those are prompted again with their box: a point on a
cup may select the cup, its box the cup with its saucer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, components, decode_rle, distinct, encode_rle, intersections, tight_box
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.models.sam2_grid import automatic_masks
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.product_matching.features import (
    InstanceFeatures,
    cut_square,
    describe_crops,
    describe_masks,
    square_around,
    square_crop,
    unit,
)
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.settings import ProductSettings

REGION_LEVELS = (0.6, 0.8)  # thresholds of regions, as fractions of the maximum of a similarity map
MAX_REGIONS = 6  # of a similarity map, at each level
MIN_MAXIMUM = 0.25  # fraction of the highest maximum; lower ones are only prompted if there are too few
MAXIMA_DISTANCE, POINT_DISTANCE = 1.5, 2.0  # patches
DIAGONAL_LOADING = 30  # times the mean variance is added to each
IOU_DUPLICATE = 0.85  # of two masks or boxes, from which only one is kept
MAX_CROPS = 80  # masks of a photo that are described at low resolution
MAX_BOX_PROMPTS = 4  # masks of a photo that are prompted again with their box
COARSE_SIDE = 256  # cells along the longer side of the grid on which masks are compared


@dataclass(frozen=True, eq=False)
class Proposal:
    """An object of a photo that might be the product.

    Attributes:
        rle: its mask, at the size at which the photo was searched, as COCO RLE.
        box: ``(x0, y0, x1, y1)`` pixels, ``x1`` and ``y1`` exclusive.
        area: in pixels.
        quality: IoU of the mask as predicted by the segmenter.
    """

    rle: Mapping[str, Any] = field(repr=False)
    box: tuple[int, int, int, int]
    area: int
    quality: float

    @cached_property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The decoded mask."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class DescribedProposal(Proposal):
    """A proposal with the features of the masked object."""

    features: InstanceFeatures = field(repr=False)

    @property
    def without_features(self) -> Proposal:
        """The plain proposal."""
        return Proposal(self.rle, self.box, self.area, self.quality)


@dataclass(frozen=True, eq=False)
class PhotoProposals:
    """All proposals of a photo, as stored in the cache.

    Attributes:
        size: ``(H, W)`` at which the photo was searched.
        items: the proposals, without duplicates.
        prompts: number of points and boxes that prompted the segmenter.
        seconds: duration of the search.
        models: names of the segmenter and the patch encoder.
        notes: messages for the user.
    """

    size: tuple[int, int]
    items: tuple[DescribedProposal, ...]
    prompts: int
    seconds: float
    models: tuple[str, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class GuidedMask:
    """A mask of a prediction, on a coarse grid and decoded to the photo's size on demand.

    Attributes:
        prediction: of the segmenter.
        index: of the mask in it.
        coarse: the mask on a grid of at most 256 cells per side.
        quality: its predicted IoU.
        similarity: its mean in the similarity map, -1 to 1.
    """

    prediction: Prediction
    index: int
    coarse: Bool[np.ndarray, "h w"]
    quality: float
    similarity: float

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """The mask at the photo's size."""
        return self.prediction.mask(self.index)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its box in pixels of the photo, as a prompt."""
        step_x, step_y = self._step
        x0, y0, x1, y1 = tight_box(self.coarse)
        return x0 * step_x - 0.5, y0 * step_y - 0.5, x1 * step_x - 0.5, y1 * step_y - 0.5

    @property
    def _step(self) -> tuple[float, float]:
        """Pixels of the photo per cell of the coarse grid, along x and y."""
        (height, width), (rows, columns) = self.prediction.size, self.coarse.shape
        return width / columns, height / rows

    def small_crop(self, image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[np.ndarray, np.ndarray]:
        """A square crop and its alpha, like `square_crop`, without decoding the mask at the photo's size."""
        height, width = self.prediction.size
        (x0, y0, x1, y1), (step_x, step_y) = tight_box(self.coarse), self._step
        left, top, wide = square_around((x0 * step_x, y0 * step_y, x1 * step_x, y1 * step_y))
        alpha = self.prediction.view(self.index, (left, top, left + wide, top + wide), (side, side)).astype(np.float32)
        across, down = (start + (np.arange(side) + 0.5) * wide / side for start in (left, top))
        alpha *= (across >= 0) & (across < width) & ((down >= 0) & (down < height))[:, None]
        return cut_square(image, (left, top, wide), side), alpha


@dataclass(frozen=True, eq=False)
class GridProposal:
    """An automatic mask from a grid of points, with the interface of `GuidedMask`."""

    rle: Mapping[str, Any]
    quality: float

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """The mask at the photo's size."""
        return decode_rle(self.rle)

    def small_crop(self, image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[np.ndarray, np.ndarray]:
        """A square crop and its alpha."""
        return square_crop(image, self.mask, side)


AnyMask = TypeVar("AnyMask", bound=GuidedMask | GridProposal)


def propose_candidates(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: ProductSettings,
    embedding: Embedding | None = None,
) -> PhotoProposals:
    """Described proposals of a photo.

    Args:
        image: the photo.
        segmenter: predicts the masks.
        encoder: computes the similarity map, and describes the proposals.
        gallery: of the product.
        settings: ``candidates`` is ``"guided"``, or ``"grid"`` for an exhaustive grid of points.
        embedding: of the photo by this segmenter, if available.
    """
    started = time.perf_counter()
    if settings.candidates == "grid":
        masks, prompts = grid_masks(image, segmenter, embedding, settings)
    else:
        embedding = segmenter.encode(image) if embedding is None else embedding
        masks, prompts = guided_masks(image, segmenter, encoder, gallery, settings, embedding)
    items = describe_proposals(image, most_similar(image, masks, encoder, gallery, settings), encoder, settings)
    seconds = time.perf_counter() - started
    return PhotoProposals(image.shape[:2], items, prompts, seconds, (segmenter.name, encoder.name))


def guided_masks(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: ProductSettings,
    embedding: Embedding,
) -> tuple[list[GuidedMask], int]:
    """Masks prompted where the photo is similar to the gallery, without duplicates, and the number of prompts."""
    maps = [similarity_map(image, encoder, gallery, side) for side in settings.scales]
    predictions, prompts = predict_prompted(segmenter, embedding, maps, settings)
    masks = most_similar(image, rank_masks(predictions, maps, settings), encoder, gallery, settings)
    boxes = [mask.box for mask in masks[:MAX_BOX_PROMPTS]]
    more = rank_masks([segmenter.predict(embedding, Prompt(box=box)) for box in boxes], maps, settings)
    return suppress_duplicates([*masks, *more]), prompts + len(boxes)


def predict_prompted(
    segmenter: Segmenter, embedding: Embedding, maps: Sequence[Float32[np.ndarray, "_ _"]], settings: ProductSettings
) -> tuple[list[Prediction], int]:
    """Predictions for the local maxima and the region boxes of similarity maps, and the number of prompts."""
    points, boxes = local_maxima(maps, embedding.size, settings), region_boxes(maps, embedding.size, settings)
    boxes = boxes[: settings.max_prompts // 3]
    points = points[: settings.max_prompts - len(boxes)]
    predictions: list[Prediction] = []

    def keep(number: int, prediction: Prediction) -> int:
        predictions.append(prediction)
        return prediction.choice

    if len(points):
        segmenter.predict_points(embedding, points, keep)
    predictions += [segmenter.predict(embedding, Prompt(box=box)) for box in boxes]
    return predictions, len(points) + len(boxes)


def rank_masks(
    predictions: Sequence[Prediction], maps: Sequence[Float32[np.ndarray, "_ _"]], settings: ProductSettings
) -> list[GuidedMask]:
    """The masks of allowed size, by descending similarity, at most 80 and without duplicates."""
    masks = []
    for prediction in predictions:
        size = prediction.size
        scale = min(1, COARSE_SIDE / max(size))
        shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        if not masks:
            values = np.max([cv2.resize(each, shape[::-1], interpolation=cv2.INTER_LINEAR) for each in maps], axis=0)
        for index in range(len(prediction)):
            coarse = prediction.view(index, (0.0, 0.0, float(size[1]), float(size[0])), shape)
            if coarse.any() and settings.min_mask_area_ratio <= coarse.mean() <= settings.max_mask_area_ratio:
                similarity = float(np.quantile(values[coarse], 0.8))
                masks.append(GuidedMask(prediction, index, coarse, float(prediction.scores[index]), similarity))
    order = np.argsort([-mask.similarity for mask in masks], kind="stable")[: 4 * MAX_CROPS]
    return suppress_duplicates([masks[index] for index in order])[:MAX_CROPS]


def suppress_duplicates(masks: Sequence[GuidedMask]) -> list[GuidedMask]:
    """The masks in order; of two duplicates the one of higher quality."""
    if not masks:
        return []
    overlap = intersections(np.stack([mask.coarse for mask in masks]))
    kept = distinct(overlap, np.array([mask.quality for mask in masks]), IOU_DUPLICATE)
    return [mask for index, mask in enumerate(masks) if kept[index] == index]


def most_similar(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[AnyMask],
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: ProductSettings,
) -> list[AnyMask]:
    """The ``max_candidates`` masks most similar to the gallery, described at half the resolution."""
    if len(masks) <= settings.max_candidates:
        return list(masks)
    side = settings.crop_side // 2
    features = describe_crops([mask.small_crop(image, side) for mask in masks], encoder)
    scores = [patch_similarity(each, gallery) for each in features]
    order = np.argsort(scores, kind="stable")[::-1][: settings.max_candidates]
    return [masks[index] for index in order]


def patch_similarity(features: InstanceFeatures, gallery: Gallery) -> float:
    """Mean best-match cosine of the patches, in both directions, to the nearest reference."""
    patches, best = gallery.centred(features.patches), -1.0
    for reference in gallery.positives:
        table = patches @ gallery.centred(reference.patches).T
        forward = np.average(table.max(1), weights=features.weights)
        backward = np.average(table.max(0), weights=reference.weights)
        best = max(best, float(forward + backward) / 2)
    return best


def describe_proposals(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[GuidedMask | GridProposal],
    encoder: PatchEncoder,
    settings: ProductSettings,
) -> tuple[DescribedProposal, ...]:
    """Masks of allowed size at the photo's resolution, each with its features."""
    items = []
    for each in masks:
        mask = each.mask
        box, area = box_of(mask), int(np.count_nonzero(mask))
        if box is None or not settings.min_mask_area_ratio <= area / mask.size <= settings.max_mask_area_ratio:
            continue
        features = describe_masks(image, [mask], encoder, settings.crop_side)[0]
        items.append(DescribedProposal(encode_rle(mask), box, area, each.quality, features))
    return tuple(items)


def similarity_map(
    image: UInt8[np.ndarray, "h w 3"], encoder: PatchEncoder, gallery: Gallery, side: int
) -> Float32[np.ndarray, "rows columns"]:
    """Similarity of each patch of the photo, its longer side scaled to ``side`` pixels, to the gallery: -1 to 1.

    The value of a patch is its maximum over the coarse descriptors of the references. The measure is the adaptive
    cosine estimator for a known signal in clutter (Kraut, Scharf and McWhorter 2001, "Adaptive Subspace Detectors"):
    the mean of the photo's patches is subtracted, and directions of large variance, such as from subject to background,
    get less weight. The covariance is regularised by diagonal loading, since a photo has few patches.
    """
    scaled = fit(image, side)
    if max(scaled.shape[:2]) < side:
        grow = side / max(scaled.shape[:2])
        size = tuple(max(1, round(length * grow)) for length in scaled.shape[1::-1])
        scaled = cv2.resize(scaled, size, interpolation=cv2.INTER_LINEAR)
    tokens = unit(encoder.tokens([scaled])[0])
    mean = tokens.mean((0, 1))
    tokens = tokens - mean
    flat = tokens.reshape(-1, tokens.shape[-1])
    variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    whitening = directions / np.sqrt(np.maximum(variances, 0) + DIAGONAL_LOADING * variances.mean() + 1e-12)
    tokens, references = unit(tokens @ whitening), unit((gallery.coarse - mean) @ whitening)
    return (tokens @ references.T).max(-1)


def local_maxima(
    maps: Sequence[Float32[np.ndarray, "_ _"]], size: tuple[int, int], settings: ProductSettings
) -> Float32[np.ndarray, "n 2"]:
    """Point prompts, ``(x, y)`` pixels of a photo of ``size``: local maxima of all maps, the highest first.

    The minimum is a quarter of the highest maximum, since a small object has lower values than a large one that is less
    similar to the product. Maxima are at least 1.5 patches apart. If there are fewer maxima than prompts, the highest
    other patches follow, 2 patches apart: an object in front of a more similar one may have no maximum.
    """
    patches: list[tuple[bool, float, float, float]] = []
    highest = max(float(values.max()) for values in maps)
    for values in maps:
        rows, columns = values.shape
        smooth = cv2.GaussianBlur(values, (0, 0), 0.7)
        top = (smooth >= cv2.dilate(smooth, np.ones((3, 3), np.uint8))) & (values >= MIN_MAXIMUM * highest)
        for y, x in np.argwhere(smooth > 0):
            point = (x + 0.5) * size[1] / columns - 0.5, (y + 0.5) * size[0] / rows - 0.5
            patches.append((bool(top[y, x]), float(smooth[y, x]), *point))
    finest = min(max(size) / max(values.shape) for values in maps)
    kept: list[tuple[float, float]] = []
    for is_maximum, _, x, y in sorted(patches, reverse=True):
        distance = finest * (MAXIMA_DISTANCE if is_maximum else POINT_DISTANCE)
        if all((x - a) ** 2 + (y - b) ** 2 >= distance**2 for a, b in kept):
            kept.append((x, y))
        if len(kept) == settings.max_prompts:
            break
    points = np.array(kept, np.float32).reshape(-1, 2)
    return np.clip(points, 0, np.array([size[1] - 1, size[0] - 1], np.float32))


def region_boxes(
    maps: Sequence[Float32[np.ndarray, "_ _"]], size: tuple[int, int], settings: ProductSettings
) -> list[tuple[float, ...]]:
    """Boxes around the regions of high similarity of each map, the highest first, without duplicates."""
    boxes: list[tuple[float, tuple[float, ...]]] = []
    for values in maps:
        rows, columns = values.shape
        step = size[1] / columns, size[0] / rows
        for level in REGION_LEVELS:
            labels = components(values >= level * values.max())
            for label in range(1, min(labels.max(initial=0), MAX_REGIONS) + 1):
                region = labels == label
                x0, y0, x1, y1 = tight_box(region)
                box = x0 * step[0], y0 * step[1], min(x1 * step[0], size[1] - 1), min(y1 * step[1], size[0] - 1)
                boxes.append((float(values[region].max()), box))
    kept: list[tuple[float, ...]] = []
    for _, box in sorted(boxes, reverse=True):
        if all(box_iou(box, other) < IOU_DUPLICATE for other in kept):
            kept.append(box)
    return kept


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two XYXY boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, wide) * max(0.0, high)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def grid_masks(
    image: UInt8[np.ndarray, "h w 3"], segmenter: Segmenter, embedding: Embedding | None, settings: ProductSettings
) -> tuple[list[GridProposal], int]:
    """All automatic masks of allowed size from a grid of points, and the number of points."""
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
    grid = [GridProposal(mask.rle, mask.quality) for mask in masks]
    grid = [each for each in grid if allowed[0] <= each.mask.mean() <= allowed[1]]
    return grid, settings.sam2_points_per_side**2
