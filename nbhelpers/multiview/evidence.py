"""What points in space say: which of them belong to the object, and so where it is in a view and where not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nbhelpers.core.lazy import needs
from nbhelpers.core.regions import components
from nbhelpers.core.scenes import Scene

NEIGHBOURS, NEAR = 5, 0.08  # seen points around a pixel that tell what is in front there, so far as a share of the side
FRONT = 0.25  # quantile of the neighbours' depths that is the nearest surface
BEHIND = 0.05  # of the depth: a point so far behind its neighbours is hidden
FACING = 0.35  # cosine between two directions to a point, below which another side of it is seen
PROJECTED = 0.5  # what a point counts that was not found in a view but should be visible there
RIM = 0.012  # of the side: so near to the contour a mask is not believed
SPREAD = 0.016  # of the side: around a point that it speaks for (standard deviation)
WEIGHT = 2.0  # of a certain point, where the votes of the features have 1
ENOUGH, FOREIGN = 4, 0.85  # points, and the share of them that make a part of a mask another thing
ALL_OVER = 0.3  # of such a part must be near them
SURE = 0.7  # belief from which a point is the object's; below 1 - SURE it is not


@dataclass(frozen=True, eq=False)
class Visible:
    """The scene's points that a view shows.

    Attributes:
        points: ``(n,)`` their numbers.
        cells: ``(n, 2)`` column and row on the grid of the masks, as floats.
        weights: ``(n,)``, 1 where a point was found in the view, less where it was only projected.
    """

    points: Int[np.ndarray, " n"]
    cells: Float[np.ndarray, "n 2"]
    weights: Float[np.ndarray, " n"]


class Evidence:
    """Points of a scene as evidence for and against an object.

    A point has its say in a view when it was found there, or when it should be visible: nothing nearer was found
    around its pixel, and the view looks at it from the side that it was found from. Points that are merely projected
    would fall onto whatever hides them.

    Args:
        scene: cameras, points and observations.
        side: of the grid that masks are given on.
    """

    def __init__(self, scene: Scene, side: int):
        self.scene, self.side = scene, side
        towards = np.zeros((len(scene.points), 3))
        placed = scene.placed[scene.observation_view]
        views, points = scene.observation_view[placed], scene.observation_point[placed]
        rays = scene.centers[views] - scene.points[points]
        np.add.at(towards, points, rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12))
        self._towards = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
        self._visible: dict[int, Visible] = {}

    def visible(self, view: int) -> Visible:
        """The points that a view shows; only those found in it where the view has no camera."""
        if view not in self._visible:
            self._visible[view] = self._look(view)
        return self._visible[view]

    def belief(
        self, shares: Mapping[int, Float[np.ndarray, "s s"]], trust: Mapping[int, float], without: int | None = None
    ) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """How likely each point belongs to the object, and how much was said about it.

        Args:
            shares: the object's mask by view, 0 to 1.
            trust: how much each of these views is believed.
            without: a view that is not asked, because it is the one to be judged.

        Returns:
            Belief ``(p,)``, 0 to 1, of no meaning where the weight is 0; and the weight ``(p,)``.
        """
        inside, total = np.zeros(len(self.scene.points)), np.zeros(len(self.scene.points))
        for view, share in shares.items():
            if view == without:
                continue
            seen = self.visible(view)
            values, sure = read_mask(share, seen.cells)
            weights = seen.weights * sure * trust[view]
            inside[seen.points] += weights * values
            total[seen.points] += weights
        return inside / np.maximum(total, 1e-9), total

    def mix(
        self,
        view: int,
        share: Float[np.ndarray, "s s"],
        belief: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> Float[np.ndarray, "s s"]:
        """A map of the object in a view, changed around the points that speak for or against it.

        Each point counts as much as it is certain, and only near its pixel; where there is none, the map stays.
        """
        seen = self.visible(view)
        says, certain = belief[seen.points], np.minimum(weight[seen.points], 1) * np.abs(2 * belief[seen.points] - 1)
        certain = certain * seen.weights
        known = certain > 0
        if not known.any():
            return share
        pull, amount = np.zeros((2, self.side, self.side), np.float32)
        columns, rows = np.clip(seen.cells[known].astype(int), 0, self.side - 1).T
        np.add.at(amount, (rows, columns), certain[known])
        np.add.at(pull, (rows, columns), certain[known] * (says[known] > 0.5))
        spread = SPREAD * self.side
        peak = 2 * np.pi * spread**2  # so that one certain point weighs WEIGHT at its own pixel
        pull, amount = (cv2.GaussianBlur(each, (0, 0), spread) * peak * WEIGHT for each in (pull, amount))
        return ((share + pull) / (1 + amount)).astype(np.float32)

    def against(
        self,
        view: int,
        region: Bool[np.ndarray, "s s"],
        belief: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> Bool[np.ndarray, "s s"]:
        """The connected parts of a region that points say are not the object: its look-alikes.

        A part counts as another thing when it holds at least `ENOUGH` points of which nearly all are not the object's,
        and they lie all over it: a plain object has few points of its own, and strangers along its rim.
        """
        seen = self.visible(view)
        labels = components(region)
        _, sure = read_mask(region, seen.cells)
        sure &= weight[seen.points] > 0
        columns, rows = np.clip(seen.cells.astype(int), 0, self.side - 1).T
        at, says = labels[rows, columns], belief[seen.points]
        foreign = sure & (says <= 1 - SURE)
        count = int(labels.max(initial=0)) + 1
        own = np.bincount(at[sure & (says >= SURE)], minlength=count)
        other = np.bincount(at[foreign], minlength=count)
        far = np.ones(region.shape, np.uint8)
        far[rows[foreign], columns[foreign]] = 0
        near = cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 2 * SPREAD * self.side
        areas = np.bincount(labels.ravel(), minlength=count)
        covered = np.bincount(labels[near], minlength=count) >= ALL_OVER * areas
        strange = (other >= ENOUGH) & (other >= FOREIGN * (own + other)) & covered
        strange[0] = False
        return strange[labels]

    def tally(
        self,
        view: int,
        share: Float[np.ndarray, "s s"],
        belief: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> tuple[int, int, int]:
        """How many points of the object a view shows, how many of them its mask misses, and how many others it covers.

        Points next to the contour are not counted.
        """
        seen = self.visible(view)
        values, sure = read_mask(share, seen.cells)
        counted = (weight[seen.points] > 0) & (sure > 0)
        own = counted & (belief[seen.points] >= SURE)
        other = counted & (belief[seen.points] <= 1 - SURE)
        return int(own.sum()), int((own & (values < 0.5)).sum()), int((other & (values > 0.5)).sum())

    def _look(self, view: int) -> Visible:
        scene = self.scene
        found, pixels = scene.seen(view)
        found, first = np.unique(found, return_index=True)
        pixels = pixels[first]
        numbers, where, weights = [found], [pixels], [np.ones(len(found))]
        if scene.placed[view]:
            also, at = self._unfound(view, found, pixels)
            numbers.append(also)
            where.append(at)
            weights.append(np.full(len(also), PROJECTED))
        height, width = scene.sizes[view]
        cells = (np.concatenate(where).reshape(-1, 2) + 0.5) * self.side / np.array([width, height])
        return Visible(np.concatenate(numbers).astype(int), cells, np.concatenate(weights))

    def _unfound(self, view: int, found: np.ndarray, seen_at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points that were not found in a view though it should show them, and their pixels."""
        needs("multiview", "scipy")
        from scipy.spatial import cKDTree

        scene = self.scene
        pixels, depth = scene.project(view, scene.points)
        ask = np.isfinite(pixels).all(1)
        ask[ask] = scene.inside(view, pixels[ask])
        ask[found] = False
        ray = scene.centers[view] - scene.points
        ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)
        ask &= (ray * self._towards).sum(1) > FACING
        numbers = np.flatnonzero(ask)
        if not len(numbers):
            return numbers, pixels[numbers]
        if scene.depth is not None:
            return self._by_depth_map(view, numbers, pixels, depth)
        if len(found) < NEIGHBOURS:
            return numbers[:0], pixels[:0]
        far = NEAR * float(np.hypot(*scene.sizes[view]))
        away, index = cKDTree(seen_at).query(pixels[numbers], NEIGHBOURS, distance_upper_bound=far)
        known = np.isfinite(away)
        around = np.where(known, depth[found][np.minimum(index, len(found) - 1)], np.nan)
        enough = known.sum(1) >= 2
        front = np.full(len(numbers), -np.inf)
        front[enough] = np.nanquantile(around[enough], FRONT, axis=1)  # at an edge the nearer side counts
        shown = enough & (depth[numbers] <= front * (1 + BEHIND))
        return numbers[shown], pixels[numbers[shown]]

    def _by_depth_map(self, view: int, numbers: np.ndarray, pixels: np.ndarray, depth: np.ndarray):
        scene, surface = self.scene, self.scene.depth[view]
        scale = np.array(surface.shape[::-1]) / scene.sizes[view][::-1]
        columns, rows = np.clip(((pixels[numbers] + 0.5) * scale).astype(int), 0, np.array(surface.shape[::-1]) - 1).T
        there = surface[rows, columns]
        shown = (there > 0) & (depth[numbers] <= there * (1 + BEHIND))
        return numbers[shown], pixels[numbers[shown]]


def read_mask(
    share: Shaped[np.ndarray, "s s"], cells: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """A mask at points: 1 inside and 0 outside, and whether that is sure because the contour is not next to it."""
    inside = (share > 0.5).astype(np.uint8)
    columns, rows = np.clip(cells.astype(int), 0, np.array(share.shape[::-1]) - 1).T
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(RIM * len(share)) + 1,) * 2)
    rim = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, disk)
    return inside[rows, columns].astype(float), rim[rows, columns] == 0
