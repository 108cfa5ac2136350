"""Staying with one object among others that look the same: its distractors on a clip.

The votes of `votes` compare features, and two equal instances have equal features. Other instances that resemble the
object (its distractors) are found on its prompted frames and tracked beside it, and each cell is assigned to the
instance whose cells resemble it and are expected near it (`nbhelpers.models.tracking.expect`). Distractors that are
remembered and vote against the object are the idea of Videnovic et al. 2024 (DAM4SAM, arXiv 2411.17576, section 3.2).
Without distractors nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import box_of, components, dilate, distance_to
from nbhelpers.models.label_propagation.decoding import PackedMasks, map_logits, prompt_variants, soft_iou
from nbhelpers.models.label_propagation.votes import (
    COARSE_WEIGHTS,
    FeatureMaps,
    Means,
    MemoryFrame,
    cell_centers,
    resize_map,
    sample_features,
)
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.tracking import Expectation, Place, expect, place_of
from nbhelpers.models.values import Embedding

FIT_PASSES = 2
MIN_FIT = -4.0  # log probability of the place below which an instance is out of sight ...
MIN_VISIBLE = 0.1  # ... and the fraction of its shape below which it is out of sight too
FIT_WEIGHT = 10.0  # of the fraction of a shape that fits, in the log probability of its place
MIN_VOTE = 0.1  # of a cell, below which it belongs to no instance
MIN_AGREEMENT = 0.3  # IoU of the decoder's mask of a distractor with its map, below which the map is taken
APART = 0.25  # of the object's size: a piece that is nearer than that to where it is expected is a part of it
DISTRACTOR_VARIANT = "box, points and map"  # the prompt variant that decodes a distractor: one prediction a frame
MIN_CELL_SIMILARITY = 2 / 3  # cosine to the most similar cell of the object; see `Votes.similarity`
DISTRACTOR_AREAS = 0.3, 3.0  # smallest and largest area of a distractor, of the object's
MAX_DISTRACTORS = 6  # the largest ones
SIMILARITY_TEMPERATURE = 0.1  # cosine similarity that counts as much as a factor e in the probability of a position
CELL_SPREAD = 1.0  # standard deviation of the place of a cell within its instance, in coarse cells
GATE = 4.0  # standard deviations from which a position is not that of an instance
NEAREST = 3  # most similar cells that are averaged
TOUCHING = 1.5  # coarse cells between two masks that touch


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one instance on memory frames, moved along with it to where they are expected.

    Attributes:
        features: ``(n, c)``, unit length.
        positions: ``(n, 2)``, column and row in coarse cells.
    """

    features: Float32[np.ndarray, "n c"]
    positions: Float32[np.ndarray, "n 2"]


def similar_regions(
    similarity: Float[np.ndarray, "g g"], mask: Float[np.ndarray, "g g"], area: float
) -> list[Bool[np.ndarray, "g g"]]:
    """Regions of a frame that look like an object: `DISTRACTOR_AREAS` of its area, the largest ones first.

    Args:
        similarity: similarity of each coarse cell to the most similar cell of the object.
        mask: fraction of each cell that the object or a known distractor covers.
        area: of the object, in coarse cells.
    """
    # the cells of the contour show both the object and what is behind it
    free = dilate(mask > 0.1, 1)
    labels = components((similarity > MIN_CELL_SIMILARITY) & ~free, DISTRACTOR_AREAS[0] * area)
    found = [labels == number for number in range(1, int(labels.max(initial=0)) + 1)]
    return [each for each in found if np.count_nonzero(each) <= DISTRACTOR_AREAS[1] * area][:MAX_DISTRACTORS]


def ownership(
    queries: Float32[np.ndarray, "n c"], positions: Float32[np.ndarray, "n 2"], instances: Sequence[Cells]
) -> Float32[np.ndarray, "k n"]:
    """Probability that each cell belongs to each of several instances; the rest, up to 1, is that it belongs to none.

    An instance explains a cell by its own cells that resemble it and are expected near it: exp(similarity /
    temperature) times the normal density of the distance. None of them explains a cell that is `GATE` standard
    deviations away.

    Args:
        queries: unit features of the cells.
        positions: column and row, in coarse cells.
        instances: the object and its distractors.
    """
    scores = np.full((len(instances) + 1, len(queries)), -np.inf)
    for number, instance in enumerate(instances):
        if not len(instance.features):
            continue
        away = ((positions[:, None] - instance.positions[None]) ** 2).sum(2) / CELL_SPREAD**2
        each = queries @ instance.features.T / SIMILARITY_TEMPERATURE - away / 2
        count = min(NEAREST, each.shape[1])
        best = np.partition(each, each.shape[1] - count, axis=1)[:, -count:].mean(1)
        scores[number] = best
    scores[-1] = MIN_CELL_SIMILARITY / SIMILARITY_TEMPERATURE - GATE**2 / 2
    scores -= scores.max(0)
    shares = np.exp(scores)
    return (shares / shares.sum(0))[:-1].astype(np.float32)


def exchange_probability(own: Expectation, here: Place, other: Expectation, there: Place) -> float:
    """The probability that two instances that look the same have been mistaken for each other, 0 to 0.5.

    Compares how well the two places match the expectations as they are, and exchanged.

    Args:
        own: where the object is expected.
        here: where it was found.
        other: where its distractor is expected.
        there: where that was found.
    """
    error = CELL_SPREAD * 4  # of a measured centre, in cells of the decoder's grid
    swapped = _misfit(own, there, error) + _misfit(other, here, error)
    margin = (swapped - _misfit(own, here, error) - _misfit(other, there, error)) / 2
    return float(1 / (1 + np.exp(np.clip(margin, 0, 30))))


def _misfit(expected: Expectation, found: Place, error: float) -> float:
    """Squared distance of a place from where an instance is expected, in standard deviations."""
    away = (np.array(found.center) - np.array(expected.center)) ** 2
    return float(away.sum() / (expected.spread**2 + error**2))


def touches(mask: Bool[np.ndarray, "s s"], others: Sequence[Bool[np.ndarray, "s s"]], reach: float) -> bool:
    """Whether a mask is near another one.

    Args:
        mask: of an instance.
        others: masks of other instances.
        reach: the largest distance that is near, in cells of the masks' grid; `TOUCHING` coarse cells for a touch.
    """
    if not mask.any() or not len(others):
        return False
    away = distance_to(mask)
    return any(bool((away[other] <= reach).any()) for other in others if other.any())


@dataclass(eq=False)
class Distractor:
    """What resembles an object, found on one of its prompted frames or later.

    Attributes:
        masks: logits by frame.
        places: likewise.
    """

    masks: PackedMasks = field(default_factory=PackedMasks)
    places: dict[int, Place] = field(default_factory=dict)

    def inside(self, frame: int) -> Bool[np.ndarray, "s s"] | None:
        """The mask on a frame, if there is one."""
        return self.masks[frame] > 0 if frame in self.masks else None

    def put(
        self, frame: int, logits: Float32[np.ndarray, "s s"], alone: bool, center: tuple[float, float] | None = None
    ) -> None:
        """Store the mask on a frame, and the centre of the whole where others hide a part."""
        if (here := place_of(logits > 0, alone)) is not None:
            here = here if alone or center is None else replace(here, center=center)
            self.masks[frame], self.places[frame] = logits, here

    def instance(self, frame: int, step: int, source: int, memory: Iterable[int]) -> Instance | None:
        """What `separate` needs to know; None if the distractor is on no frame between ``source`` and ``frame``."""
        expected = expect(self.places, frame, step, source)
        if expected is None:
            return None
        masks = {index: mask for index in {*memory, expected.seen} if (mask := self.inside(index)) is not None}
        return Instance(expected, masks, self.places)


@dataclass(frozen=True, eq=False)
class Instance:
    """An object or a distractor, as `separate` needs it.

    Attributes:
        expected: where it is expected on the frame.
        masks: on memory frames, by frame.
        places: likewise.
    """

    expected: Expectation
    masks: Mapping[int, Bool[np.ndarray, "s s"]]
    places: Mapping[int, Place]


def search_regions(
    maps: FeatureMaps, means: Means, mask: Float[np.ndarray, "s s"], taken: Float[np.ndarray, "s s"]
) -> list[Float32[np.ndarray, "s s"]]:
    """Maps of the instances on a frame that look like an object there.

    Args:
        maps: features of the frame.
        means: see `nbhelpers.models.label_propagation.votes.feature_means`.
        mask: the object, 0 to 1 on the decoder's grid.
        taken: what else is no distractor, such as other objects.
    """
    grid, side = maps[0].shape[0], len(mask)
    features = sample_features(maps, means, np.arange(grid**2), grid, COARSE_WEIGHTS)
    covered = resize_map(mask, grid)
    inside = np.flatnonzero(covered > 0.5)
    if not len(inside):
        return []
    similarity = (features @ features[inside].T).amax(1).cpu().numpy().reshape(grid, grid)
    regions = similar_regions(similarity, np.maximum(covered, resize_map(taken, grid)), float(covered.sum()))
    return [resize_map(region.astype(np.float32), side) for region in regions]


def decode_distractor(
    segmenter: FeatureSegmenter, embedding: Embedding, probability: Float[np.ndarray, "s s"]
) -> Float32[np.ndarray, "s s"] | None:
    """Logits of a distractor from its map; None if no cell is above 0.5."""
    prompt = prompt_variants(probability, embedding.size).get(DISTRACTOR_VARIANT)
    if prompt is None:
        return None
    logits = segmenter.predict(embedding, prompt).logits[0]
    agrees = soft_iou((logits > 0).astype(np.float32), probability) >= MIN_AGREEMENT
    return logits if agrees else map_logits(probability)


def separate(
    maps: FeatureMaps,
    means: Means,
    votes: Float[np.ndarray, "s s"],
    instances: Sequence[Instance],
    memory: Sequence[MemoryFrame],
) -> tuple[Float32[np.ndarray, "k s s"], list[tuple[float, float]]]:
    """Which instance each cell of the decoder's grid belongs to, with probabilities, and the centres of all.

    Args:
        maps: features of the frame.
        means: see `nbhelpers.models.label_propagation.votes.feature_means`.
        votes: that a cell belongs to any of the instances.
        instances: the object first.
        memory: frames with features of the instances.
    """
    grid, side = maps[0].shape[0], len(votes)
    cells = np.flatnonzero(resize_map(votes, grid).reshape(-1) > MIN_VOTE)
    shares = np.zeros((len(instances), side, side), np.float32)
    centers, hidden = fit_centers(votes, instances)
    if not len(cells):
        return shares, centers
    queries = sample_features(maps, means, cells, grid, COARSE_WEIGHTS).cpu().numpy()
    positions = cell_centers(cells, grid, grid).numpy()
    moved = [
        _moved(instance, center, memory if number not in hidden else (), grid, side)
        for number, (instance, center) in enumerate(zip(instances, centers, strict=True))
    ]
    owned = ownership(queries, positions, moved)
    for number, values in enumerate(owned):
        coarse = np.zeros(grid**2, np.float32)
        coarse[cells] = values
        # beyond the voted cells the value of the nearest ones, so that interpolation does not shrink the instance
        grown = cv2.dilate(coarse.reshape(grid, grid), np.ones((3, 3)))
        known = np.zeros(grid**2, bool)
        known[cells] = True
        shares[number] = resize_map(np.where(known.reshape(grid, grid), coarse.reshape(grid, grid), grown), side)
    return shares, centers


def fit_centers(
    votes: Float[np.ndarray, "s s"], instances: Sequence[Instance]
) -> tuple[list[tuple[float, float]], set[int]]:
    """Where the instances are: each one's last shape is shifted, within what is expected, to fit the votes.

    A shape fits well where its cells are voted for and no other instance has them; where another one is, it may be
    hidden. The instances whose place is known best come first. Further passes fit each one again, with the places of
    all others known. After each pass the places are assigned to the instances that are expected there
    (Kuhn 1955, doi 10.1002/nav.3800020109), since shapes that look the same fit each other's places.

    Args:
        votes: that a cell belongs to any of the instances.
        instances: as they are expected.

    Returns:
        The centres, and which instances are out of sight: their shape fits nowhere (`MIN_FIT`), or less than
        `MIN_VISIBLE` of it is voted for and not that of an instance which is rather expected there.
    """
    side = len(votes) // 2
    voted = resize_map(votes, side) > 0.5
    centers = np.array([each.expected.center for each in instances], float)
    expected, spreads = centers.copy(), np.array([each.expected.spread for each in instances])
    shapes = {number: shape for number, each in enumerate(instances) if (shape := _last_shape(each, side)) is not None}
    claimed = {number: np.zeros_like(voted) for number in shapes}
    hidden: set[int] = set()
    for _ in range(FIT_PASSES):
        hidden.clear()
        for number in sorted(shapes, key=lambda index: spreads[index]):
            taken = np.any([cells for other, cells in claimed.items() if other != number] or [~voted], axis=0)
            free = np.where(voted, np.where(taken, 0, 1), -1).astype(np.float32)
            center, fit = _fit_center(free, shapes[number], instances[number])
            if fit < MIN_FIT:
                hidden.add(number)
            centers[number] = expected[number] if number in hidden else center
            claimed[number] = _shifted(shapes[number], instances[number], centers[number])
        own = np.array(sorted(set(shapes) - hidden), int)
        away = ((expected[own, None] - centers[own]) ** 2).sum(2) / spreads[own, None] ** 2
        centers[own] = centers[own[_assign(away)]]
        claimed = {number: _shifted(shapes[number], instances[number], centers[number]) for number in shapes}
    away = ((expected - centers) ** 2).sum(1) / spreads**2
    free = voted.copy()
    for number in sorted(set(shapes) - hidden, key=lambda index: away[index]):
        if np.count_nonzero(claimed[number] & free) < MIN_VISIBLE * np.count_nonzero(shapes[number]):
            hidden.add(number)
        free &= ~claimed[number]
    return [(x, y) for x, y in centers.tolist()], hidden


def _last_shape(instance: Instance, side: int) -> Bool[np.ndarray, "h h"] | None:
    """The mask of the last frame on which the instance was alone, on a grid of half the cells; None if it is empty."""
    mask = instance.masks.get(instance.expected.seen)
    shape = None if mask is None else resize_map(mask.astype(np.float32), side) > 0.5
    return shape if shape is not None and shape.any() else None


def _fit_center(
    free: Float32[np.ndarray, "h h"], shape: Bool[np.ndarray, "h h"], instance: Instance
) -> tuple[tuple[float, float], float]:
    """Where a shape fits best within what is expected, and how well.

    Args:
        free: 1 where a cell is voted for, 0 where another instance has it, -1 elsewhere.
        shape: see `_last_shape`.
        instance: its place on that frame, and where it is expected.
    """
    side, there = len(free), instance.places[instance.expected.seen].center
    x0, y0, x1, y1 = box_of(shape) or (0, 0, side, side)
    dx, dy = ((np.array(instance.expected.center) - np.array(there)) / 2).tolist()
    spread = instance.expected.spread / 2 + 0.5
    reach = min(int(np.ceil(3 * spread)) + 1, side)
    left, top = round(dx) - reach + x0 + 2 * side, round(dy) - reach + y0 + 2 * side
    padded = np.pad(free, 2 * side)
    window = padded[max(0, top) : top + y1 - y0 + 2 * reach, max(0, left) : left + x1 - x0 + 2 * reach]
    if window.shape != (y1 - y0 + 2 * reach, x1 - x0 + 2 * reach):  # expected far outside the frame
        return instance.expected.center, -np.inf
    fits = cv2.matchTemplate(window, shape[y0:y1, x0:x1].astype(np.float32), cv2.TM_CCORR) / np.count_nonzero(shape)
    rows, columns = np.mgrid[: fits.shape[0], : fits.shape[1]]
    shift_x, shift_y = columns + round(dx) - reach, rows + round(dy) - reach
    away = ((shift_x - dx) ** 2 + (shift_y - dy) ** 2) / spread**2
    score = FIT_WEIGHT * fits - away / 2
    best = np.unravel_index(score.argmax(), fits.shape)
    return (there[0] + 2 * float(shift_x[best]), there[1] + 2 * float(shift_y[best])), float(score[best])


def _shifted(
    shape: Bool[np.ndarray, "h h"], instance: Instance, center: Float[np.ndarray, " 2"]
) -> Bool[np.ndarray, "h h"]:
    """A shape moved from where it was seen to a centre."""
    dx, dy = (center - np.array(instance.places[instance.expected.seen].center)) / 2
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(shape.astype(np.uint8), move, shape.shape[::-1], flags=cv2.INTER_NEAREST) > 0


def _assign(cost: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"]:
    """The column of each row, with the least sum."""
    needs("video", "scipy")
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


def _moved(
    instance: Instance, center: tuple[float, float], memory: Sequence[MemoryFrame], grid: int, side: int
) -> Cells:
    """The cells of an instance on memory frames, moved to where it is."""
    features, positions = [], []
    for keys in memory:
        mask, there = instance.masks.get(keys.frame), instance.places.get(keys.frame)
        if mask is None or there is None:
            continue
        covered = resize_map(mask.astype(np.float32), grid)
        cells = keys.coarse.positions.cpu().numpy()
        columns, rows = cells.astype(int).T  # not all cells of a frame remember
        index = np.flatnonzero(covered[rows, columns] > min(0.5, covered.max() / 2))
        shift = (np.array(center) - np.array(there.center)) * (grid / side)
        features.append(keys.coarse.features[index].cpu().numpy())
        positions.append(cells[index] + shift.astype(np.float32))
    if not features:
        return Cells(np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
    return Cells(np.concatenate(features), np.concatenate(positions))


def strays(inside: Bool[np.ndarray, "s s"], instance: Instance) -> list[Bool[np.ndarray, "s s"]]:
    """Pieces of an instance's map that were not there when it was one piece, and are far from where it is expected.

    Args:
        inside: cells that are voted to be the instance's.
        instance: where it is expected.

    Returns:
        The largest first. None of them if no piece as large as a distractor is near.
    """
    expected = instance.expected
    if expected.seen not in instance.masks:
        return []
    moved = expected.moved(instance.masks[expected.seen], instance.places[expected.seen])
    labels = components(inside)
    pieces = [labels == number for number in range(1, int(labels.max(initial=0)) + 1)]
    away = distance_to(moved)
    near = [float(away[piece].min()) <= GATE * expected.spread + APART * expected.area**0.5 for piece in pieces]
    if not any(is_near and is_large(piece, instance) for piece, is_near in zip(pieces, near, strict=True)):
        return []
    return [piece for piece, is_near in zip(pieces, near, strict=True) if not is_near]


def is_large(piece: Bool[np.ndarray, "s s"], instance: Instance) -> bool:
    """Whether a piece is large enough to be a distractor of the instance."""
    return bool(np.count_nonzero(piece) >= DISTRACTOR_AREAS[0] * instance.expected.area)
