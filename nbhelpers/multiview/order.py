"""Which photos look alike, and in which order they are reached from those that a person prompted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nbhelpers.core.scenes import Scene
from nbhelpers.models.label_propagation.votes import feature_maps, feature_means
from nbhelpers.multiview.views import Photos

if TYPE_CHECKING:
    import torch

POOL = 4  # cells of the embedding that are averaged into one token: a few hundred tokens a photo are compared
SHARED = 0.5  # weight of common points beside the likeness of features, where a scene tells them
COMMON = 30  # points: so many in common are as good as any more


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of all photos together before any object is looked for.

    Attributes:
        means: of each feature map over all photos; what all cells share says nothing about which is which.
        likeness: ``(v, v)``, how alike two photos are, -1 to 1.
    """

    means: dict[int, torch.Tensor]
    likeness: Float[np.ndarray, "v v"]


def survey(photos: Photos, progress: Callable[[int], None] | None = None) -> Survey:
    """Encode all photos once and compare each two: the mean cosine of a token to the most similar one of the other.

    The photos keep what comes out, so that a second call costs nothing.

    Args:
        photos: of the scene.
        progress: called with the number of photos done.
    """
    from torch.nn import functional

    if photos.survey is not None:
        return photos.survey
    sums: dict[int, torch.Tensor] = {}
    pooled = []
    for view in range(len(photos)):
        maps = feature_maps(photos.segmenter, photos.embedding(view))
        for level, mean in enumerate(feature_means(maps)):
            sums[level] = sums.get(level, 0) + mean / len(photos)
        pooled.append(functional.avg_pool2d(maps[0].permute(2, 0, 1)[None].float(), POOL)[0].flatten(1).T)
        if progress is not None:
            progress(view + 1)
    tokens = [functional.normalize(each - sums[0], dim=1) for each in pooled]
    likeness = np.eye(len(photos))
    for a in range(len(photos)):
        for b in range(a):
            cosines = tokens[a] @ tokens[b].T
            likeness[a, b] = likeness[b, a] = float(cosines.amax(0).mean() + cosines.amax(1).mean()) / 2
    photos.survey = Survey(sums, likeness)
    return photos.survey


def with_scene(likeness: Float[np.ndarray, "v v"], scene: Scene | None) -> Float[np.ndarray, "v v"]:
    """The likeness, raised where two views have points of the scene in common."""
    if scene is None or not len(scene.observation_view):
        return likeness
    seen = np.zeros((len(scene), len(scene.points)), np.float32)
    seen[scene.observation_view, scene.observation_point] = 1
    return likeness + SHARED * np.minimum(seen @ seen.T, COMMON) / COMMON


def reach(likeness: Float[np.ndarray, "v v"], known: Collection[int]) -> list[int]:
    """The other views in the order in which they are most like one that comes before (Prim's spanning tree).

    Args:
        likeness: of each two views.
        known: where to begin.
    """
    order, left = list(known), set(range(len(likeness))) - set(known)
    while left:
        best = max(sorted(left), key=lambda view: likeness[view, order].max())
        order.append(best)
        left.remove(best)
    return order[len(known) :]


def nearest(likeness: Float[np.ndarray, "v v"], view: int, among: Collection[int], count: int) -> list[int]:
    """The views ``among`` some that are most like ``view``, the most alike first."""
    return sorted(set(among) - {view}, key=lambda other: (-likeness[view, other], other))[:count]
