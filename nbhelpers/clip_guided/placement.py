"""Prompt placement: from a class map to confident regions to points inside them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from nbhelpers.clip_guided.values import GRID, ClipGuidedSettings
from nbhelpers.core.masks import centroid_point, components, deepest_points, depth, regular_points
from nbhelpers.models.values import ClassMap

WORKING_SIDE = 384  # cells of the longer side of the grid in which points are placed
MAX_COVERED = 0.2  # fraction of a cell covered by boxes' masks, from which it gets no point
MIN_DEPTH = 2.0  # cells; uncovered rims along the boundary of a mask are thinner
SPACING_FACTOR = 1.25  # by which the spacing grows until there are few enough points


class ClassGrid:
    """A class map resampled to a grid: the most probable class, its probability, and relative probabilities.

    Args:
        class_map: of the photo.
        size: ``(h, w)`` of the grid.
        wanted: indices of the classes to segment; for each of them all others together are one competitor. By default
            every class competes by itself.
    """

    def __init__(self, class_map: ClassMap, size: tuple[int, int], wanted: Collection[int] | None = None):
        self._map, self.size = class_map, size
        self.winner: Int[np.ndarray, "h w"] = np.zeros(size, np.int32)
        """Index of the most probable class."""
        self.peak: Float32[np.ndarray, "h w"] = np.full(size, -1, np.float32)
        """Its probability."""
        self._wanted = frozenset(() if wanted is None else wanted)
        self._others: Float32[np.ndarray, "h w"] = np.zeros(size, np.float32)
        for index in range(len(class_map.names)):  # one plane at a time, to bound the memory for 500 classes
            plane = self._plane(index)
            better = plane > self.peak
            self.winner[better] = index
            self.peak[better] = plane[better]
            if self._wanted and index not in self._wanted:
                self._others += plane
        self.relative = lru_cache(maxsize=16)(self._relative)

    def _plane(self, index: int) -> np.ndarray:
        plane = self._map.probabilities[index]
        shrinks = plane.shape[0] > self.size[0] or plane.shape[1] > self.size[1]
        return cv2.resize(plane, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _relative(self, index: int) -> Float32[np.ndarray, "h w"]:
        """Probability of a class divided by that of the most probable class, at most 1.

        It is independent of the overall confidence of the map. A wanted class is compared with all unwanted ones
        together as well, relative to where it is strongest: split among twenty surroundings, a background would leave
        it the most probable everywhere.
        """
        plane = self._plane(index)
        if index not in self._wanted:
            return plane / np.maximum(self.peak, 1e-12)
        relative = plane / np.maximum(np.maximum(self.peak, plane + self._others), 1e-12)
        return relative / max(float(relative.max()), 1e-12)


@dataclass(frozen=True)
class ConfidentRegion:
    """A connected component in which a class is confident, on the working grid.

    Attributes:
        class_id: index into the class map's names.
        area: in cells.
        confidence: mean probability over the region.
        points: ``(k, 2)`` cells ``(x, y)``.
    """

    class_id: int
    area: int
    confidence: float
    points: Int[np.ndarray, "k 2"]


@dataclass(frozen=True)
class PromptPlacement:
    """All regions and points of a photo.

    Attributes:
        regions: by decreasing area times confidence; none for ``placement="grid"``.
        numbers: ``(h, w) int32``, index of the region at each cell, -1 for none.
        points: ``(n, 2) float32``, ``(x, y)`` pixels of the photo.
        class_ids: of each point.
        region_ids: of each point.
        used: class index -> lowered confidence, where it was lowered.
        notes: what was lowered or dropped.
        size: ``(H, W)`` of the photo.
    """

    regions: tuple[ConfidentRegion, ...]
    numbers: Int[np.ndarray, "h w"]
    points: Float32[np.ndarray, "n 2"]
    class_ids: Int[np.ndarray, " n"]
    region_ids: Int[np.ndarray, " n"]
    used: dict[int, float]
    notes: tuple[str, ...]
    size: tuple[int, int]


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """``(h, w)`` of the grid for a photo of ``size``: at most `WORKING_SIDE` cells a side, and one per pixel."""
    scale = min(1.0, WORKING_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def place(
    class_map: ClassMap,
    wanted: tuple[int, ...],
    settings: ClipGuidedSettings,
    target: int | None = None,
    covered: Bool[np.ndarray, "ch cw"] | None = None,
    found: frozenset[int] = frozenset(),
) -> PromptPlacement:
    """Place points in the confident regions of a class map: one each if more rounds follow.

    Args:
        class_map: of the photo.
        wanted: indices of the classes to segment.
        settings: confidence, size, spacing and number of points.
        target: a class for which the confidence is lowered even if other classes are found.
        covered: union of the boxes' masks, on a grid of any size over the whole photo.
        found: classes with a box.
    """
    size = working_size(class_map.size)
    if settings.placement == "grid":
        return _blind(class_map, size)
    grid = ClassGrid(class_map, size)
    free = np.ones(size, bool)
    if covered is not None:
        free = cv2.resize(covered.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) < MAX_COVERED
    cell = class_map.size[0] * class_map.size[1] / (size[0] * size[1])  # pixels of the photo
    smallest = max(1.0, settings.min_region_size / cell)
    levels = dict.fromkeys(wanted, settings.min_confidence)
    parts = _parts(grid, levels, smallest, free)
    used, notes = {}, []
    if settings.lower:
        searched = wanted if not (parts or found) else (target,) if target is not None and target not in found else ()
        if not any(class_id in searched for class_id, _ in parts):
            level = _lower(grid, searched, settings.min_confidence, smallest, free)
            if level is not None:
                levels |= dict.fromkeys(searched, level)
                parts = _parts(grid, levels, smallest, free)
                used = {index: level for index in searched if any(index == found for found, _ in parts)}
                names = ", ".join(class_map.names[index] for index in used)
                notes.append(
                    f"nothing was found at confidence {settings.min_confidence:.2f}; lowered to {level:.2f} for {names}"
                )
    spacing = max(2.0, settings.spacing * max(size))
    points = _points(parts, spacing, settings)
    while sum(map(len, points)) > settings.max_prompts and spacing < max(size):
        spacing *= SPACING_FACTOR
        points = _points(parts, spacing, settings)
    regions = [
        ConfidentRegion(class_id, int(part.sum()), float(grid.peak[part].mean()), spots)
        for (class_id, part), spots in zip(parts, points, strict=True)
    ]
    order = sorted(range(len(regions)), key=lambda i: -regions[i].area * regions[i].confidence)
    if len(order) > settings.max_prompts:
        notes.append(
            f"only the {settings.max_prompts} largest and most confident of {len(order)} regions were prompted"
        )
        order = order[: settings.max_prompts]
    numbers = np.full(size, -1, np.int32)
    for number, i in enumerate(order):
        numbers[parts[i][1]] = number
    regions = tuple(regions[i] for i in order)
    cells = np.concatenate([region.points for region in regions]) if regions else np.empty((0, 2))
    counts = [len(region.points) for region in regions]
    return PromptPlacement(
        regions,
        numbers,
        _to_pixels(cells, size, class_map.size),
        np.repeat([region.class_id for region in regions], counts).astype(np.int64),
        np.repeat(np.arange(len(regions)), counts),
        used,
        tuple(notes),
        class_map.size,
    )


def add_uncovered(
    placement: PromptPlacement, covered_cells: Bool[np.ndarray, "ch cw"], settings: ClipGuidedSettings
) -> PromptPlacement:
    """Add points in parts of confident regions that no mask covers; the same placement if there are none.

    Args:
        placement: the points so far.
        covered_cells: union of the masks so far, on a grid of any size over the whole photo.
        settings: maximum number of points, their spacing, and the minimum area of a region.
    """
    height, width = placement.numbers.shape
    size = placement.size
    covered = cv2.resize(covered_cells.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    scale = np.array([width / size[1], height / size[0]])
    spacing = max(2.0, settings.spacing * max(height, width))
    for x, y in (
        np.round((placement.points + 0.5) * scale - 0.5).astype(int).tolist()
    ):  # no new point near an earlier one
        cv2.circle(covered, (x, y), round(spacing / 2), 1, -1)
    smallest = max(1.0, settings.min_region_size * width * height / (size[0] * size[1]))
    parts = []
    for number in range(len(placement.regions)):
        labels = components((placement.numbers == number) & (covered < 0.5), smallest)
        parts += [(number, labels == part) for part in range(1, labels.max(initial=0) + 1)]
    parts = [part for part in parts if depth(part[1]).max() >= MIN_DEPTH]
    parts.sort(key=lambda part: -np.count_nonzero(part[1]))
    found = [(number, cell) for number, part in parts for cell in _cropped_points(part, spacing, settings.max_prompts)]
    found = found[: max(0, settings.max_prompts - len(placement.points))]
    if not found:
        return placement
    numbers = np.array([number for number, _ in found])
    cells = np.array([cell for _, cell in found])
    return replace(
        placement,
        points=np.concatenate([placement.points, _to_pixels(cells, (height, width), size)]),
        class_ids=np.concatenate([placement.class_ids, [placement.regions[number].class_id for number in numbers]]),
        region_ids=np.concatenate([placement.region_ids, numbers]),
    )


def _parts(
    grid: ClassGrid, levels: dict[int, float], smallest: float, free: Bool[np.ndarray, "h w"]
) -> list[tuple[int, np.ndarray]]:
    """The connected components where a class is most probable and reaches its level: ``(class, (h, w) bool)``."""
    out = []
    for index in np.intersect1d(list(levels), np.unique(grid.winner)).tolist():
        labels = components((grid.winner == index) & (grid.peak >= levels[index]) & free, smallest)
        out += [(index, labels == number) for number in range(1, labels.max(initial=0) + 1)]
    return out


def _lower(
    grid: ClassGrid, classes: tuple[int, ...], level: float, smallest: float, free: Bool[np.ndarray, "h w"]
) -> float | None:
    """The highest of ten lower levels at which a class has a region, or None."""
    for lower in map(float, np.linspace(level, 0, 11)[1:]):
        if _parts(grid, dict.fromkeys(classes, lower), smallest, free):
            return lower
    return None


def _points(parts: list[tuple[int, np.ndarray]], spacing: float, settings: ClipGuidedSettings) -> list[np.ndarray]:
    match settings.placement:
        case "centroid":
            return [centroid_point(part) for _, part in parts]
        case "regular":
            return [regular_points(part, spacing) for _, part in parts]
    most = settings.max_prompts if settings.rounds == 1 else 1  # later rounds add points in what is not covered then
    return [_cropped_points(part, spacing, most) for _, part in parts]


def _cropped_points(part: Bool[np.ndarray, "h w"], spacing: float, most: int) -> Int[np.ndarray, "k 2"]:
    """`deepest_points` of a component, computed within its bounding box."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    crop = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return deepest_points(crop, spacing, most) + np.array([columns[0], rows[0]])


def _to_pixels(cells: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> Float32[np.ndarray, "n 2"]:
    """Pixels of the photo at the centres of cells."""
    scale = np.array([size[1] / grid[1], size[0] / grid[0]])
    return ((np.asarray(cells, float).reshape(-1, 2) + 0.5) * scale - 0.5).astype(np.float32)


def _blind(class_map: ClassMap, size: tuple[int, int]) -> PromptPlacement:
    """A regular grid of points, each with the most probable class at its location and that class's component."""
    grid = ClassGrid(class_map, size)
    numbers: Int[np.ndarray, "h w"] = np.full(size, -1, np.int32)
    for index in np.unique(grid.winner).tolist():
        parts = components(grid.winner == index)
        numbers[parts > 0] = parts[parts > 0] + numbers.max()
    cells = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).reshape(-1, 2)
    columns, rows = ((cells + 0.5) * (size[1] / GRID, size[0] / GRID)).astype(int).T
    points = _to_pixels(cells, (GRID, GRID), class_map.size)
    return PromptPlacement(
        (), numbers, points, grid.winner[rows, columns], numbers[rows, columns], {}, (), class_map.size
    )
