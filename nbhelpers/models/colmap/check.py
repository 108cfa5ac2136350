"""Whether two runs of structure from motion found the same cameras, and what photos without a model look like.

A run can place all photos with an error under a pixel and be wrong: a turning object on a black ground, a building with
two like sides. What is only in one run is therefore not believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nbhelpers.core.scenes.files import few
from nbhelpers.models.colmap.mapping import Run
from nbhelpers.models.colmap.pairs import FeatureStore, Pair, groups

DEGREES = 3.0  # by which the relative rotations of two runs may differ
AWAY = 0.2  # of the cameras' spread by which their centres may differ, root mean square, after alignment
MAJORITY = 0.5  # of the photos that both runs placed, which must agree for any to be believed
DEEP = 0.15  # of the pairs that must show depth
TEXTURELESS = 40  # distinct places of a photo below which there is nothing to match
STILL = 0.7  # pixels of movement between two photos below which they are the same photo


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far two runs agree.

    Attributes:
        views: photos whose cameras agree.
        median: median difference of their relative rotations in degrees; of all common photos where none agree.
        worst: the largest.
        away: difference of the centres in spreads, root mean square, after the best similarity.
    """

    views: Bool[np.ndarray, " v"]
    median: float
    worst: float
    away: float

    @property
    def holds(self) -> bool:
        """Whether any photo is confirmed."""
        return bool(self.views.any())


def agreement(first: Float[np.ndarray, "v 3 4"], second: Float[np.ndarray, "v 3 4"]) -> Agreement:
    """The photos for which two sets of cameras agree, of those that both have.

    Photos that disagree with most others are left out one by one, the worst first; what remains must be the majority,
    and its centres must agree too, which cameras that only turned would not.
    """
    common = np.flatnonzero(np.isfinite(first).all((1, 2)) & np.isfinite(second).all((1, 2)))
    none = np.zeros(len(first), bool)
    if len(common) < 2:
        return Agreement(none, float("nan"), float("nan"), float("nan"))
    differences = rotation_differences(first[common, :, :3], second[common, :, :3])
    kept = np.arange(len(common))
    while len(kept) > 1:
        typical = np.array([np.median(np.delete(differences[i, kept], at)) for at, i in enumerate(kept)])
        if typical.max() <= DEGREES:
            break
        kept = np.delete(kept, typical.argmax())
    if len(kept) < 2 or len(kept) <= MAJORITY * len(common):
        upper = differences[np.triu_indices(len(common), 1)]
        return Agreement(none, float(np.median(upper)), float(upper.max()), float("nan"))
    upper = differences[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
    away = center_difference(first[common[kept]], second[common[kept]])
    views = none.copy()
    views[common[kept]] = len(kept) == 2 or away <= AWAY
    return Agreement(views, float(np.median(upper)), float(upper.max()), away)


def rotation_differences(first: Float[np.ndarray, "v 3 3"], second: Float[np.ndarray, "v 3 3"]) -> np.ndarray:
    """``(v, v)`` degrees between the rotations from view to view of one set of cameras and of the other."""
    # trace((A_i A_j^T)(B_i B_j^T)^T) = trace(D_j^T D_i) with D = B^T A
    delta = np.einsum("vki,vkj->vij", second, first)
    trace = np.einsum("aij,bij->ab", delta, delta)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def center_difference(first: Float[np.ndarray, "v 3 4"], second: Float[np.ndarray, "v 3 4"]) -> float:
    """How far the centres lie apart after the best similarity, as a share of the spread of the first."""
    a, b = (-np.einsum("vji,vj->vi", each[:, :, :3], each[:, :, 3]) for each in (first, second))
    scale, turn, shift = similarity(b, a)
    moved = scale * b @ turn.T + shift
    spread = np.sqrt(((a - a.mean(0)) ** 2).sum(1).mean())
    return float(np.sqrt(((moved - a) ** 2).sum(1).mean()) / max(spread, 1e-12))


def similarity(
    source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Scale, rotation and shift that carry points onto others with the least squared distance (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    left, values, right = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = left * sign @ right
    scale = float((values * sign).sum() / max((a**2).sum(), 1e-12))
    return scale, turn, target.mean(0) - scale * turn @ source.mean(0)


def shows_no_depth(pairs: Sequence[Pair]) -> bool:
    """Whether hardly any two photos need more than a turn of the camera, or one plane, to be explained.

    From such photos runs can agree on cameras that are all wrong: a false focal length makes up for the missing step.
    """
    return sum(not pair.flat for pair in pairs) <= DEEP * len(pairs)


def diagnose(store: FeatureStore, pairs: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """What a person should know of photos of which no, or not every, camera was found: one line each."""
    notes = []
    bare = [name for name, count in zip(names, store.counts, strict=True) if count < TEXTURELESS]
    if bare:
        notes.append(f"hardly any texture, so there is nothing to match: {few(bare)}")
    if not pairs:
        if len(bare) < len(names):
            notes.append("no two photos show enough of the same places: they do not overlap, or from too far apart")
        return notes
    if all(pair.shift < STILL for pair in pairs):
        notes.append("the photos that match are the same photo, taken from one place: they show no depth")
    elif shows_no_depth(pairs):
        notes.append("between most photos the camera only turned, or the scene is flat: they show no depth")
    parts = [part for part in groups(len(names), pairs) if len(part) > 1]
    if len(parts) > 1:
        told = "; ".join(few([names[view] for view in part]) for part in parts)
        notes.append(
            f"the photos fall into {len(parts)} groups that share nothing, of which the largest is kept: {told}"
        )
    return notes


def best_pair(runs: Sequence[Run]) -> tuple[Run, Run, Agreement] | None:
    """Of all runs the one to believe, one that agrees with it, and how far; None where no two agree.

    The most photos that agree decide, then the smaller error.
    """
    found = []
    for run in runs:
        for other in runs:
            if other is not run and (shared := agreement(run.poses, other.poses)).holds:
                found.append(
                    (int(shared.views.sum()), int(run.placed.sum()), -run.error, len(found), run, other, shared)
                )
    return max(found)[-3:] if found else None
