"""Association of masks across views: instances with objects, and scene points with one object (point votes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import components, decode_rle, iou
from nbhelpers.core.scenes import MIN_FACING_COSINE, Scene

MIN_AFFINITY = 0.3  # fraction of common points from which two instances are one object
MIN_FEATURE_COSINE = 0.75  # from which instances without common points are one object
MIN_POINTS = 4  # below which points are not used as evidence
MIN_CONTAINED = 0.6  # fraction of an object inside another one's masks, from which it is a part of that one
MAX_LIFTED_PIXELS = 300  # for each mask
MAX_LIFTED_VIEWS = 3  # for each object
DROPPED_DEPTH_PERCENT = 15.0  # the least confident depths
N_NEIGHBOURS = 5  # observed points around a pixel that give the depth of the front surface there
MAX_NEIGHBOUR_DISTANCE = 0.08  # of the image diagonal
FRONT_QUANTILE = 0.25  # of the neighbours' depths: the front surface
DEPTH_TOLERANCE = 0.05  # of the depth: a point farther behind the front surface is hidden
PROJECTED_WEIGHT = 0.5  # of a point that was not observed in a view but should be visible there
CONTOUR_WIDTH = 0.012  # of the side: a mask is unreliable this near to its contour
VOTE_SIGMA = 0.016  # of the side: standard deviation of a point's vote around its pixel
VOTE_WEIGHT = 2.0  # of a certain point, relative to the votes of features
MIN_FOREIGN_POINTS = 4  # from which a component of a mask may be another object
MIN_FOREIGN_FRACTION = 0.85  # of the points of such a component
MIN_FOREIGN_COVERAGE = 0.3  # fraction of such a component near foreign points
MIN_PROBABILITY = 0.7  # from which a point is on the object; below 1 - MIN_PROBABILITY it is foreign


@dataclass(frozen=True, eq=False)
class ViewInstance:
    """An object in one view.

    Attributes:
        noun: index of the noun that it matches; -1 for any object.
        view: number of the view.
        rle: its mask, see `nbhelpers.core.masks.encode_rle`.
        confidence: 0 to 1.
        colour_match: how well it matches the colour words of the noun, 0 to 1.
        points: numbers of the scene's points observed inside the mask.
        feature: mean feature of the segmenter inside the mask, of length 1; None if the segmenter has no features.
        detected: found by a detector, so that the noun needs no verification.
    """

    noun: int
    view: int
    rle: Mapping[str, Any] = field(repr=False)
    confidence: float
    colour_match: float
    points: Int[np.ndarray, " n"] = field(repr=False)
    feature: Float[np.ndarray, " d"] | None = field(default=None, repr=False)
    detected: bool = False

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask at the view's size, decoded at each call."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of the scene.

    Attributes:
        name: for display, e.g. ``"chair 2"``.
        noun: index of the noun that it matches; -1 for any object.
        instances: by view, the most reliable first.
        points: numbers of the scene's points on it.
        xyz: ``(m, 3)`` points on its surface, in the world; empty where they are unknown.
        confidence: how well it matches the noun, 0 to 1.
    """

    name: str
    noun: int
    instances: Mapping[int, ViewInstance] = field(repr=False)
    points: Int[np.ndarray, " n"] = field(repr=False)
    xyz: Float[np.ndarray, "m 3"] = field(repr=False)
    confidence: float

    @property
    def best_view(self) -> int:
        """The view with the most reliable mask: confident, and confirmed by the points of the others."""
        return next(iter(self.instances))

    def mask(self, view: int) -> Bool[np.ndarray, "h w"] | None:
        """Its mask in a view; None if it was not found there."""
        return self.instances[view].mask if view in self.instances else None


def group_instances(instances: Sequence[ViewInstance], scene: Scene | None) -> list[list[ViewInstance]]:
    """Group the instances of one noun by object, at most one instance from each view.

    Agglomerative: the pairs of highest affinity are merged first, see `instance_affinity`.
    """
    pairs = []
    for i, one in enumerate(instances):
        for j in range(i):
            if one.view != instances[j].view:
                pairs.append((instance_affinity(one, instances[j], scene), i, j))
    owner = list(range(len(instances)))
    groups = {i: [i] for i in owner}
    for value, i, j in sorted(pairs, reverse=True):
        one, other = groups[owner[i]], groups[owner[j]]
        if value < MIN_AFFINITY or one is other:
            continue
        if {instances[k].view for k in one} & {instances[k].view for k in other}:
            continue
        gone = owner[j]
        for k in other:
            owner[k] = owner[i]
        one += other
        del groups[gone]
    return [[instances[k] for k in group] for group in groups.values()]


def instance_affinity(one: ViewInstance, other: ViewInstance, scene: Scene | None) -> float:
    """Affinity of two instances of different views, 0 to 1: common points, else projected points, else features."""
    if scene is not None:
        common = len(np.intersect1d(one.points, other.points))
        fewer = min(_count_observed(scene, one.points, other.view), _count_observed(scene, other.points, one.view))
        if fewer >= MIN_POINTS:
            return common / fewer
        there = [_projected_fraction(scene, a, b) for a, b in ((one, other), (other, one))]
        known = [value for value in there if value is not None]
        if known and (max(known) >= MIN_AFFINITY or len(known) == 2):
            return float(np.mean(known))
    if one.feature is None or other.feature is None:
        return 0.0
    return MIN_AFFINITY * float(one.feature @ other.feature) / MIN_FEATURE_COSINE


def _count_observed(scene: Scene, points: np.ndarray, view: int) -> int:
    """Number of points that a view observed."""
    return int(np.isin(points, scene.observation_point[scene.observation_view == view]).sum())


def _projected_fraction(scene: Scene, one: ViewInstance, other: ViewInstance) -> float | None:
    """Fraction of an instance's points that project into the mask of the other one; None if they are too few."""
    if len(one.points) < MIN_POINTS or not scene.placed[other.view]:
        return None
    pixels, depth = scene.project(other.view, scene.points[one.points])
    ahead = (depth > 0) & scene.inside(other.view, pixels)
    if ahead.sum() < MIN_POINTS:
        return None
    columns, rows = np.round(pixels[ahead]).astype(int).T
    return float(other.mask[rows, columns].mean())


def lift_mask(scene: Scene, view: int, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 3"]:
    """Lift a mask to points on the surface that it covers, in the world.

    Depths come from the view's depth map if the scene has one, without the least confident 15 %. Otherwise each pixel
    takes the depth of the points observed inside the mask, weighted by inverse distance, or if there are none, of those
    around it.

    Args:
        scene: cameras, and points or depth maps.
        view: number of the view.
        mask: of its size.
    """
    empty = np.empty((0, 3))
    if not scene.placed[view] or not mask.any():
        return empty
    if scene.depth is not None:
        pixels, depths = _depths_from_map(scene, view, mask, scene.depth[view])
    else:
        pixels, depths = _depths_from_points(scene, view, mask)
    if not len(pixels):
        return empty
    K, pose = scene.K[view], scene.world_to_camera[view]  # noqa: N806 - the field's own name
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(K).T
    return (rays * depths[:, None] - pose[:, 3]) @ pose[:, :3]


def _sample_pixels(mask: np.ndarray) -> np.ndarray:
    """``(x, y)`` of a fixed subset of the pixels of a mask."""
    rows, columns = np.nonzero(mask)
    step = max(1, len(rows) // MAX_LIFTED_PIXELS)
    return np.stack([columns, rows], 1)[::step].astype(float)


def _depths_from_map(scene: Scene, view: int, mask: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a mask and their depths in the view's depth map."""
    scale = np.array([depth.shape[1] / mask.shape[1], depth.shape[0] / mask.shape[0]])
    pixels = _sample_pixels(mask)
    columns, rows = np.minimum(((pixels + 0.5) * scale).astype(int), np.array(depth.shape[::-1]) - 1).T
    depths = depth[rows, columns].astype(float)
    good = depths > 0
    if scene.confidence is not None and good.any():
        confidence = scene.confidence[view][rows, columns]
        good &= confidence >= np.percentile(scene.confidence[view], DROPPED_DEPTH_PERCENT)
    return pixels[good], depths[good]


def _depths_from_points(scene: Scene, view: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a mask and their depths interpolated from observed points."""
    numbers, pixels_seen = scene.seen(view)
    depths = scene.to_camera(view, scene.points[numbers])[:, 2]
    good = (depths > 0) & scene.inside(view, pixels_seen)
    pixels_seen, depths = pixels_seen[good], depths[good]
    if not len(pixels_seen):
        return np.empty((0, 2)), np.empty(0)
    columns, rows = np.round(pixels_seen).astype(int).T
    rows, columns = np.minimum(rows, mask.shape[0] - 1), np.minimum(columns, mask.shape[1] - 1)
    inside = mask[rows, columns]
    pixels = _sample_pixels(mask)
    if inside.sum() >= 2:
        pixels_seen, depths = pixels_seen[inside], depths[inside]
        low, high = np.percentile(depths, (10, 90))
        usual = (depths >= low - 1e-9) & (depths <= high + 1e-9) if len(depths) > 4 else np.ones(len(depths), bool)
        pixels_seen, depths = pixels_seen[usual], depths[usual]
    near = np.linalg.norm(pixels[:, None] - pixels_seen[None], axis=2)
    if inside.sum() < 2:  # one depth for all of it: that of the points around
        closest = np.argsort(near.min(0))[:5]
        return pixels, np.full(len(pixels), float(np.median(depths[closest])))
    count = min(3, len(pixels_seen))
    chosen = np.argsort(near, axis=1)[:, :count]
    weight = 1 / (np.take_along_axis(near, chosen, 1) + 1)
    return pixels, (weight * depths[chosen]).sum(1) / weight.sum(1)


def merge_duplicates(objects: Sequence[SceneObject], scene: Scene | None, reference: int) -> list[SceneObject]:
    """Merge objects of one noun whose masks overlap in all common views.

    The more confident one keeps its masks and takes over those of views in which it has none.
    """
    kept: list[SceneObject] = []
    for obj in sorted(objects, key=lambda each: -each.confidence):
        duplicates = [
            n for n, other in enumerate(kept) if other.noun == obj.noun and _least_iou(obj, other) >= MIN_AFFINITY
        ]
        if not duplicates:
            kept.append(obj)
            continue
        first = kept[duplicates[0]]
        both = {**first.instances, **{v: each for v, each in obj.instances.items() if v not in first.instances}}
        joined = make_object(first.name, list(both.values()), scene, reference)
        kept[duplicates[0]] = replace(joined, instances=both, confidence=first.confidence)
    return kept


def _least_iou(one: SceneObject, other: SceneObject) -> float:
    """Minimum IoU of two objects' masks over their common views; 0 if there are none."""
    both = [view for view in one.instances if view in other.instances]
    return min((iou(one.instances[view].mask, other.instances[view].mask) for view in both), default=0.0)


def remove_contained_objects(objects: Sequence[SceneObject], scene: Scene | None) -> list[SceneObject]:
    """Objects of one noun without those contained in another one of higher confidence or more views."""
    order = sorted(objects, key=lambda each: -each.confidence * len(each.instances))
    kept: list[SceneObject] = []
    for obj in order:
        if not any(_contained_fraction(scene, obj, whole) >= MIN_CONTAINED for whole in kept):
            kept.append(obj)
    return kept


def _contained_fraction(scene: Scene | None, obj: SceneObject, whole: SceneObject) -> float:
    """Fraction of an object that the other one's masks cover: of its masks in common views, else of its points."""
    both = [view for view in obj.instances if view in whole.instances]
    if both:
        pairs = ((obj.instances[view].mask, whole.instances[view].mask) for view in both)
        return max(float((own & other).sum() / max(1, own.sum())) for own, other in pairs)
    fractions = []
    for view, instance in whole.instances.items():
        if scene is None or not scene.placed[view] or not len(obj.xyz):
            continue
        pixels, depth = scene.project(view, obj.xyz)
        ahead = (depth > 0) & scene.inside(view, pixels)
        mask = instance.mask
        columns, rows = np.clip(np.round(pixels[ahead]).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
        fractions.append(float(mask[rows, columns].sum() / len(obj.xyz)))
    return float(np.mean(fractions)) if fractions else 0.0


def make_object(name: str, group: Sequence[ViewInstance], scene: Scene | None, reference: int) -> SceneObject:
    """A `SceneObject` from its instances; ``reference`` is lifted to space first."""
    points, votes = np.unique(np.concatenate([each.points for each in group]), return_counts=True)
    if scene is not None and len(points):
        views = np.array([each.view for each in group])
        seen = np.isin(scene.observation_view, views) & np.isin(scene.observation_point, points)
        possible = np.bincount(scene.observation_point[seen], minlength=len(scene.points))[points]
        points = points[2 * votes >= possible]
    shared = {id(each): float(np.isin(each.points, points).mean()) if len(each.points) else 0.5 for each in group}
    ordered = sorted(group, key=lambda each: -each.confidence * each.colour_match * (0.5 + shared[id(each)]))
    xyz = np.empty((0, 3))
    if scene is not None:
        first = [each for each in ordered if each.view == reference] + ordered
        chosen = list(dict.fromkeys(each.view for each in first if scene.placed[each.view]))[:MAX_LIFTED_VIEWS]
        lifted = [lift_mask(scene, each.view, each.mask) for view in chosen for each in group if each.view == view]
        xyz = np.concatenate([*lifted, scene.points[points]])
    areas = [np.count_nonzero(each.mask) for each in group]
    colour = np.average([each.colour_match for each in group], weights=areas) if any(areas) else 0.0
    confidence = float(colour * max(each.confidence for each in group))
    return SceneObject(name, group[0].noun, {each.view: each for each in ordered}, points, xyz, confidence)


@dataclass(frozen=True, eq=False)
class VisiblePoints:
    """The scene's points that are visible in one view.

    Attributes:
        points: ``(n,)`` numbers of the points.
        cells: ``(n, 2)`` column and row on the grid of the masks, as floats.
        weights: ``(n,)``, 1 for points observed in the view, `PROJECTED_WEIGHT` for points that were only projected.
    """

    points: Int[np.ndarray, " n"]
    cells: Float[np.ndarray, "n 2"]
    weights: Float[np.ndarray, " n"]


class PointVotes:
    """Votes of a scene's points for and against one object.

    A point votes in a view where it was observed, or where it should be visible: no nearer point was observed around
    its pixel, and the view shows the side of it that other views observed. Other projected points may be occluded.

    Args:
        scene: cameras, points and observations.
        side: of the square grid of the masks.
    """

    def __init__(self, scene: Scene, side: int):
        self.scene, self.side = scene, side
        self._visible: dict[int, VisiblePoints] = {}

    def visible(self, view: int) -> VisiblePoints:
        """The points visible in a view; only observed ones if the view has no camera."""
        if view not in self._visible:
            self._visible[view] = self._find_visible(view)
        return self._visible[view]

    def point_probabilities(
        self, masks: Mapping[int, Float[np.ndarray, "s s"]], weights: Mapping[int, float], exclude: int | None = None
    ) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """Probability that each point is on the object, and the weight of the votes for it.

        Args:
            masks: the object's mask by view, ``(s, s)``, 0 to 1.
            weights: by view.
            exclude: a view that does not vote, since it is the one to be scored.

        Returns:
            Probabilities ``(p,)``, undefined where the weight is 0, and weights ``(p,)``.
        """
        inside, total = np.zeros(len(self.scene.points)), np.zeros(len(self.scene.points))
        for view, mask in masks.items():
            if view == exclude:
                continue
            seen = self.visible(view)
            values, reliable = sample_mask(mask, seen.cells)
            weight = seen.weights * reliable * weights[view]
            inside[seen.points] += weight * values
            total[seen.points] += weight
        return inside / np.maximum(total, 1e-9), total

    def refine(
        self,
        view: int,
        mask: Float[np.ndarray, "s s"],
        probability: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> Float[np.ndarray, "s s"]:
        """A probability map of the object in a view, refined near its visible points.

        Each point counts by its certainty, and only near its pixel; elsewhere the map is unchanged.
        """
        seen = self.visible(view)
        values = probability[seen.points]
        certain = np.minimum(weight[seen.points], 1) * np.abs(2 * values - 1) * seen.weights
        known = certain > 0
        if not known.any():
            return mask
        pull, amount = np.zeros((2, self.side, self.side), np.float32)
        columns, rows = np.clip(seen.cells[known].astype(int), 0, self.side - 1).T
        np.add.at(amount, (rows, columns), certain[known])
        np.add.at(pull, (rows, columns), certain[known] * (values[known] > 0.5))
        spread = VOTE_SIGMA * self.side
        peak = 2 * np.pi * spread**2  # so that one certain point weighs VOTE_WEIGHT at its own pixel
        pull, amount = (cv2.GaussianBlur(each, (0, 0), spread) * peak * VOTE_WEIGHT for each in (pull, amount))
        return ((mask + pull) / (1 + amount)).astype(np.float32)

    def foreign_components(
        self,
        view: int,
        region: Bool[np.ndarray, "s s"],
        probability: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> Bool[np.ndarray, "s s"]:
        """The connected components of a region that belong to other objects, by the votes of points.

        A component is foreign when it holds at least `MIN_FOREIGN_POINTS` points, nearly all foreign and spread
        over it: an untextured object has few points of its own, and foreign ones along its contour.
        """
        seen = self.visible(view)
        labels = components(region)
        _, reliable = sample_mask(region, seen.cells)
        reliable &= weight[seen.points] > 0
        columns, rows = np.clip(seen.cells.astype(int), 0, self.side - 1).T
        at, values = labels[rows, columns], probability[seen.points]
        foreign = reliable & (values <= 1 - MIN_PROBABILITY)
        count = int(labels.max(initial=0)) + 1
        own = np.bincount(at[reliable & (values >= MIN_PROBABILITY)], minlength=count)
        other = np.bincount(at[foreign], minlength=count)
        far = np.ones(region.shape, np.uint8)
        far[rows[foreign], columns[foreign]] = 0
        near = cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 2 * VOTE_SIGMA * self.side
        areas = np.bincount(labels.ravel(), minlength=count)
        covered = np.bincount(labels[near], minlength=count) >= MIN_FOREIGN_COVERAGE * areas
        is_foreign = (other >= MIN_FOREIGN_POINTS) & (other >= MIN_FOREIGN_FRACTION * (own + other)) & covered
        is_foreign[0] = False
        return is_foreign[labels]

    def count_points(
        self,
        view: int,
        mask: Float[np.ndarray, "s s"],
        probability: Float[np.ndarray, " p"],
        weight: Float[np.ndarray, " p"],
    ) -> tuple[int, int, int]:
        """Counts of the object's points visible in a view, of those outside its mask, and of foreign points inside it.

        Points next to the contour are not counted.
        """
        seen = self.visible(view)
        values, reliable = sample_mask(mask, seen.cells)
        counted = (weight[seen.points] > 0) & (reliable > 0)
        own = counted & (probability[seen.points] >= MIN_PROBABILITY)
        other = counted & (probability[seen.points] <= 1 - MIN_PROBABILITY)
        return int(own.sum()), int((own & (values < 0.5)).sum()), int((other & (values > 0.5)).sum())

    def _find_visible(self, view: int) -> VisiblePoints:
        """Observed and projected points of a view."""
        scene = self.scene
        found, pixels = scene.seen(view)
        found, first = np.unique(found, return_index=True)
        pixels = pixels[first]
        numbers, where, weights = [found], [pixels], [np.ones(len(found))]
        if scene.placed[view]:
            also, at = self._projected_points(view, found, pixels)
            numbers.append(also)
            where.append(at)
            weights.append(np.full(len(also), PROJECTED_WEIGHT))
        height, width = scene.sizes[view]
        cells = (np.concatenate(where).reshape(-1, 2) + 0.5) * self.side / np.array([width, height])
        return VisiblePoints(np.concatenate(numbers).astype(int), cells, np.concatenate(weights))

    def _projected_points(self, view: int, found: np.ndarray, seen_at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points that were not observed in a view but should be visible there, and their pixels."""
        needs("multiview", "scipy")
        from scipy.spatial import KDTree

        scene = self.scene
        pixels, depth = scene.project(view, scene.points)
        candidate = np.all(np.isfinite(pixels), 1)
        candidate[candidate] = scene.inside(view, pixels[candidate])
        candidate[found] = False
        candidate &= scene.facing(view) > MIN_FACING_COSINE
        numbers = np.flatnonzero(candidate)
        if not len(numbers):
            return numbers, pixels[numbers]
        if scene.depth is not None:
            return self._visible_by_depth_map(view, numbers, pixels, depth, scene.depth[view])
        if len(found) < N_NEIGHBOURS:
            return numbers[:0], pixels[:0]
        far = MAX_NEIGHBOUR_DISTANCE * float(np.hypot(*scene.sizes[view]))
        away, index = KDTree(seen_at).query(pixels[numbers], N_NEIGHBOURS, distance_upper_bound=far)
        known = np.isfinite(away)
        around = np.where(known, depth[found][np.minimum(index, len(found) - 1)], np.nan)
        enough = known.sum(1) >= 2
        front = np.full(len(numbers), -np.inf)
        front[enough] = np.nanquantile(around[enough], FRONT_QUANTILE, axis=1)  # at an edge the nearer side counts
        shown = enough & (depth[numbers] <= front * (1 + DEPTH_TOLERANCE))
        return numbers[shown], pixels[numbers[shown]]

    def _visible_by_depth_map(
        self, view: int, numbers: np.ndarray, pixels: np.ndarray, depth: np.ndarray, surface: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The points that are not occluded according to the view's depth map ``surface``."""
        scale = np.array(surface.shape[::-1]) / self.scene.sizes[view][::-1]
        columns, rows = np.clip(((pixels[numbers] + 0.5) * scale).astype(int), 0, np.array(surface.shape[::-1]) - 1).T
        there = surface[rows, columns]
        shown = (there > 0) & (depth[numbers] <= there * (1 + DEPTH_TOLERANCE))
        return numbers[shown], pixels[numbers[shown]]


def sample_mask(
    mask: Shaped[np.ndarray, "s s"], cells: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Values of a mask at points, 1 inside and 0 outside, and whether each is reliable: away from the contour."""
    inside = (mask > 0.5).astype(np.uint8)
    columns, rows = np.clip(cells.astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(CONTOUR_WIDTH * len(mask)) + 1,) * 2)
    rim = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, disk)
    return inside[rows, columns].astype(float), rim[rows, columns] == 0
