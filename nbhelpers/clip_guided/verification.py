"""Verification of instances by their crops: each is read by itself, and its class may change.

A text encoder that sees the whole photo gives a small thing beside a large one the large one's word. Seen alone, at
the size that the encoder was trained on, it is told apart. Reading regions by themselves is what open-vocabulary
segmentation by proposals does (Ding et al. 2022, arXiv 2112.07910; Liang et al. 2023, arXiv 2210.04150). What
surrounds the instance is blurred, which told words apart best in Yang et al. 2023 (arXiv 2306.04356, "blur reverse
mask"). The two readings count the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from nbhelpers.clip_guided.selection import MergedInstance
from nbhelpers.clip_guided.values import CropReading
from nbhelpers.core.masks import box_of
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.models.values import ClassMap

MAX_CROPS = 24  # instances that are read, the largest first; each costs the text encoder once
MARGIN = 0.2  # surroundings on each side, as a fraction of the longer side of the instance's box
WHOLE_PHOTO = 0.8  # an instance that covers so much of the photo has been read already
BLUR = 0.08  # standard deviation of the surroundings' blur, as a fraction of the crop's longer side
EDGE = 0.01  # the same of the transition between instance and surroundings
MIN_SIDE = 32  # pixels; of smaller crops there is nothing to read
MAX_SIDE = 1024  # pixels of a crop; more is detail that no text encoder of ours reads
MIN_READING = 1e-4  # no reading rules a class out by itself


def read_crops(
    instances: Sequence[MergedInstance],
    painted: Int16[np.ndarray, "H W"],
    image: UInt8[np.ndarray, "H W 3"],
    class_map: ClassMap,
    classes: Sequence[Sequence[str]],
    text_encoder: TextEncoder,
    sure: Collection[int] = (),
) -> dict[int, CropReading]:
    """Read the crop of the photo around each instance.

    Args:
        instances: those on which ``painted`` holds indices.
        painted: index of the instance at each pixel, -1 where there is none.
        image: RGB.
        class_map: the reading of the whole photo.
        classes: the names of each class of the class map.
        text_encoder: reads the crops.
        sure: indices of instances that need no verification.

    Returns:
        Index of an instance -> both readings. Instances that fill the photo, are tiny, or come after the `MAX_CROPS`
        largest are left out.
    """
    areas = np.bincount(painted.ravel() + 1, minlength=len(instances) + 1)[1:]
    readings: dict[int, CropReading] = {}
    for index in np.argsort(-areas, kind="stable").tolist():
        if not areas[index] or len(readings) == MAX_CROPS:
            break
        mask = painted == index
        x0, y0, x1, y1 = crop_box(mask)
        if index in sure or areas[index] >= WHOLE_PHOTO * mask.size or min(y1 - y0, x1 - x0) < MIN_SIDE:
            continue
        inside = mask[y0:y1, x0:x1]
        first = mean_probabilities(class_map, mask)
        second = mean_probabilities(text_encoder.dense(blur_surroundings(image[y0:y1, x0:x1], inside), classes), inside)
        both = np.maximum(first, MIN_READING) * np.maximum(second, MIN_READING)
        now = int(both.argmax())
        readings[index] = CropReading(
            instances[index].class_id, now, float(first[now]), float(second[now]), float(both[now] / both.sum())
        )
    return readings


def reassign(
    instances: list[MergedInstance],
    painted: Int16[np.ndarray, "H W"],
    readings: dict[int, CropReading],
    wanted: dict[int, bool],
    levels: dict[int, float],
) -> tuple[list[MergedInstance], list[CropReading]]:
    """The instances with the classes of their crop readings; ``painted`` is changed in place.

    An instance is removed where both readings together are less sure of its class than was asked for, and where its
    new class is not wanted (excluded, surroundings, or a rival). Several of one stuff become one.

    Args:
        instances: see `read_crops`.
        painted: index of the instance at each pixel.
        readings: of `read_crops`.
        wanted: class index -> whether it is stuff.
        levels: class index -> the confidence that was asked for.

    Returns:
        The instances, and the readings of those that were removed.
    """
    out, dropped = list(instances), []
    for index, reading in readings.items():
        if reading.now not in wanted or (not reading.changed and reading.together < levels[reading.now]):
            painted[painted == index] = -1
            dropped.append(reading)
        elif reading.changed:
            score = instances[index].predicted_iou
            out[index] = replace(instances[index], class_id=reading.now, confidence=score * reading.together)
    for class_id in (class_id for class_id, stuff in wanted.items() if stuff):
        same = [index for index, item in enumerate(out) if item.class_id == class_id and (painted == index).any()]
        for index in same[1:]:
            painted[painted == index] = same[0]
    return out, dropped


def describe(kept: Iterable[CropReading], dropped: Iterable[CropReading], names: Sequence[str]) -> list[str]:
    """Notes on what verification has changed.

    Args:
        kept: of the instances that stand.
        dropped: of those that were removed.
        names: of the classes.
    """
    changed = Counter((reading.asked, reading.now) for reading in (*kept, *dropped) if reading.changed)
    unsure = Counter(reading.now for reading in dropped if not reading.changed)
    return [
        *(f"crop verification changed {count} of {names[a]} to {names[b]}" for (a, b), count in changed.items()),
        *(f"crop verification removed {count} of {names[b]} as too unsure" for b, count in unsure.items()),
    ]


def crop_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """``(x0, y0, x1, y1)`` of an instance with its surroundings, within the photo."""
    x0, y0, x1, y1 = map(int, box_of(mask))
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    return max(0, x0 - margin), max(0, y0 - margin), min(mask.shape[1], x1 + margin), min(mask.shape[0], y1 + margin)


def blur_surroundings(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "s t 3"]:
    """The image, blurred where the mask is not; at most `MAX_SIDE` pixels on the longer side."""
    scale = min(1.0, MAX_SIDE / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    inside = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    inside = cv2.GaussianBlur(inside, (0, 0), max(1.0, EDGE * max(size)))[:, :, None]
    blurred = cv2.GaussianBlur(picture, (0, 0), max(2.0, BLUR * max(size)))
    return np.rint(inside * picture + (1 - inside) * blurred).astype(np.uint8)


def mean_probabilities(class_map: ClassMap, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    """Mean probability of each class over a mask of the photo, given on a grid of any size."""
    height, width = class_map.probabilities.shape[1:]
    weight = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.einsum("nhw,hw->n", class_map.probabilities, weight) / max(float(weight.sum()), 1e-12)
