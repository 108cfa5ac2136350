"""Dense depth of photos whose cameras are known, by plane-sweep stereo.

Each photo is compared with its neighbours on planes of constant depth (Collins, CVPR 1996). The two neighbours that
agree best count, so that occlusion in the others does not (Kang, Szeliski and Chai, CVPR 2001). Costs are aggregated
along scan lines (semi-global matching, Hirschmueller, PAMI 2008), and a depth is kept where a neighbour's own depth
agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.scenes import Scene
from nbhelpers.models.protocols import FrameSequence

SIDE = 256  # pixels of the longer side of a depth map
PLANES = 64  # depths tried, at even steps of inverse depth
WINDOW = (7, 7)  # pixels whose correlation is compared
SOURCES = 4  # other views with which each is compared
MIN_ANGLE, MAX_ANGLE = 2.0, 35.0  # degrees, median over the common points, under which two views are compared
MIN_POINTS = 10  # common to two views
MARGIN = 1.3  # factor by which the range of depths exceeds that of a view's points
OUTLIERS = 0.01  # of a view's points, nearest and farthest, that do not count for the range
SMALL_STEP, LARGE_STEP = 0.1, 0.5  # costs of neighbouring pixels that differ by one plane, and by more
MAX_DIFFERENCE = 0.05  # relative difference of depth up to which two views agree
FLAT = 1e-4  # variance below which a window has no texture; grey values are 0 to 1


def sweep_depth(scene: Scene, images: Sequence[UInt8[np.ndarray, "_ _ 3"]] | FrameSequence, side: int = SIDE) -> Scene:
    """A scene with a depth map for each registered view, 0 where neighbouring views do not confirm a depth.

    Example:
        >>> scene = nbhelpers.load("scene_estimator", "colmap").reconstruct(photos)
        >>> sweep_depth(scene, photos).depth[0].shape           # photos of 384 x 512
        (192, 256)

    Args:
        scene: registered views, and the points that were observed in them, which give the range of depths.
        images: the photos in the order of the views.
        side: pixels of the longer side of a depth map.

    Raises:
        NbHelpersError: photos and views differ in number.
    """
    if len(images) != len(scene):
        raise NbHelpersError("photos and views differ in number", given=f"{len(images)} photos, {len(scene)} views")
    views = {view: _View.of(scene, view, images[view], side) for view in np.flatnonzero(scene.placed).tolist()}
    sources = source_views(scene)
    swept = {number: view.sweep([views[other] for other in sources[number]]) for number, view in views.items()}
    depth = [np.zeros((1, 1), np.float32)] * len(scene)
    for number, view in views.items():
        kept = view.confirmed(swept[number], [(views[other], swept[other]) for other in sources[number]])
        depth[number] = view.distorted(kept)
    return replace(scene, depth=depth, confidence=None)


def source_views(scene: Scene) -> list[list[int]]:
    """For each view those that it is compared with: the most common points, seen from a suitable angle."""
    seen = np.zeros((len(scene), len(scene.points)), bool)
    seen[scene.observation_view, scene.observation_point] = True
    seen[~scene.placed] = False
    common = seen.astype(np.float32) @ seen.T.astype(np.float32)
    np.fill_diagonal(common, 0)
    chosen: list[list[int]] = []
    for view, counts in enumerate(common):
        chosen.append([])
        for other in np.argsort(-counts, kind="stable").tolist():
            if counts[other] < MIN_POINTS or len(chosen[view]) == SOURCES:
                break
            points = scene.points[seen[view] & seen[other]]
            first, second = (points - scene.centers[each] for each in (view, other))
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            cosines = np.clip((first * second).sum(1) / np.maximum(lengths, 1e-12), -1, 1)
            if MIN_ANGLE <= np.degrees(np.arccos(np.median(cosines))) <= MAX_ANGLE:
                chosen[view].append(other)
    return chosen


@dataclass(frozen=True, eq=False)
class _View:
    """A small photo without lens distortion, its camera, and the range of its depths.

    Attributes:
        gray: values of 0 to 1.
        K: intrinsics of the small photo.
        pose: world to camera.
        near: smallest depth; 0 where nothing is known.
        far: greatest depth.
        lens: ``(x, y)`` here of each pixel of the distorted photo; None without distortion.
    """

    gray: Float32[np.ndarray, "h w"]
    K: Float[np.ndarray, "3 3"]
    pose: Float[np.ndarray, "3 4"]
    near: float
    far: float
    lens: Float32[np.ndarray, "h w 2"] | None

    @classmethod
    def of(cls, scene: Scene, view: int, image: UInt8[np.ndarray, "_ _ 3"], side: int) -> _View:
        """A view of a scene, no larger than ``side``."""
        image = load_image(np.asarray(image))
        height, width = image.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        K, factors = scene.K[view].copy(), np.array(size) / (width, height)  # noqa: N806 - the field's own name
        K[:2, :2] *= factors
        K[:2, 2] = (K[:2, 2] + 0.5) * factors - 0.5
        lens = None
        if scene.distortion is not None and scene.distortion[view].any():
            curve = np.pad(scene.distortion[view], (0, 5 - scene.distortion.shape[1]))
            gray = cv2.undistort(gray, K, curve)
            pixels = np.indices(gray.shape)[::-1].reshape(2, -1).T[:, None].astype(np.float64)
            lens = cv2.undistortPoints(pixels, K, curve, P=K).reshape(*gray.shape, 2).astype(np.float32)
        depths = scene.to_camera(view, scene.points[scene.seen(view)[0]])[:, 2]
        depths = depths[depths > 0]
        near, far = np.quantile(depths, (OUTLIERS, 1 - OUTLIERS)) if len(depths) else (0.0, 0.0)
        gray = gray.astype(np.float32) / 255
        return cls(gray, K, scene.world_to_camera[view], float(near / MARGIN), float(far * MARGIN), lens)

    def to(self, other: _View) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
        """Rotation and translation from this camera to another."""
        turn = other.pose[:, :3] @ self.pose[:, :3].T
        return turn, other.pose[:, 3] - turn @ self.pose[:, 3]

    def sweep(self, sources: Sequence[_View]) -> Float32[np.ndarray, "h w"]:
        """The depth of each pixel at which it resembles the sources most; 0 without any."""
        if not sources or self.far <= 0:
            return np.zeros_like(self.gray)
        inverse = np.linspace(1 / self.far, 1 / self.near, PLANES)
        mean = cv2.blur(self.gray, WINDOW)
        variance = cv2.blur(self.gray**2, WINDOW) - mean**2
        back, ways = np.linalg.inv(self.K), [(source, *self.to(source)) for source in sources]
        cost = np.empty((PLANES, *self.gray.shape), np.float32)
        for plane, each in enumerate(inverse):
            best = second = np.full_like(self.gray, -1)
            for source, turn, shift in ways:
                # a plane at depth z maps by K' (R + t n^T / z) K^-1 (Hartley and Zisserman 2004, section 13.1)
                homography = source.K @ (turn + each * np.outer(shift, (0, 0, 1))) @ back
                how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                warped = cv2.warpPerspective(source.gray, homography, self.gray.shape[::-1], flags=how, borderValue=-1)
                score = _correlation(self.gray, mean, variance, warped)
                best, second = np.maximum(best, score), np.maximum(second, np.minimum(best, score))
            cost[plane] = 1 - (best if len(ways) == 1 else (best + second) / 2)
        return (1 / _minimum(_aggregated(cost), inverse)).astype(np.float32)

    def confirmed(
        self, depth: Float32[np.ndarray, "h w"], others: Sequence[tuple[_View, Float32[np.ndarray, "h w"]]]
    ) -> Float32[np.ndarray, "h w"]:
        """The depths with which the depth of another view agrees, 0 elsewhere."""
        rows, columns = np.nonzero(depth)
        rays = np.linalg.inv(self.K) @ np.stack([columns, rows, np.ones(len(rows))])
        points, agreed = rays * depth[rows, columns], np.zeros(len(rows), bool)
        for other, its in others:
            turn, shift = self.to(other)
            x, y, z = other.K @ (turn @ points + shift[:, None])
            ahead = np.where(z > 0, z, np.inf)
            x, y = np.rint(x / ahead).astype(int), np.rint(y / ahead).astype(int)
            inside = (z > 0) & (x >= 0) & (y >= 0) & (x < its.shape[1]) & (y < its.shape[0])
            there = its[np.where(inside, y, 0), np.where(inside, x, 0)]
            agreed |= inside & (np.abs(there - z) < MAX_DIFFERENCE * z)
        kept = np.zeros_like(depth)
        kept[rows[agreed], columns[agreed]] = depth[rows[agreed], columns[agreed]]
        return kept

    def distorted(self, depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """A depth map of this view as the photo with its distortion shows it."""
        if self.lens is None:
            return depth
        columns, rows = cv2.split(self.lens)
        return np.asarray(cv2.remap(depth, columns, rows, cv2.INTER_NEAREST), np.float32)


def _correlation(
    gray: Float32[np.ndarray, "h w"],
    mean: Float32[np.ndarray, "h w"],
    variance: Float32[np.ndarray, "h w"],
    other: Float32[np.ndarray, "h w"],
) -> Float32[np.ndarray, "h w"]:
    """Normalised cross-correlation of windows, with their mean and variance in the first photo; -1 off the other."""
    its_mean = cv2.blur(other, WINDOW)
    its_variance = cv2.blur(other**2, WINDOW) - its_mean**2
    covariance = cv2.blur(gray * other, WINDOW) - mean * its_mean
    correlation = covariance / np.sqrt(np.maximum(variance, FLAT) * np.maximum(its_variance, FLAT))
    return np.where(other < 0, -1, correlation)


def _aggregated(cost: Float32[np.ndarray, "d h w"]) -> Float32[np.ndarray, "d h w"]:
    """The sum of each pixel's cheapest paths from four directions (Hirschmueller 2008, equation 13)."""
    total = np.zeros_like(cost)
    for lines, sums in ((cost, total), (cost.swapaxes(1, 2), total.swapaxes(1, 2))):
        for order in (range(lines.shape[1]), range(lines.shape[1] - 1, -1, -1)):
            before = np.zeros((len(lines), lines.shape[2]), np.float32)
            for line in order:
                least = before.min(0)
                path = np.minimum(before, least + LARGE_STEP)
                path[1:] = np.minimum(path[1:], before[:-1] + SMALL_STEP)
                path[:-1] = np.minimum(path[:-1], before[1:] + SMALL_STEP)
                before = lines[:, line] + path - least
                sums[:, line] += before
    return total


def _minimum(cost: Float32[np.ndarray, "d h w"], values: Float[np.ndarray, " d"]) -> Float[np.ndarray, "h w"]:
    """The value at each pixel's least cost; between planes that of the parabola through the three least."""
    best = cost.argmin(0)
    inner = np.clip(best, 1, len(cost) - 2)
    below, here, above = (np.take_along_axis(cost, (inner + step)[None], 0)[0] for step in (-1, 0, 1))
    bend = below - 2 * here + above
    between = np.where((bend > 0) & (inner == best), 0.5 * (below - above) / np.where(bend > 0, bend, 1), 0)
    return values[0] + (best + np.clip(between, -0.5, 0.5)) * (values[1] - values[0])
