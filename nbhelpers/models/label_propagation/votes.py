"""Votes of the most similar cells of other frames on which cells of a frame belong to an object.

Label propagation by nearest neighbours, which Jabri et al. 2020 (arXiv 2006.14613, section 4) and Caron et al. 2021
(arXiv 2104.14294, section 4.2.2) use to evaluate features; here on the features of SAM 2's mask decoder, first on the
grid of the coarsest map, then twice as fine along the contour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.protocols import FeatureSegmenter, Segmenter
from nbhelpers.models.values import Embedding

if TYPE_CHECKING:
    import torch

LEVELS = 3
FINENESS = 4  # cells of the decoder's grid for one of the coarsest features
NEIGHBOURS = 10
TEMPERATURE = 0.05  # of the votes' weights, in cosine similarity
FINE_TEMPERATURE = 0.02  # likewise on the fine grid, where features vary more within an object
DISTANCE_PENALTY = 0.1  # subtracted from the similarity of a key at a distance of one search radius
RADIUS, RADIUS_PER_FRAME = 6.0, 2.0  # search radius in cells of the coarse grid, and its increase per frame
QUERY_FRACTION = 0.25  # of the frame's cells, the most similar to the object, can become part of it
UNCERTAIN = (0.1, 0.9)
CONTOUR, MEMORY_CONTOUR = 1, 3  # half width of the refined band and of the memory's fine band, in coarse cells
COARSE_WEIGHTS = (1.0,)  # of the levels, in the similarity
FINE_WEIGHTS = (1.0, 0.3, 0.3)
FeatureMaps = Sequence["torch.Tensor"]
"""Feature maps of one image, ``(h, w, d)`` each, the coarsest first; see `feature_maps`."""
Means = Sequence["torch.Tensor | float"]
"""Means that are subtracted from the features of each level; see `feature_means`."""


@dataclass(frozen=True, eq=False)
class Keys:
    """Cells of one memory frame and their labels.

    Attributes:
        features: ``(n, c)``, unit length.
        positions: ``(n, 2)``, column and row in coarse cells.
        labels: ``(n,)``, fraction of the cell that the object covers, 0 to 1.
    """

    features: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class MemoryFrame:
    """The memory of an object on a frame: all cells of the coarse grid, and finer cells near the contour."""

    frame: int
    coarse: Keys
    fine: Keys


@dataclass(frozen=True, eq=False)
class Votes:
    """The vote of memory frames on another frame.

    Attributes:
        probability: ``(s, s)``, that a cell of the decoder's grid belongs to the object.
        similarity: mean cosine similarity of the cells voted inside to their nearest cell of the object in memory.
            On neighbouring frames about 0.9, over a clip 0.7 and more, between objects of two kinds 0.6 and less.
    """

    probability: Float[np.ndarray, "s s"]
    similarity: float


def with_features(segmenter: Segmenter) -> FeatureSegmenter:
    """The segmenter, if it gives its features.

    Raises:
        NbHelpersError: the segmenter has no features.
    """
    if not isinstance(segmenter, FeatureSegmenter):
        raise NbHelpersError(
            "the segmenter has no features for comparing images",
            given=segmenter.name,
            expected="a segmenter with `features`",
            do="use a SAM 2 segmenter",
        )
    return segmenter


def feature_maps(segmenter: Segmenter, embedding: Embedding) -> tuple[torch.Tensor, ...]:
    """The three feature maps of an image, coarsest first, each ``(h, w, d)``.

    Raises:
        NbHelpersError: the segmenter does not give its features.
    """
    features = with_features(segmenter).features
    return tuple(features(embedding, level) for level in range(LEVELS))


def feature_means(maps: FeatureMaps) -> list[torch.Tensor]:
    """Mean of each feature map ``(d,)``, a common component that does not discriminate."""
    return [_channels_first(features)[0].mean((1, 2)) for features in maps]


def sample_features(
    maps: FeatureMaps, means: Means, cells: Int[np.ndarray, " n"], side: int, weights: Sequence[float]
) -> torch.Tensor:
    """Unit features ``(n, c)`` at cells of a ``side`` x ``side`` grid over the frame.

    Args:
        maps: of the frame.
        means: subtracted from the features, see `feature_means`.
        cells: row * side + column.
        side: of the grid; each feature map is sampled bilinearly at the cells' centres.
        weights: of the levels in the similarity; further levels are not used.
    """
    import torch
    from torch.nn import functional

    centers = (np.stack([cells % side, cells // side], 1) + 0.5) / side * 2 - 1
    joined = []
    for features, mean, weight in zip(maps, means, weights, strict=False):
        tensor = _channels_first(features)
        grid = torch.from_numpy(centers.astype(np.float32)).to(tensor.device)[None, None]
        sampled = functional.grid_sample(tensor, grid, padding_mode="border", align_corners=False)[0, :, 0].T
        joined.append(functional.normalize(sampled - mean, dim=1) * (weight / sum(weights)) ** 0.5)
    return torch.cat(joined, 1)


def _channels_first(features: torch.Tensor) -> torch.Tensor:
    """``(h, w, d)`` as ``(1, d, h, w)`` float32."""
    return features.permute(2, 0, 1)[None].float()


def cell_centers(cells: Int[np.ndarray, " n"], side: int, grid: int) -> torch.Tensor:
    """``(n, 2)`` column and row of the cells' centres, in cells of the coarse grid."""
    import torch

    centers = (np.stack([cells % side, cells // side], 1) + 0.5) * (grid / side)
    return torch.from_numpy(centers.astype(np.float32))


def encode_memory(frame: int, maps: FeatureMaps, means: Means, probability: Float[np.ndarray, "s s"]) -> MemoryFrame:
    """The memory of one object on one frame.

    Args:
        frame: index into the clip.
        maps: of the frame.
        means: see `feature_means`.
        probability: that a cell of the decoder's grid belongs to the object.
    """
    grid = maps[0].shape[0]
    coarse, fine = resize_map(probability, grid), resize_map(probability, 2 * grid)

    def keys(cells, side, labels, weights):
        import torch

        features = sample_features(maps, means, cells, side, weights)
        values = torch.from_numpy(labels.reshape(-1)[cells])
        return Keys(features, cell_centers(cells, side, grid).to(features.device), values.to(features.device))

    near = np.flatnonzero(contour_band(fine, 2 * MEMORY_CONTOUR))
    return MemoryFrame(
        frame, keys(np.arange(grid**2), grid, coarse, COARSE_WEIGHTS), keys(near, 2 * grid, fine, FINE_WEIGHTS)
    )


def without(memory: MemoryFrame, cells: Bool[np.ndarray, "s s"] | None) -> MemoryFrame:
    """The memory of a frame without some cells of the decoder's grid, which vote neither for nor against the object."""
    import torch

    if cells is None:
        return memory

    def rest(keys: Keys) -> Keys:
        columns, rows = (keys.positions * FINENESS).long().unbind(1)
        kept = ~torch.from_numpy(cells).to(rows.device)[rows, columns]
        return Keys(keys.features[kept], keys.positions[kept], keys.labels[kept])

    return MemoryFrame(memory.frame, rest(memory.coarse), rest(memory.fine))


def vote(
    frame: int,
    maps: FeatureMaps,
    means: Means,
    memory: Sequence[MemoryFrame],
    distance_penalty: float = DISTANCE_PENALTY,
) -> Votes:
    """The votes of all memory frames on a frame.

    Args:
        frame: index of the frame.
        maps: its features.
        means: see `feature_means`.
        memory: the object on other frames.
        distance_penalty: see `local_similarity`; 0 where the features themselves tell places.
    """
    memory = [keys for keys in memory if len(keys.coarse.labels)]
    grid = maps[0].shape[0]
    cells = np.arange(grid**2)
    queries = sample_features(maps, means, cells, grid, COARSE_WEIGHTS)
    positions = cell_centers(cells, grid, grid).to(queries.device)
    coarse_keys = [(keys.coarse, search_radius(frame - keys.frame)) for keys in memory]
    cells = candidate_cells(queries, positions, coarse_keys, distance_penalty)
    votes = np.zeros(grid**2, np.float32)
    votes[cells.cpu().numpy()] = weighted_vote(
        queries[cells], positions[cells], coarse_keys, TEMPERATURE, distance_penalty
    )
    # an object smaller than a cell covers no cell by more than half
    inside = min(0.5, 0.5 * max(float(key.labels.max()) for key, _ in coarse_keys))
    similarity = mean_similarity(queries[np.flatnonzero(votes > inside)], [key for key, _ in coarse_keys], inside)
    votes = resize_map(votes.reshape(grid, grid), 2 * grid)
    near = np.flatnonzero(contour_band(votes, 2 * CONTOUR))
    if len(near):
        queries = sample_features(maps, means, near, 2 * grid, FINE_WEIGHTS)
        fine_keys = [(keys.fine, search_radius(frame - keys.frame)) for keys in memory if len(keys.fine.labels)]
        if fine_keys:
            positions = cell_centers(near, 2 * grid, grid).to(queries.device)
            votes.reshape(-1)[near] = weighted_vote(queries, positions, fine_keys, FINE_TEMPERATURE, distance_penalty)
    return Votes(resize_map(votes, FINENESS * grid), similarity)


def search_radius(frames: int) -> float:
    """Search radius after a number of frames, in coarse cells."""
    return RADIUS + RADIUS_PER_FRAME * abs(frames)


def candidate_cells(
    queries: torch.Tensor,
    positions: torch.Tensor,
    keys: Sequence[tuple[Keys, float]],
    distance_penalty: float = DISTANCE_PENALTY,
) -> torch.Tensor:
    """Indices of the cells most similar to any cell of the object: only these can become part of it."""
    import torch

    best = torch.full((len(queries),), -torch.inf, device=queries.device)
    area = 0
    for key, radius in keys:
        inside = key.labels > UNCERTAIN[0]
        area = max(area, int(inside.sum()))
        if inside.any():
            part = Keys(key.features[inside], key.positions[inside], key.labels[inside])
            best = torch.maximum(best, local_similarity(queries, positions, part, radius, distance_penalty).amax(1))
    if not area:
        return torch.zeros(0, dtype=torch.int64)
    count = min(len(queries), max(int(QUERY_FRACTION * len(queries)), 2 * area))
    return best.topk(count).indices


def mean_similarity(queries: torch.Tensor, keys: Sequence[Keys], inside: float) -> float:
    """Mean over the queries of the cosine to the most similar cell labelled above ``inside``; 0 without queries."""
    import torch

    known = [key.features[key.labels > inside] for key in keys]
    best = [(queries @ features.T).amax(1) for features in known if len(features)]
    return float(torch.stack(best).amax(0).mean()) if len(queries) and best else 0.0


def weighted_vote(
    queries: torch.Tensor,
    positions: torch.Tensor,
    keys: Sequence[tuple[Keys, float]],
    temperature: float,
    distance_penalty: float = DISTANCE_PENALTY,
) -> Float[np.ndarray, " n"]:
    """The labels of each query's nearest keys of all frames, weighted by their similarity."""
    import torch

    nearest, labels = [], []
    for key, radius in keys:
        similarity = local_similarity(queries, positions, key, radius, distance_penalty)
        near, index = similarity.topk(min(NEIGHBOURS, len(key.labels)), 1)
        nearest.append(near)
        labels.append(key.labels[index])
    near, index = torch.cat(nearest, 1).topk(min(NEIGHBOURS, sum(each.shape[1] for each in nearest)), 1)
    weights = torch.softmax(near / temperature, 1)
    return (weights * torch.cat(labels, 1).gather(1, index)).sum(1).cpu().numpy()


def local_similarity(
    queries: torch.Tensor,
    positions: torch.Tensor,
    key: Keys,
    radius: float,
    distance_penalty: float = DISTANCE_PENALTY,
) -> torch.Tensor:
    """``(n, m)``: cosine similarity minus the penalty times the squared distance in units of ``radius``."""
    import torch

    scale = distance_penalty / radius**2
    # -scale * |p - k|^2 is written as an inner product, so that one matrix product computes both
    left = torch.cat(
        [
            queries,
            2 * scale * positions,
            -scale * positions.square().sum(1, True),
            torch.ones_like(positions[:, :1]),
        ],
        1,
    )
    right = torch.cat(
        [
            key.features,
            key.positions,
            torch.ones_like(key.positions[:, :1]),
            -scale * key.positions.square().sum(1, True),
        ],
        1,
    )
    return left @ right.T


def contour_band(probability: Float[np.ndarray, "s s"], radius: int) -> Bool[np.ndarray, "s s"]:
    """Cells at most ``radius`` from the object's contour, or uncertain themselves."""
    inside = (probability > 0.5).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, disk)
    edge[(probability > UNCERTAIN[0]) & (probability < UNCERTAIN[1])] = 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.dilate(edge, disk).astype(bool)


def resize_map(probability: Float[np.ndarray, "a a"], side: int) -> Float[np.ndarray, "b b"]:
    """Resample a square map to another grid: area means for a smaller one, bilinear for a larger one."""
    mode = cv2.INTER_AREA if side < probability.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(probability.astype(np.float32), (side, side), interpolation=mode)
