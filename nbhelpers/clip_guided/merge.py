"""From the masks of single points to instances that share no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float16, Int16

from nbhelpers.clip_guided.choose import Answer, mean_inside
from nbhelpers.clip_guided.values import Conflict, Settings
from nbhelpers.clip_guided.where import Evidence
from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import box_of, view_logits
from nbhelpers.core.regions import components, distinct, intersections, is_group, ranked_pairs
from nbhelpers.models.values import Prediction

if TYPE_CHECKING:
    import supervision

AGREES = 0.5  # a mask of which the class map gives less to the class is dropped
INSIDE = 0.8  # a mask of which so much lies inside a larger one of its class is a part of it
DENSE_BYTES = 1 << 28  # masks of all instances up to this size are one array, beyond it they are compact
LEFT = 0.25  # an instance that keeps a smaller share of its mask in conflicts is covered


@dataclass(frozen=True)
class Instance:
    """One thing, or all of one stuff, before pixels are shared out."""

    logits: Float16[np.ndarray, "h w"]
    class_id: int
    confidence: float
    score: float
    members: tuple[int, ...]


def instances(
    answers: list[Answer], wanted: dict[int, bool], settings: Settings, cell: float
) -> tuple[list[Instance], list[str]]:
    """Merge within each class.

    Args:
        answers: of all points, on the part of the grid that shows the photo.
        wanted: class index -> whether it is stuff.
        settings: smallest size and IoU of duplicates.
        cell: pixels of the photo in one cell of the grid.

    Returns:
        Instances of all classes, and the fate of each answer.
    """
    fates = ["kept"] * len(answers)
    for i, answer in enumerate(answers):
        if answer.class_id not in wanted or answer.agreement < AGREES:
            fates[i] = "disagrees"
        elif np.count_nonzero(answer.logits > 0) * cell < settings.min_region_size:
            fates[i] = "small"
    out = []
    for class_id, stuff in wanted.items():
        own = [i for i, answer in enumerate(answers) if answer.class_id == class_id and fates[i] == "kept"]
        if own and stuff:
            out.append(_together(answers, own))
        elif own:
            out += _apart(answers, own, fates, settings.iou_threshold)
    return out, fates


def _together(answers: list[Answer], own: list[int]) -> Instance:
    """All masks of a class as one."""
    logits = np.max([answers[i].logits for i in own], axis=0)
    areas = [np.count_nonzero(answers[i].logits > 0) for i in own]
    confidence = float(np.average([answers[i].confidence for i in own], weights=areas))
    score = float(np.average([answers[i].score for i in own], weights=areas))
    return Instance(logits, answers[own[0]].class_id, confidence, score, tuple(own))


def _apart(answers: list[Answer], own: list[int], fates: list[str], threshold: float) -> list[Instance]:
    """The distinct masks of a class: no duplicates, no parts of others, no groups of others."""
    masks = np.stack([answers[i].logits > 0 for i in own])
    confidence = np.array([answers[i].confidence for i in own])
    stands_for = distinct(intersections(masks), confidence, threshold)
    members: dict[int, list[int]] = {}
    for k, keeper in enumerate(stands_for.tolist()):
        members.setdefault(keeper, []).append(k)
        if keeper != k:
            fates[own[k]] = "duplicate"
    for k in sorted(members, key=lambda k: -np.count_nonzero(masks[k])):
        if is_group(masks[k], (masks[other] for other in members if other != k)):
            del members[k]
            fates[own[k]] = "group"
    order = sorted(members, key=lambda k: -np.count_nonzero(masks[k]))
    shared = intersections(masks[order])
    for small in range(len(order) - 1, 0, -1):
        wholes = [large for large in range(small) if shared[small, large] >= INSIDE * shared[small, small]]
        if wholes:
            fates[own[order[small]]] = "part"
            members[order[wholes[-1]]] += members.pop(order[small])
    return [
        Instance(
            answers[own[k]].logits,
            answers[own[k]].class_id,
            answers[own[k]].confidence,
            answers[own[k]].score,
            (own[k], *(own[other] for other in group if other != k)),
        )
        for k, group in members.items()
    ]


def share_out(
    found: list[Instance], evidence: Evidence, names: tuple[str, ...], cell: float, smallest: float
) -> tuple[list[int], list[int], list[Conflict]]:
    """Decide who gets the pixels that several instances claim.

    In the pixels that two instances share, each is as confident as its predicted IoU times the mean agreement of the
    class map there. Pairs are put in order by ranked pairs, the clearest and largest decisions first; so a pixel goes
    to one instance, and a cup on a table stays a cup.

    Args:
        found: instances of all classes.
        evidence: the class map on the grid of their logits.
        names: of the class map.
        cell: pixels of the photo in one cell.
        smallest: an instance that is left with fewer pixels is covered.

    Returns:
        Indices of the instances that stand, in the order in which they are to be painted (winners last); indices of
        those that are covered; conflicts between all of them, with indices into ``found``.
    """
    masks = [item.logits > 0 for item in found]
    claims = []
    for i, j in combinations(range(len(found)), 2):
        overlap = masks[i] & masks[j]
        count = int(np.count_nonzero(overlap))
        if count:
            sure = [found[k].score * mean_inside(evidence.relative(found[k].class_id), overlap) for k in (i, j)]
            claims.append((i, j, count, sure))
    wins = [(i, j, (a - b) * count) if a >= b else (j, i, (b - a) * count) for i, j, count, (a, b) in claims]
    ranked = ranked_pairs(len(found), wins)
    rank = {item: place for place, item in enumerate(ranked)}
    conflicts = []
    for i, j, count, sure in claims:
        (winner, high), (loser, low) = sorted(zip((i, j), sure, strict=True), key=lambda pair: rank[pair[0]])
        conflicts.append(
            Conflict(
                winner,
                loser,
                tuple(names[found[k].class_id] for k in (winner, loser)),
                max(1, round(count * cell)),
                (high, low),
            )
        )
    taken, covered = np.zeros(evidence.size, bool), []
    for item in ranked:
        own = np.count_nonzero(masks[item] & ~taken)
        if own * cell < smallest or own < LEFT * np.count_nonzero(masks[item]):
            covered.append(item)
        else:
            taken |= masks[item]
    painted = [item for item in reversed(ranked) if item not in covered]
    return painted, covered, sorted(conflicts, key=lambda conflict: -conflict.pixels)


def paint(order: list[int], found: list[Instance], prediction: Prediction) -> Int16[np.ndarray, "H W"]:
    """Instance indices at photo size, painted in order, each in its own box: memory does not grow with their number.

    Args:
        order: indices into ``found``; later ones lie over earlier ones.
        found: the instances.
        prediction: any prediction of this photo, for its size and extent.
    """
    height, width = prediction.size
    out = np.full(prediction.size, -1, np.int16)
    for index in order:
        logits = found[index].logits
        rows, columns = np.flatnonzero((logits > 0).any(1)), np.flatnonzero((logits > 0).any(0))
        down, across = height / prediction.extent[0], width / prediction.extent[1]
        y0, y1 = max(0, int((rows[0] - 1) * down)), min(height, int(np.ceil((rows[-1] + 2) * down)))
        x0, x1 = max(0, int((columns[0] - 1) * across)), min(width, int(np.ceil((columns[-1] + 2) * across)))
        whole = np.full(prediction.logits.shape[1:], -1, np.float32)
        whole[: logits.shape[0], : logits.shape[1]] = logits
        for top in range(y0, y1, 1024):  # a band at a time
            bottom = min(y1, top + 1024)
            window = (x0, top, x1, bottom)
            inside = view_logits(whole, prediction.extent, prediction.size, window, (bottom - top, x1 - x0)) > 0
            out[top:bottom, x0:x1][inside] = index
    return out


def drop_specks(painted: Int16[np.ndarray, "H W"], smallest: float) -> None:
    """Take parts of instances of fewer than ``smallest`` pixels off the picture, in place; a whole small one stays."""
    for index in range(int(painted.max(initial=-1)) + 1):
        box = box_of(painted == index)
        if box is not None:
            window = painted[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
            mask = window == index
            large = components(mask, smallest) > 0
            if large.any():
                window[mask & ~large] = -1


def detections(
    numbers: Int16[np.ndarray, "h w"], class_ids: Sequence[int], confidence: Sequence[float], names: Sequence[str]
) -> supervision.Detections:
    """An instance map as `supervision.Detections`; of a large photo with compact masks.

    Args:
        numbers: instance index at each pixel, -1 where there is none.
        class_ids: of each instance.
        confidence: of each instance.
        names: class name of each instance.
    """
    needs("text", "supervision")
    import supervision

    if not len(class_ids):
        return no_detections()
    compact = len(class_ids) * numbers.size > DENSE_BYTES
    masks, boxes = [], []
    for index in range(len(class_ids)):
        mask = numbers == index
        box = np.array(box_of(mask) or (0, 0, 1, 1), float)
        boxes.append(box)
        if compact:
            inclusive = (box - (0, 0, 1, 1))[None]
            masks.append(supervision.CompactMask.from_dense(mask[None], inclusive, numbers.shape))
        else:
            masks.append(mask)
    return supervision.Detections(
        xyxy=np.stack(boxes),
        mask=supervision.CompactMask.merge(masks) if compact else np.stack(masks),
        confidence=np.array(confidence, np.float32),
        class_id=np.array(class_ids, int),
        data={"class_name": np.array(names)},
    )


def no_detections() -> supervision.Detections:
    """What is answered where nothing was found."""
    needs("text", "supervision")
    import supervision

    return supervision.Detections(
        xyxy=np.empty((0, 4)),
        confidence=np.empty(0, np.float32),
        class_id=np.empty(0, int),
        data={"class_name": np.empty(0, str)},
    )
