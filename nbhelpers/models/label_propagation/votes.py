"""Which cells of a frame belong to an object, voted by the most similar cells of remembered frames.

Label propagation by nearest neighbours, as Jabri et al. 2020 (arXiv 2006.14613, section 4) and Caron et al. 2021
(arXiv 2104.14294, section 4.2.2) evaluate features with it; here on the features that SAM 2 gives its mask decoder,
first on the grid of its image embedding, then twice as fine along the contour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from nbhelpers.models.values import Embedding

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 10
TEMPERATURE = 0.05  # of the votes' weights, in cosine similarity
FINE_TEMPERATURE = 0.02  # features that differ more within an object need less smoothing
FAR = 0.1  # what a key loses in similarity when it lies its reach away
REACH, REACH_A_FRAME = 6.0, 2.0  # in cells of the coarse grid: where an object may have got to
SHARE = 0.25  # of the frame's cells that are asked at all
UNSURE = (0.1, 0.9)
CONTOUR, MEMORY_CONTOUR = 1, 3  # half width of the refined and of the remembered band, in coarse cells
COARSE = {"image_embed": 1.0}
FINE = {"image_embed": 1.0, "high_res_feats_1": 0.3, "high_res_feats_0": 0.3}
Means = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, eq=False)
class Keys:
    """Cells of one remembered frame and what they were.

    Attributes:
        features: ``(n, c)``, unit length.
        places: ``(n, 2)``, column and row in coarse cells.
        labels: ``(n,)``, share of the cell that the object covers, 0 to 1.
    """

    features: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class Remembered:
    """One object on one frame, ready to vote: all cells of the coarse grid, and the finer ones near the contour."""

    frame: int
    coarse: Keys
    fine: Keys


@dataclass(frozen=True, eq=False)
class Votes:
    """What the remembered frames say of another one.

    Attributes:
        share: ``(s, s)``, how likely each cell of the decoder's grid belongs to the object, 0 to 1.
        likeness: mean cosine similarity of the cells voted inside to their nearest remembered cell of the object.
            On neighbouring frames about 0.9, over a clip 0.7 and more, between objects of two kinds 0.6 and less.
    """

    share: Float[np.ndarray, "s s"]
    likeness: float


def feature_means(embedding: Embedding) -> dict[str, torch.Tensor]:
    """Mean of each feature map ``(c,)``: what all cells share says nothing about which is which."""
    return {name: tensor[0].float().mean((1, 2)) for name, tensor in embedding.tensors.items()}


def features_at(
    embedding: Embedding, means: Means, cells: Int[np.ndarray, " n"], side: int, parts: Mapping[str, float]
) -> torch.Tensor:
    """Unit features ``(n, c)`` at cells of a ``side`` x ``side`` grid over the frame.

    Args:
        embedding: of the frame.
        means: subtracted from the features, see `feature_means`.
        cells: row * side + column.
        side: of the grid; each feature map is sampled bilinearly at the cells' centres.
        parts: which maps are joined, and the share of each in the similarity.
    """
    import torch
    from torch.nn import functional

    centres = (np.stack([cells % side, cells // side], 1) + 0.5) / side * 2 - 1
    joined = []
    for name, share in parts.items():
        tensor = embedding.tensors[name].float()
        grid = torch.from_numpy(centres.astype(np.float32)).to(tensor.device)[None, None]
        sampled = functional.grid_sample(tensor, grid, padding_mode="border", align_corners=False)[0, :, 0].T
        joined.append(functional.normalize(sampled - means[name], dim=1) * (share / sum(parts.values())) ** 0.5)
    return torch.cat(joined, 1)


def places_of(cells: Int[np.ndarray, " n"], side: int, grid: int) -> torch.Tensor:
    """``(n, 2)`` column and row of the cells' centres, in cells of the coarse grid."""
    import torch

    places = (np.stack([cells % side, cells // side], 1) + 0.5) * (grid / side)
    return torch.from_numpy(places.astype(np.float32))


def remember(frame: int, embedding: Embedding, means: Means, share: Float[np.ndarray, "s s"]) -> Remembered:
    """Keys of one object on one frame.

    Args:
        frame: index into the clip.
        embedding: of the frame.
        means: see `feature_means`.
        share: how likely each cell of the decoder's grid belongs to the object, 0 to 1.
    """
    grid = embedding.tensors["image_embed"].shape[-1]
    coarse, fine = resize(share, grid), resize(share, 2 * grid)

    def keys(cells, side, labels, parts):
        import torch

        features = features_at(embedding, means, cells, side, parts)
        values = torch.from_numpy(labels.reshape(-1)[cells])
        return Keys(features, places_of(cells, side, grid).to(features.device), values.to(features.device))

    near = np.flatnonzero(contour_band(fine, 2 * MEMORY_CONTOUR))
    return Remembered(frame, keys(np.arange(grid**2), grid, coarse, COARSE), keys(near, 2 * grid, fine, FINE))


def vote(frame: int, embedding: Embedding, means: Means, memory: Sequence[Remembered]) -> Votes:
    """Where an object is on a frame, by all remembered frames together.

    Args:
        frame: index of the frame that is asked about.
        embedding: its features.
        means: see `feature_means`.
        memory: the object on other frames.
    """
    grid = embedding.tensors["image_embed"].shape[-1]
    asked = np.arange(grid**2)
    queries = features_at(embedding, means, asked, grid, COARSE)
    places = places_of(asked, grid, grid).to(queries.device)
    coarse_keys = [(keys.coarse, reach(frame - keys.frame)) for keys in memory]
    asked = promising(queries, places, coarse_keys)
    votes = np.zeros(grid**2, np.float32)
    votes[asked.cpu().numpy()] = tally(queries[asked], places[asked], coarse_keys, TEMPERATURE)
    # of an object smaller than a cell no cell is more than half covered
    bar = min(0.5, 0.5 * max(float(key.labels.max()) for key, _ in coarse_keys))
    alike = likeness(queries[np.flatnonzero(votes > bar)], [key for key, _ in coarse_keys], bar)
    votes = resize(votes.reshape(grid, grid), 2 * grid)
    near = np.flatnonzero(contour_band(votes, 2 * CONTOUR))
    if len(near):
        queries = features_at(embedding, means, near, 2 * grid, FINE)
        fine_keys = [(keys.fine, reach(frame - keys.frame)) for keys in memory if len(keys.fine.labels)]
        if fine_keys:
            places = places_of(near, 2 * grid, grid).to(queries.device)
            votes.reshape(-1)[near] = tally(queries, places, fine_keys, FINE_TEMPERATURE)
    return Votes(resize(votes, 4 * grid), alike)


def reach(frames: int) -> float:
    """How far an object may have moved in so many frames, in coarse cells: the longer ago, the less a place says."""
    return REACH + REACH_A_FRAME * abs(frames)


def promising(queries: torch.Tensor, places: torch.Tensor, keys: Sequence[tuple[Keys, float]]) -> torch.Tensor:
    """Indices of the cells most similar to any cell of the object: only these can become part of it."""
    import torch

    best = torch.full((len(queries),), -torch.inf, device=queries.device)
    area = 0
    for key, far in keys:
        inside = key.labels > UNSURE[0]
        area = max(area, int(inside.sum()))
        if inside.any():
            part = Keys(key.features[inside], key.places[inside], key.labels[inside])
            best = torch.maximum(best, similarity(queries, places, part, far).amax(1))
    if not area:
        return torch.zeros(0, dtype=torch.int64)
    count = min(len(queries), max(int(SHARE * len(queries)), 2 * area))
    return best.topk(count).indices


def likeness(queries: torch.Tensor, keys: Sequence[Keys], bar: float) -> float:
    """Mean over the queries of the similarity to the most similar cell labelled above ``bar``; 0 without queries."""
    import torch

    known = [key.features[key.labels > bar] for key in keys]
    best = [(queries @ features.T).amax(1) for features in known if len(features)]
    return float(torch.stack(best).amax(0).mean()) if len(queries) and best else 0.0


def tally(
    queries: torch.Tensor, places: torch.Tensor, keys: Sequence[tuple[Keys, float]], temperature: float
) -> Float[np.ndarray, " n"]:
    """The labels of each query's nearest keys of all frames, weighted by their similarity."""
    import torch

    found, labels = [], []
    for key, far in keys:
        near, index = similarity(queries, places, key, far).topk(min(NEIGHBOURS, len(key.labels)), 1)
        found.append(near)
        labels.append(key.labels[index])
    near, index = torch.cat(found, 1).topk(min(NEIGHBOURS, sum(f.shape[1] for f in found)), 1)
    weights = torch.softmax(near / temperature, 1)
    return (weights * torch.cat(labels, 1).gather(1, index)).sum(1).cpu().numpy()


def similarity(queries: torch.Tensor, places: torch.Tensor, key: Keys, far: float) -> torch.Tensor:
    """``(n, m)``: cosine similarity, less ``FAR`` times the squared distance in units of ``far``."""
    import torch

    scale = FAR / far**2
    # -scale * |p - k|^2 as a product of its own, so that one matrix product does it all
    left = torch.cat(
        [queries, 2 * scale * places, -scale * places.square().sum(1, True), torch.ones_like(places[:, :1])], 1
    )
    right = torch.cat(
        [key.features, key.places, torch.ones_like(key.places[:, :1]), -scale * key.places.square().sum(1, True)], 1
    )
    return left @ right.T


def contour_band(share: Float[np.ndarray, "s s"], radius: int) -> Bool[np.ndarray, "s s"]:
    """Cells at most ``radius`` from where the object begins, or unsure themselves."""
    inside = (share > 0.5).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, disk)
    edge[(share > UNSURE[0]) & (share < UNSURE[1])] = 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.dilate(edge, disk).astype(bool)


def resize(share: Float[np.ndarray, "a a"], side: int) -> Float[np.ndarray, "b b"]:
    """Bring a map to another grid: means of cells when smaller, bilinear when larger."""
    mode = cv2.INTER_AREA if side < share.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(share.astype(np.float32), (side, side), interpolation=mode)
