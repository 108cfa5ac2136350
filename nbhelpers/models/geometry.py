"""From a scene to what each frame's cells know of it: the geometry encoders that need no network of their own.

* `SceneGeometry` takes known cameras with depth, or with sparse points.
* `EstimatedGeometry` lets a scene estimator (structure from motion, VGGT) find them first.

Where there are only sparse points, the depth between them comes from plane-sweep stereo. Each photo is compared with
its neighbours on planes of constant depth (Collins, CVPR 1996). The two neighbours that agree best count, so that
occlusion in the others does not (Kang, Szeliski and Chai, CVPR 2001). Costs are aggregated along scan lines
(semi-global matching, Hirschmueller, PAMI 2008), and a depth is kept where a neighbour's own depth agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.scenes import Scene, few
from nbhelpers.models.protocols import FrameSequence, SceneEstimator
from nbhelpers.models.values import Geometry

GRID = 64  # cells on each side, as SAM 2's coarsest features have at 1024 pixels
REACH = 1.5  # cells: how far a sparse point is carried
NEAREST = 3  # sparse points that give a cell its depth
TRIMMED = 0.05  # of the points, the farthest from the middle, that do not count for the z-score
MIN_REGISTERED = 0.5  # of the frames, for a geometry to be of use
MIN_COVERAGE = 0.05  # of the cells, likewise
SAME_SURFACE = 0.1  # relative difference of depth up to which two sparse points may lie on one surface

# Plane-sweep stereo
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


class SceneGeometry:
    """Geometry from known cameras with depth or points; a `nbhelpers.models.protocols.GeometryEncoder`.

    Example:
        >>> geometry = SceneGeometry().encode(frames, scene)           # scene.depth: 20 maps of (384, 512)
        >>> geometry.points.shape, geometry.coverage
        ((20, 64, 64, 3), 1.0)

    Args:
        name: catalog name.
        grid: cells on each side.
    """

    device = "cpu"

    def __init__(self, name: str = "given-geometry", grid: int = GRID):
        self.name, self.grid = name, grid

    def encode(self, frames: FrameSequence, scene: Scene | None = None) -> Geometry:
        """The scene as the cells of each frame see it.

        Args:
            frames: the clip.
            scene: one view a frame, in order.

        Raises:
            NbHelpersError: no scene, one of another number of views, or one of which too little is known.
        """
        if scene is None:
            raise NbHelpersError(
                "this geometry has to be given",
                given="no scene",
                expected="cameras with depth or points, e.g. transforms.json, or a folder of RGB-D frames",
                do="name them, or take another source such as colmap",
            )
        return cells_of_scene(_with_depth(scene, frames), len(frames), self.grid)


class EstimatedGeometry:
    """Geometry from a scene that an estimator reconstructs; a `nbhelpers.models.protocols.GeometryEncoder`.

    Args:
        estimator: gives cameras, and depth or points.
        name: catalog name.
        grid: cells on each side.
    """

    def __init__(self, estimator: SceneEstimator, name: str, grid: int = GRID):
        self.estimator, self.name, self.grid = estimator, name, grid

    @property
    def device(self) -> str:
        """Where the estimator computes."""
        return self.estimator.device

    def encode(self, frames: FrameSequence, scene: Scene | None = None) -> Geometry:
        """The clip reconstructed, or the ``scene`` that was reconstructed from it before.

        Raises:
            NbHelpersError: fewer than half of the frames can be registered.
        """
        if scene is None:
            images: Any = frames  # a sequence as far as an estimator reads it
            scene = self.estimator.reconstruct(images, [f"{number:05d}" for number in range(len(frames))])
        return cells_of_scene(_with_depth(scene, frames), len(frames), self.grid)


def _with_depth(scene: Scene, frames: FrameSequence) -> Scene:
    """The scene with depth: its own, or that of `sweep_depth` where it has a view for each frame."""
    return scene if scene.depth is not None or len(scene) != len(frames) else sweep_depth(scene, frames)


def cells_of_scene(scene: Scene, frames: int, grid: int = GRID) -> Geometry:
    """A scene's depth and points on a grid of cells over each view.

    A cell has the depth at its middle, or the median of what is known in it. Where no depth is known, it takes that of
    the nearest points that were observed in the view, up to 1.5 cells away, with a confidence that falls with the
    distance; the rest are not valid.

    Args:
        scene: one view a frame.
        frames: of the clip.
        grid: cells on each side.

    Raises:
        NbHelpersError: another number of views, too few of them registered, or next to no depth.
    """
    if len(scene) != frames:
        raise NbHelpersError("the scene is of another clip", given=f"{len(scene)} views", expected=f"{frames} frames")
    placed = np.flatnonzero(scene.placed)
    if len(placed) < max(1, MIN_REGISTERED * frames):
        raise NbHelpersError(
            "too few frames could be registered",
            given=f"{len(placed)} of {frames}" + "".join(f"; {note}" for note in scene.notes[:2]),
            expected=f"{MIN_REGISTERED:.0%} of them",
            do="use frames that overlap more, or a scene with more texture",
        )
    shape = (frames, grid, grid)
    points, rays = np.zeros((*shape, 3)), np.zeros((*shape, 3))
    confidence = np.zeros(shape, np.float32)
    unknown = 0
    for view in placed.tolist():
        directions = cell_rays(scene, view, grid)
        depth, certainty = np.zeros((grid, grid)), np.ones((grid, grid), np.float32)
        if scene.depth is not None:
            unknown += int((~np.isfinite(scene.depth[view])).sum())
            depth = _cell_depth(scene.depth[view], grid)
            if scene.confidence is not None:
                certainty = _relative(_cell_depth(scene.confidence[view], grid)).astype(np.float32)
        if not depth.all():
            carried, sure = _carried_depth(scene, view, grid)
            depth, certainty = np.where(depth > 0, depth, carried), np.where(depth > 0, certainty, sure)
        turn, center = scene.world_to_camera[view][:, :3], scene.centers[view]
        points[view] = (directions * depth[..., None]) @ turn + center
        rays[view] = directions @ turn
        confidence[view] = certainty
    rays /= np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-12)
    valid = confidence > 0
    if valid.mean() < MIN_COVERAGE:
        raise NbHelpersError(
            "next to nothing is known of the scene's depth",
            given=f"{valid.mean():.1%} of the cells",
            expected=f"{MIN_COVERAGE:.0%} or more",
        )
    notes = list(scene.notes)
    if absent := [scene.names[view] for view in np.flatnonzero(~scene.placed)]:
        notes.append(f"frames without a camera, so without geometry: {few(absent)}")
    if unknown:
        notes.append(f"{unknown} depths that are no numbers were taken for unknown")
    return z_scored(points, rays, scene.centers, valid, confidence, scene.model or "given", tuple(notes))


def z_scored(
    points: Float[np.ndarray, "t h w 3"],
    rays: Float[np.ndarray, "t h w 3"],
    centers: Float[np.ndarray, "t 3"],
    valid: Bool[np.ndarray, "t h w"],
    confidence: Float[np.ndarray, "t h w"],
    source: str,
    notes: tuple[str, ...] = (),
    layers: Sequence[Float32[np.ndarray, "t _ _ _"]] = (),
) -> Geometry:
    """A `Geometry` from points in world units.

    Shift and scale are the mean and the root mean square distance per axis of the points without the farthest 5 %:
    without it, one point at the horizon would squeeze all others together (MV-SAM, arXiv 2601.17866, finds the z-score
    essential).
    """
    known = points[valid]
    distance = np.linalg.norm(known - np.median(known, axis=0), axis=1)
    kept = known[distance <= np.quantile(distance, 1 - TRIMMED)]
    shift = kept.mean(0)
    scale = float(np.sqrt(((kept - shift) ** 2).mean())) or 1.0
    scored = np.where(valid[..., None], (points - shift) / scale, 0)
    return Geometry(
        scored.astype(np.float32),
        rays.astype(np.float32),
        ((centers - shift) / scale).astype(np.float32),
        valid,
        np.where(valid, confidence, 0).astype(np.float32),
        scale,
        shift.astype(np.float32),
        source,
        tuple(layers),
        notes,
    )


def cell_centers_of(size: tuple[int, int], grid: int) -> Float[np.ndarray, "g g 2"]:
    """``(x, y)`` of the cells' middles in pixels of a frame of ``size``."""
    rows, columns = np.mgrid[:grid, :grid] + 0.5
    return np.stack([columns / grid * size[1], rows / grid * size[0]], -1) - 0.5


def cell_rays(scene: Scene, view: int, grid: int) -> Float[np.ndarray, "g g 3"]:
    """Directions through the cells' middles in the camera's frame, with z = 1, the lens distortion undone."""
    K = scene.K[view]  # noqa: N806 - the field's own name
    pixels = cell_centers_of((int(scene.sizes[view][0]), int(scene.sizes[view][1])), grid).reshape(-1, 2)
    lens = None if scene.distortion is None else np.pad(scene.distortion[view], (0, 5 - scene.distortion.shape[1]))
    plane = cv2.undistortPoints(pixels[:, None], K, lens)[:, 0]
    return np.concatenate([plane, np.ones((len(plane), 1))], 1).reshape(grid, grid, 3)


def _cell_depth(depth: Float[np.ndarray, "h w"], grid: int) -> Float[np.ndarray, "g g"]:
    """The value at each cell's middle, else the median of those known in the cell, else 0."""
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    middle = np.rint(cell_centers_of(depth.shape, grid)).astype(int)
    found = depth[np.clip(middle[..., 1], 0, depth.shape[0] - 1), np.clip(middle[..., 0], 0, depth.shape[1] - 1)]
    edges = [np.linspace(0, side, grid + 1).astype(int) for side in depth.shape]
    for row, column in np.argwhere(found == 0):
        cell = depth[edges[0][row] : edges[0][row + 1], edges[1][column] : edges[1][column + 1]]
        if (cell > 0).any():
            found[row, column] = np.median(cell[cell > 0])
    return found.astype(np.float64)


def _relative(confidence: Float[np.ndarray, "g g"]) -> Float[np.ndarray, "g g"]:
    """Confidences of any scale as 0 to 1: their rank within the frame's upper 85 %, as MV-SAM weights them."""
    low, high = np.quantile(confidence, [0.15, 0.5])
    return np.clip((confidence - low) / max(high - low, 1e-9), 0.05, 1)


def _carried_depth(scene: Scene, view: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence of each cell from the sparse points that were observed near it."""
    numbers, pixels = scene.seen(view)
    depth, certainty = np.zeros((grid, grid)), np.zeros((grid, grid), np.float32)
    far = scene.to_camera(view, scene.points[numbers])[:, 2]
    pixels, far = pixels[far > 0], far[far > 0]
    if not len(far):
        return depth, certainty
    size = scene.sizes[view]
    spots = (pixels + 0.5) * (grid / size[1], grid / size[0])
    centers = (np.moveaxis(np.mgrid[:grid, :grid][::-1], 0, -1) + 0.5).reshape(-1, 2)
    distance = np.linalg.norm(centers[:, None] - spots, axis=2)
    order = np.argsort(distance, axis=1)[:, :NEAREST]
    near = np.take_along_axis(distance, order, 1)
    # points beyond an edge say nothing of this side of it
    same = np.abs(np.log(far[order]) - np.log(far[order[:, :1]])) < SAME_SURFACE
    weights = np.where((near <= REACH) & same, 1 / (near + 0.1), 0)
    known = weights.any(1)
    total = np.maximum(weights.sum(1), 1e-12)
    mean = np.exp((weights * np.log(far[order])).sum(1) / total)
    depth.reshape(-1)[known] = mean[known]
    certainty.reshape(-1)[known] = np.exp(-((near[known, 0] / REACH) ** 2))
    return depth, certainty


def build_given(name: str, files: Mapping[str, Path], device: str, install: str = "") -> SceneGeometry:
    """Build the encoder of scenes that are given; it needs no files."""
    return SceneGeometry(name)


def build_estimated(
    name: str, files: Mapping[str, Path], device: str, *, estimator: str, install: str = ""
) -> EstimatedGeometry:
    """Build an encoder on a scene estimator of the catalog, which is shared by all who load it.

    Args:
        name: catalog name.
        files: unused; `load` finds those of the estimator.
        device: where it computes.
        estimator: catalog name, such as ``"colmap"`` or ``"vggt-1b"``.
        install: used only by the catalog.
    """
    from nbhelpers.models.load import load

    return EstimatedGeometry(load("scene_estimator", estimator, device), name)


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
