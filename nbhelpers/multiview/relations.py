"""Spatial relations between objects, each scored 0 to 1 with a reason, and reference resolution.

Directions are relative to the camera of one view. Without a camera they are estimated from its image only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.multiview.referring import OBJECT_RELATIONS, RANKS, SIDES, Phrase, Relation

MIN_POINTS = 4  # for an extent
MAX_EXTENT_POINTS = 400  # kept for each object
TRIM_PERCENT = 8.0  # trimmed at either end of an extent, since a few points are always outliers
MIN_HORIZONTAL = 0.35  # horizontal length of the optical axis; below it the camera points straight down or up
NOISE = 0.08  # of an object's size: error of its centre, since it is not seen from all sides
SUPPORTED_PENALTY = 0.65  # of "above" where "on" applies
LOG_ODDS_PER_SIZE = 4.0  # log odds for a difference of one object size
MIN_SCORE_RATIO = 1.8  # of the best to the second candidate, for the reference to be decided
MIN_RELATION_SCORE = 0.3  # below it a relation does not hold
MIN_RANKED_SCORE = 0.5  # fraction of the best score; candidates below are not ranked by superlatives
CLOSENESS_RELATIONS = ("left of", "right of", "above", "below", "behind", "in front of")

ScoreWithReason = tuple[float, str]


@dataclass(frozen=True, eq=False)
class ObjectExtent:
    """Position and size of an object in the coordinates of the viewer.

    Attributes:
        points: ``(n, 3)`` to the right, up and ahead of the viewer; world units, or fractions of the image width.
        low: ``(3,)`` of the robust extent.
        high: ``(3,)`` of the robust extent.
        across: left end, middle and right end in the image, from -1 at its left edge to 1 at its right edge.
        flat: known from one image only; its depth is a guess.
    """

    points: Float[np.ndarray, "n 3"] = field(repr=False)
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    across: tuple[float, float, float]
    flat: bool = False

    @property
    def center(self) -> Float[np.ndarray, " 3"]:
        """Middle of the extent."""
        return (self.low + self.high) / 2

    @property
    def size(self) -> Float[np.ndarray, " 3"]:
        """Width, height and depth; never quite 0."""
        return np.maximum(self.high - self.low, 1e-9)

    @property
    def length(self) -> float:
        """Its longest side."""
        return float(self.size.max())

    @property
    def distance(self) -> float:
        """Distance of its median point from the viewer."""
        return float(np.linalg.norm(np.median(self.points, axis=0)))


class ViewerFrame:
    """Axes of the viewer of one view: right, up (of the scene) and ahead.

    Example:
        >>> frame = ViewerFrame(scene, 0)
        >>> chair, desk = frame.extent(chair_points), frame.extent(desk_points)
        >>> chair.center[2] > desk.center[2]                      # is the chair farther away?
        True

    Args:
        scene: cameras.
        view: number of the view.

    Attributes:
        view: as given.
        note: how up was determined, as a sentence.
        flat: whether depth is unknown, since the view has no camera.
    """

    def __init__(self, scene: Scene | None, view: int = 0):
        if scene is not None and not scene.placed[view]:
            scene = None
        self._scene, self.view, self.flat = scene, view, scene is None
        if scene is None:
            self.note = (
                "no camera is known: left, right, above and below are those of the image, "
                "and of two objects the one with the lower bottom edge is assumed to be nearer"
            )
            return
        turn = scene.world_to_camera[view][:, :3]
        up = scene.up
        self.note = f"relative to view {view}, with up from all cameras"
        if up is None:
            up = -turn[1]
            self.note = f"relative to view {view}; the cameras have no common up, so that of the view is used"
        ahead = turn[2] - (turn[2] @ up) * up
        if (
            np.linalg.norm(ahead) < MIN_HORIZONTAL
        ):  # straight down: ahead is the direction of the upper edge of the image
            ahead = -turn[1] - (-turn[1] @ up) * up
        ahead /= max(np.linalg.norm(ahead), 1e-12)
        self.axes = np.stack([np.cross(ahead, up), up, ahead])
        """``(3, 3)``: to the right, up and ahead as directions of the world."""

    def extent(self, points: Shaped[np.ndarray, "n 3"]) -> ObjectExtent | None:
        """Extent of an object from its points ``(n, 3)`` in the world; None if they are too few."""
        points = np.asarray(points, np.float64)
        if self._scene is None or len(points) < MIN_POINTS:
            return None
        local = (points - self._scene.centers[self.view]) @ self.axes.T
        low, high = np.percentile(local, (TRIM_PERCENT, 100 - TRIM_PERCENT), axis=0)
        slack = 0.5 * (high - low)
        kept = ((local >= low - slack) & (local <= high + slack)).all(1)
        if kept.sum() < MIN_POINTS:
            kept[:] = True
        pixels, _ = self._scene.project(self.view, points[kept])
        width = self._scene.sizes[self.view][1]
        seen = pixels[np.isfinite(pixels[:, 0]), 0] * 2 / max(width - 1, 1) - 1
        sideways = np.arctan2(local[kept, 0], local[kept, 2]) * 2 if len(seen) < MIN_POINTS else seen
        across = np.percentile(sideways, (TRIM_PERCENT, 50, 100 - TRIM_PERCENT))
        step = max(1, -(-int(kept.sum()) // MAX_EXTENT_POINTS))
        return ObjectExtent(local[kept][::step], low, high, (across[0], float(np.mean(across[[0, 2]])), across[2]))

    def outline(self, mask: Bool[np.ndarray, "h w"]) -> ObjectExtent | None:
        """Extent of an object from its mask in the view, without a camera; None for an empty mask.

        Depth is guessed from the lower end: of two objects on one floor the lower one in the image is nearer.
        """
        height, width = mask.shape
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return None
        step = max(1, len(rows) // MAX_EXTENT_POINTS)
        bottom = float(np.percentile(rows, 98))
        points = np.stack([columns, -rows, np.full(len(rows), height - bottom)], 1)[::step] / width
        low, high = np.percentile(points, (2, 98), axis=0)
        across = np.array([low[0], (low[0] + high[0]) / 2, high[0]]) * 2 - 1
        high[2] = low[2] + 0.1 * (high[1] - low[1])
        return ObjectExtent(points, low, high, tuple(across.tolist()), True)


def support_height(upper: ObjectExtent, lower: ObjectExtent) -> float:
    """Height at which ``lower`` would support ``upper``: its top below the other object."""
    margin = 0.15 * lower.size[[0, 2]] + 0.25 * upper.size[[0, 2]]
    ground = lower.points[:, [0, 2]]
    below = ((ground >= upper.low[[0, 2]] - margin) & (ground <= upper.high[[0, 2]] + margin)).all(1)
    heights = lower.points[below, 1]
    return float(np.percentile(heights, 90)) if len(heights) >= MIN_POINTS else float(lower.high[1])


def surface_distance(one: ObjectExtent, other: ObjectExtent) -> float:
    """Distance between the surfaces of two objects, in the frame's units: a robust minimum over their points."""
    distances = np.linalg.norm(one.points[:, None] - other.points[None], axis=2).min(1)
    return float(np.percentile(distances, 10))


def extent_distance(one: ObjectExtent, other: ObjectExtent, axes: tuple[int, ...]) -> float:
    """Distance between two extents along some axes; 0 where they overlap."""
    used = [axis for axis in axes if not (axis == 2 and one.flat)]
    between = np.maximum(one.low[used] - other.high[used], other.low[used] - one.high[used])
    return float(np.linalg.norm(np.maximum(between, 0)))


def horizontal_gap(one: ObjectExtent, other: ObjectExtent) -> float:
    """Empty fraction of the image width between two objects; 0 where they overlap horizontally."""
    return max(0.0, one.across[0] - other.across[2], other.across[0] - one.across[2]) / 2


def shrink_mask(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "sh sw"]:
    """A mask at no more than 400 pixels per side, for `ViewerFrame.outline`."""
    scale = min(1.0, 400 / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)


@dataclass(frozen=True)
class RankValue:
    """A quantity by which objects are ranked.

    Attributes:
        value: ranked in decreasing order.
        noise: standard error of the value.
        why: the number in words.
    """

    value: float
    noise: float
    why: str


def score_relation(kind: str, obj: ObjectExtent, others: Sequence[ObjectExtent]) -> ScoreWithReason:
    """How well an object satisfies a relation to one other object, or to two for ``between``.

    Example:
        >>> score_relation("behind", chair, [desk])
        (0.97, "its middle is 1.3 desk depths farther away than the desk's")

    Args:
        kind: one of `OBJECT_RELATIONS`.
        obj: the candidate.
        others: the objects that the relation names.

    Raises:
        NbHelpersError: an unknown relation, or too few objects.
    """
    if kind not in _RELATION_SCORES:
        raise NbHelpersError("there is no such relation", given=kind, expected=", ".join(OBJECT_RELATIONS))
    if len(others) < (2 if kind == "between" else 1):
        raise NbHelpersError(f'"{kind}" needs {"two other objects" if kind == "between" else "another object"}')
    return _RELATION_SCORES[kind](obj, *others[: 2 if kind == "between" else 1])


def score_side(kind: str, obj: ObjectExtent, all_objects: Sequence[ObjectExtent]) -> ScoreWithReason:
    """How well an object lies on one side of the image, or in the foreground or background of all objects.

    Args:
        kind: one of `SIDES`.
        obj: the candidate.
        all_objects: all objects, which define near and far.

    Raises:
        NbHelpersError: an unknown side.
    """
    middle = obj.across[1]
    where = f"its middle is at {50 + 50 * middle:.0f} % of the image width"
    match kind:
        case "left" | "right":
            return _sigmoid(LOG_ODDS_PER_SIZE * middle * (1 if kind == "right" else -1)), where
        case "centre":
            return float(np.exp(-((middle / 0.45) ** 2))), where
        case "foreground" | "background":
            distances = [each.distance for each in all_objects]
            near, far = min(distances), max(distances)
            fraction = 0.5 if far - near < 1e-9 else (obj.distance - near) / (far - near)
            score = _sigmoid(LOG_ODDS_PER_SIZE * (2 * fraction - 1) * (1 if kind == "background" else -1))
            return score, f"it is at {100 * fraction:.0f} % of the way from the nearest object to the farthest"
    raise NbHelpersError("there is no such side", given=kind, expected=", ".join(SIDES))


def measure_rank(kind: str, obj: ObjectExtent, other: ObjectExtent | None = None) -> RankValue:
    """The value by which ``kind`` ranks objects; also for sides of the image.

    Args:
        kind: one of `RANKS` or `SIDES`.
        obj: the object to measure.
        other: reference of ``nearest`` and ``farthest``; by default the viewer.

    Raises:
        NbHelpersError: an unknown order.
    """
    left, middle, right = obj.across
    match kind:
        case "left" | "leftmost" | "right" | "rightmost":
            sign = 1 if kind.startswith("right") else -1
            noise = 0.01 + NOISE * (right - left)
            return RankValue(sign * middle, noise, f"at {50 + 50 * middle:.0f} % of the image width")
        case "centre":
            noise = 0.01 + NOISE * (right - left)
            return RankValue(-abs(middle), noise, f"{50 * abs(middle):.0f} % of the width from the image centre")
        case "nearest" | "farthest" | "foreground" | "background":
            sign = -1 if kind in ("nearest", "foreground") else 1
            if other is not None:
                away = surface_distance(obj, other)
                return RankValue(
                    sign * away, NOISE * (obj.length + 0.5 * away), f"{away / obj.length:.1f} of its own lengths away"
                )
            away = obj.distance
            return RankValue(
                sign * away, 0.02 * away + NOISE * obj.length, f"{away:.3g} units of the scene from the viewer"
            )
        case "highest" | "lowest":
            sign, height = (1 if kind == "highest" else -1), float(obj.center[1])
            return RankValue(sign * height, NOISE * obj.length, f"its middle at height {height:.3g}")
        case "tallest" | "shortest":
            sign, height = (1 if kind == "tallest" else -1), float(obj.size[1])
            return RankValue(sign * height, NOISE * height, f"{height:.3g} tall")
        case "largest" | "smallest":
            sign, size = (1 if kind == "largest" else -1), float(np.linalg.norm(obj.size))
            return RankValue(sign * size, NOISE * size, f"{size:.3g} from corner to corner")
    raise NbHelpersError("there is no such order", given=kind, expected=", ".join((*RANKS, *SIDES)))


def _sigmoid(value: float) -> float:
    """Log odds as a probability."""
    return float(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def _halves(difference: float, obj: ObjectExtent, other: ObjectExtent, axis: int) -> float:
    """A difference in units of the mean half size of both objects."""
    return difference / max(0.5 * float(obj.size[axis] + other.size[axis]), 0.1 * obj.length)


def _beyond(halves: float) -> float:
    """Score of an offset in half sizes of both: 0.98 where the objects no longer overlap, 0.12 with centres aligned."""
    return _sigmoid(LOG_ODDS_PER_SIZE * (1.5 * halves - 0.5))


def _times(value: float) -> str:
    """An absolute value with one decimal."""
    return f"{abs(value):.1f}"


def _sideways(sign: int) -> Callable[[ObjectExtent, ObjectExtent], ScoreWithReason]:
    """Scores "left of" (-1) or "right of" (1)."""

    def score_pair(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
        difference = sign * (obj.across[1] - other.across[1])
        half = max(0.5 * (obj.across[2] - obj.across[0] + other.across[2] - other.across[0]), 0.04)
        side = "right" if sign * difference > 0 else "left"
        why = f"its middle is {50 * abs(difference):.0f} % of the image width {side} of the other's"
        return _beyond(difference / half), why

    return score_pair


def _vertical(sign: int) -> Callable[[ObjectExtent, ObjectExtent], ScoreWithReason]:
    """Scores "below" (-1) or "above" (1)."""

    def score_pair(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
        difference = float(obj.center[1] - other.center[1])
        away = extent_distance(obj, other, (0, 2)) / (0.5 * (obj.length + other.length))
        side = "higher" if difference > 0 else "lower"
        why = f"its middle is {_times(difference / obj.size[1])} of its own heights {side} than the other's"
        why += f", and {away:.1f} sizes beside it" if away > 0.3 else ""
        score = _sigmoid(1.5 * LOG_ODDS_PER_SIZE * _halves(sign * difference, obj, other, 1) - 1) * float(
            np.exp(-((away / 1.5) ** 2))
        )
        carried = _on(obj, other)[0] if sign > 0 else _on(other, obj)[0]
        if carried > 0.5:
            why += ", but one supports the other"
        return score * (1 - SUPPORTED_PENALTY * carried), why

    return score_pair


def _depthwise(sign: int) -> Callable[[ObjectExtent, ObjectExtent], ScoreWithReason]:
    """Scores "in front of" (-1) or "behind" (1)."""

    def score_pair(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
        difference = float(obj.center[2] - other.center[2])
        beside = horizontal_gap(obj, other)
        side = "farther away" if difference > 0 else "nearer"
        why = f"its middle is {_times(difference / max(other.size[2], 0.1 * other.length))} depths of the other {side}"
        why += f", and {100 * beside:.0f} % of the image width beside it" if beside > 0.03 else ""
        score = _beyond(_halves(sign * difference, obj, other, 2)) * float(np.exp(-((beside / 0.35) ** 2)))
        if not obj.flat:  # more sideways than behind
            aside = extent_distance(obj, other, (0,)) / max(abs(difference), 1e-9)
            score *= float(np.exp(-(max(0.0, min(aside, 10.0) - 1) ** 2)))
        return score, why

    return score_pair


def _on(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
    """Scores "on": standing on the other's top, or hanging on its face."""
    if obj.flat:  # an object on a table ends inside its outline
        inside = min(float(obj.low[1] - other.low[1]), float(other.high[1] - obj.low[1])) / float(other.size[1])
        beside = extent_distance(obj, other, (0,)) / obj.length
        score = _sigmoid(20 * (inside + 0.05)) * float(np.exp(-((beside / 0.3) ** 2)))
        score *= _sigmoid(LOG_ODDS_PER_SIZE * _halves(float(obj.center[1] - other.center[1]), obj, other, 1) + 1)
        return score, f"it ends {'inside' if inside >= 0 else 'outside'} the other's outline"
    carried = float(obj.low[1]) - support_height(obj, other)
    beside = extent_distance(obj, other, (0, 2)) / obj.length
    off = carried / max(0.5 * float(obj.size[1]), 0.05 * other.length)
    stands = float(np.exp(-(off**2) - (beside / 0.3) ** 2))
    stands *= _sigmoid(2 * LOG_ODDS_PER_SIZE * _halves(float(obj.high[1] - other.high[1]), obj, other, 1) + 2)
    hangs = 0.0
    if (
        other.size[2] < 0.3 * other.length and obj.length < other.length
    ):  # a wall: an object that touches its face is on it
        hangs = float(np.exp(-((surface_distance(obj, other) / (0.5 * obj.length)) ** 2))) * (
            extent_distance(obj, other, (0, 1)) == 0
        )
    why = f"it begins {_times(off / 2)} of its own heights {'above' if carried > 0 else 'below'} the other's top"
    why += f", {beside:.1f} of its sizes beside it" if beside > 0.1 else " there"
    return (stands, why) if stands >= hangs else (0.8 * hangs, "it touches the other's face")


def _beside(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
    """Scores "beside": a short horizontal distance, at the same height."""
    size = 0.5 * (obj.length + other.length)
    away = extent_distance(obj, other, (0, 2)) / size
    stacked = max(0.0, extent_distance(obj, other, (1,))) / size
    over = 0.5 if extent_distance(obj, other, (0, 2)) == 0 and stacked > 0 else 1.0
    score = over * float(np.exp(-((away / 1.0) ** 2) - (stacked / 0.6) ** 2))
    return score, f"{away:.1f} of their sizes lie between them" + (", one above the other" if over < 1 else "")


def _between(obj: ObjectExtent, first: ObjectExtent, second: ObjectExtent) -> ScoreWithReason:
    """Scores "between": near the line segment between two others."""
    line = second.center - first.center
    length = max(float(np.linalg.norm(line)), 1e-9)
    along = float((obj.center - first.center) @ line) / length**2
    off = float(np.linalg.norm(obj.center - first.center - along * line)) / length
    inside = _sigmoid(12 * (along - 0.1)) * _sigmoid(12 * (0.9 - along))
    why = f"at {100 * along:.0f} % of the way from one to the other, {100 * off:.0f} % of it beside the line"
    return inside * float(np.exp(-((off / 0.7) ** 2))), why


def _centre_of(obj: ObjectExtent, other: ObjectExtent) -> ScoreWithReason:
    """Scores "in the middle of", seen from above."""
    off = np.abs((obj.center - other.center)[[0, 2]]) / (0.5 * other.size[[0, 2]])
    far = float(np.linalg.norm(off))
    return float(np.exp(-((far / 0.6) ** 2))), f"{far:.1f} half sizes from the other's middle"


_RELATION_SCORES: dict[str, Callable[..., ScoreWithReason]] = {
    "left of": _sideways(-1),
    "right of": _sideways(1),
    "on": _on,
    "above": _vertical(1),
    "below": _vertical(-1),
    "behind": _depthwise(1),
    "in front of": _depthwise(-1),
    "beside": _beside,
    "between": _between,
    "centre of": _centre_of,
}


@dataclass(frozen=True, eq=False)
class ReferenceCandidate:
    """An object that a noun may refer to.

    Attributes:
        number: of the object; two nouns may refer to the same one.
        name: for display, e.g. ``"chair 2"``.
        extent: in the viewer's frame.
        confidence: how well it matches the noun, 0 to 1.
        salience: in how many views and how large it was found; it decides which of equal candidates is the best guess.
    """

    number: int
    name: str
    extent: ObjectExtent = field(repr=False)
    confidence: float = 1.0
    salience: float = 1.0


@dataclass(frozen=True, eq=False)
class RelationScore:
    """Score of one candidate for one relation.

    Attributes:
        relation: of the phrase.
        score: 0 to 1.
        why: the reason as a sentence.
        references: numbers of the landmarks.
        closeness: to these objects, 0 to 1; it breaks ties.
    """

    relation: Relation
    score: float
    why: str
    references: tuple[int, ...] = ()
    closeness: float = 1.0


@dataclass(frozen=True, eq=False)
class ScoredCandidate:
    """A candidate with its scores for all relations.

    Attributes:
        candidate: see `ReferenceCandidate`.
        relation_scores: one for each relation that could be measured.
        closeness: 0 to 1, to the objects that the relations name; it breaks ties.
    """

    candidate: ReferenceCandidate
    relation_scores: tuple[RelationScore, ...] = ()
    closeness: float = 1.0

    @property
    def score(self) -> float:
        """Product of the confidence and all relation scores, 0 to 1."""
        return float(self.candidate.confidence * np.prod([each.score for each in self.relation_scores]))

    @property
    def why(self) -> str:
        """All reasons."""
        return "; ".join(f"{each.relation.words}: {each.score:.2f}, {each.why}" for each in self.relation_scores)


@dataclass(frozen=True, eq=False)
class ReferenceResolution:
    """The object that a phrase refers to, with the ranking of all candidates.

    Example:
        >>> resolution = resolve_reference(parse_phrase("chair behind the desk"), {"chair": chairs, "desk": desks})
        >>> resolution.best.name, resolution.decided, resolution.why
        ('chair 2', True, 'chair 2 (0.97): behind the desk: 0.97, its middle is 1.3 depths of the other farther away')

    Attributes:
        phrase: the parsed phrase.
        ranking: all candidates, the best first; empty if no object matches the noun.
        decided: whether the first is clearly better than the second.
        why: the reason as a sentence.
        missing: nouns that no object matches.
    """

    phrase: Phrase
    ranking: tuple[ScoredCandidate, ...]
    decided: bool
    why: str
    missing: tuple[str, ...] = ()

    @property
    def best(self) -> ReferenceCandidate | None:
        """The first of the ranking; only a guess unless ``decided``."""
        return self.ranking[0].candidate if self.ranking else None


def resolve_reference(phrase: Phrase, candidates: Mapping[str, Sequence[ReferenceCandidate]]) -> ReferenceResolution:
    """Find the object that a phrase refers to.

    Relations to other objects are evaluated first; the remaining candidates are then ranked by sides and superlatives,
    so the "largest box on the table" need not be the largest of all. If several objects match the noun of a relation,
    the best one counts. A side or superlative after the only object of its kind applies to the first noun: with one
    table, "cup on the table on the left" means the left cup.

    Args:
        phrase: see `nbhelpers.multiview.referring.parse_phrase`.
        candidates: by noun, those of each of ``phrase.subphrases()``.
    """
    own = list(candidates.get(phrase.noun, ()))
    if not own:
        return ReferenceResolution(phrase, (), False, f'no object matches "{phrase.noun}"', (phrase.noun,))
    everything = list({c.number: c for each in candidates.values() for c in each}.values())
    scored_candidates, missing = [ScoredCandidate(candidate) for candidate in own], []
    orders = [relation for relation in phrase.relations if relation.kind not in OBJECT_RELATIONS]
    for relation in phrase.relations:
        others = [resolve_reference(reference, candidates) for reference in relation.references]
        missing += [noun for other in others for noun in other.missing]
        if any(not other.ranking for other in others):
            orders = [order for order in orders if order is not relation]
            continue
        if relation.kind in OBJECT_RELATIONS:
            scored_candidates = [
                _add_score(scored, _score_against_references(relation, scored.candidate, others))
                for scored in scored_candidates
            ]
        for reference, other in zip(relation.references, others, strict=True):
            if len(other.ranking) == 1:
                orders += [r for r in reference.relations if r.kind not in OBJECT_RELATIONS and not r.before]
    best = max(scored.score for scored in scored_candidates)
    ranked = [scored for scored in scored_candidates if scored.score >= MIN_RANKED_SCORE * best]
    rest = [scored for scored in scored_candidates if scored.score < MIN_RANKED_SCORE * best]
    for order in orders:
        others = [resolve_reference(reference, candidates).ranking[0].candidate for reference in order.references]
        ranked = _score_rank(order, ranked, others[0] if others else None, everything)
    ranking = sorted(ranked, key=lambda v: -v.score * v.closeness) + sorted(rest, key=lambda v: -v.score)
    if not phrase.relations:  # nothing else distinguishes equal candidates
        equal = [each for each in ranking if each.score * MIN_SCORE_RATIO > ranking[0].score]
        ranking = sorted(equal, key=lambda v: -v.candidate.salience) + ranking[len(equal) :]
    return _decide(phrase, tuple(ranking), tuple(dict.fromkeys(missing)))


def _add_score(scored: ScoredCandidate, score: RelationScore) -> ScoredCandidate:
    """A candidate with one more relation score."""
    return replace(
        scored, relation_scores=(*scored.relation_scores, score), closeness=scored.closeness * score.closeness
    )


def _score_against_references(
    relation: Relation, candidate: ReferenceCandidate, others: Sequence[ReferenceResolution]
) -> RelationScore:
    """The best score over all objects to which the relation may refer."""
    pools = [_possible_references(other) for other in others]
    if relation.kind == "between" and len(pools) == 1:
        groups = [pair for pair in permutations(pools[0], 2) if pair[0][0].number < pair[1][0].number]
    else:
        groups = list(product(*pools))
    scores = []
    for group in groups:
        named = [each for each, _ in group]
        numbers = {each.number for each in named}
        if candidate.number in numbers or len(numbers) < len(named):
            continue
        score, why = score_relation(relation.kind, candidate.extent, [each.extent for each in named])
        score = 1 - score if relation.negated else score
        close = 1.0
        if relation.kind in CLOSENESS_RELATIONS:
            size = 0.5 * (candidate.extent.length + named[0].extent.length)
            close = 1 / (1 + 0.5 * surface_distance(candidate.extent, named[0].extent) / size)
        weight = float(np.prod([each for _, each in group]))
        text = f"{why} ({', '.join(each.name for each in named)})"
        scores.append(RelationScore(relation, score * weight, text, tuple(each.number for each in named), close))
    if not scores:
        return RelationScore(relation, 0.0, "it is the other object itself")
    return max(scores, key=lambda each: each.score * each.closeness)


def _possible_references(other: ReferenceResolution) -> list[tuple[ReferenceCandidate, float]]:
    """The objects to which a reference may refer, each with a weight; a single one if it is decided."""
    if other.decided:
        return [(other.ranking[0].candidate, 1.0)]
    first = max(each.score for each in other.ranking)
    return [(each.candidate, each.score / first if first else 1.0) for each in other.ranking]


def _score_rank(
    order: Relation,
    scored_candidates: list[ScoredCandidate],
    other: ReferenceCandidate | None,
    everything: Sequence[ReferenceCandidate],
) -> list[ScoredCandidate]:
    """Score a superlative or a side among the remaining candidates."""
    extents = [scored.candidate.extent for scored in scored_candidates]
    measures = [measure_rank(order.kind, extent, other.extent if other else None) for extent in extents]
    ranked = np.argsort([-each.value for each in measures], kind="stable").tolist()
    beyond = order.rank > len(ranked)
    target = ranked[-1] if order.rank == -1 or beyond else ranked[order.rank - 1]
    names = (other.number,) if other else ()
    out = []
    for index, scored in enumerate(scored_candidates):
        score = 0.2 if beyond else _rank_probability(index, target, ranked, measures)
        why = measures[index].why
        if order.kind in SIDES:
            absolute, where = score_side(order.kind, scored.candidate.extent, [each.extent for each in everything])
            score, why = score * float(np.sqrt(absolute)), where
        if beyond:
            why = f"there are only {len(ranked)}"
        elif len(ranked) > 1:
            why += f", number {ranked.index(index) + 1} of {len(ranked)}"
        out.append(_add_score(scored, RelationScore(order, 1 - score if order.negated else score, why, names)))
    return out


def _rank_probability(index: int, target: int, ranked: Sequence[int], measures: Sequence[RankValue]) -> float:
    """Probability that an object holds the requested rank, given the noise of the values."""

    def odds(one: int, two: int) -> float:
        noise = max(1e-12, float(np.hypot(measures[one].noise, measures[two].noise)))
        return float(1 / (1 + np.exp(-min(30.0, 2 * abs(measures[one].value - measures[two].value) / noise))))

    if index != target:
        return 1 - odds(index, target)
    place = ranked.index(target)
    beside = [ranked[i] for i in (place - 1, place + 1) if 0 <= i < len(ranked)]
    return min((odds(target, each) for each in beside), default=1.0)


def _decide(phrase: Phrase, ranking: tuple[ScoredCandidate, ...], missing: tuple[str, ...]) -> ReferenceResolution:
    """Whether the first of a ranking is decided, and why."""
    first, name = ranking[0], ranking[0].candidate.name
    summary = f"{name} ({first.score:.2f})" + (f": {first.why}" if first.relation_scores else "")
    if missing:
        lost = " and ".join(f'"{noun}"' for noun in missing)
        return ReferenceResolution(phrase, ranking, False, f"no object matches {lost}; best guess {summary}", missing)
    unmet = [each for each in first.relation_scores if each.score < MIN_RELATION_SCORE]
    if unmet:
        why = f'no "{phrase.noun}" satisfies "{unmet[0].relation.words}"; best guess {summary}'
        return ReferenceResolution(phrase, ranking, False, why)
    if len(ranking) == 1:
        return ReferenceResolution(phrase, ranking, True, f"the only one: {summary}")
    second = ranking[1]
    if first.score * first.closeness >= MIN_SCORE_RATIO * second.score * second.closeness:
        nearer = first.score < MIN_SCORE_RATIO * second.score
        return ReferenceResolution(phrase, ranking, True, summary + (", and it is the closer one" if nearer else ""))
    why = f"{name} and {second.candidate.name} fit equally well"
    why += (
        f": {first.score:.2f} and {second.score:.2f}"
        if first.relation_scores
        else '; specify which, e.g. "nearest" or "left"'
    )
    return ReferenceResolution(phrase, ranking, False, why)
