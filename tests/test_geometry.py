"""Plane-sweep stereo on made clips with true depth: what is found, what is left out, and lenses."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_geometry_fusion import textures

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.geometry_fusion import render_clip
from nbhelpers.models.geometry import (
    MAX_ANGLE,
    MIN_ANGLE,
    SOURCES,
    EstimatedGeometry,
    SceneGeometry,
    source_views,
    sweep_depth,
)

SIZE = (144, 192)
SPACING = 9  # pixels between points


@pytest.fixture(scope="module")
def clip():
    return render_clip(3, textures(side=160), frames=20, size=SIZE)


@pytest.fixture(scope="module")
def sparse(clip):
    """The clip's cameras and points, each observed wherever it is in sight, without depth."""
    scene = clip.scene
    rows, columns = np.mgrid[4 : SIZE[0] : SPACING, 4 : SIZE[1] : SPACING].reshape(2, -1)
    points = []
    for view in range(0, len(scene), 2):
        rays = np.stack([columns, rows, np.ones(len(rows))], 1) @ np.linalg.inv(scene.K[view]).T
        local = rays * scene.depth[view][rows, columns][:, None]
        points.append(local @ scene.world_to_camera[view][:, :3] + scene.centers[view])
    points = np.concatenate(points)
    views, tracks, pixels = [], [], []
    for view in range(len(scene)):
        places, depth = scene.project(view, points)
        near = np.clip(np.rint(np.nan_to_num(places)).astype(int), 0, (SIZE[1] - 1, SIZE[0] - 1))
        there = scene.depth[view][near[:, 1], near[:, 0]]
        seen = np.flatnonzero((depth > 0) & scene.inside(view, places) & (np.abs(there / depth - 1) < 0.02))
        views.append(np.full(len(seen), view))
        tracks.append(seen)
        pixels.append(places[seen])
    return replace(
        scene, depth=None, points=points, colors=np.zeros((len(points), 3), np.uint8),
        observation_view=np.concatenate(views), observation_point=np.concatenate(tracks),
        observation_pixel=np.concatenate(pixels),
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(clip, sparse):
    return sweep_depth(sparse, clip)


def compare(found, true):
    """The fraction of pixels with a depth, and the relative errors of these."""
    known = found > 0
    return known.mean(), np.abs(found / true - 1)[known]


def test_depth_is_that_of_the_scene(clip, swept):
    found = [compare(depth, true) for depth, true in zip(swept.depth, clip.scene.depth, strict=True)]
    assert np.mean([known for known, _ in found]) > 0.6
    errors = np.concatenate([each for _, each in found])
    assert np.median(errors) < 0.02 and np.mean(errors > 0.1) < 0.1


def test_depth_of_small_maps(clip, sparse):
    small = sweep_depth(sparse, clip, side=96)
    assert small.depth[0].shape == (72, 96) and small.depth[0].dtype == np.float32
    true = cv2.resize(clip.scene.depth[4], (96, 72), interpolation=cv2.INTER_NEAREST)
    known, errors = compare(small.depth[4], true)
    assert known > 0.4 and np.median(errors) < 0.03


def test_wrong_photos_are_not_confirmed(clip, sparse, swept):
    other = sweep_depth(sparse, [clip[(number * 7) % 20] for number in range(20)], side=96)
    right, wrong = (np.mean([np.mean(each > 0) for each in scene.depth]) for scene in (swept, other))
    assert wrong < 0.5 * right


def test_a_lens_is_undone_and_the_map_is_that_of_the_photo(clip, sparse):
    scene = clip.scene
    curve = np.tile([-0.2, 0.0], (len(scene), 1))
    straight = np.indices(SIZE)[::-1].reshape(2, -1).T[:, None].astype(np.float64)
    inner = scene.K[0]
    seen = (
        cv2.undistortPoints(straight, inner, np.array([-0.2, 0, 0, 0, 0]), P=inner).reshape(*SIZE, 2).astype(np.float32)
    )
    photos = [cv2.remap(frame, seen, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for frame in clip]
    true = cv2.remap(scene.depth[4], seen, None, cv2.INTER_NEAREST)
    bent = replace(sparse, distortion=curve)
    inside = (seen >= 0).all(-1) & (seen <= (SIZE[1] - 1, SIZE[0] - 1)).all(-1)
    known, errors = compare(np.where(inside, sweep_depth(bent, photos).depth[4], 0), np.where(inside, true, 1))
    assert known > 0.4 and np.median(errors) < 0.03
    ignored = np.where(inside, sweep_depth(sparse, photos).depth[4], 0)
    assert np.mean(ignored > 0) < 0.9 * known


def test_source_views_share_points_under_an_angle(sparse):
    sources = source_views(sparse)
    assert all(0 < len(each) <= SOURCES and view not in each for view, each in enumerate(sources))
    for view, others in enumerate(sources):
        for other in others:
            common = set(sparse.seen(view)[0].tolist()) & set(sparse.seen(other)[0].tolist())
            rays = [sparse.points[sorted(common)] - sparse.centers[each] for each in (view, other)]
            cosines = (rays[0] * rays[1]).sum(1) / np.prod([np.linalg.norm(each, axis=1) for each in rays], axis=0)
            assert MIN_ANGLE <= np.median(np.degrees(np.arccos(cosines))) <= MAX_ANGLE
    poses = sparse.world_to_camera.copy()
    poses[2:, :, 3] = poses[0, :, 3]  # cameras that only turn show no depth
    poses[2:, :, :3] = poses[0, :, :3]
    same = source_views(replace(sparse, world_to_camera=poses))
    assert not any(other >= 2 for other in same[0])


def test_views_without_a_camera_or_a_neighbour_have_no_depth(clip, sparse):
    poses = sparse.world_to_camera.copy()
    poses[3] = np.nan
    found = sweep_depth(replace(sparse, world_to_camera=poses), clip, side=64)
    assert not found.depth[3].any() and found.depth[4].any()
    alone = np.full_like(poses, np.nan)
    alone[0] = poses[0]
    assert not any(each.any() for each in sweep_depth(replace(sparse, world_to_camera=alone), clip).depth)
    with pytest.raises(NbHelpersError, match="differ in number"):
        sweep_depth(sparse, list(clip)[:3])


class KnownCameras:
    """A scene estimator that knows the answer."""

    name, device = "known", "cpu"

    def __init__(self, scene):
        self.scene = scene

    def reconstruct(self, images, names=None):
        return self.scene


def test_geometry_encoders_fill_the_depth_between_points(clip, sparse):
    given = SceneGeometry(grid=32).encode(clip, sparse)
    estimated = EstimatedGeometry(KnownCameras(sparse), "known", 32).encode(clip)
    exact = SceneGeometry(grid=32).encode(clip, clip.scene)
    assert np.array_equal(given.points, estimated.points) and given.coverage > 0.7
    off = np.linalg.norm((given.points * given.scale + given.shift - exact.points * exact.scale - exact.shift), axis=-1)
    assert np.median(off[given.valid]) < 0.05 * exact.scale
    assert (given.confidence[given.valid] == 1).mean() > 0.6  # dense, not carried from points
