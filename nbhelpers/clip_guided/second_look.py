"""A closer look at each instance: its own piece of the photo is read again, and its word may change.

A text encoder that sees the whole photo gives a small thing beside a large one the large one's word. Seen alone, at
the size that the encoder was trained on, it is told apart. Reading regions by themselves is what open-vocabulary
segmentation by proposals does (Ding et al. 2022, arXiv 2112.07910; Liang et al. 2023, arXiv 2210.04150). What
surrounds the instance is blurred, which told words apart best in Yang et al. 2023 (arXiv 2306.04356, "blur reverse
mask"). The two readings count the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from nbhelpers.clip_guided.merge import Instance
from nbhelpers.clip_guided.values import Look
from nbhelpers.core.masks import box_of
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.models.values import ClassMap

MOST = 24  # instances that are looked at, the largest first; each costs the text encoder once
MARGIN = 0.2  # surroundings on each side, as a share of the longer side of the instance's box
WHOLE = 0.8  # an instance that covers so much of the photo has been read already
BLUR = 0.08  # standard deviation of the surroundings' blur, as a share of the piece's longer side
EDGE = 0.01  # the same of the transition between instance and surroundings
SMALLEST = 32  # pixels; of smaller pieces there is nothing to read
SIDE = 1024  # pixels of a piece; more is detail that no text encoder of ours reads
SAID = "a second look"  # how the notes on it begin
FLOOR = 1e-4  # no reading rules a word out by itself


def look_again(
    found: Sequence[Instance],
    painted: Int16[np.ndarray, "H W"],
    image: UInt8[np.ndarray, "H W 3"],
    class_map: ClassMap,
    asked: Sequence[Sequence[str]],
    text_encoder: TextEncoder,
) -> dict[int, Look]:
    """Read the piece of the photo around each instance.

    Args:
        found: instances, on which ``painted`` holds indices.
        painted: index of the instance at each pixel, -1 where there is none.
        image: RGB.
        class_map: the first reading, of the whole photo.
        asked: the names of each class of the class map.
        text_encoder: reads the pieces.

    Returns:
        Index of an instance -> what both readings say. Instances that fill the photo, are tiny, or come after the
        `MOST` largest are left out.
    """
    areas = np.bincount(painted.ravel() + 1, minlength=len(found) + 1)[1:]
    looks: dict[int, Look] = {}
    for index in np.argsort(-areas, kind="stable").tolist():
        if not areas[index] or len(looks) == MOST:
            break
        mask = painted == index
        x0, y0, x1, y1 = piece(mask)
        height, width = y1 - y0, x1 - x0
        if areas[index] >= WHOLE * mask.size or min(height, width) < SMALLEST:
            continue
        inside = mask[y0:y1, x0:x1]
        first = _mean(class_map, mask)
        second = _mean(text_encoder.dense(standing_out(image[y0:y1, x0:x1], inside), asked), inside)
        both = np.maximum(first, FLOOR) * np.maximum(second, FLOOR)
        now = int(both.argmax())
        looks[index] = Look(
            found[index].class_id, now, float(first[now]), float(second[now]), float(both[now] / both.sum())
        )
    return looks


def rename(
    found: list[Instance],
    painted: Int16[np.ndarray, "H W"],
    looks: dict[int, Look],
    wanted: dict[int, bool],
    levels: dict[int, float],
) -> tuple[list[Instance], list[Look]]:
    """The instances with the words of their second looks; ``painted`` is changed in place.

    An instance is taken off the picture where both readings together are less sure of its word than was asked for, and
    where its new word is not wanted (excluded, or a background word). Several of one stuff become one.

    Args:
        found: instances.
        painted: index of the instance at each pixel.
        looks: what `look_again` says.
        wanted: class index -> whether it is stuff.
        levels: class index -> the confidence that was asked for.

    Returns:
        The instances, and the looks of those that were taken off.
    """
    out, dropped = list(found), []
    for index, look in looks.items():
        if look.now not in wanted or (not look.changed and look.together < levels[look.now]):
            painted[painted == index] = -1
            dropped.append(look)
        elif look.changed:
            out[index] = replace(found[index], class_id=look.now, confidence=found[index].score * look.together)
    for class_id in (class_id for class_id, stuff in wanted.items() if stuff):
        same = [index for index, item in enumerate(out) if item.class_id == class_id and (painted == index).any()]
        for index in same[1:]:
            painted[painted == index] = same[0]
    return out, dropped


def told(kept: Iterable[Look], dropped: Iterable[Look], names: Sequence[str]) -> list[str]:
    """Sentences for people on what second looks have changed.

    Args:
        kept: of the instances that stand.
        dropped: of those that were taken off.
        names: of the classes.
    """
    changed = Counter((look.asked, look.now) for look in (*kept, *dropped) if look.changed)
    unsure = Counter(look.now for look in dropped if not look.changed)
    return [
        *(f"{SAID} made {count} of {names[asked]} into {names[now]}" for (asked, now), count in changed.items()),
        *(f"{SAID} left out {count} of {names[now]} as too unsure" for now, count in unsure.items()),
    ]


def piece(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """``(x0, y0, x1, y1)`` of an instance with its surroundings, within the photo."""
    x0, y0, x1, y1 = map(int, box_of(mask))
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    return max(0, x0 - margin), max(0, y0 - margin), min(mask.shape[1], x1 + margin), min(mask.shape[0], y1 + margin)


def standing_out(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "sh sw 3"]:
    """The picture, blurred where the mask is not; at most `SIDE` pixels on the longer side."""
    scale = min(1.0, SIDE / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    inside = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    inside = cv2.GaussianBlur(inside, (0, 0), max(1.0, EDGE * max(size)))[:, :, None]
    blurred = cv2.GaussianBlur(picture, (0, 0), max(2.0, BLUR * max(size)))
    return np.rint(inside * picture + (1 - inside) * blurred).astype(np.uint8)


def _mean(class_map: ClassMap, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    """Mean probability of each class over a mask; the mask is brought to the map's grid, not the map to the mask's."""
    height, width = class_map.probabilities.shape[1:]
    weight = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.einsum("nhw,hw->n", class_map.probabilities, weight) / max(float(weight.sum()), 1e-12)
