"""Propagation of an object's mask from prompted views to all others, along a graph of similar views.

Cells of different photos are compared by SAM 2's features and by colour, to which these features are nearly invariant;
photos of one scene share the same lighting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from nbhelpers.core.masks import components, encode_rle, mask_logits, upsample
from nbhelpers.core.scenes import Scene
from nbhelpers.models.label_propagation.decoding import (
    CERTAIN_LOGIT,
    decode_map,
    mask_side,
    prompt_variants,
    sigmoid,
    soft_iou,
    variant_weights,
)
from nbhelpers.models.label_propagation.votes import (
    FeatureMaps,
    MemoryFrame,
    Votes,
    encode_memory,
    feature_maps,
    feature_means,
    resize_map,
    vote,
    with_features,
)
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.association import PointVotes
from nbhelpers.multiview.consistency import ConsistencyTerms, ViewMask, ViewMasks, score_all_views, score_view
from nbhelpers.multiview.views import Photos

if TYPE_CHECKING:
    import torch

POOL_SIZE = 4  # cells averaged into one token: a few hundred tokens of each photo are compared
SHARED_POINTS_WEIGHT = 0.5  # of shared points, added to the similarity of features
MAX_SHARED_POINTS = 30  # more have no effect
COLOUR_WEIGHT = 0.3  # of the similarity of two cells; the rest is that of their features
N_FREQUENCIES = 32  # of random features
COLOUR_SIGMAS = (30.0, 12.0, 12.0)  # standard deviations of the colour kernel in L, a, b
ZERO_MEANS = (0.0, 0.0, 0.0)
MAX_PART_DISTANCE = 0.75  # of the main component's size (root of its area): farther ones belong to other objects
MIN_FAR_SUPPORT = 0.9  # of the main component's mean support: such components may lie at any distance
PART_DISTANCE_SLACK = 1.25  # allowed in other views, relative to the distances in a prompted mask
MIN_PART_FRACTION = 0.02  # of the mask's area: smaller components are ignored by `max_part_distance`
FRAME_GAP = 200  # between two photos, for `vote`: an object may be anywhere in the next one
CACHE_SIZE = 8  # memory frames, 5 MB each
MAX_PROMPTED_VOTERS, MAX_FOUND_VOTERS = 3, 3  # prompted and other views that vote on one: the most similar ones
MIN_RELIABILITY = 0.5  # of the best: views of lower cycle consistency get no vote
IOU_SETTLED = 0.85  # of a mask with the expected one, from which the view is not predicted again
MIN_SIMILARITY = 0.5  # below which the mask shows another object
MIN_AREA = 0.001  # of the photo's area: smaller masks count as not found


@dataclass(frozen=True, eq=False)
class ViewGraph:
    """Pairwise similarity of the photos of a scene.

    Attributes:
        means: of each feature map over all photos; subtracted, since a common component does not discriminate.
        similarity: ``(v, v)`` of each pair of photos, -1 to 1.
    """

    means: dict[int, torch.Tensor]
    similarity: Float[np.ndarray, "v v"]


def build_view_graph(photos: Photos, progress: Callable[[int], None] | None = None) -> ViewGraph:
    """Encode all photos and compare each pair: the mean cosine of each token with the most similar one of the other.

    The result is cached in ``photos.view_graph``.

    Args:
        photos: of the scene.
        progress: called with the number of photos encoded.
    """
    from torch.nn import functional

    if photos.view_graph is not None:
        return photos.view_graph
    sums: dict[int, torch.Tensor] = {}
    pooled = []
    for view in range(len(photos)):
        maps = feature_maps(photos.segmenter, photos.embedding(view))
        for level, mean in enumerate(feature_means(maps)):
            sums[level] = sums.get(level, 0) + mean / len(photos)
        pooled.append(functional.avg_pool2d(maps[0].permute(2, 0, 1)[None].float(), POOL_SIZE)[0].flatten(1).T)
        if progress is not None:
            progress(view + 1)
    tokens = [functional.normalize(each - sums[0], dim=1) for each in pooled]
    similarity = np.eye(len(photos))
    for a in range(len(photos)):
        for b in range(a):
            cosines = tokens[a] @ tokens[b].T
            similarity[a, b] = similarity[b, a] = float(cosines.amax(0).mean() + cosines.amax(1).mean()) / 2
    photos.view_graph = ViewGraph(sums, similarity)
    return photos.view_graph


def add_shared_points(similarity: Float[np.ndarray, "v v"], scene: Scene | None) -> Float[np.ndarray, "v v"]:
    """The similarity of each pair of views, increased by the points of the scene that both observe."""
    if scene is None or not len(scene.observation_view):
        return similarity
    seen = np.zeros((len(scene), len(scene.points)), np.float32)
    seen[scene.observation_view, scene.observation_point] = 1
    return similarity + SHARED_POINTS_WEIGHT * np.minimum(seen @ seen.T, MAX_SHARED_POINTS) / MAX_SHARED_POINTS


def spanning_order(similarity: Float[np.ndarray, "v v"], roots: Collection[int]) -> list[int]:
    """The other views in the order of a maximum spanning tree from some (Prim's algorithm).

    Args:
        similarity: of each pair of views.
        roots: the views to begin with.
    """
    order, left = list(roots), set(range(len(similarity))) - set(roots)
    while left:
        best = max(sorted(left), key=lambda view: similarity[view, order].max())
        order.append(best)
        left.remove(best)
    return order[len(roots) :]


def most_similar_views(
    similarity: Float[np.ndarray, "v v"], view: int, among: Collection[int], count: int
) -> list[int]:
    """The ``count`` views ``among`` some that are most similar to ``view``, by decreasing similarity."""
    return sorted(set(among) - {view}, key=lambda other: (-similarity[view, other], other))[:count]


def comparison_features(photos: Photos, view: int, graph: ViewGraph) -> FeatureMaps:
    """Features of a photo for label propagation: centred features with colour features appended.

    The vectors have length 1, so that their product is a weighted mean of two similarities: the cosine of the
    features, and a Gaussian of the colour difference.
    """
    import torch
    from torch.nn import functional

    maps = feature_maps(photos.segmenter, photos.embedding(view))
    coarse, *fine = (each.float() - graph.means[level] for level, each in enumerate(maps))
    features = functional.normalize(coarse, dim=2)
    colours = torch.from_numpy(random_colour_features(photos.lab(view, len(features)))).to(features.device)
    colours = colours.permute(1, 2, 0)
    return [torch.cat([features * (1 - COLOUR_WEIGHT) ** 0.5, colours * COLOUR_WEIGHT**0.5], 2), *fine]


def random_colour_features(lab: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "c h w"]:
    """Unit vectors whose products approximate a Gaussian of the colour difference, see `COLOUR_SIGMAS`.

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", section 3.
    """
    directions = np.random.default_rng(0).standard_normal((3, N_FREQUENCIES)) / np.array(COLOUR_SIGMAS)[:, None]
    phase = lab @ directions.astype(np.float32)
    waves = np.concatenate([np.cos(phase), np.sin(phase)], 2) / np.sqrt(np.float32(N_FREQUENCIES))
    return np.ascontiguousarray(waves.transpose(2, 0, 1).astype(np.float32))


def main_components(
    region: Bool[np.ndarray, "s s"], support: Float[np.ndarray, "s s"], allowed: float = MAX_PART_DISTANCE
) -> Bool[np.ndarray, "s s"]:
    """The main component of a region, those near it, and those with similar support.

    An occluder may split an object, but its parts remain near each other or equally supported.

    Args:
        region: the mask.
        support: of each cell; the component with the largest sum is the main one.
        allowed: distance to the main component, as a fraction of its size.
    """
    labels, main, away = _part_distances(region, support)
    if main is None:
        return region
    enough = MIN_FAR_SUPPORT * support[labels == main].mean()
    kept = [part for part, distance in away.items() if distance <= allowed or support[labels == part].mean() >= enough]
    return np.isin(labels, [main, *kept])


def max_part_distance(region: Bool[np.ndarray, "s s"]) -> float:
    """Largest distance of a component from the main one, as a fraction of its size; 0 for a mask in one piece."""
    large = components(region, MIN_PART_FRACTION * np.count_nonzero(region)) > 0
    _, _, away = _part_distances(large, large.astype(np.float32))
    return max(away.values(), default=0.0)


def _part_distances(region: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, int | None, dict[int, float]]:
    """Labelled components, the main one, and the distances of the others from it in units of its size."""
    labels = components(region)
    count = int(labels.max(initial=0))
    if not count:
        return labels, None, {}
    sums = np.bincount(labels.ravel(), support.ravel(), count + 1)
    main = 1 + int(sums[1:].argmax())
    distance = cv2.distanceTransform((labels != main).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    size = np.sqrt(np.count_nonzero(labels == main))
    others = [number for number in range(1, count + 1) if number != main]
    return labels, main, {number: float(distance[labels == number].min() / size) for number in others}


@dataclass(frozen=True, eq=False)
class GridMask:
    """The mask of an object in one view, on the grid of the decoder.

    Attributes:
        logits: ``(s, s)``, above 0 is inside.
        similarity: of its cells to the object in the views that voted, see `Votes`.
        agreement: of the mask with the map that it was decoded from, 0 to 1.
    """

    logits: Float32[np.ndarray, "s s"]
    similarity: float
    agreement: float

    @property
    def probability(self) -> Float32[np.ndarray, "s s"]:
        """Probability of each cell, ``(s, s)``, 0 to 1."""
        return sigmoid(self.logits)


class MaskPropagator:
    """Predicts the mask of one object in a view from its masks in others.

    Args:
        photos: of the scene.
        scene: cameras and points, or None.
        progress: called with the number of photos encoded.

    Attributes:
        photos: as given.
        scene: as given.
        graph: of the photos, see `build_view_graph`.
        similarity: ``(v, v)`` of each two views, by features and shared points.
    """

    def __init__(self, photos: Photos, scene: Scene | None = None, progress: Callable[[int], None] | None = None):
        self.photos, self.scene, self._segmenter = photos, scene, with_features(photos.segmenter)
        self.graph = build_view_graph(photos, progress)
        self.similarity = add_shared_points(self.graph.similarity, scene)
        self._cells: OrderedDict[int, tuple[GridMask, MemoryFrame]] = OrderedDict()

    @cached_property
    def point_votes(self) -> PointVotes | None:
        """Votes of the scene's points; None without points."""
        if self.scene is None or not len(self.scene.points):
            return None
        return PointVotes(self.scene, self.grid_side(0))

    def grid_side(self, view: int) -> int:
        """Side of the decoder's grid."""
        return mask_side(self._segmenter, self.photos.embedding(view))

    def prompted_mask(self, view: int, prediction: Prediction) -> GridMask:
        """The mask of a prompted view."""
        side = self.grid_side(view)
        if prediction.logits.shape[1:] == (side, side):
            logits = prediction.logits[prediction.choice]
        else:
            logits = mask_logits(prediction.best, (side, side))
        return GridMask(logits.astype(np.float32), 1.0, 1.0)

    def prompt_weights(self, view: int, found: GridMask) -> dict[str, float]:
        """Weight of each prompt variant of `nbhelpers.models.label_propagation.decoding`, given a known mask."""
        blurred = resize_map(resize_map(found.probability, len(found.probability) // 2), len(found.probability))
        return variant_weights(self._segmenter, self.photos.embedding(view), blurred, found.probability)

    def vote(self, view: int, memory: Mapping[int, GridMask]) -> Votes:
        """Votes of the object's masks in other views for the cells of this one."""
        cells = [self._memory(other, found) for other, found in memory.items()]
        return vote(0, comparison_features(self.photos, view, self.graph), ZERO_MEANS, cells)

    def decode(
        self,
        view: int,
        probability_map: Float[np.ndarray, "s s"],
        similarity: float,
        prompt_weights: Mapping[str, float],
    ) -> GridMask:
        """Decode a probability map of the object to a mask."""
        answer = decode_map(self._segmenter, self.photos.embedding(view), probability_map, prompt_weights)
        return GridMask(answer.logits, similarity, answer.agreement)

    def cycle_consistency(
        self, view: int, found: GridMask, anchors: Mapping[int, GridMask], others: Sequence[int]
    ) -> float:
        """Mean soft IoU of the masks of prompted views with the votes of this view alone, 0 to 1.

        Args:
            view: the view to score.
            found: its mask.
            anchors: the masks of prompted views.
            others: the prompted views to compare with.
        """
        if not (found.logits > 0).any():
            return 0.0
        fits = [
            soft_iou(self.vote(anchor, {view: found}).probability, anchors[anchor].probability) for anchor in others
        ]
        return float(np.mean(fits))

    def _memory(self, view: int, found: GridMask) -> MemoryFrame:
        """The memory frame of a view, from a small cache."""
        kept = self._cells.pop(view, None)
        if kept is None or kept[0] is not found:
            while len(self._cells) >= CACHE_SIZE:
                self._cells.popitem(last=False)
            cells = encode_memory(0, comparison_features(self.photos, view, self.graph), ZERO_MEANS, found.probability)
            kept = found, replace(cells, frame=FRAME_GAP)
        self._cells[view] = kept
        return kept[1]


def propagate_masks(
    propagator: MaskPropagator,
    prompted: Mapping[int, GridMask],
    followed: Collection[int],
    step: Callable[[str], None] = lambda what: None,
) -> ViewMasks:
    """Propagate an object from prompted views to all others, in two passes.

    The first pass follows the view graph, from each view to the most similar next one. The second pass predicts views
    again that disagree with the votes of all others.

    Args:
        propagator: of the photos and their scene.
        prompted: the object's mask in each prompted view.
        followed: those of the prompted views that the others follow.
        step: called with a description after each of three steps per unprompted view.
    """
    return _Propagation(propagator, prompted, followed, step).run()


class _Propagation:
    """The two passes of `propagate_masks`.

    Attributes:
        prompted: the object's mask in prompted views.
        anchors: those of them that the other views follow.
        found: the mask in all other views.
        reliability: cycle consistency of each of these.
        expected: the probability map that each of these was decoded from.
    """

    def __init__(
        self,
        propagator: MaskPropagator,
        prompted: Mapping[int, GridMask],
        followed: Collection[int],
        step: Callable[[str], None],
    ):
        self.propagator, self.prompted, self.step = propagator, prompted, step
        self.photos, self.similarity, self.points = propagator.photos, propagator.similarity, propagator.point_votes
        self.anchors = {view: prompted[view] for view in followed}
        self.prompt_weights = {view: propagator.prompt_weights(view, mask) for view, mask in self.anchors.items()}
        parted = max(max_part_distance(mask.logits > 0) for mask in self.anchors.values())
        self.allowed = max(MAX_PART_DISTANCE, PART_DISTANCE_SLACK * parted)
        self.found: dict[int, GridMask] = {}
        self.reliability: dict[int, float] = {}
        self.expected: dict[int, np.ndarray] = {}

    def run(self) -> ViewMasks:
        """Both passes, then the scores."""
        order = [view for view in spanning_order(self.similarity, list(self.anchors)) if view not in self.prompted]
        for view in order:
            self.found[view] = self._predict(view)
            self.reliability[view] = self._cycle_consistency(view, self.found[view])
            self.step("along similar photos")
        for view in sorted(order, key=lambda view: -self.reliability[view]):
            if self._disagrees(view):
                self._predict_again(view)
            self.step("with all views together")
        return self._view_masks(order)

    def _memory(self, view: int) -> dict[int, GridMask]:
        """The views that vote on one: the most similar prompted ones, and reliable unprompted ones."""
        anchors = self._similar(view, self.anchors, MAX_PROMPTED_VOTERS)
        best = max(self.reliability.values(), default=0.0)
        reliable = [v for v, value in self.reliability.items() if value >= MIN_RELIABILITY * best and value > 0]
        found = self._similar(view, reliable, MAX_FOUND_VOTERS)
        return {other: self.anchors[other] for other in anchors} | {other: self.found[other] for other in found}

    def _similar(self, view: int, among: Collection[int], count: int) -> list[int]:
        """The most similar of some views."""
        return most_similar_views(self.similarity, view, among, count)

    def _predict(self, view: int) -> GridMask:
        """The mask in a view from the votes of other views and of points, without foreign components."""
        votes = self.propagator.vote(view, self._memory(view))
        expected = votes.probability
        if self.points is not None:
            on_object = self._point_probabilities(self.points, view)
            foreign = self.points.foreign_components(view, expected > 0.5, *on_object)
            expected = self.points.refine(view, np.where(foreign, np.float32(0), expected), *on_object)
        inside = expected > 0.5
        expected = np.where(inside & ~main_components(inside, expected, self.allowed), np.float32(0), expected)
        self.expected[view] = expected
        weights = self.prompt_weights[self._similar(view, self.anchors, 1)[0]]
        mask = self.propagator.decode(view, expected, votes.similarity, weights)
        inside = mask.logits > 0
        foreign = inside & ~main_components(inside, inside * expected, self.allowed)
        if self.points is not None:
            foreign |= self.points.foreign_components(view, inside, *on_object)
        return replace(mask, logits=np.where(foreign, -CERTAIN_LOGIT, mask.logits)) if foreign.any() else mask

    def _predict_again(self, view: int) -> None:
        """Predict a view once more, and keep the result if it is at least as reliable."""
        mask = self._predict(view)
        reliability = self._cycle_consistency(view, mask)
        if reliability >= self.reliability[view]:
            self.found[view], self.reliability[view] = mask, reliability

    def _disagrees(self, view: int) -> bool:
        """Whether the mask of a view needs the second pass."""
        agreement = soft_iou(self.found[view].probability, self.expected[view])
        return agreement < IOU_SETTLED or self.reliability[view] < IOU_SETTLED * max(self.reliability.values())

    def _point_probabilities(self, points: PointVotes, view: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Point probabilities and weights from the masks of all views but one."""
        masks = {v: mask.probability for v, mask in (self.anchors | self.found).items()}
        weights = dict.fromkeys(self.anchors, 1.0) | {v: 0.5 * value for v, value in self.reliability.items()}
        return points.point_probabilities(masks, weights, exclude=view)

    def _cycle_consistency(self, view: int, mask: GridMask) -> float:
        """Cycle consistency with the most similar prompted views."""
        others = self._similar(view, self.anchors, MAX_PROMPTED_VOTERS)
        return self.propagator.cycle_consistency(view, mask, self.anchors, others)

    def _view_masks(self, order: list[int]) -> ViewMasks:
        """Masks at the photos' sizes, each with its consistency."""
        views, consistencies = [], {}
        for view in range(len(self.photos)):
            grid_mask = self.prompted.get(view) or self.found[view]
            prompted, name = view in self.prompted, self.photos.names[view]
            mask = upsample(grid_mask.logits, grid_mask.logits.shape, self.photos.size(view)) > 0
            terms = self._consistency_terms(view, grid_mask)
            found = bool(mask.mean() >= MIN_AREA) and (prompted or grid_mask.similarity >= MIN_SIMILARITY)
            mask = mask if found else np.zeros_like(mask)
            consistencies[view] = score_view(terms, prompted, found, view in self.anchors or not prompted)
            views.append(ViewMask(name, encode_rle(mask), terms.score, consistencies[view], prompted, found))
            if not prompted:
                self.step("judging")
        overall = score_all_views(consistencies, dict(enumerate(self.photos.names)))
        return ViewMasks(tuple(views), self._object_points(), overall, tuple(order), self._notes(views))

    def _consistency_terms(self, view: int, mask: GridMask) -> ConsistencyTerms:
        """Observations of the other views about the mask of one."""
        others = self._memory(view)
        others.pop(view, None)
        if view in self.prompted and others:
            votes = self.propagator.vote(view, others)
            expected, similarity = votes.probability, votes.similarity
            rest = {anchor: known for anchor, known in self.anchors.items() if anchor != view}
            order = self._similar(view, rest, MAX_PROMPTED_VOTERS)
            cycle = soft_iou(expected, mask.probability)
            if rest:
                cycle = self.propagator.cycle_consistency(view, mask, rest, order)
        else:
            expected, similarity = self.expected.get(view, mask.probability), mask.similarity
            cycle = self.reliability.get(view, 1.0)
        points = (0, 0, 0)
        if self.points is not None:
            points = self.points.count_points(view, mask.probability, *self._point_probabilities(self.points, view))
        agreement = soft_iou(mask.probability, expected)
        score = self._predicted_iou(view, mask)
        return ConsistencyTerms(cycle, agreement, score, similarity, *points, name=self.photos.names[view])

    def _predicted_iou(self, view: int, mask: GridMask) -> float:
        """Predicted IoU of the segmenter when prompted with the mask itself."""
        prompts = prompt_variants(mask.probability, self.photos.size(view))
        if not prompts:
            return 0.0
        prediction = self.photos.segmenter.predict(self.photos.embedding(view), prompts["box and map"])
        return float(np.clip(prediction.scores[prediction.choice], 0, 1))

    def _object_points(self) -> np.ndarray:
        """Numbers of the scene's points on the object."""
        if self.points is None:
            return np.zeros(0, np.int64)
        probabilities, weight = self._point_probabilities(self.points, None)
        return np.flatnonzero((weight > 0) & (probabilities >= 0.5))

    def _notes(self, views: list[ViewMask]) -> tuple[str, ...]:
        """Messages for the user on contradicting prompts, unknown cameras and absent views."""
        notes, scene = [], self.propagator.scene
        alone = [view.name for number, view in enumerate(views) if view.prompted and number not in self.anchors]
        if alone:
            followed = ", ".join(self.photos.names[view] for view in sorted(self.anchors))
            names = ", ".join(alone)
            notes.append(
                f"the prompt in {names} contradicts {followed} and applies to its own view only; clear one of them"
            )
        if scene is None:
            notes.append("no cameras are known: views were compared by appearance only")
        elif not scene.placed.all():
            rest = ", ".join(n for n, placed in zip(self.photos.names, scene.placed, strict=True) if not placed)
            notes.append(f"no camera is known for {rest}: the object was found there by its appearance only")
        absent = [view.name for view in views if not view.found]
        if absent:
            notes.append(f"the object was not found in {', '.join(absent)}")
        return tuple(notes)
