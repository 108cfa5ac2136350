"""Objects in space: instances of several views joined, lifted to points, ready for relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from nbhelpers.core.metrics import iou
from nbhelpers.core.scenes import Scene
from nbhelpers.multiview.finding import Instance

JOINED = 0.3  # share of the points of two instances that must be the same for one object
ALIKE = 0.75  # cosine of features from which instances without common points are one object
FEW = 4  # points that can tell anything
PART = 0.6  # share of a thing's places that another one's masks cover, from which it is a part of that one
PIXELS = 300  # pixels of a mask that are lifted to space
VIEWS = 3  # views from which a thing is lifted
UNSURE = 15.0  # percent of the depths that are dropped, the least confident


@dataclass(frozen=True, eq=False)
class Object:
    """A thing of the scene.

    Attributes:
        name: for people, e.g. ``"chair 2"``.
        noun: index of the noun that it answers to; -1 for any object.
        instances: by view, the surest first.
        points: numbers of the scene's points on it.
        xyz: ``(m, 3)`` places on its surface, in the world; none when it could not be placed.
        likeness: how well it answers to the noun, 0 to 1.
    """

    name: str
    noun: int
    instances: Mapping[int, Instance] = field(repr=False)
    points: Int[np.ndarray, " n"] = field(repr=False)
    xyz: Float[np.ndarray, "m 3"] = field(repr=False)
    likeness: float

    @property
    def best_view(self) -> int:
        """The view whose mask is surest: confident, and shared by the points of the others."""
        return next(iter(self.instances))

    def mask(self, view: int) -> Bool[np.ndarray, "h w"] | None:
        """Its mask in a view, None where it was not found."""
        return self.instances[view].mask if view in self.instances else None


def join(instances: Sequence[Instance], scene: Scene | None) -> list[list[Instance]]:
    """Instances of one noun that are the same thing, at most one a view.

    Pairs are joined from the most alike on. With points that both views observed their shares decide; without, the
    features do.
    """
    pairs = []
    for i, one in enumerate(instances):
        for j in range(i):
            if one.view != instances[j].view:
                pairs.append((affinity(one, instances[j], scene), i, j))
    owner = list(range(len(instances)))
    groups = {i: [i] for i in owner}
    for value, i, j in sorted(pairs, reverse=True):
        one, other = groups[owner[i]], groups[owner[j]]
        if value < JOINED or one is other:
            continue
        if {instances[k].view for k in one} & {instances[k].view for k in other}:
            continue
        gone = owner[j]
        for k in other:
            owner[k] = owner[i]
        one += other
        del groups[gone]
    return [[instances[k] for k in group] for group in groups.values()]


def affinity(one: Instance, other: Instance, scene: Scene | None) -> float:
    """How surely two instances of different views are one thing, 0 to 1."""
    if scene is not None:
        common = len(np.intersect1d(one.points, other.points))
        fewer = min(_seen_in(scene, one.points, other.view), _seen_in(scene, other.points, one.view))
        if fewer >= FEW:
            return common / fewer
        there = [_inside(scene, a, b) for a, b in ((one, other), (other, one))]
        known = [value for value in there if value is not None]
        if known and (max(known) >= JOINED or len(known) == 2):
            return float(np.mean(known))
    if one.feature is None or other.feature is None:
        return 0.0
    return JOINED * float(one.feature @ other.feature) / ALIKE


def _seen_in(scene: Scene, points: np.ndarray, view: int) -> int:
    return int(np.isin(points, scene.observation_point[scene.observation_view == view]).sum())


def _inside(scene: Scene, one: Instance, other: Instance) -> float | None:
    """Share of an instance's points that another view would see inside the other instance's mask."""
    if len(one.points) < FEW or not scene.placed[other.view]:
        return None
    pixels, depth = scene.project(other.view, scene.points[one.points])
    ahead = (depth > 0) & scene.inside(other.view, pixels)
    if ahead.sum() < FEW:
        return None
    columns, rows = np.round(pixels[ahead]).astype(int).T
    return float(other.mask[rows, columns].mean())


def lift(scene: Scene, view: int, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 3"]:
    """Places on the surface of what a mask covers, in the world.

    From the view's depth map where the scene has one, its least confident 15 % dropped; else each pixel takes the
    depth of the points found inside the mask, the nearest ones counting most, or where there are none those found
    around it.

    Args:
        scene: with a camera for the view.
        view: number of the view.
        mask: of its size.
    """
    empty = np.empty((0, 3))
    if not scene.placed[view] or not mask.any():
        return empty
    if scene.depth is not None:
        pixels, depths = _from_map(scene, view, mask)
    else:
        pixels, depths = _from_points(scene, view, mask)
    if not len(pixels):
        return empty
    K, pose = scene.K[view], scene.world_to_camera[view]  # noqa: N806 - the field's own name
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(K).T
    return (rays * depths[:, None] - pose[:, 3]) @ pose[:, :3]


def _sample(mask: np.ndarray) -> np.ndarray:
    """``(x, y)`` of some pixels of a mask, the same ones each time."""
    rows, columns = np.nonzero(mask)
    step = max(1, len(rows) // PIXELS)
    return np.stack([columns, rows], 1)[::step].astype(float)


def _from_map(scene: Scene, view: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    depth = scene.depth[view]
    scale = np.array([depth.shape[1] / mask.shape[1], depth.shape[0] / mask.shape[0]])
    pixels = _sample(mask)
    columns, rows = np.minimum(((pixels + 0.5) * scale).astype(int), np.array(depth.shape[::-1]) - 1).T
    depths = depth[rows, columns].astype(float)
    good = depths > 0
    if scene.confidence is not None and good.any():
        sure = scene.confidence[view][rows, columns]
        good &= sure >= np.percentile(scene.confidence[view], UNSURE)
    return pixels[good], depths[good]


def _from_points(scene: Scene, view: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers, places = scene.seen(view)
    depths = scene.to_camera(view, scene.points[numbers])[:, 2]
    good = (depths > 0) & scene.inside(view, places)
    places, depths = places[good], depths[good]
    if not len(places):
        return np.empty((0, 2)), np.empty(0)
    columns, rows = np.round(places).astype(int).T
    rows, columns = np.minimum(rows, mask.shape[0] - 1), np.minimum(columns, mask.shape[1] - 1)
    inside = mask[rows, columns]
    pixels = _sample(mask)
    if inside.sum() >= 2:
        places, depths = places[inside], depths[inside]
        low, high = np.percentile(depths, (10, 90))
        usual = (depths >= low - 1e-9) & (depths <= high + 1e-9) if len(depths) > 4 else np.ones(len(depths), bool)
        places, depths = places[usual], depths[usual]
    near = np.linalg.norm(pixels[:, None] - places[None], axis=2)
    if inside.sum() < 2:  # one depth for all of it: that of the points around
        closest = np.argsort(near.min(0))[:5]
        return pixels, np.full(len(pixels), float(np.median(depths[closest])))
    count = min(3, len(places))
    chosen = np.argsort(near, axis=1)[:, :count]
    weight = 1 / (np.take_along_axis(near, chosen, 1) + 1)
    return pixels, (weight * depths[chosen]).sum(1) / weight.sum(1)


def without_repeats(objects: Sequence[Object], scene: Scene | None, reference: int) -> list[Object]:
    """Objects, those of one noun put together that were found twice: in all views that both were found in they overlap.

    The likelier one keeps its masks, and gets those of views that it was not found in.
    """
    kept: list[Object] = []
    for thing in sorted(objects, key=lambda each: -each.likeness):
        twins = [n for n, other in enumerate(kept) if other.noun == thing.noun and _overlap(thing, other) >= JOINED]
        if not twins:
            kept.append(thing)
            continue
        first = kept[twins[0]]
        both = {**first.instances, **{v: each for v, each in thing.instances.items() if v not in first.instances}}
        joined = make_object(first.name, list(both.values()), scene, reference)
        kept[twins[0]] = replace(joined, instances=both, likeness=first.likeness)
    return kept


def _overlap(one: Object, other: Object) -> float:
    """Least IoU of two objects' masks over the views that both were found in; 0 where there is none."""
    both = [view for view in one.instances if view in other.instances]
    return min((iou(one.mask(view), other.mask(view)) for view in both), default=0.0)


def without_parts(objects: Sequence[Object], scene: Scene | None) -> list[Object]:
    """Objects of one noun without those that lie inside another one that more speaks for, seen from its views."""
    order = sorted(objects, key=lambda each: -each.likeness * len(each.instances))
    kept: list[Object] = []
    for thing in order:
        if not any(_covered(scene, thing, whole) >= PART for whole in kept):
            kept.append(thing)
    return kept


def _covered(scene: Scene | None, thing: Object, whole: Object) -> float:
    """Share of a thing that the other one's masks cover: of its masks in common views, else of its places."""
    both = [view for view in thing.instances if view in whole.instances]
    if both:
        shares = [float((thing.mask(view) & whole.mask(view)).sum() / max(1, thing.mask(view).sum())) for view in both]
        return max(shares)
    shares = []
    for view in whole.instances if scene is not None else ():
        if not scene.placed[view] or not len(thing.xyz):
            continue
        pixels, depth = scene.project(view, thing.xyz)
        ahead = (depth > 0) & scene.inside(view, pixels)
        mask = whole.mask(view)
        columns, rows = np.clip(np.round(pixels[ahead]).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
        shares.append(float(mask[rows, columns].sum() / len(thing.xyz)))
    return float(np.mean(shares)) if shares else 0.0


def make_object(name: str, group: Sequence[Instance], scene: Scene | None, reference: int) -> Object:
    """One `Object` from the instances that are it."""
    points, votes = np.unique(np.concatenate([each.points for each in group]), return_counts=True)
    if scene is not None and len(points):
        views = np.array([each.view for each in group])
        seen = np.isin(scene.observation_view, views) & np.isin(scene.observation_point, points)
        chances = np.bincount(scene.observation_point[seen], minlength=len(scene.points))[points]
        points = points[2 * votes >= chances]
    shared = {id(each): float(np.isin(each.points, points).mean()) if len(each.points) else 0.5 for each in group}
    ordered = sorted(group, key=lambda each: -each.confidence * each.colour * (0.5 + shared[id(each)]))
    xyz = np.empty((0, 3))
    if scene is not None:
        first = [each for each in ordered if each.view == reference] + ordered
        chosen = list(dict.fromkeys(each.view for each in first if scene.placed[each.view]))[:VIEWS]
        lifted = [lift(scene, each.view, each.mask) for view in chosen for each in group if each.view == view]
        xyz = np.concatenate([*lifted, scene.points[points]])
    likeness = float(np.max([each.confidence * each.colour for each in group]))
    return Object(name, group[0].noun, {each.view: each for each in ordered}, points, xyz, likeness)
