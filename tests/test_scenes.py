"""The scene as a value: projection against numbers worked out by hand, up, distances, and what is refused."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene

LEVEL = np.eye(3)


def make(turns=(LEVEL,), centers=((0.0, 0.0, 0.0),), points=((0.0, 0.0, 2.0),), **changes):
    """Cameras of 100 x 80 pixels and focal length 50, turned and placed as told; every point seen by every view."""
    turns, centers, points = (np.array(each, float) for each in (turns, centers, points))
    views, count = len(turns), len(points)
    poses = np.concatenate([turns, -(turns @ centers[:, :, None])], axis=2)
    fields = {
        "names": tuple(f"{view}.jpg" for view in range(views)),
        "sizes": np.tile([80, 100], (views, 1)),
        "K": np.tile([[50.0, 0, 49.5], [0, 50, 39.5], [0, 0, 1]], (views, 1, 1)),
        "world_to_camera": poses,
        "points": points.reshape(-1, 3),
        "colors": np.full((count, 3), 7, np.uint8),
        "observation_view": np.repeat(np.arange(views), count),
        "observation_point": np.tile(np.arange(count), views),
        "observation_pixel": np.zeros((views * count, 2)),
    }
    return Scene(**{**fields, **changes})


def about_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def about_z(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_a_point_ahead_falls_on_the_principal_point_and_others_by_focal_length_over_depth():
    pixels, depth = make().project(0, np.array([[0, 0, 2], [1, -0.5, 2], [0.2, 0.2, 1]]))
    np.testing.assert_allclose(pixels, [[49.5, 39.5], [74.5, 27.0], [59.5, 49.5]])
    np.testing.assert_allclose(depth, [2, 2, 1])


def test_a_camera_that_stands_elsewhere_and_looks_back():
    scene = make([about_y(180)], [(0, 0, 4)])
    np.testing.assert_allclose(scene.centers, [[0, 0, 4]], atol=1e-12)
    pixels, depth = scene.project(0, np.array([[1.0, 0, 2], [0, 0, 5]]))
    np.testing.assert_allclose(pixels[0], [24.5, 39.5])  # what is right in the world is left for who looks back
    assert depth[1] == pytest.approx(-1)
    assert np.isnan(pixels[1]).all()


@pytest.mark.parametrize(
    ("coefficients", "x", "y"),
    [
        ([0.1, 0.0], 49.5 + 50 * 0.5 * 1.025, 39.5),  # r^2 = 0.25
        ([0.0, 0.2], 49.5 + 50 * 0.5 * 1.0125, 39.5),  # r^4 = 0.0625
        ([0.0, 0.0, 0.0, 0.1], 49.5 + 50 * (0.5 + 0.1 * (0.25 + 0.5)), 39.5),
        ([0.0, 0.0, 0.1, 0.0], 49.5 + 50 * 0.5, 39.5 + 50 * 0.1 * 0.25),
        ([0.0, 0.0, 0.0, 0.0, 0.64], 49.5 + 50 * 0.5 * 1.01, 39.5),  # r^6 = 1 / 64
    ],
)
def test_distortion_by_hand(coefficients, x, y):
    pixels, _ = make(distortion=np.array([coefficients])).project(0, np.array([[1.0, 0, 2]]))
    np.testing.assert_allclose(pixels, [[x, y]])


def test_distortion_is_that_of_opencv():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    points = random.uniform([-1, -1, 2], [1, 1, 4], (20, 3))
    coefficients = np.array([0.1, -0.05, 0.01, -0.02, 0.03])
    scene = make(distortion=coefficients[None])
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), scene.K[0], coefficients)
    np.testing.assert_allclose(scene.project(0, points)[0], expected[:, 0], atol=1e-9)


def test_distortion_with_three_numbers_is_refused():
    with pytest.raises(NbHelpersError, match="coefficients"):
        make(distortion=np.zeros((1, 3)))


def test_errors_are_the_mean_distance_from_where_a_point_was_seen():
    scene = make([LEVEL, LEVEL], [(0, 0, 0), (0, 0, 0)], observation_pixel=np.array([[49.5, 42.5], [54.5, 39.5]]))
    np.testing.assert_allclose(scene.errors, [4.0])  # 3 pixels in one view, 5 in the other


def test_what_a_view_saw_and_what_lies_on_its_picture():
    scene = make(points=np.array([[0.0, 0, 2], [1, 0, 2]]), observation_pixel=np.array([[49.5, 39.5], [74.5, 39.5]]))
    numbers, pixels = scene.seen(0)
    np.testing.assert_array_equal(numbers, [0, 1])
    np.testing.assert_allclose(pixels[1], [74.5, 39.5])
    inside = scene.inside(0, np.array([[-0.5, -0.5], [99.4, 79.4], [99.6, 0], [0, 79.6], [np.nan, 0]]))
    np.testing.assert_array_equal(inside, [True, True, False, False, False])


def test_spread_is_the_root_mean_square_distance_from_the_middle():
    scene = make([LEVEL] * 4, [(3, 0, 0), (-3, 0, 0), (0, 4, 0), (0, -4, 0)])
    assert scene.spread == pytest.approx(np.sqrt((9 + 9 + 16 + 16) / 4))


def test_up_is_against_y_for_level_cameras_and_holds_under_a_common_turn():
    turns = [about_y(angle) for angle in (0, 40, 90, 170)]
    np.testing.assert_allclose(make(turns, np.eye(4)[:, :3]).up, [0, -1, 0], atol=1e-9)
    world = about_z(30)
    turned = make([turn @ world.T for turn in turns], np.eye(4)[:, :3])
    np.testing.assert_allclose(turned.up, world @ [0, -1, 0], atol=1e-9)


def test_cameras_that_look_down_still_know_up_from_their_level_x_axes():
    c, s = np.cos(0.7), np.sin(0.7)
    down = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turns = [down @ about_y(angle) for angle in (0, 60, 120, 200, 290)]
    np.testing.assert_allclose(make(turns, np.zeros((5, 3))).up, [0, -1, 0], atol=1e-9)


def test_rolled_cameras_know_no_up():
    assert make([about_z(angle) for angle in (0, 90, 180, 270)], np.zeros((4, 3))).up is None


def test_a_view_without_a_camera_is_not_placed_and_cannot_project():
    scene = make([LEVEL, LEVEL], np.zeros((2, 3)))
    poses = scene.world_to_camera.copy()
    poses[1] = np.nan
    scene = make([LEVEL, LEVEL], np.zeros((2, 3)), world_to_camera=poses)
    np.testing.assert_array_equal(scene.placed, [True, False])
    assert np.isnan(scene.centers[1]).all()
    assert scene.spread == 0
    with pytest.raises(NbHelpersError, match="no camera") as told:
        scene.project(1, scene.points)
    assert "1.jpg" in str(told.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"names": ("a", "b")}, "fit together"),
        ({"depth": [np.ones((2, 2), np.float32)] * 3}, "fit together"),
        ({"observation_view": np.array([1])}, "names a view"),
        ({"observation_point": np.array([-1])}, "names a point"),
        ({"points": np.array([[np.nan, 0, 0]])}, "no numbers"),
        ({"world_to_camera": np.ones((1, 3, 4))}, "no proper rotation"),
        ({"world_to_camera": np.concatenate([np.diag([1.0, 1, -1]), np.zeros((3, 1))], 1)[None]}, "no proper rotation"),
    ],
)
def test_values_that_do_not_belong_together_are_refused(changes, told):
    with pytest.raises(NbHelpersError, match=told):
        make(**changes)
