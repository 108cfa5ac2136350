"""Where in a photo the product might be: prompts only where patch features resemble the gallery.

The photo's patches are compared with the gallery at several scales. Peaks of the similarity become points, warm regions
become boxes, and the segmenter turns both into masks. Of each point all its readings (part, larger part, whole) are
kept until the patch encoder has looked at the most promising ones by themselves. The best of those are asked once more
by their box: a point shows the cup, its box the cup with its saucer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.masks import box_of, encode_rle
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.regions import distinct, intersections
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.product_matching.blind import BlindReading, blind_readings
from nbhelpers.product_matching.features import cut_square, describe_all, describe_crops, square_around
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.heat import heat_map, peaks, warm_boxes
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidate, Candidates, Features

SAME = 0.85  # IoU from which two masks are one before anything is described
LOOKED_AT = 80  # masks of a photo that are looked at in small
ASKED_AGAIN = 4  # of those, by their box
GRID = 256  # cells along the longer side on which masks are compared


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

    @property
    def box(self) -> tuple[float, float, float, float]:
        """About it, in pixels of the photo, as a prompt."""
        step_x, step_y = self._step
        x0, y0, x1, y1 = box_of(self.coarse)
        return x0 * step_x - 0.5, y0 * step_y - 0.5, x1 * step_x - 0.5, y1 * step_y - 0.5

    @property
    def _step(self) -> tuple[float, float]:
        """Pixels of the photo a cell of the coarse grid."""
        (height, width), (rows, columns) = self.prediction.size, self.coarse.shape
        return width / columns, height / rows

    def glance(self, image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[np.ndarray, np.ndarray]:
        """A small square crop with its alpha, as `square_crop` makes it, without the mask at the photo's size."""
        height, width = self.prediction.size
        (x0, y0, x1, y1), (step_x, step_y) = box_of(self.coarse), self._step
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
        heats = [heat_map(image, encoder, gallery, side) for side in settings.scales]
        offered, prompts = guided_predictions(segmenter, embedding, heats, settings)
        readings = similar(image, promising(offered, heats, settings), encoder, gallery, settings)
        boxes = [reading.box for reading in readings[:ASKED_AGAIN]]
        more = promising([segmenter.predict(embedding, Prompt(box=box)) for box in boxes], heats, settings)
        readings, prompts = apart([*readings, *more]), prompts + len(boxes)
    items = described(image, similar(image, readings, encoder, gallery, settings), encoder, settings)
    return Candidates(image.shape[:2], items, prompts, time.perf_counter() - started, (segmenter.name, encoder.name))


def guided_predictions(
    segmenter: Segmenter, embedding: Embedding, heats: Sequence[Float32[np.ndarray, "_ _"]], settings: Settings
) -> tuple[list[Prediction], int]:
    """What the segmenter says at the peaks of the heat and in the boxes of its warm regions."""
    points, boxes = peaks(heats, embedding.size, settings), warm_boxes(heats, embedding.size, settings)
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


def promising(
    offered: Sequence[Prediction], heats: Sequence[Float32[np.ndarray, "_ _"]], settings: Settings
) -> list[Reading]:
    """The masks of allowed size that hold a hot place, the hottest first, without duplicates."""
    readings = []
    for prediction in offered:
        size = prediction.size
        scale = min(1, GRID / max(size))
        shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        if not readings:
            maps = [cv2.resize(heat, shape[::-1], interpolation=cv2.INTER_LINEAR) for heat in heats]
            heat = np.max(maps, axis=0)
        for index in range(len(prediction)):
            coarse = prediction.view(index, (0.0, 0.0, float(size[1]), float(size[0])), shape)
            if coarse.any() and settings.min_mask_area_ratio <= coarse.mean() <= settings.max_mask_area_ratio:
                promise = float(np.quantile(heat[coarse], 0.8))
                readings.append(Reading(prediction, index, coarse, float(prediction.scores[index]), promise))
    if not readings:
        return []
    order = np.argsort([-reading.promise for reading in readings], kind="stable")[: 4 * LOOKED_AT]
    return apart([readings[index] for index in order])[:LOOKED_AT]


def apart(readings: Sequence[Reading]) -> list[Reading]:
    """Readings without duplicates, of two the one of the higher quality, in their order."""
    if not readings:
        return []
    shared = intersections(np.stack([reading.coarse for reading in readings]))
    stands_for = distinct(shared, np.array([reading.quality for reading in readings]), SAME)
    return [reading for index, reading in enumerate(readings) if stands_for[index] == index]


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
