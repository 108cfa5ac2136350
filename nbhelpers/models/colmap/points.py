"""Points for a scene whose cameras are known: matched, checked against the cameras, and triangulated by pycolmap."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.models.colmap.mapping import quiet
from nbhelpers.models.colmap.pairs import HALF, LEAST, FeatureStore, likely_pairs
from nbhelpers.models.colors import point_colors
from nbhelpers.models.protocols import Matcher

ERROR = 3.0  # pixels by which a match may miss the line on which its camera says it must lie


def triangulate(scene: Scene, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], matcher: Matcher | None = None) -> Scene:
    """The same cameras with points: for files that tell cameras only.

    Example:
        >>> scene = read_scene("temple/templeSR_par.txt", "temple")
        >>> triangulate(scene, photos).points.shape
        (2034, 3)

    Args:
        scene: with at least two placed views; its own points and depth are replaced.
        images: the photos in the order of the views.
        matcher: SIFT when left out.

    Raises:
        NbHelpersError: fewer than two views are placed, another number of photos, or photos of another size.
    """
    from nbhelpers.models.sift import Sift

    if scene.placed.sum() < 2:
        raise NbHelpersError("points need two placed views", given=f"{scene.placed.sum()} placed")
    if len(images) != len(scene):
        raise NbHelpersError("photos and views differ in number", given=f"{len(images)} photos, {len(scene)} views")
    with tempfile.TemporaryDirectory(prefix="nbhelpers-points-") as name, quiet():
        store = FeatureStore(matcher or Sift(), images, Path(name) / "features")
        if [tuple(size) for size in scene.sizes.tolist()] != [tuple(size) for size in store.sizes]:
            raise NbHelpersError("the photos are not those of the scene", given="other sizes")
        found = _pycolmap(scene, store, Path(name))
        numbers = {key: index for index, key in enumerate(sorted(found.points3D))}
        seen = sorted(
            (image.image_id - 1, numbers[spot.point3D_id], *(spot.xy - HALF))
            for image in found.images.values()
            for spot in image.points2D
            if spot.has_point3D()
        )
        points = np.array([found.points3D[key].xyz for key in numbers], float).reshape(-1, 3)
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


def _pycolmap(scene: Scene, store: FeatureStore, folder: Path):
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
        places = store.points(view) + HALF
        database.write_keypoints(view + 1, places)
        model.add_camera_with_trivial_rig(camera)
        known = pycolmap.Image(name=image.name, keypoints=places.astype(float), camera_id=view + 1, image_id=view + 1)
        model.add_image_with_trivial_frame(known, pycolmap.Rigid3d(scene.world_to_camera[view]))
    for first, second in likely_pairs(store):
        if not scene.placed[[first, second]].all():
            continue
        matches, _ = store.matcher.match(store[first], store[second])
        matches = matches[on_the_line(scene, first, second, store.points(first), store.points(second), matches)]
        if len(matches) >= LEAST:
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
    camera.params = np.array([K[0, 0], K[1, 1], K[0, 2] + HALF, K[1, 2] + HALF, *curve])
    camera.has_prior_focal_length = True
    return camera


def on_the_line(
    scene: Scene,
    first: int,
    second: int,
    points: Float[np.ndarray, "n 2"],
    others: Float[np.ndarray, "k 2"],
    matches: Int[np.ndarray, "m 2"],
) -> Bool[np.ndarray, " m"]:
    """Which matches two known cameras allow: those near each other's epipolar line (Sampson distance)."""
    if not len(matches):
        return np.zeros(0, bool)
    rays = [
        np.concatenate([_straight(scene, view, places), np.ones((len(places), 1))], axis=1)
        for view, places in ((first, points[matches[:, 0]]), (second, others[matches[:, 1]]))
    ]
    a, b = scene.world_to_camera[first], scene.world_to_camera[second]
    turn = b[:, :3] @ a[:, :3].T
    x, y, z = b[:, 3] - turn @ a[:, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    ahead, back = rays[0] @ essential.T, rays[1] @ essential
    top = (rays[1] * ahead).sum(1)
    bottom = np.sqrt(ahead[:, 0] ** 2 + ahead[:, 1] ** 2 + back[:, 0] ** 2 + back[:, 1] ** 2)
    focal = np.sqrt(scene.K[first, 0, 0] * scene.K[second, 0, 0])
    return np.abs(top) * focal < ERROR * np.maximum(bottom, 1e-12)


def _straight(scene: Scene, view: int, pixels: np.ndarray) -> np.ndarray:
    """Where pixels lie on the plane at depth 1, without the lens's distortion."""
    curve = np.zeros(4) if scene.distortion is None else scene.distortion[view].astype(float)
    curve = np.pad(curve, (0, max(0, 4 - len(curve))))
    return cv2.undistortPoints(pixels.astype(float)[:, None], scene.K[view], curve)[:, 0]
