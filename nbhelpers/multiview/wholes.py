"""Whole things from where a word is probable: boxes around its regions, beside the points that clip_guided asks.

Points find what is told apart by colour; a thing of many parts comes as its parts. A box around the region of its word
means the whole. Which of the two is right, the class map decides.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.core.masks import box_of
from nbhelpers.core.metrics import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.regions import components, deepest_points
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding

LEVELS = (0.5, 0.75)  # probabilities at which regions are cut
LARGEST = 3  # regions of each level
SMALLEST = 2e-3  # of the picture
INSIDE = 0.6  # share of a part that lies in a whole, from which it is a part
GOOD = 0.45  # agreement from which a whole is kept
SIDE = 320  # cells at which masks are compared with the map
SAME = 0.5  # IoU from which the answer to a mask's box is the same thing


def wholes(
    segmenter: Segmenter, embedding: Embedding, probability: Float32[np.ndarray, "h w"]
) -> list[tuple[Bool[np.ndarray, "H W"], float]]:
    """Masks of whole things, each with its confidence; none that is mostly inside another.

    Args:
        segmenter: answers boxes.
        embedding: of the photo.
        probability: of the word, coarser than the photo.
    """
    height, width = embedding.size
    scale = min(1.0, SIDE / max(height, width))
    grid = max(1, round(height * scale)), max(1, round(width * scale))
    plane = cv2.resize(probability, grid[::-1], interpolation=cv2.INTER_LINEAR)
    found = []
    for level in LEVELS:
        parts = components(plane >= level, SMALLEST * plane.size)
        for number in range(1, min(LARGEST, int(parts.max(initial=0))) + 1):
            region = parts == number
            x0, y0, x1, y1 = box_of(region)
            box = np.array([x0, y0, x1, y1]) / scale
            points = (deepest_points(region, 0.25 * max(x1 - x0, y1 - y0), 3) + 0.5) / scale - 0.5
            for prompt in (Prompt(box=box), Prompt(points, np.ones(len(points), int), box)):
                prediction = segmenter.predict(embedding, prompt)
                for index in range(len(prediction)):
                    found.append(_judged(prediction, index, plane, region, grid))
    kept: list[tuple[np.ndarray, float]] = []
    for small, worth, prediction, index in sorted(found, key=lambda each: -each[1]):
        if worth < GOOD:
            break
        if all(np.count_nonzero(small & other) < INSIDE * min(small.sum(), other.sum()) for other, *_ in kept):
            kept.append((small, worth, prediction, index))
    return [(prediction.mask(index), float(np.sqrt(worth))) for _, worth, prediction, index in kept]


def _judged(prediction, index: int, plane: np.ndarray, region: np.ndarray, grid: tuple[int, int]) -> tuple:
    """A mask on the grid, and its worth: predicted IoU times how well it and the region cover each other.

    The harmonic mean of precision and recall, both weighted with the word's probability.
    """
    height, width = round(prediction.extent[0]), round(prediction.extent[1])
    logits = np.ascontiguousarray(prediction.logits[index, :height, :width], np.float32)
    small = cv2.resize(logits, grid[::-1], interpolation=cv2.INTER_LINEAR) > 0
    precision = float(plane[small].mean()) if small.any() else 0.0
    recall = float((plane * (small & region)).sum() / max(float((plane * region).sum()), 1e-9))
    agreement = 2 * precision * recall / max(precision + recall, 1e-9)
    return small, float(prediction.scores[index]) * agreement, prediction, index


def by_its_box(segmenter: Segmenter, embedding: Embedding, mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """What the segmenter answers to the box of a mask, where that is the same thing; else the mask.

    A mask that a word led to lies where the word fits: of a yellow tractor where it is yellow, of a lake on the shore
    too. Its box means the thing itself, with its tracks, without its shore.

    Args:
        segmenter: answers boxes.
        embedding: of the photo.
        mask: not empty.
    """
    whole = segmenter.predict(embedding, Prompt(box=box_of(mask))).best
    return whole if iou(whole, mask) >= SAME else mask


def without_parts(
    found: list[tuple[np.ndarray, float]], larger: list[tuple[np.ndarray, float]]
) -> list[tuple[np.ndarray, float]]:
    """The wholes, and of the other masks those that are not mostly inside one of them nor the same.

    Args:
        found: masks and confidences of points.
        larger: the wholes.
    """
    out = list(larger)
    for mask, confidence in found:
        size = max(1, np.count_nonzero(mask))
        if all(np.count_nonzero(mask & whole) < INSIDE * size for whole, _ in larger):
            out.append((mask, confidence))
    return out
