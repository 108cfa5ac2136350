"""How well the masks of all views go together, without ground truth, and which view disagrees.

Each part alone misses cases: points are few on smooth objects, a look-alike is found again as well as the object, and
a segmenter is as sure of the wrong thing as of the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nbhelpers.multiview.values import DOUBTFUL, Consistency

POWERS = {"back": 1.0, "agreement": 2.0, "score": 2.0, "likeness": 0.25, "points": 1.0, "strangers": 0.5}
LEAST = 0.02  # no part alone makes an end of it
FEW = 5  # points: so many are taken to agree beforehand, so that fewer say little
LIKE = (0.5, 0.75)  # likeness that is bad, and that is good
SCORE = (0.8, 1.0)  # predicted IoU likewise: a segmenter that is shown a mask and its box seldom says less
VAGUE = {"score": 0.5, "likeness": 0.5}  # reasons that tell a person little are named only where others fail


@dataclass(frozen=True)
class Signs:
    """What was observed about one view's mask.

    Attributes:
        back: soft IoU of the prompted views' masks with what this view's mask votes there, the mean over them.
        agreement: soft IoU of the mask with what all other views vote here.
        score: IoU that the segmenter predicts for the mask.
        likeness: of its cells to the object elsewhere, see `nbhelpers.models.label_propagation.votes.Votes`.
        points: how many points of the object the view shows, by what other views say of them.
        missed: how many of these its mask leaves out.
        strange: how many points that are not the object's its mask covers.
        name: of the view.
    """

    back: float
    agreement: float
    score: float
    likeness: float
    points: int = 0
    missed: int = 0
    strange: int = 0
    name: str = ""


def judge(signs: Signs, prompted: bool = False, found: bool = True, followed: bool = True) -> Consistency:
    """One number for one view, and a sentence.

    The value is the weighted geometric mean of the parts; few points weigh less than many.

    Args:
        signs: what was observed.
        prompted: a person said what the object is in this view.
        found: the object was found there.
        followed: what was said there goes together with what was said elsewhere; else the view is doubtful.
    """
    if not found:
        if signs.points >= FEW:
            return Consistency(0.1, {"points": 0.0}, f"not found, though {signs.points} points of it should be visible")
        return Consistency(0.5, {}, "the object was not found here, and nothing says that it should be")
    parts, weights = _parts(signs)
    logs = [weights[name] * np.log(max(value, LEAST)) for name, value in parts.items()]
    value = float(np.exp(sum(logs) / sum(weights.values()))) * (1 if followed else DOUBTFUL)
    return Consistency(value, parts, _why(signs, parts, value, prompted))


def whole(views: Mapping[int, Consistency], names: Mapping[int, str]) -> Consistency:
    """One number for the set: the mean over the views, and the view that disagrees most."""
    values = {view: each.value for view, each in views.items()}
    worst = min(values, key=values.get)
    mean = float(np.mean(list(values.values())))
    doubtful = [view for view, each in views.items() if each.is_doubtful]
    if doubtful:
        why = f"{len(doubtful)} of {len(views)} views should be looked at, first {names[worst]}"
    else:
        why = f"all {len(views)} views go together; the least sure is {names[worst]}"
    return Consistency(mean, {names[view]: value for view, value in values.items()}, why)


def _parts(signs: Signs) -> tuple[dict[str, float], dict[str, float]]:
    parts = {
        "back": signs.back,
        "agreement": signs.agreement,
        "score": _between(signs.score, *SCORE),
        "likeness": _between(signs.likeness, *LIKE),
    }
    weights = {name: POWERS[name] for name in parts}
    if signs.points:
        covered = signs.points - signs.missed
        parts["points"] = (covered + FEW) / (signs.points + FEW)
        parts["strangers"] = (covered + FEW) / (covered + signs.strange + FEW)
        many = signs.points / (signs.points + FEW)
        weights |= {name: POWERS[name] * many for name in ("points", "strangers")}
    return parts, weights


def _between(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _why(signs: Signs, parts: Mapping[str, float], value: float, prompted: bool) -> str:
    name = signs.name or "this view"
    if prompted:
        if value >= DOUBTFUL:
            return "the object was shown here"
        return f"what was said in {name} does not go together with the other views"
    if value >= DOUBTFUL:
        held = f", and {signs.points - signs.missed} of {signs.points} points of it lie inside" if signs.points else ""
        return f"{name} agrees with the others{held}"
    weakest = min(parts, key=lambda part: parts[part] + VAGUE.get(part, 0))
    reasons = {
        "points": f"{signs.missed} of {signs.points} points of the object lie outside its mask",
        "strangers": f"its mask covers {signs.strange} points that other views see outside the object",
        "back": f"from here only {signs.back:.0%} of the prompted mask is found again",
        "agreement": f"only {signs.agreement:.0%} of its mask is where the other views expect the object",
        "score": "the segmenter itself is not sure of the mask",
        "likeness": "what the mask covers does not look like the object elsewhere",
    }
    return f"{name} disagrees: {reasons[weakest]}"
