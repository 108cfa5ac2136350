"""EXIF orientation: what PIL shows upright is what turning gives, for pixels, points and cameras."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from test_scenes import make

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, orientation_of, stored_size
from nbhelpers.core.orientation import INVERSE, MIRRORED, turn, turn_camera, turn_points, turned_size

EVERY = range(1, 9)
STORED = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)


def save_turned(path, stored, orientation):
    """A photo as a camera stores it: pixels as they are, and the tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored).save(path, exif=exif.tobytes(), quality=95)
    return path


@pytest.mark.parametrize("orientation", EVERY)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_pixels_turn_as_the_picture_is_read(orientation, suffix, tmp_path):
    path = save_turned(tmp_path / f"a{suffix}", STORED, orientation)
    assert orientation_of(path) == orientation
    assert stored_size(path) == (40, 60)
    read = load_image(path)
    assert turned_size((40, 60), orientation) == read.shape[:2]
    if suffix == ".png":  # the only one of these without loss
        np.testing.assert_array_equal(turn(STORED, orientation), read)
    np.testing.assert_array_equal(turn(turn(STORED, orientation), INVERSE[orientation]), STORED)
    grey = STORED[:, :, 0]
    np.testing.assert_array_equal(turn(grey, orientation), turn(STORED, orientation)[:, :, 0])


@pytest.mark.parametrize("orientation", EVERY)
def test_points_stay_on_their_pixels(orientation):
    upright = turn(STORED, orientation)
    rows = np.array([(0, 0), (59, 0), (0, 39), (17, 5)])
    moved = turn_points(rows.astype(float), orientation, (40, 60))
    for (x, y), (u, v) in zip(rows, moved.astype(int), strict=True):
        np.testing.assert_array_equal(STORED[y, x], upright[v, u])
    back = turn_points(moved, INVERSE[orientation], upright.shape[:2])
    np.testing.assert_allclose(back, rows)


@pytest.mark.parametrize("orientation", [o for o in EVERY if o not in MIRRORED])
@pytest.mark.parametrize("coefficients", [0, 2, 4, 5])
def test_a_turned_camera_sees_the_world_where_the_turned_pixels_are(orientation, coefficients):
    lens = np.array([[50.0, 0, 31], [0, 55, 17], [0, 0, 1]])
    curve = np.array([0.1, -0.05, 0.02, -0.03, 0.01])[:coefficients] if coefficients else None
    points = np.random.default_rng(1).uniform(-0.4, 0.4, (20, 3)) + np.array([0, 0, 2])

    def seen(lens, pose, curve, size):
        one = make(points=points, K=lens[None], world_to_camera=pose[None], sizes=np.array([size]),
                   distortion=None if curve is None else curve[None])  # fmt: skip
        return one.project(0, points)[0]

    pose = np.concatenate([np.eye(3), [[0.1], [0.2], [0.3]]], axis=1)
    stored = seen(lens, pose, curve, (40, 60))
    lens2, pose2, curve2 = turn_camera(lens, pose, curve, orientation, (40, 60))
    size = turned_size((40, 60), orientation)
    np.testing.assert_allclose(seen(lens2, pose2, curve2, size), turn_points(stored, orientation, (40, 60)), atol=1e-9)
    assert (np.diag(lens2) > 0).all() and abs(lens2[0, 1]) < 1e-12 and np.linalg.det(pose2[:, :3]) == pytest.approx(1)
    again = turn_camera(lens2, pose2, curve2, INVERSE[orientation], size)
    np.testing.assert_allclose(again[0], lens, atol=1e-12)
    np.testing.assert_allclose(again[1], pose, atol=1e-12)


@pytest.mark.parametrize("orientation", MIRRORED)
def test_a_mirrored_photo_has_no_camera(orientation):
    with pytest.raises(NbHelpersError, match="mirrored"):
        turn_camera(np.eye(3), np.eye(4)[:3], None, orientation, (40, 60))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_value_that_is_none_is_upright_as_image_programs_have_it(value, tmp_path):
    path = save_turned(tmp_path / "a.jpg", STORED, value)
    assert orientation_of(path) == 1 and load_image(path).shape[:2] == (40, 60)
    with pytest.raises(NbHelpersError, match="no such EXIF orientation"):
        turn(STORED, value)


def test_a_png_with_its_tag_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(STORED).save(file, "PNG")
    data, end = file.getvalue(), file.getvalue().rindex(b"IEND") - 4
    tail = io.BytesIO()
    PngImagePlugin.putchunk(tail, b"eXIf", exif.tobytes()[6:])
    (tmp_path / "a.png").write_bytes(data[:end] + tail.getvalue() + data[end:])
    assert orientation_of(tmp_path / "a.png") == 6
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(NbHelpersError, match="cannot be read"):
        orientation_of(tmp_path / "b.png")


def test_pillow_turns_by_the_same_table():
    for orientation, colour in itertools.product(EVERY, range(3)):
        picture = Image.fromarray(STORED[:, :, colour])
        picture.getexif()[0x0112] = orientation
        np.testing.assert_array_equal(
            np.asarray(ImageOps.exif_transpose(picture)), turn(STORED[:, :, colour], orientation)
        )
