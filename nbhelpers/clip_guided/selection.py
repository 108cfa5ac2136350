"""From prompts to instances: predict masks, select a candidate per prompt, merge duplicates, resolve overlaps, verify.

Crop verification classifies each instance again from its own crop, and its class may change. In the full photo, a small
object next to a large one is easily assigned the class of the large one. A crop shows it at the scale that the text
encoder was trained on. Classifying regions individually is common in two-stage open-vocabulary segmentation (Ding et
al. 2022, arXiv 2112.07910; Liang et al. 2023, arXiv 2210.04150). The surroundings of the instance are blurred, the best
visual prompt in Yang et al. 2023 (arXiv 2306.04356, "blur reverse mask"). The probabilities of photo and crop are
multiplied.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float16, Int16, UInt8

from nbhelpers.clip_guided.placement import ClassGrid, PromptPlacement, add_uncovered
from nbhelpers.clip_guided.values import ClipGuidedSettings, Conflict, CropVerification
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import (
    box_of,
    components,
    distinct,
    intersections,
    is_group,
    ranked_pairs,
    tight_box,
    view_logits,
)
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import Segmenter, TextEncoder
from nbhelpers.models.values import ClassMap, Embedding, Prediction

if TYPE_CHECKING:
    import supervision

BATCH = 256  # points whose masks are held as float32 at once; later as float16
MIN_AGREEMENT = 0.5  # with the class map
PART_INSIDE = 0.8  # fraction of a mask inside a larger one, from which it is a part of it, or in front of another class
WHOLE = 0.25  # exponent of the coverage by which a whole is preferred to its part
IN_FRONT = 0.5  # area relative to another detection that contains it, below which a detection is in front of that one
BOX_OVERLAP = 0.3  # intersection with a box's mask of its class, over the smaller, from which a point's mask is dropped
MAX_REGION_BOX = 0.8  # of the photo, from which the box of a region selects anything
MIN_KEPT = 0.25  # fraction of its mask that an instance must keep in conflicts
MAX_DENSE_BYTES = 1 << 28  # instances with larger masks in total are stored as compact masks
MAX_CROPS = 24  # instances that are verified, largest first; each runs the text encoder once
MARGIN = 0.2  # surroundings on each side, as a fraction of the longer side of the instance's box
WHOLE_PHOTO = 0.8  # fraction of the photo from which the crop shows nothing new
BLUR = 0.08  # standard deviation of the surroundings' blur, as a fraction of the crop's longer side
EDGE = 0.01  # standard deviation of the transition between instance and surroundings, likewise
MIN_SIDE = 32  # pixels of the shorter side of a crop
MAX_SIDE = 1024  # pixels of the longer side of a crop; the text encoders resolve no more
MIN_CROP_PROBABILITY = 1e-4  # so that neither photo nor crop alone rules out a class


@dataclass(frozen=True)
class MaskProposal:
    """The mask that was selected for one prompt.

    Attributes:
        logits: on the segmenter's grid; 16 bits suffice for the sign and the slope at the boundary.
        class_id: index into the class map's names.
        candidate: 1, 2 or 3 for a point; 0 for a box, of the detector or around the point's region.
        predicted_iou: of the segmenter.
        agreement: for a point, the mean relative probability of the class over the mask; for a box, its calibrated
            probability; 0 to 1.
        box: ``(x0, y0, x1, y1)`` pixels of the photo, if the prompt was a detector's box.
        evidence: ``"text"``, ``"detector"`` or ``"both"``: the model that found it.
    """

    logits: Float16[np.ndarray, "h w"]
    class_id: int
    candidate: int
    predicted_iou: float
    agreement: float
    box: tuple[float, float, float, float] | None = None
    evidence: str = "text"

    @property
    def confidence(self) -> float:
        """Predicted IoU times agreement."""
        return self.predicted_iou * self.agreement


@dataclass(frozen=True)
class Prompted:
    """All prompts of a photo, each with its mask.

    Attributes:
        placement: the points of all rounds.
        proposals: of the points, in their order, then of the boxes.
        grid: the class map on the grid of the masks.
        shape: a prediction of this photo, for its size and extent.
        seconds: spent on selection and placement, not on the decoder.
        region_boxes: number of regions of which the box was prompted as well.
    """

    placement: PromptPlacement
    proposals: tuple[MaskProposal, ...]
    grid: ClassGrid
    shape: Prediction
    seconds: float
    region_boxes: int = 0

    @property
    def cell(self) -> float:
        """Pixels of the photo in one cell of the grid."""
        return _cell(self.shape.size, self.grid)


@dataclass(frozen=True)
class MergedInstance:
    """An instance, or the region of a stuff class, before pixels are assigned; ``members`` index its proposals.

    ``detected``: whether its mask is that of a detector's box.
    """

    logits: Float16[np.ndarray, "h w"]
    class_id: int
    confidence: float
    predicted_iou: float
    members: tuple[int, ...]
    detected: bool = False


def prompt(
    segmenter: Segmenter,
    embedding: Embedding,
    class_map: ClassMap,
    placement: PromptPlacement,
    boxes: Sequence[MaskProposal],
    shape: Prediction | None,
    wanted: dict[int, bool],
    settings: ClipGuidedSettings,
) -> Prompted:
    """Prompt the segmenter with all points, then in further rounds with points in uncovered confident areas.

    Args:
        segmenter: predicts the masks.
        embedding: of the photo.
        class_map: of the photo.
        placement: the points.
        boxes: proposals from boxes, which count as covered.
        shape: a prediction of this photo if there are boxes; without boxes there must be a point.
        wanted: class index -> whether it is stuff.
        settings: number of rounds and points.
    """
    selector = CandidateSelector(class_map, placement, wanted)
    if shape is not None:
        selector.start(shape)
    points: list[MaskProposal] = []
    region_boxes = 0
    for number in range(settings.rounds if settings.placement == "deepest" else 1):
        if number:
            started = time.perf_counter()
            merged, _ = merge([*points, *boxes], wanted, settings, _cell(embedding.size, selector.grid))
            covered = np.zeros(selector.grid.size, bool)
            for item in merged:
                covered |= item.logits > 0
            selector.placement = add_uncovered(selector.placement, covered, settings)
            selector.seconds += time.perf_counter() - started
        fresh = range(len(points), len(selector.placement.points))
        if not len(fresh):
            break
        for start in fresh[::BATCH]:
            prediction = segmenter.predict_points(
                embedding,
                selector.placement.points[start : start + BATCH],
                lambda index, candidates, start=start: selector.select(start + index, candidates),
            )
            height, width = selector.grid.size
            for index, score in enumerate(prediction.scores.tolist()):
                class_id, candidate, agreement, _ = selector.selected[start + index]
                logits = prediction.logits[index, :height, :width].astype(np.float16)
                points.append(MaskProposal(logits, class_id, candidate, score, agreement))
            shape = replace(prediction, logits=prediction.logits[:1], scores=prediction.scores[:1], choice=0)
        if not number and settings.placement == "deepest":
            region_boxes = _prompt_region_boxes(segmenter, embedding, selector, wanted, points)
    assert shape is not None  # there was a point or a box
    return Prompted(selector.placement, (*points, *boxes), selector.grid, shape, selector.seconds, region_boxes)


def _prompt_region_boxes(
    segmenter: Segmenter,
    embedding: Embedding,
    selector: CandidateSelector,
    wanted: dict[int, bool],
    points: list[MaskProposal],
) -> int:
    """Prompt with the box of each countable region; a better mask that contains that of the first point replaces it.

    A point selects a surface of uniform colour, the box a whole object of many parts. Returns the number of boxes.
    """
    count, (height, width) = 0, selector.grid.size
    regions, first = np.unique(selector.placement.region_ids, return_index=True)
    for region, number in zip(regions.tolist(), first.tolist(), strict=True):
        box = selector.region_box(region)
        if wanted[points[number].class_id] or np.prod(box[2:] - box[:2]) >= MAX_REGION_BOX * np.prod(embedding.size):
            continue
        found = segmenter.predict(embedding, Prompt(box=box))
        found = replace(found, logits=found.logits[[found.choice]], scores=found.scores[[found.choice]], choice=0)
        count += 1
        logits, own = found.logits[0, :height, :width], points[number].logits > 0
        if np.count_nonzero(own & (logits > 0)) >= PART_INSIDE * np.count_nonzero(own) and selector.improves(
            number, found
        ):
            class_id, candidate, agreement, _ = selector.selected[number]
            points[number] = MaskProposal(
                logits.astype(np.float16), class_id, candidate, float(found.scores[0]), agreement
            )
    return count


class CandidateSelector:
    """Selects a candidate mask for each point by predicted IoU and class map.

    The quality of a candidate is the product of its predicted IoU, its agreement with the class map, the fourth root of
    the fraction of the point's region that it covers, and the square root of its fraction that is connected to the
    point. The third factor prefers a whole animal to its head, and is weak enough to keep two adjacent animals, which
    form one region, separate. The last penalises masks of two separate animals.
    """

    def __init__(self, class_map: ClassMap, placement: PromptPlacement, wanted: Collection[int]):
        self.placement = placement
        """Points may be added; the regions do not change."""
        self.selected: dict[int, tuple[int, int, float, float]] = {}
        """Point -> class, candidate (0: the box of its region), agreement and quality."""
        self.seconds = 0.0
        self._class_map, self._wanted = class_map, wanted
        self._grid: ClassGrid | None = None

    @property
    def grid(self) -> ClassGrid:
        """The class map on the grid of the masks, available after the first prediction."""
        if self._grid is None:
            raise NbHelpersError("the grid of the masks is not known yet", do="start(prediction)")
        return self._grid

    def start(self, prediction: Prediction) -> None:
        """Resample class map and regions to the grid of a prediction, once."""
        if self._grid is None:
            numbers = self.placement.numbers
            self._grid = ClassGrid(self._class_map, grid_size(prediction), self._wanted)
            self._regions = cv2.resize(numbers, self._grid.size[::-1], interpolation=cv2.INTER_NEAREST)
            self._areas = np.bincount(self._regions.ravel() + 1, minlength=numbers.max(initial=0) + 2)[1:]

    def select(self, number: int, candidates: Prediction) -> int:
        """Index of the candidate for point ``number``."""
        started = time.perf_counter()
        self.start(candidates)
        qualities, agreements = self._qualities(number, candidates)
        best = int(qualities.argmax())
        class_id = int(self.placement.class_ids[number])
        self.selected[number] = class_id, best + 1, agreements[best], float(qualities[best])
        self.seconds += time.perf_counter() - started
        return best

    def improves(self, number: int, found: Prediction) -> bool:
        """Whether a prediction for the box of a point's region is better than the point's own mask; it is selected."""
        (quality,), (agreement,) = self._qualities(number, found)
        class_id, _, _, best = self.selected[number]
        if quality > best:
            self.selected[number] = class_id, 0, agreement, float(quality)
        return bool(quality > best)

    def region_box(self, region: int) -> Float[np.ndarray, " 4"]:
        """The bounding box of a region in pixels of the photo, inside it."""
        box = np.array(box_of(self.placement.numbers == region), float)
        scale = np.array(self.placement.size[::-1]) / self.placement.numbers.shape[::-1]
        return np.clip(box * np.tile(scale, 2), 0, np.tile(np.array(self.placement.size[::-1]) - 1, 2))

    def _qualities(self, number: int, candidates: Prediction) -> tuple[np.ndarray, list[float]]:
        """Quality and agreement of each candidate."""
        height, width = self.grid.size
        masks = candidates.logits[:, :height, :width] > 0
        class_id, region = int(self.placement.class_ids[number]), int(self.placement.region_ids[number])
        relative, inside = self.grid.relative(class_id), self._regions == region
        agreements = [mean_inside(relative, mask) for mask in masks]
        covers = [np.count_nonzero(mask & inside) / max(1, self._areas[region]) for mask in masks]
        connected = [self._connected(number, mask, candidates.size) for mask in masks]
        return candidates.scores * np.array(agreements) * np.power(covers, WHOLE) * np.sqrt(connected), agreements

    def _connected(self, number: int, mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> float:
        """Fraction of a mask that is connected to its point; 0 where the point is outside."""
        across, down = mask.shape[1] / size[1], mask.shape[0] / size[0]
        x, y = self.placement.points[number]
        column, row = min(int((x + 0.5) * across), mask.shape[1] - 1), min(int((y + 0.5) * down), mask.shape[0] - 1)
        if not mask[row, column]:
            return 0.0
        _, labels = cv2.connectedComponents(mask.astype(np.uint8))
        return np.count_nonzero(labels == labels[row, column]) / np.count_nonzero(mask)


def grid_size(prediction: Prediction) -> tuple[int, int]:
    """``(h, w)`` of a prediction's logits without padding."""
    return max(1, round(prediction.extent[0])), max(1, round(prediction.extent[1]))


def mean_inside(values: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> float:
    """Mean of values over a mask; 0 for an empty mask."""
    count = np.count_nonzero(mask)
    return float(values[mask].sum() / count) if count else 0.0


def merge(
    proposals: Sequence[MaskProposal], wanted: dict[int, bool], settings: ClipGuidedSettings, cell: float
) -> tuple[list[MergedInstance], list[str]]:
    """Merge proposals within each class.

    Args:
        proposals: of all prompts, on the grid without padding.
        wanted: class index -> whether it is stuff.
        settings: minimum area and IoU of duplicates.
        cell: pixels of the photo in one cell of the grid.

    Returns:
        Instances of all classes, and the fate of each proposal.
    """
    fates = ["kept"] * len(proposals)
    for i, proposal in enumerate(proposals):
        if proposal.class_id not in wanted or (proposal.box is None and proposal.agreement < MIN_AGREEMENT):
            fates[i] = "disagrees"
        elif np.count_nonzero(proposal.logits > 0) * cell < settings.min_region_size:
            fates[i] = "small"
    out = []
    for class_id, stuff in wanted.items():
        own = [i for i, proposal in enumerate(proposals) if proposal.class_id == class_id and fates[i] == "kept"]
        if own and stuff:
            out.append(_merge_stuff(proposals, own))
        elif own:
            out += _merge_instances(proposals, own, fates, settings.iou_threshold)
    return out, fates


def _merge_stuff(proposals: Sequence[MaskProposal], own: list[int]) -> MergedInstance:
    """All masks of a class as one."""
    logits = np.max([proposals[i].logits for i in own], axis=0)
    areas = [np.count_nonzero(proposals[i].logits > 0) for i in own]
    confidence = float(np.average([proposals[i].confidence for i in own], weights=areas))
    predicted_iou = float(np.average([proposals[i].predicted_iou for i in own], weights=areas))
    return MergedInstance(logits, proposals[own[0]].class_id, confidence, predicted_iou, tuple(own))


def _merge_instances(
    proposals: Sequence[MaskProposal], own: list[int], fates: list[str], threshold: float
) -> list[MergedInstance]:
    """The distinct masks of a class: those of boxes first, then those of points elsewhere."""
    boxes = [i for i in own if proposals[i].box]
    masks = {i: proposals[i].logits > 0 for i in own}
    members: dict[int, list[int]] = {}
    for i in sorted(boxes, key=lambda i: -proposals[i].confidence * np.count_nonzero(masks[i]) ** WHOLE):
        inside = {j: _fraction_inside(masks[i], masks[j]) for j in members}
        if inside and max(inside.values()) >= PART_INSIDE:
            members[max(inside, key=inside.__getitem__)].append(i)
            fates[i] = "duplicate"
        else:
            members[i] = [i]
    points = []
    for i in own:
        if i in boxes:
            continue
        inside = {j: _fraction_inside(masks[i], masks[j]) for j in members}
        if inside and max(inside.values()) >= BOX_OVERLAP:
            fates[i] = "duplicate"
        else:
            points.append(i)
    members |= _merge_points(proposals, points, fates, threshold)
    return [
        MergedInstance(
            proposals[i].logits,
            proposals[i].class_id,
            proposals[i].confidence,
            proposals[i].predicted_iou,
            tuple(group),
            proposals[i].box is not None,
        )
        for i, group in members.items()
    ]


def _fraction_inside(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection of two masks over the smaller of them."""
    return np.count_nonzero(a & b) / max(1, min(np.count_nonzero(a), np.count_nonzero(b)))


def _merge_points(
    proposals: Sequence[MaskProposal], own: list[int], fates: list[str], threshold: float
) -> dict[int, list[int]]:
    """The proposals of points that are neither duplicates, nor parts, nor groups of others."""
    if not own:
        return {}
    masks = np.stack([proposals[i].logits > 0 for i in own])
    confidence = np.array([proposals[i].confidence for i in own])
    members: dict[int, list[int]] = {}
    for k, keeper in enumerate(distinct(intersections(masks), confidence, threshold).tolist()):
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
        if order[small] not in members:  # it disagrees with a smaller one
            continue
        larger = [large for large in range(small) if shared[small, large] >= PART_INSIDE * shared[small, small]]
        for large in reversed(larger):
            if order[large] not in members:
                continue
            areas = np.array([shared[large, large], -shared[small, small]], float)
            sums = areas * [proposals[own[order[k]]].agreement for k in (large, small)]
            if sums.sum() >= MIN_AGREEMENT * areas.sum():
                fates[own[order[small]]] = "part"
                members[order[large]] += members.pop(order[small])
                break
            fates[own[order[large]]] = "disagrees"  # what it adds is not of the class
            del members[order[large]]
    return {own[k]: [own[k], *(own[other] for other in group if other != k)] for k, group in members.items()}


def assign_pixels(
    merged: list[MergedInstance],
    grid: ClassGrid,
    names: tuple[str, ...],
    cell: float,
    smallest: float,
    wanted: Collection[int],
) -> tuple[list[int], list[int], list[Conflict]]:
    """Assign the pixels of overlapping instances.

    In the pixels that two instances share, the confidence of each is its predicted IoU times its mean agreement with
    the class map there; a small detection of a wanted class inside a larger one, such as a tie on a person, is in front
    of it. The pairwise decisions are combined into one order by ranked pairs, the clearest and largest first, so that
    each pixel belongs to one instance and a cup on a table remains a cup.

    Args:
        merged: instances of all classes.
        grid: the class map on the grid of their logits.
        names: of the class map.
        cell: pixels of the photo in one cell.
        smallest: minimum number of pixels of a remaining instance.
        wanted: the classes to segment; others compete only.

    Returns:
        Indices of the remaining instances in painting order (winners last); indices of the covered ones; conflicts
        between all of them, with indices into ``merged``.
    """
    masks = [item.logits > 0 for item in merged]
    areas = [np.count_nonzero(mask) for mask in masks]
    overlaps, wins = [], []
    for i, j in combinations(range(len(merged)), 2):
        overlap = masks[i] & masks[j]
        count = int(np.count_nonzero(overlap))
        if count:
            confidences = [
                merged[k].predicted_iou * mean_inside(grid.relative(merged[k].class_id), overlap) for k in (i, j)
            ]
            small, large = sorted((i, j), key=areas.__getitem__)
            wanted_box = merged[i].detected and merged[j].detected and merged[small].class_id in wanted
            in_front = wanted_box and areas[small] <= IN_FRONT * areas[large] and count >= PART_INSIDE * areas[small]
            overlaps.append((i, j, count, confidences, small if in_front else None))
            winner, loser = (i, j) if confidences[0] >= confidences[1] else (j, i)
            margin = abs(confidences[0] - confidences[1])
            wins.append((small, large, float(count)) if in_front else (winner, loser, margin * count))
    ranked = ranked_pairs(len(merged), wins)
    rank = {item: place for place, item in enumerate(ranked)}
    conflicts = []
    for i, j, count, confidences, front in overlaps:
        (winner, high), (loser, low) = sorted(zip((i, j), confidences, strict=True), key=lambda pair: rank[pair[0]])
        conflicts.append(
            Conflict(
                winner,
                loser,
                tuple(names[merged[k].class_id] for k in (winner, loser)),
                max(1, round(count * cell)),
                (high, low),
                winner == front,
            )
        )
    taken, covered = np.zeros(grid.size, bool), []
    for item in ranked:
        own = np.count_nonzero(masks[item] & ~taken)
        if own * cell < smallest or own < MIN_KEPT * areas[item]:
            covered.append(item)
        else:
            taken |= masks[item]
    painted = [item for item in reversed(ranked) if item not in covered]
    return painted, covered, sorted(conflicts, key=lambda conflict: -conflict.pixels)


def paint(order: list[int], merged: list[MergedInstance], prediction: Prediction) -> Int16[np.ndarray, "H W"]:
    """The instance map at photo size, painted in order within bounding boxes, so that memory stays constant.

    Args:
        order: indices into ``merged``; later ones overwrite earlier ones.
        merged: the instances.
        prediction: any prediction of this photo, for its size and extent.
    """
    height, width = prediction.size
    out = np.full(prediction.size, -1, np.int16)
    for index in order:
        logits = merged[index].logits
        rows, columns = np.flatnonzero((logits > 0).any(1)), np.flatnonzero((logits > 0).any(0))
        down, across = height / prediction.extent[0], width / prediction.extent[1]
        y0, y1 = max(0, int((rows[0] - 1) * down)), min(height, int(np.ceil((rows[-1] + 2) * down)))
        x0, x1 = max(0, int((columns[0] - 1) * across)), min(width, int(np.ceil((columns[-1] + 2) * across)))
        whole = np.full(prediction.logits.shape[1:], -1, np.float32)
        whole[: logits.shape[0], : logits.shape[1]] = logits
        for top in range(y0, y1, 1024):  # in bands, to bound the memory
            bottom = min(y1, top + 1024)
            window = (x0, top, x1, bottom)
            inside = view_logits(whole, prediction.extent, prediction.size, window, (bottom - top, x1 - x0)) > 0
            out[top:bottom, x0:x1][inside] = index
    return out


def remove_specks(painted: Int16[np.ndarray, "H W"], smallest: float) -> None:
    """Remove components of fewer than ``smallest`` pixels in place, but no instance entirely."""
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
    """Convert an instance map to `supervision.Detections`, with compact masks for large photos.

    Args:
        numbers: index of the instance at each pixel, -1 for none.
        class_ids: of each instance.
        confidence: of each instance.
        names: class name of each instance.
    """
    needs("text", "supervision")
    import supervision

    if not len(class_ids):
        return empty_detections()
    compact = len(class_ids) * numbers.size > MAX_DENSE_BYTES
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


def empty_detections() -> supervision.Detections:
    """Detections without any instance."""
    needs("text", "supervision")
    import supervision

    return supervision.Detections(
        xyxy=np.empty((0, 4)),
        confidence=np.empty(0, np.float32),
        class_id=np.empty(0, int),
        data={"class_name": np.empty(0, str)},
    )


def _cell(size: tuple[int, int], grid: ClassGrid) -> float:
    """Pixels of a photo of ``size`` in one cell of the grid."""
    return size[0] * size[1] / (grid.size[0] * grid.size[1])


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
        in_photo = mean_probabilities(class_map, mask)
        in_crop = classify_crop(image, mask, classes, text_encoder)
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


def classify_crop(
    image: UInt8[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    classes: Sequence[Sequence[str]],
    text_encoder: TextEncoder,
) -> Float[np.ndarray, " n"]:
    """Mean probability of each class over an instance in a crop around it, its surroundings blurred."""
    x0, y0, x1, y1 = crop_box(mask)
    inside = mask[y0:y1, x0:x1]
    return mean_probabilities(text_encoder.dense(blur_surroundings(image[y0:y1, x0:x1], inside), classes), inside)


def crop_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """The bounding box ``(x0, y0, x1, y1)`` of an instance with a margin, clipped to the photo."""
    x0, y0, x1, y1 = tight_box(mask)
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
