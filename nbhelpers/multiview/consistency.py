"""The object's masks in all views and their mutual consistency, without ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from nbhelpers.core.masks import decode_rle

DOUBTFUL = 0.5  # below this the user should inspect a view
TERM_WEIGHTS = {"cycle": 1.0, "agreement": 2.0, "score": 2.0, "similarity": 0.25, "points": 1.0, "foreign": 0.5}
MIN_TERM = 0.02  # so that no term alone makes the product 0
POINT_PRIOR = 5  # agreeing points assumed a priori, so that few points have little weight
SIMILARITY_RANGE = (0.5, 0.75)  # a bad and a good similarity
SCORE_RANGE = (0.8, 1.0)  # likewise of predicted IoU, which is rarely lower for a prompt of mask and box
REASON_HANDICAP = {"score": 0.5, "similarity": 0.5}  # vague reasons, named only where all others are good


@dataclass(frozen=True)
class Consistency:
    """Agreement of one view's mask with the others, or of all masks, without ground truth.

    Attributes:
        value: 0 to 1, higher is better.
        parts: the known terms, each 0 to 1; see `ConsistencyTerms`.
        why: the reason as a sentence.
    """

    value: float
    parts: Mapping[str, float]
    why: str

    @property
    def is_doubtful(self) -> bool:
        """Whether the user should inspect the view."""
        return self.value < DOUBTFUL


@dataclass(frozen=True, eq=False)
class ViewMask:
    """The object in one photo.

    Attributes:
        name: of the photo.
        rle: the mask, from `nbhelpers.core.masks.encode_rle`.
        score: the segmenter's confidence in the mask, 0 to 1.
        consistency: see `Consistency`.
        prompted: whether the view has a prompt.
        found: whether the object was found; its mask is empty otherwise.
    """

    name: str
    rle: Mapping[str, Any] = field(repr=False)
    score: float
    consistency: Consistency
    prompted: bool
    found: bool

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask at the photo's size, decoded at each call."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class ViewMasks:
    """The object in all photos: the result of `nbhelpers.multiview.session.ViewsSession.solve`.

    Example:
        >>> views = session.solve()
        >>> views.mask(3).shape, views.consistency(3).value
        ((520, 779), 0.91)
        >>> views.worst                                            # the view to inspect first
        7

    Attributes:
        views: one `ViewMask` for each photo.
        points: numbers of the scene's points on the object; empty without a scene.
        overall: consistency of all views together.
        order: the views that were not prompted, in the order of propagation.
        notes: messages for the user, for example that a view has no camera.
        seconds: elapsed time.
    """

    views: tuple[ViewMask, ...]
    points: Int[np.ndarray, " n"]
    overall: Consistency
    order: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, view: int) -> ViewMask:
        return self.views[view]

    def __iter__(self) -> Iterator[ViewMask]:
        return iter(self.views)

    def mask(self, view: int) -> Bool[np.ndarray, "h w"]:
        """The mask in one photo, at its size."""
        return self.views[view].mask

    def score(self, view: int) -> float:
        """The segmenter's confidence in a view's mask, 0 to 1."""
        return self.views[view].score

    def consistency(self, view: int) -> Consistency:
        """The consistency of one view with the others."""
        return self.views[view].consistency

    @property
    def prompted(self) -> tuple[int, ...]:
        """The prompted views."""
        return tuple(number for number, view in enumerate(self.views) if view.prompted)

    @property
    def worst(self) -> int | None:
        """The unprompted view of lowest consistency; None if all are prompted."""
        rest = [number for number, view in enumerate(self.views) if not view.prompted]
        return min(rest, key=lambda number: self.views[number].consistency.value, default=None)


@dataclass(frozen=True)
class ConsistencyTerms:
    """Observations about one view's mask.

    No single term suffices: smooth objects have few points, a look-alike is as cycle-consistent as the object, and a
    segmenter is as confident of the wrong object as of the right one.

    Attributes:
        cycle: cycle consistency: mean soft IoU of the prompted masks with the votes of this view's mask.
        agreement: soft IoU of the mask with the votes of all other views.
        score: predicted IoU of the mask.
        similarity: of its cells to the object elsewhere, see `nbhelpers.models.label_propagation.votes.Votes`.
        points: number of the object's points visible in the view, by the votes of other views.
        missed: number of these outside its mask.
        foreign: number of other points inside its mask.
        name: of the view.
    """

    cycle: float
    agreement: float
    score: float
    similarity: float
    points: int = 0
    missed: int = 0
    foreign: int = 0
    name: str = ""


def score_view(
    terms: ConsistencyTerms, prompted: bool = False, found: bool = True, followed: bool = True
) -> Consistency:
    """Consistency of one view: the weighted geometric mean of its terms; the weight of points grows with their number.

    Args:
        terms: observations about the view.
        prompted: whether the view has a prompt.
        found: whether the object was found there.
        followed: whether its prompt is consistent with those of other views; otherwise the view is doubtful.
    """
    if not found:
        if terms.points >= POINT_PRIOR:
            return Consistency(0.1, {"points": 0.0}, f"not found, though {terms.points} points of it should be visible")
        return Consistency(0.5, {}, "the object was not found here, and there is no evidence that it should be visible")
    parts, weights = _weighted_terms(terms)
    logs = [weights[name] * np.log(max(value, MIN_TERM)) for name, value in parts.items()]
    value = float(np.exp(sum(logs) / sum(weights.values()))) * (1 if followed else DOUBTFUL)
    return Consistency(value, parts, _reason(terms, parts, value, prompted))


def score_all_views(views: Mapping[int, Consistency], names: Mapping[int, str]) -> Consistency:
    """Consistency of all views: the mean, and the view to inspect first."""
    values = {view: each.value for view, each in views.items()}
    worst = min(values, key=values.__getitem__)
    mean = float(np.mean(list(values.values())))
    doubtful = [view for view, each in views.items() if each.is_doubtful]
    if doubtful:
        why = f"{len(doubtful)} of {len(views)} views should be inspected, first {names[worst]}"
    else:
        why = f"all {len(views)} views agree; the least certain is {names[worst]}"
    return Consistency(mean, {names[view]: value for view, value in values.items()}, why)


def _weighted_terms(terms: ConsistencyTerms) -> tuple[dict[str, float], dict[str, float]]:
    """Terms from 0 to 1, and their weights."""
    parts = {
        "cycle": terms.cycle,
        "agreement": terms.agreement,
        "score": _rescale(terms.score, *SCORE_RANGE),
        "similarity": _rescale(terms.similarity, *SIMILARITY_RANGE),
    }
    weights = {name: TERM_WEIGHTS[name] for name in parts}
    if terms.points:
        covered = terms.points - terms.missed
        parts["points"] = (covered + POINT_PRIOR) / (terms.points + POINT_PRIOR)
        parts["foreign"] = (covered + POINT_PRIOR) / (covered + terms.foreign + POINT_PRIOR)
        many = terms.points / (terms.points + POINT_PRIOR)
        weights |= {name: TERM_WEIGHTS[name] * many for name in ("points", "foreign")}
    return parts, weights


def _rescale(value: float, low: float, high: float) -> float:
    """Position of a value in a range, clipped to 0 to 1."""
    return float(np.clip((value - low) / (high - low), 0, 1))


def _reason(terms: ConsistencyTerms, parts: Mapping[str, float], value: float, prompted: bool) -> str:
    """The consistency in words, with the weakest term if it is low."""
    name = terms.name or "this view"
    if prompted:
        if value >= DOUBTFUL:
            return "the object was prompted here"
        return f"the prompt in {name} does not agree with the other views"
    if value >= DOUBTFUL:
        held = f", and {terms.points - terms.missed} of {terms.points} points of it lie inside" if terms.points else ""
        return f"{name} agrees with the others{held}"
    weakest = min(parts, key=lambda part: parts[part] + REASON_HANDICAP.get(part, 0))
    reasons = {
        "points": f"{terms.missed} of {terms.points} points of the object lie outside its mask",
        "foreign": f"its mask covers {terms.foreign} points that other views see outside the object",
        "cycle": f"its cycle consistency with the prompted mask is only {terms.cycle:.0%}",
        "agreement": f"its mask agrees with the prediction from the other views only by {terms.agreement:.0%}",
        "score": "the predicted IoU of its mask is low",
        "similarity": "the features inside its mask differ from those of the object in other views",
    }
    return f"{name} disagrees: {reasons[weakest]}"
