"""Structure from motion by pycolmap from given matches, and triangulation for known cameras.

Schoenberger and Frahm, CVPR 2016, "Structure-from-Motion Revisited".
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.scenes import Scene
from nbhelpers.models.colmap_matching import (
    HALF,
    MIN_MATCHES,
    FeatureStore,
    JoinedFeatures,
    Lenses,
    Pair,
    cameras_for,
    candidate_pairs,
    connected_groups,
)
from nbhelpers.models.protocols import Matcher

log = logging.getLogger(__name__)
FIRST_PAIR_MATCHES = 50  # minimum matches of the initial pair; COLMAP's 100 are rare for wide baselines
MIN_INLIERS = 20  # minimum points to register a photo (COLMAP: 30)
MIN_POINTS = 15  # minimum points of a photo in the final model; with fewer its pose is arbitrary
MAX_MODELS = 6  # attempts of a run, each from another initial pair; COLMAP's 50 take minutes for wrong matches
MAX_SECONDS = 120  # after which a run of up to 60 photos stops with its current model
MAX_SECONDS_PER_PHOTO = 2  # likewise for more photos
MANY = 150  # photos above which mapping takes most of the time
GROWTH = 1.3  # see `run_mapping`
MIN_MODEL_SIZE = 2  # photos of a model
MIN_ANGLE = 16.0  # degrees under which the first pair sees its points (COLMAP's default)
MIN_ANGLES_NARROW = (8.0, 4.0, 2.0)  # for photos that were taken side by side in small steps
MIN_FRACTION = 0.5  # of the connected photos; a run that registers fewer tries the next angle
CLEAR_FRACTION = 0.75  # of MIN_ANGLE that a pair must show for COLMAP's default to be tried: both are estimates
MAX_ERROR = 3.0  # pixels of a match from its epipolar line


@dataclass(frozen=True, eq=False)
class Run:
    """The result of one run of structure from motion.

    Attributes:
        matcher: name of the matcher.
        poses: ``(v, 3, 4)`` world to camera; NaN for photos that it did not register.
        intrinsics: ``(v, 3, 3)``.
        distortion: ``(v, 2)``.
        points: ``(p, 3)``.
        views: ``(o,)`` the photo of each observation.
        tracks: ``(o,)`` its point.
        pixels: ``(o, 2)``.
        error: mean reprojection error in pixels.
        pairs: the pairs of photos of the largest group.
        all_pairs: with those of the smaller groups.
        widest: the largest median triangulation angle in degrees of a possible first pair.
    """

    matcher: str
    poses: Float[np.ndarray, "v 3 4"] = field(repr=False)
    intrinsics: Float[np.ndarray, "v 3 3"] = field(repr=False)
    distortion: Float[np.ndarray, "v 2"] = field(repr=False)
    points: Float[np.ndarray, "p 3"] = field(repr=False)
    views: Int[np.ndarray, " o"] = field(repr=False)
    tracks: Int[np.ndarray, " o"] = field(repr=False)
    pixels: Float[np.ndarray, "o 2"] = field(repr=False)
    error: float
    pairs: Sequence[Pair] = field(repr=False)
    all_pairs: Sequence[Pair] = field(repr=False)
    widest: float = float("nan")

    @property
    def first_pair(self) -> tuple[int, int]:
        """The photos with most matches, where a run starts."""
        best = max(self.pairs, key=lambda pair: len(pair.matches))
        return best.first, best.second

    def lenses(self, sizes: Sequence[tuple[int, int]]) -> Lenses:
        """Focal length and ``k1`` by size of photo; all photos of a size are assumed to be from one camera."""
        views = np.flatnonzero(self.placed).tolist()
        return {sizes[view]: (float(self.intrinsics[view, 0, 0]), float(self.distortion[view, 0])) for view in views}

    @property
    def placed(self) -> Bool[np.ndarray, " v"]:
        """Which photos it registered."""
        return np.asarray(np.isfinite(self.poses).all((1, 2)))


def run_mapping(
    store: FeatureStore | JoinedFeatures,
    pairs: Sequence[Pair],
    seed: int,
    lenses: Lenses | None = None,
    barred: tuple[int, int] | None = None,
    growth: float | None = None,
) -> Run:
    """One model of the largest connected group of photos.

    COLMAP starts from a pair with a triangulation angle of 16 degrees. If there is none, the limit is lowered to the
    widest angle, and step by step while fewer than half of the photos are registered.

    Args:
        store: the features of all photos.
        pairs: verified pairs.
        seed: of all random numbers.
        lenses: known lenses; see `cameras_for`.
        barred: a pair that must not be the initial one, so that the run starts elsewhere.
        growth: of the model until all its cameras are adjusted again; by default 1.1 (COLMAP's), or `GROWTH` for many
            photos.
    """
    import pycolmap

    views, all_pairs = len(store), pairs
    pairs = _largest_group(views, pairs)
    with tempfile.TemporaryDirectory(prefix="nbhelpers-colmap-") as folder, quiet_log():
        path = Path(folder) / "database.db"
        _write_database(path, store, pairs, lenses)
        widest = widest_angle(store, pairs, lenses)
        lower = [angle for angle in MIN_ANGLES_NARROW if angle <= widest] or [MIN_ANGLES_NARROW[-1]]
        first = lower[0] if widest < CLEAR_FRACTION * MIN_ANGLE else MIN_ANGLE
        best = _best_run([None], store, pairs, all_pairs)
        # COLMAP itself halves the angle only where it finds no first pair at all
        for angle in dict.fromkeys((first, *(angle for angle in lower if angle < first))):
            options = _options(seed, views, growth or (GROWTH if views > MANY else None))
            options.mapper.init_min_tri_angle = angle
            if pairs and (start := _start(pairs, barred)) is not None:
                options.init_image_id1, options.init_image_id2 = start[0] + 1, start[1] + 1
            pycolmap.set_random_seed(seed)
            models = pycolmap.incremental_mapping(str(path), folder, folder, options)
            if models:
                best = max(best, _best_run(list(models.values()), store, pairs, all_pairs), key=_size_of)
            if best.placed.sum() >= MIN_FRACTION * len(connected_groups(views, pairs)[0]) or not pairs:
                break
    return dataclasses.replace(best, widest=widest)


def run_global_mapping(store: FeatureStore, pairs: Sequence[Pair], seed: int) -> Run:
    """One model of the largest connected group of photos, all cameras at once.

    Pan et al., ECCV 2024, "Global Structure-from-Motion Revisited". For hundreds of photos it takes a fraction of the
    seconds of `run_mapping`, and is less accurate.

    Args:
        store: the features of all photos.
        pairs: verified pairs.
        seed: of all random numbers.
    """
    import pycolmap

    options = pycolmap.GlobalPipelineOptions()
    mapper = options.mapper
    options.num_threads = mapper.num_threads = 1  # with more threads the order of sums is random
    options.random_seed = mapper.random_seed = seed
    mapper.rotation_averaging.random_seed = mapper.global_positioning.random_seed = seed
    mapper.global_positioning.use_gpu = mapper.bundle_adjustment.ceres.use_gpu = False
    with tempfile.TemporaryDirectory(prefix="nbhelpers-colmap-") as folder, quiet_log():
        path, linked = Path(folder) / "database.db", _largest_group(len(store), pairs)
        _write_database(path, store, linked, None)
        pycolmap.set_random_seed(seed)
        models = pycolmap.global_mapping(str(path), folder, folder, options) if linked else {}
        return _best_run([None, *models.values()], store, linked, pairs)


def _largest_group(views: int, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of the largest connected group of photos."""
    together = set(connected_groups(views, pairs)[0])
    return [pair for pair in pairs if pair.first in together]


def _best_run(
    models: Sequence[Any], store: FeatureStore | JoinedFeatures, pairs: Sequence[Pair], all_pairs: Sequence[Pair]
) -> Run:
    """The run with most registered photos, then most points."""
    # a collapsed model registers many photos with next to no points: `_run_of` counts none of them
    runs = [_run_of(model, len(store), store.name, pairs, all_pairs) for model in models]
    return max(runs, key=_size_of)


def _size_of(run: Run) -> tuple[int, int]:
    return int(run.placed.sum()), len(run.points)


def widest_angle(store: FeatureStore | JoinedFeatures, pairs: Sequence[Pair], lenses: Lenses | None = None) -> float:
    """The largest median triangulation angle in degrees of a possible first pair.

    The search stops at the first pair that COLMAP's default accepts; NaN if no pair has enough matches.
    """
    import pycolmap

    cameras, widest = cameras_for(store.sizes, lenses), float("nan")
    for pair in sorted(pairs, key=lambda each: -len(each.matches)):
        if len(pair.matches) < FIRST_PAIR_MATCHES:
            break
        geometry = copy.copy(pair.geometry)  # the estimation changes it, and the database needs the original
        first, second = (store.points(view).astype(float) + HALF for view in (pair.first, pair.second))
        if pycolmap.estimate_two_view_geometry_pose(cameras[pair.first], first, cameras[pair.second], second, geometry):
            widest = float(np.fmax(widest, np.degrees(geometry.tri_angle)))
        if widest >= MIN_ANGLE:
            break
    return widest


def _start(pairs: Sequence[Pair], barred: tuple[int, int] | None) -> tuple[int, int] | None:
    """The pair with most matches, except the barred one."""
    if barred is None:
        return None
    others = [pair for pair in pairs if {pair.first, pair.second} != set(barred)]
    best = max(others, key=lambda pair: len(pair.matches), default=None)
    return None if best is None else (best.first, best.second)


def _options(seed: int, views: int, growth: float | None):
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
    options.num_threads = options.mapper.num_threads = 1  # with more threads the order of sums is random
    options.extract_colors = False
    options.max_num_models = MAX_MODELS
    options.max_runtime_seconds = max(MAX_SECONDS, MAX_SECONDS_PER_PHOTO * views)
    if growth is not None:
        options.ba_global_frames_ratio = options.ba_global_points_ratio = growth
    options.min_num_matches, options.min_model_size = MIN_MATCHES, MIN_MODEL_SIZE
    options.mapper.init_min_num_inliers = FIRST_PAIR_MATCHES
    options.mapper.abs_pose_min_num_inliers = MIN_INLIERS
    return options


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Silence COLMAP's log except for fatal errors; it is a page per photo otherwise."""
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def _write_database(
    path: Path, store: FeatureStore | JoinedFeatures, pairs: Sequence[Pair], lenses: Lenses | None
) -> None:
    """Write cameras, photos, features and verified matches to COLMAP's database; photo ``n`` gets id ``n + 1``."""
    import pycolmap

    database = pycolmap.Database.open(str(path))
    rigs: dict[tuple[int, int], tuple[int, int]] = {}
    for number, camera in enumerate(cameras_for(store.sizes, lenses)):
        key = store.sizes[number]
        if key not in rigs:
            camera.camera_id = database.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rigs[key] = (camera.camera_id, database.write_rig(rig))
        camera_id, rig_id = rigs[key]
        image = pycolmap.Image(name=f"{number:06d}", camera_id=camera_id, image_id=number + 1)
        database.write_image(image, use_image_id=True)
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(image.data_id)
        database.write_frame(frame)
        database.write_keypoints(number + 1, store.points(number) + HALF)
    for pair in pairs:
        database.write_matches(pair.first + 1, pair.second + 1, pair.matches.astype(np.uint32))
        database.write_two_view_geometry(pair.first + 1, pair.second + 1, pair.geometry)
    database.close()


def _run_of(model, views: int, matcher: str, pairs: Sequence[Pair], all_pairs: Sequence[Pair]) -> Run:
    """The arrays of a `pycolmap.Reconstruction`, or of none."""
    poses, intrinsics = np.full((views, 3, 4), np.nan), np.full((views, 3, 3), np.nan)
    distortion = np.zeros((views, 2))
    points = dict(model.points3D) if model is not None else {}
    numbers = {key: index for index, key in enumerate(sorted(points))}
    seen = []
    for image in model.images.values() if model is not None else ():
        if not image.has_pose:
            continue
        view = image.image_id - 1
        f, cx, cy, k = image.camera.params
        poses[view] = image.cam_from_world().matrix()
        intrinsics[view] = [[f, 0, cx - HALF], [0, f, cy - HALF], [0, 0, 1]]
        distortion[view, 0] = k
        seen += [(view, numbers[spot.point3D_id], *(spot.xy - HALF)) for spot in image.points2D if spot.has_point3D()]
    seen = np.array(sorted(seen), float).reshape(-1, 4)
    weak = np.bincount(seen[:, 0].astype(int), minlength=views) < MIN_POINTS
    poses[weak], intrinsics[weak], distortion[weak] = np.nan, np.nan, 0
    seen = seen[~weak[seen[:, 0].astype(int)]]
    return Run(
        matcher,
        poses,
        intrinsics,
        distortion,
        np.array([points[key].xyz for key in numbers], float).reshape(-1, 3),
        seen[:, 0].astype(int),
        seen[:, 1].astype(int),
        seen[:, 2:],
        float(model.compute_mean_reprojection_error()) if model is not None else float("nan"),
        pairs,
        all_pairs,
    )


def triangulate(scene: Scene, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], matcher: Matcher | None = None) -> Scene:
    """Points for a scene whose cameras are known: matched, filtered by epipolar distance, and triangulated by pycolmap.

    Example:
        >>> scene = read_scene("temple/templeSR_par.txt", "temple")
        >>> triangulate(scene, photos).points.shape
        (2034, 3)

    Args:
        scene: with at least two registered views; its points and depth are replaced.
        images: the photos in the order of the views.
        matcher: SIFT by default.

    Raises:
        NbHelpersError: fewer than two views are registered, another number of photos, or photos of another size.
    """
    from nbhelpers.models.matchers import Sift

    if scene.placed.sum() < 2:
        raise NbHelpersError("triangulation needs two registered views", given=f"{scene.placed.sum()} registered")
    if len(images) != len(scene):
        raise NbHelpersError("photos and views differ in number", given=f"{len(images)} photos, {len(scene)} views")
    with tempfile.TemporaryDirectory(prefix="nbhelpers-points-") as name, quiet_log():
        store = FeatureStore(matcher or Sift(), images, Path(name) / "features")
        if [tuple(size) for size in scene.sizes.tolist()] != [tuple(size) for size in store.sizes]:
            raise NbHelpersError("the photos do not match the scene", given="other sizes")
        model = _triangulated(scene, store, Path(name))
        numbers = {key: index for index, key in enumerate(sorted(model.points3D))}
        seen = sorted(
            (image.image_id - 1, numbers[spot.point3D_id], *(spot.xy - HALF))
            for image in model.images.values()
            for spot in image.points2D
            if spot.has_point3D()
        )
        points = np.array([model.points3D[key].xyz for key in numbers], float).reshape(-1, 3)
    table = np.array(seen, float).reshape(-1, 4)
    views, tracks, pixels = table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:]
    return dataclasses.replace(
        scene,
        points=points,
        colors=point_colors(images, views, tracks, pixels, len(points)),
        observation_view=views,
        observation_point=tracks,
        observation_pixel=pixels,
        depth=None,
        confidence=None,
        notes=(*scene.notes, f"{len(points)} points triangulated from {store.name} matches and the known cameras"),
    )


def _triangulated(scene: Scene, store: FeatureStore, folder: Path):
    """The `pycolmap.Reconstruction` with the scene's cameras and new points."""
    import pycolmap

    path = folder / "database.db"
    database, model = pycolmap.Database.open(str(path)), pycolmap.Reconstruction()
    for view in np.flatnonzero(scene.placed).tolist():
        camera = _camera(scene, view)
        database.write_camera(camera, use_camera_id=True)
        rig = pycolmap.Rig(rig_id=view + 1)
        rig.add_ref_sensor(camera.sensor_id)
        database.write_rig(rig, use_rig_id=True)
        image = pycolmap.Image(name=f"{view:06d}", camera_id=view + 1, image_id=view + 1)
        database.write_image(image, use_image_id=True)
        frame = pycolmap.Frame(frame_id=view + 1, rig_id=view + 1)
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)
        keypoints = store.points(view) + HALF
        database.write_keypoints(view + 1, keypoints)
        model.add_camera_with_trivial_rig(camera)
        known = pycolmap.Image(
            name=image.name, keypoints=keypoints.astype(float), camera_id=view + 1, image_id=view + 1
        )
        model.add_image_with_trivial_frame(known, pycolmap.Rigid3d(scene.world_to_camera[view]))
    for first, second in candidate_pairs(store):
        if not scene.placed[[first, second]].all():
            continue
        matches, _ = store.matcher.match(store[first], store[second])
        matches = matches[near_epipolar_lines(scene, first, second, store.points(first), store.points(second), matches)]
        if len(matches) >= MIN_MATCHES:
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = matches.astype(np.uint32)
            database.write_matches(first + 1, second + 1, matches.astype(np.uint32))
            database.write_two_view_geometry(first + 1, second + 1, geometry)
    database.close()
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed, options.triangulation.random_seed = 1, 0, 0
    options.triangulation.ignore_two_view_tracks = False
    options.extract_colors = False
    return pycolmap.triangulate_points(model, str(path), str(folder), str(folder), True, options)


def _camera(scene: Scene, view: int):
    import pycolmap

    height, width = scene.sizes[view].tolist()
    K = scene.K[view]  # noqa: N806 - the field's own name
    camera = pycolmap.Camera.create_from_model_name(view + 1, "OPENCV", 1.0, width, height)
    curve = np.zeros(4)
    if scene.distortion is not None:
        curve[: min(4, scene.distortion.shape[1])] = scene.distortion[view, :4]
    camera.params = [float(value) for value in (K[0, 0], K[1, 1], K[0, 2] + HALF, K[1, 2] + HALF, *curve)]
    camera.has_prior_focal_length = True
    return camera


def near_epipolar_lines(
    scene: Scene,
    first: int,
    second: int,
    points: Float[np.ndarray, "n 2"],
    others: Float[np.ndarray, "k 2"],
    matches: Int[np.ndarray, "m 2"],
) -> Bool[np.ndarray, " m"]:
    """Which matches agree with two known cameras: those near their epipolar lines (Sampson distance)."""
    if not len(matches):
        return np.zeros(0, bool)
    rays = [
        np.concatenate([_undistorted(scene, view, each), np.ones((len(each), 1))], axis=1)
        for view, each in ((first, points[matches[:, 0]]), (second, others[matches[:, 1]]))
    ]
    a, b = scene.world_to_camera[first], scene.world_to_camera[second]
    turn = b[:, :3] @ a[:, :3].T
    x, y, z = b[:, 3] - turn @ a[:, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    ahead, back = rays[0] @ essential.T, rays[1] @ essential
    top = (rays[1] * ahead).sum(1)
    bottom = np.sqrt(ahead[:, 0] ** 2 + ahead[:, 1] ** 2 + back[:, 0] ** 2 + back[:, 1] ** 2)
    focal = np.sqrt(scene.K[first, 0, 0] * scene.K[second, 0, 0])
    return np.abs(top) * focal < MAX_ERROR * np.maximum(bottom, 1e-12)


def _undistorted(scene: Scene, view: int, pixels: np.ndarray) -> np.ndarray:
    """Pixels on the plane at depth 1, without the lens's distortion."""
    curve = np.zeros(4) if scene.distortion is None else scene.distortion[view].astype(float)
    curve = np.pad(curve, (0, max(0, 4 - len(curve))))
    return cv2.undistortPoints(pixels.astype(float)[:, None], scene.K[view], curve)[:, 0]


def point_colors(
    images: Sequence[np.ndarray],
    views: Int[np.ndarray, " o"],
    tracks: Int[np.ndarray, " o"],
    pixels: Float[np.ndarray, "o 2"],
    count: int,
) -> UInt8[np.ndarray, "p 3"]:
    """The mean colour of each point over the views that saw it."""
    total, times = np.zeros((count, 3)), np.zeros(count)
    for view in np.unique(views):
        image = load_image(np.asarray(images[int(view)]))
        here = views == view
        x, y = np.clip(np.rint(pixels[here]).astype(int), 0, np.array(image.shape[1::-1]) - 1).T
        np.add.at(total, tracks[here], image[y, x])
        np.add.at(times, tracks[here], 1)
    return np.rint(total / np.maximum(times, 1)[:, None]).astype(np.uint8)
