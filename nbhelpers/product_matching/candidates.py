"""Where in a photo the product might be: prompts only where patch features resemble the gallery.

The photo's patches are compared with the gallery at several scales. Peaks of the similarity become points, warm regions
become boxes, and the segmenter turns both into masks. Of each point all its readings (part, larger part, whole) are
kept until the patch encoder has looked at the most promising ones by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, encode_rle
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.regions import components, distinct, intersections
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.product_matching.blind import BlindReading, blind_readings
from nbhelpers.product_matching.features import cut_square, describe_all, describe_crops, square_around, unit
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidate, Candidates, Features

WARM = 0.6  # of the hottest place: the level at which a region ends
WARMER = 0.8
FAINT = 0.25  # the level at which peaks end
BETWEEN_PEAKS, BETWEEN_POINTS = 1.5, 2.0  # patches
LOADING = 30  # times the mean variance is added to each
SAME = 0.85  # IoU from which two masks are one before anything is described
LOOKED_AT = 80  # masks of a photo that are looked at in small
GRID = 256  # cells along the longer side on which masks are compared


@dataclass(frozen=True, eq=False)
class Look:
    """A photo's patches at one scale, whitened and of length 1, with what the gallery says of them.

    Attributes:
        tokens: ``(rows, columns, d)``.
        heat: similarity of each patch to the gallery, -1 to 1.
    """

    tokens: Float32[np.ndarray, "rows columns d"]
    heat: Float32[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One mask that the segmenter offered: on a coarse grid, and how to get it at the photo's size.

    Attributes:
        prediction: what it is one of.
        index: which.
        coarse: the mask on a grid of at most 256 cells.
        quality: its predicted IoU.
        promise: how hot it is, -1 to 1.
    """

    prediction: Prediction
    index: int
    coarse: Bool[np.ndarray, "h w"]
    quality: float
    promise: float

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """At the photo's size."""
        return self.prediction.mask(self.index)

    def glance(self, image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[np.ndarray, np.ndarray]:
        """A small square crop with its alpha, as `square_crop` makes it, without the mask at the photo's size."""
        (height, width), (rows, columns) = self.prediction.size, self.coarse.shape
        x0, y0, x1, y1 = box_of(self.coarse)
        step_x, step_y = width / columns, height / rows
        left, top, wide = square_around((x0 * step_x, y0 * step_y, x1 * step_x, y1 * step_y))
        alpha = self.prediction.view(self.index, (left, top, left + wide, top + wide), (side, side)).astype(np.float32)
        across, down = (start + (np.arange(side) + 0.5) * wide / side for start in (left, top))
        alpha *= (across >= 0) & (across < width) & ((down >= 0) & (down < height))[:, None]
        return cut_square(image, (left, top, wide), side), alpha


def find(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: Settings,
    embedding: Embedding | None = None,
) -> Candidates:
    """All things of a photo that might be the product, described.

    Args:
        image: the photo.
        segmenter: makes the masks.
        encoder: says where to ask, and describes what was found.
        gallery: what is looked for.
        settings: ``candidates`` says how: ``"guided"`` or by a blind ``"grid"``.
        embedding: of the photo by this segmenter, where it is there already.
    """
    started = time.perf_counter()
    if settings.candidates == "grid":
        readings, prompts = blind_readings(image, segmenter, embedding, settings)
    else:
        embedding = segmenter.encode(image) if embedding is None else embedding
        looks = [look(image, encoder, gallery, side) for side in settings.scales]
        offered, prompts = guided_predictions(segmenter, embedding, looks, settings)
        readings = promising(offered, looks, settings)
    items = described(image, similar(image, readings, encoder, gallery, settings), encoder, settings)
    return Candidates(image.shape[:2], items, prompts, time.perf_counter() - started, (segmenter.name, encoder.name))


def look(image: UInt8[np.ndarray, "h w 3"], encoder: PatchEncoder, gallery: Gallery, side: int) -> Look:
    """The photo's patches with its longer side scaled to ``side`` pixels, compared with the gallery.

    A patch resembles the gallery as far as it resembles a reference seen from afar, in the size that fits best. The
    similarity is that of finding a known thing in clutter, the adaptive cosine estimator (Kraut, Scharf and McWhorter
    2001, "Adaptive Subspace Detectors"): what the photo shows everywhere is taken off, and directions in which its
    patches differ much, such as from subject to background, count less. The covariance is loaded on its diagonal, for
    a photo has few patches.
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
    whitening = directions / np.sqrt(np.maximum(variances, 0) + LOADING * variances.mean() + 1e-12)
    tokens, wanted = unit(tokens @ whitening), unit((gallery.afar - mean) @ whitening)
    return Look(tokens, (tokens @ wanted.T).max(-1))


def guided_predictions(
    segmenter: Segmenter, embedding: Embedding, looks: Sequence[Look], settings: Settings
) -> tuple[list[Prediction], int]:
    """What the segmenter says at the peaks of the heat and in the boxes of its warm regions."""
    points, boxes = peaks(looks, embedding.size, settings), warm_boxes(looks, embedding.size, settings)
    boxes = boxes[: settings.max_prompts // 3]
    points = points[: settings.max_prompts - len(boxes)]
    offered: list[Prediction] = []

    def keep(number: int, readings: Prediction) -> int:
        offered.append(readings)
        return readings.choice

    if len(points):
        segmenter.predict_points(embedding, points, keep)
    offered += [segmenter.predict(embedding, Prompt(box=box)) for box in boxes]
    return offered, len(points) + len(boxes)


def peaks(looks: Sequence[Look], size: tuple[int, int], settings: Settings) -> Float32[np.ndarray, "n 2"]:
    """Where to ask, as ``(x, y)`` pixels of a photo of ``size``: peaks of the heat of all scales, the hottest first.

    A peak is a local maximum at least a quarter as hot as the hottest one, and no second peak lies within 1.5 patches
    of it: a small thing is fainter than a large one that resembles it less. Where there are fewer peaks than prompts,
    the hottest other places follow, 2 patches apart: a thing may stand before a hotter one without a peak of its own.
    """
    found: list[tuple[bool, float, float, float]] = []
    hottest = max(float(each.heat.max()) for each in looks)
    for each in looks:
        rows, columns = each.heat.shape
        smooth = cv2.GaussianBlur(each.heat, (0, 0), 0.7)
        top = (smooth >= cv2.dilate(smooth, np.ones((3, 3), np.uint8))) & (each.heat >= FAINT * hottest)
        for y, x in np.argwhere(smooth > 0):
            place = (x + 0.5) * size[1] / columns - 0.5, (y + 0.5) * size[0] / rows - 0.5
            found.append((bool(top[y, x]), float(smooth[y, x]), *place))
    finest = min(max(size) / max(each.heat.shape) for each in looks)
    kept: list[tuple[float, float]] = []
    for is_peak, _, x, y in sorted(found, reverse=True):
        apart = finest * (BETWEEN_PEAKS if is_peak else BETWEEN_POINTS)
        if all((x - a) ** 2 + (y - b) ** 2 >= apart**2 for a, b in kept):
            kept.append((x, y))
        if len(kept) == settings.max_prompts:
            break
    points = np.array(kept, np.float32).reshape(-1, 2)
    return np.clip(points, 0, np.array([size[1] - 1, size[0] - 1], np.float32))


def warm_boxes(looks: Sequence[Look], size: tuple[int, int], settings: Settings) -> list[tuple[float, ...]]:
    """Boxes around the warm regions of each scale, the hottest first, no two nearly the same."""
    found: list[tuple[float, tuple[float, ...]]] = []
    for each in looks:
        rows, columns = each.heat.shape
        step = size[1] / columns, size[0] / rows
        for level in (WARM, WARMER):
            parts = components(each.heat >= level * each.heat.max())
            for number in range(1, min(parts.max(initial=0), 6) + 1):
                part = parts == number
                x0, y0, x1, y1 = box_of(part)
                box = x0 * step[0], y0 * step[1], min(x1 * step[0], size[1] - 1), min(y1 * step[1], size[0] - 1)
                found.append((float(each.heat[part].max()), box))
    kept: list[tuple[float, ...]] = []
    for _, box in sorted(found, reverse=True):
        if all(box_iou(box, other) < SAME for other in kept):
            kept.append(box)
    return kept


def promising(offered: Sequence[Prediction], looks: Sequence[Look], settings: Settings) -> list[Reading]:
    """The masks of allowed size that hold a hot place, the hottest first, without duplicates."""
    readings = []
    for prediction in offered:
        size = prediction.size
        scale = min(1, GRID / max(size))
        shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        if not readings:
            maps = [cv2.resize(each.heat, shape[::-1], interpolation=cv2.INTER_LINEAR) for each in looks]
            heat = np.max(maps, axis=0)
        for index in range(len(prediction)):
            coarse = prediction.view(index, (0.0, 0.0, float(size[1]), float(size[0])), shape)
            if coarse.any() and settings.min_mask_area_ratio <= coarse.mean() <= settings.max_mask_area_ratio:
                promise = float(np.quantile(heat[coarse], 0.8))
                readings.append(Reading(prediction, index, coarse, float(prediction.scores[index]), promise))
    if not readings:
        return []
    order = np.argsort([-reading.promise for reading in readings], kind="stable")[: 4 * LOOKED_AT]
    readings = [readings[index] for index in order]
    shared = intersections(np.stack([reading.coarse for reading in readings]))
    stands_for = distinct(shared, np.array([reading.quality for reading in readings]), SAME)
    return [reading for index, reading in enumerate(readings) if stands_for[index] == index][:LOOKED_AT]


def similar(
    image: UInt8[np.ndarray, "h w 3"],
    readings: Sequence[Reading | BlindReading],
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: Settings,
) -> list[Reading | BlindReading]:
    """The readings that resemble the gallery most at a glance: in small crops, a quarter of the patches."""
    if len(readings) <= settings.max_candidates:
        return list(readings)
    side = settings.crop_side // 2
    glances = describe_crops([reading.glance(image, side) for reading in readings], encoder)
    scores = [glance_score(features, gallery) for features in glances]
    order = np.argsort(scores, kind="stable")[::-1][: settings.max_candidates]
    return [readings[index] for index in order]


def glance_score(features: Features, gallery: Gallery) -> float:
    """Best-match similarity of patches both ways, of the nearest reference."""
    patches, best = gallery.centred(features.patches), -1.0
    for reference in gallery.positives:
        table = patches @ gallery.centred(reference.patches).T
        there = np.average(table.max(1), weights=features.weights)
        back = np.average(table.max(0), weights=reference.weights)
        best = max(best, float(there + back) / 2)
    return best


def described(
    image: UInt8[np.ndarray, "h w 3"],
    readings: Sequence[Reading | BlindReading],
    encoder: PatchEncoder,
    settings: Settings,
) -> tuple[Candidate, ...]:
    """The masks at the photo's size, each looked at by itself."""
    items = []
    for reading in readings:
        mask = reading.mask
        box, area = box_of(mask), int(np.count_nonzero(mask))
        if box is None or not settings.min_mask_area_ratio <= area / mask.size <= settings.max_mask_area_ratio:
            continue
        features = describe_all(image, [mask], encoder, settings.crop_side)[0]
        items.append(Candidate(encode_rle(mask), box, area, reading.quality, features))
    return tuple(items)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two XYXY boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, high)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / both if both > 0 else 0.0
