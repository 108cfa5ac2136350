"""Crop verification: each instance is classified again from its own crop, and its class may change.

In the full photo, a small object next to a large one is easily assigned the class of the large one. A crop shows it at
the scale that the text encoder was trained on. Classifying regions individually is common in two-stage open-vocabulary
segmentation (Ding et al. 2022, arXiv 2112.07910; Liang et al. 2023, arXiv 2210.04150). The surroundings of the instance
are blurred, the best visual prompt in Yang et al. 2023 (arXiv 2306.04356, "blur reverse mask"). The probabilities of
photo and crop are multiplied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from nbhelpers.clip_guided.selection import MergedInstance
from nbhelpers.clip_guided.values import CropVerification
from nbhelpers.core.masks import box_of
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.models.values import ClassMap

MAX_CROPS = 24  # instances that are verified, largest first; each runs the text encoder once
MARGIN = 0.2  # surroundings on each side, as a fraction of the longer side of the instance's box
WHOLE_PHOTO = 0.8  # fraction of the photo from which the crop shows nothing new
BLUR = 0.08  # standard deviation of the surroundings' blur, as a fraction of the crop's longer side
EDGE = 0.01  # standard deviation of the transition between instance and surroundings, likewise
MIN_SIDE = 32  # pixels of the shorter side of a crop
MAX_SIDE = 1024  # pixels of the longer side of a crop; the text encoders resolve no more
MIN_CROP_PROBABILITY = 1e-4  # so that neither photo nor crop alone rules out a class


def verify_crops(
    instances: Sequence[MergedInstance],
    painted: Int16[np.ndarray, "H W"],
    image: UInt8[np.ndarray, "H W 3"],
    class_map: ClassMap,
    classes: Sequence[Sequence[str]],
    text_encoder: TextEncoder,
    trusted: Collection[int] = (),
) -> dict[int, CropVerification]:
    """Classify the crop of the photo around each instance.

    Args:
        instances: the instances that ``painted`` refers to.
        painted: index of the instance at each pixel, -1 for none.
        image: RGB.
        class_map: of the whole photo.
        classes: the names of each class of the class map.
        text_encoder: classifies the crops.
        trusted: indices of instances that need no verification.

    Returns:
        Index of an instance -> its verification. Instances that fill the photo, are tiny, or are not among the
        `MAX_CROPS` largest are skipped.
    """
    areas = np.bincount(painted.ravel() + 1, minlength=len(instances) + 1)[1:]
    verifications: dict[int, CropVerification] = {}
    for index in np.argsort(-areas, kind="stable").tolist():
        if not areas[index] or len(verifications) == MAX_CROPS:
            break
        mask = painted == index
        x0, y0, x1, y1 = crop_box(mask)
        if index in trusted or areas[index] >= WHOLE_PHOTO * mask.size or min(y1 - y0, x1 - x0) < MIN_SIDE:
            continue
        inside = mask[y0:y1, x0:x1]
        in_photo = mean_probabilities(class_map, mask)
        in_crop = mean_probabilities(
            text_encoder.dense(blur_surroundings(image[y0:y1, x0:x1], inside), classes), inside
        )
        both = np.maximum(in_photo, MIN_CROP_PROBABILITY) * np.maximum(in_crop, MIN_CROP_PROBABILITY)
        class_id = int(both.argmax())
        verifications[index] = CropVerification(
            instances[index].class_id,
            class_id,
            float(in_photo[class_id]),
            float(in_crop[class_id]),
            float(both[class_id] / both.sum()),
        )
    return verifications


def reassign(
    instances: list[MergedInstance],
    painted: Int16[np.ndarray, "H W"],
    verifications: dict[int, CropVerification],
    wanted: dict[int, bool],
    levels: dict[int, float],
) -> tuple[list[MergedInstance], list[CropVerification]]:
    """Apply crop verifications to the classes of instances; ``painted`` is changed in place.

    An instance is removed if the probability of its class is below the minimum confidence, or if its new class is not
    wanted (excluded, surroundings, or a rival). Instances of one stuff class are merged.

    Args:
        instances: see `verify_crops`.
        painted: index of the instance at each pixel.
        verifications: from `verify_crops`.
        wanted: class index -> whether it is stuff.
        levels: class index -> minimum confidence.

    Returns:
        The instances, and the verifications of those that were removed.
    """
    out, dropped = list(instances), []
    for index, crop in verifications.items():
        if crop.class_id not in wanted or (not crop.changed and crop.probability < levels[crop.class_id]):
            painted[painted == index] = -1
            dropped.append(crop)
        elif crop.changed:
            score = instances[index].predicted_iou
            out[index] = replace(instances[index], class_id=crop.class_id, confidence=score * crop.probability)
    for class_id in (class_id for class_id, stuff in wanted.items() if stuff):
        same = [index for index, item in enumerate(out) if item.class_id == class_id and (painted == index).any()]
        for index in same[1:]:
            painted[painted == index] = same[0]
    return out, dropped


def describe(kept: Iterable[CropVerification], dropped: Iterable[CropVerification], names: Sequence[str]) -> list[str]:
    """Notes on what verification changed.

    Args:
        kept: verifications of the remaining instances.
        dropped: those of the removed instances.
        names: of the classes.
    """
    changed = Counter((crop.prompted_id, crop.class_id) for crop in (*kept, *dropped) if crop.changed)
    unsure = Counter(crop.class_id for crop in dropped if not crop.changed)
    return [
        *(f"crop verification changed {count} of {names[a]} to {names[b]}" for (a, b), count in changed.items()),
        *(f"crop verification removed {count} of {names[b]}: probability too low" for b, count in unsure.items()),
    ]


def crop_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """The bounding box ``(x0, y0, x1, y1)`` of an instance with a margin, clipped to the photo."""
    x0, y0, x1, y1 = map(int, box_of(mask))
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    return max(0, x0 - margin), max(0, y0 - margin), min(mask.shape[1], x1 + margin), min(mask.shape[0], y1 + margin)


def blur_surroundings(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "s t 3"]:
    """The image, blurred outside the mask; at most `MAX_SIDE` pixels on the longer side."""
    scale = min(1.0, MAX_SIDE / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    inside = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    inside = cv2.GaussianBlur(inside, (0, 0), max(1.0, EDGE * max(size)))[:, :, None]
    blurred = cv2.GaussianBlur(picture, (0, 0), max(2.0, BLUR * max(size)))
    return np.rint(inside * picture + (1 - inside) * blurred).astype(np.uint8)


def mean_probabilities(class_map: ClassMap, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    """Mean probability of each class over a mask of the photo, which may have any resolution."""
    height, width = class_map.probabilities.shape[1:]
    weight = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.einsum("nhw,hw->n", class_map.probabilities, weight) / max(float(weight.sum()), 1e-12)
