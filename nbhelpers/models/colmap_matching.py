"""Overlapping pairs of photos: features on disk, candidate pairs, matches verified by two-view geometry."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from tqdm.auto import tqdm

from nbhelpers.core.images import load_image
from nbhelpers.models.matchers import is_distinct, mutual_nearest
from nbhelpers.models.protocols import Matcher
from nbhelpers.models.values import LocalFeatures

EXHAUSTIVE = 10  # photos up to which every pair is matched
EXHAUSTIVE_QUICK = 25  # likewise for fast matchers
NEIGHBOURS = 6  # photos with which each photo is matched beyond that number
NEIGHBOURS_OF_RUNS = 4  # photos with which each photo is matched by slow features, given the matches of fast ones
MAX_COMPARED = 384  # features per photo that are compared to find its neighbours
SHORTLIST = 24  # photos of each that are compared by features, the nearest by a global descriptor; all of few photos
WORDS, WORD_SAMPLES = 64, 20_000  # visual words of the global descriptor, and features that they are learned from
MAX_DISTANCE_RATIO = 0.9  # ratio of distances below which two of those match
MIN_MATCHES = 15  # matches that a pair must keep (COLMAP's min_num_inliers)
MIN_INLIERS = 0.2  # fraction of a pair's matches that must be inliers; a tenth occurs by chance
MAX_ERROR = 4.0  # pixels from the epipolar line (COLMAP's default)
MIN_SHIFT = 1.5  # pixels of motion below which a match is static
TRIALS = 2000  # of RANSAC for the camera motion: enough for 25 % inliers
CLEAR, FEW_TRIALS = 0.6, 500  # fraction of inliers from which so many trials are enough
MAX_WORKERS = 4  # threads that match; each takes up to 200 MB
CACHE_SIZE = 24  # photos whose features are in memory
HALF = 0.5  # COLMAP's first pixel has its centre at (0.5, 0.5)
FOCAL_GUESS = 1.2  # COLMAP's first guess of a focal length, in longer sides

Lenses = Mapping[tuple[int, int], tuple[float, float]]


class FeatureStore:
    """The features of photos, computed once each and kept on disk, so that memory does not grow with their number.

    Args:
        matcher: whose features they are.
        images: the photos, read one at a time.
        folder: where to store them; created if necessary.
    """

    def __init__(self, matcher: Matcher, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], folder: Path):
        self.matcher, self._folder, self._lock = matcher, folder, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._recent: OrderedDict[int, LocalFeatures] = OrderedDict()
        self.sizes, self.counts = [], []
        for number in tqdm(range(len(images)), desc=f"features ({matcher.name})", leave=False):
            features = matcher.features(load_image(np.asarray(images[number])))
            self.sizes.append(features.size)
            self.counts.append(len(features))
            path = folder / f"{number}.npz"
            np.savez(path, points=features.points, descriptors=features.descriptors, scores=features.scores)

    @property
    def name(self) -> str:
        """Of the matcher."""
        return self.matcher.name

    def __len__(self) -> int:
        return len(self.sizes)

    def points(self, number: int) -> Float32[np.ndarray, "n 2"]:
        """The keypoints of a photo."""
        return self[number].points

    def __getitem__(self, number: int) -> LocalFeatures:
        with self._lock:
            if number not in self._recent:
                with np.load(self._folder / f"{number}.npz") as arrays:
                    self._recent[number] = LocalFeatures(self.sizes[number], self.matcher.name, **arrays)
                if len(self._recent) > CACHE_SIZE:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(number)
            return self._recent[number]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two photos and their verified matches.

    Attributes:
        first: number of a photo.
        second: number of the other.
        matches: ``(m, 2)`` indices of their features, the inliers of one camera motion.
        geometry: pycolmap's two-view geometry.
        offered: number of matches before verification.
        shift: median distance in pixels between the two keypoints of a match.
    """

    first: int
    second: int
    matches: Int[np.ndarray, "m 2"]
    geometry: Any
    offered: int
    shift: float

    @property
    def flat(self) -> bool:
        """Whether a rotation of the camera, or a plane, explains the matches as well: they show no depth."""
        import pycolmap

        kinds = pycolmap.TwoViewGeometryConfiguration
        return int(self.geometry.config) in (int(kinds.PLANAR), int(kinds.PANORAMIC), int(kinds.PLANAR_OR_PANORAMIC))


def verified_pairs(store: FeatureStore, wanted: Sequence[tuple[int, int]], seed: int) -> list[Pair]:
    """Match pairs of photos and keep those with enough verified matches.

    Pairs of quick matchers are matched on several cores; the result does not depend on their number.

    Args:
        store: the features.
        wanted: pairs to match, e.g. `candidate_pairs`.
        seed: of the estimation of the camera motion.
    """
    cameras = cameras_for(store.sizes)

    def verified(numbers: tuple[int, int]) -> Pair | None:
        matches, _ = store.matcher.match(*(store[number] for number in numbers))
        return verify_pair(store, cameras, *numbers, matches, seed) if len(matches) >= MIN_MATCHES else None

    with ThreadPoolExecutor(_workers() if store.matcher.quick else 1) as pool:
        found = tqdm(pool.map(verified, wanted), f"pairs ({store.matcher.name})", len(wanted), leave=False)
        return [pair for pair in found if pair is not None]


def candidate_pairs(store: FeatureStore, exhaustive: int | None = None) -> list[tuple[int, int]]:
    """The pairs to match: all of few photos; otherwise each photo with its neighbours by similarity and in order.

    Args:
        store: the features.
        exhaustive: number of photos up to which all pairs are matched; by default more for quick matchers.
    """
    views = len(store)
    if views <= (exhaustive or (EXHAUSTIVE_QUICK if store.matcher.quick else EXHAUSTIVE)):
        return list(itertools.combinations(range(views), 2))
    similarity = mutual_neighbours(store)
    chosen = {(view, view + 1) for view in range(views - 1)}
    for view in range(views):
        for other in np.argsort(-similarity[view], kind="stable")[:NEIGHBOURS]:
            chosen.add((min(view, int(other)), max(view, int(other))))
    return sorted(chosen)


def pairs_of_runs(views: int, found: Sequence[Sequence[Pair]]) -> list[tuple[int, int]] | None:
    """The pairs to match with slower features, given the matches of earlier runs.

    Each photo with its best neighbours; one with too few of them is matched with all.

    Args:
        views: number of photos.
        found: the verified pairs of each earlier run.

    Returns:
        The pairs; None if no earlier run has matches, or if matching all pairs would be too slow.
    """
    shared = np.zeros((views, views))
    for pair in itertools.chain.from_iterable(found):
        shared[pair.first, pair.second] += len(pair.matches)
    shared += shared.T
    if not shared.any() or views > EXHAUSTIVE:
        return None
    chosen = set()
    for view in range(views):
        best = np.argsort(-shared[view], kind="stable")[:NEIGHBOURS_OF_RUNS]
        others = best if shared[view, best].all() else np.delete(np.arange(views), view)
        chosen |= {(min(view, int(other)), max(view, int(other))) for other in others}
    return sorted(chosen)


def mutual_neighbours(store: FeatureStore) -> Float[np.ndarray, "v v"]:
    """Number of the most distinctive features of each pair that are mutual nearest neighbours; -1 on the diagonal.

    Of many photos only those are compared that `vlad` finds most similar; the rest have 0.
    """
    views = len(store)
    descriptors = []
    for view in range(views):
        features = store[view]
        best = np.argsort(-features.scores, kind="stable")
        # features of equal score are ordered by position or size: sample them evenly
        best = (
            best[np.linspace(0, len(best) - 1, min(MAX_COMPARED, len(best))).astype(int)]
            if _has_equal_scores(features)
            else best[:MAX_COMPARED]
        )
        descriptors.append(features.descriptors[best].astype(np.float16))

    def common(numbers: tuple[int, int]) -> int:
        a, b = (descriptors[number].astype(np.float32) for number in numbers)
        if min(len(a), len(b)) < 2:
            return 0
        near, best, mutual = mutual_nearest(a, b)
        return int((mutual & is_distinct(near, best, MAX_DISTANCE_RATIO)).sum())

    chosen = np.ones((views, views), bool)
    if views > 2 * SHORTLIST:
        vectors = vlad(descriptors)
        order = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")[:, : SHORTLIST + 1]  # with the photo itself
        chosen[:] = False
        np.put_along_axis(chosen, order, True, axis=1)
    pairs = [(int(first), int(second)) for first, second in np.argwhere(np.triu(chosen | chosen.T, 1))]
    out = np.zeros((views, views))
    np.fill_diagonal(out, -1)
    with ThreadPoolExecutor(_workers()) as pool:
        for (first, second), number in zip(pairs, pool.map(common, pairs), strict=True):
            out[first, second] = out[second, first] = number
    return out


def vlad(descriptors: Sequence[Float[np.ndarray, "_ d"]]) -> Float32[np.ndarray, "v e"]:
    """One descriptor of length 1 for each photo: its features' differences from the nearest visual words, summed.

    Jegou et al., CVPR 2010, "Aggregating local descriptors into a compact image representation", each word's sum scaled
    to length 1 (Arandjelovic and Zisserman, CVPR 2013, "All about VLAD").

    Args:
        descriptors: of the features of each photo, of length 1.
    """
    every = np.concatenate(descriptors)
    if not len(every):
        return np.zeros((len(descriptors), 1), np.float32)
    sample = every[np.linspace(0, len(every) - 1, min(WORD_SAMPLES, len(every))).astype(int)].astype(np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0)
    labels = np.zeros((len(sample), 1), np.int32)
    words = cv2.kmeans(sample, min(WORDS, len(sample)), labels, stop, 1, cv2.KMEANS_PP_CENTERS)[2]
    out = np.zeros((len(descriptors), *words.shape), np.float32)
    for view, each in enumerate(descriptors):
        each = each.astype(np.float32)
        nearest = (each @ words.T - (words**2).sum(1) / 2).argmax(1)
        np.add.at(out[view], nearest, each - words[nearest])
    out /= np.maximum(np.linalg.norm(out, axis=2, keepdims=True), 1e-12)
    flat = out.reshape(len(out), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _workers() -> int:
    """Threads that match."""
    return min(MAX_WORKERS, os.cpu_count() or 1)


def _has_equal_scores(features: LocalFeatures) -> bool:
    return bool(len(features) and features.scores.min() == features.scores.max())


def verify_pair(
    store: FeatureStore | JoinedFeatures,
    cameras: Sequence,
    first: int,
    second: int,
    matches: Int[np.ndarray, "m 2"],
    seed: int,
) -> Pair | None:
    """The inliers of a two-view geometry, or None if they are too few."""
    import pycolmap

    points = [store.points(number).astype(np.float64) + HALF for number in (first, second)]
    matches = matches[moving_matches(points[0][matches[:, 0]], points[1][matches[:, 1]])]
    inliers = _common_motion(points[0][matches[:, 0]], points[1][matches[:, 1]])
    if inliers < max(MIN_MATCHES, MIN_INLIERS * len(matches)):
        return None
    trials = FEW_TRIALS if inliers >= CLEAR * len(matches) else TRIALS
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = MIN_MATCHES
    options.ransac.max_error, options.ransac.max_num_trials, options.ransac.random_seed = MAX_ERROR, trials, seed
    geometry = pycolmap.estimate_two_view_geometry(
        cameras[first], points[0], cameras[second], points[1], matches.astype(np.uint32), options
    )
    kept = np.asarray(geometry.inlier_matches, int).reshape(-1, 2)
    if len(kept) < MIN_MATCHES:
        return None
    shift = np.linalg.norm(points[0][kept[:, 0]] - points[1][kept[:, 1]], axis=1)
    return Pair(first, second, kept, geometry, len(matches), float(np.median(shift)))


def moving_matches(first: Float[np.ndarray, "m 2"], second: Float[np.ndarray, "m 2"]) -> Bool[np.ndarray, " m"]:
    """Which matches move by some pixels; all if too few do.

    Static matches among moving ones are the background of a turntable, a logo, or dust on the lens. If nothing moves,
    the photos were taken from one viewpoint.
    """
    far = np.linalg.norm(first - second, axis=1) > MIN_SHIFT
    return far if far.sum() >= MIN_MATCHES else np.ones(len(first), bool)


def _common_motion(first: Float[np.ndarray, "m 2"], second: Float[np.ndarray, "m 2"]) -> int:
    """How many matches a fundamental matrix explains, ten times as fast as pycolmap.

    Most pairs of photos around an object do not overlap, and rejecting them takes most of the time.
    """
    cv2.setRNGSeed(0)
    try:
        _, kept = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, MAX_ERROR, 0.999, 10_000)
    except cv2.error:  # all points coincide
        return 0
    return 0 if kept is None else int(kept.sum())


def connected_groups(views: int, pairs: Sequence[Pair]) -> list[list[int]]:
    """Connected components of the photos by their pairs, largest first."""
    parent = list(range(views))

    def root(view: int) -> int:
        while parent[view] != view:
            view = parent[view]
        return view

    for pair in pairs:
        parent[root(pair.first)] = root(pair.second)
    together: dict[int, list[int]] = {}
    for view in range(views):
        together.setdefault(root(view), []).append(view)
    return sorted(together.values(), key=lambda each: (-len(each), each))


def cameras_for(sizes: Sequence[tuple[int, int]], lenses: Lenses | None = None) -> list:
    """A `pycolmap.Camera` for each photo; photos of equal size share one.

    Args:
        sizes: ``(H, W)`` of the photos.
        lenses: focal length and ``k1`` by size, if known; pairs are then verified more strictly.
    """
    import pycolmap

    made = {}
    for size in sizes:
        if size not in made:
            camera = pycolmap.Camera.create_from_model_name(
                0, "SIMPLE_RADIAL", FOCAL_GUESS * max(size), size[1], size[0]
            )
            camera.camera_id = len(made) + 1
            if lenses and size in lenses:
                focal, curve = lenses[size]
                camera.params = [focal, *camera.params[1:3], curve]
                camera.has_prior_focal_length = True
            made[size] = camera
    return [made[size] for size in sizes]


class JoinedFeatures:
    """The combined features of several stores; see `FeatureStore`.

    Example:
        >>> both = JoinedFeatures([sift_store, xfeat_store])
        >>> pairs = both.pairs([sift_run.all_pairs, xfeat_run.all_pairs], lenses, seed=0)
    """

    def __init__(self, stores: Sequence[FeatureStore]):
        self.stores = stores
        self.name = " + ".join(store.name for store in stores)
        self.sizes = stores[0].sizes
        self.counts = [sum(each) for each in zip(*(store.counts for store in stores), strict=True)]

    def __len__(self) -> int:
        return len(self.sizes)

    def points(self, number: int) -> Float[np.ndarray, "n 2"]:
        """The concatenated keypoints of all stores in one photo."""
        return np.concatenate([store.points(number) for store in self.stores])

    def pairs(self, found: Sequence[Sequence[Pair]], lenses: Lenses, seed: int) -> list[Pair]:
        """The pairs of all stores, each verified again with all its matches and known lenses."""
        cameras = cameras_for(self.sizes, lenses)
        together: dict[tuple[int, int], list[np.ndarray]] = {}
        for at, pairs in enumerate(found):
            for pair in pairs:
                before = [sum(store.counts[view] for store in self.stores[:at]) for view in (pair.first, pair.second)]
                together.setdefault((pair.first, pair.second), []).append(pair.matches + np.array(before))
        out = [
            verify_pair(self, cameras, first, second, np.concatenate(matches), seed)
            for (first, second), matches in sorted(together.items())
        ]
        return [pair for pair in out if pair is not None]
