"""Known cameras from files of other programs, and back: every convention against numbers worked out by hand."""

import json
import shutil

import numpy as np
import pytest
from test_scenes import make

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image
from nbhelpers.core.scene_files import quaternion, write_colmap, write_transforms
from nbhelpers.core.scenes import read_scene


@pytest.fixture
def photos(tmp_path):
    """Two pictures of 100 x 80 pixels, ``0.jpg`` and ``1.jpg``."""
    folder = tmp_path / "photos"
    for name in ("0.jpg", "1.jpg"):
        save_image(folder / name, np.zeros((80, 100, 3), np.uint8))
    return folder


@pytest.fixture
def scene():
    """Two level cameras a step apart that see three points where these project."""
    points = np.array([[0.0, 0, 2], [0.4, 0.1, 3], [-0.2, 0.3, 2.5]])
    plain = make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points)
    pixels = np.concatenate([plain.project(view, points)[0] for view in (0, 1)])
    return make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points, observation_pixel=pixels)


def same(first, second):
    np.testing.assert_allclose(first.K, second.K, atol=1e-9)
    np.testing.assert_allclose(first.world_to_camera, second.world_to_camera, atol=1e-9)


def test_colmap_text_and_binary_give_the_scene_back(scene, photos, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(scene, tmp_path / "text" / "sparse" / "0")
    read = read_scene(tmp_path / "text", photos)
    same(read, scene)
    np.testing.assert_allclose(read.points, scene.points)
    np.testing.assert_array_equal(read.colors, scene.colors)
    np.testing.assert_allclose(read.errors, 0, atol=1e-9)
    assert read.distortion is None
    assert read.notes == ()
    binary = tmp_path / "binary"
    binary.mkdir()
    pycolmap.Reconstruction(str(tmp_path / "text" / "sparse" / "0")).write_binary(str(binary))
    same(read_scene(binary, photos), scene)
    same(read_scene(binary / "cameras.bin", photos), scene)


def test_colmap_counts_from_the_corner_of_the_picture(scene, tmp_path):
    folder = write_colmap(scene, tmp_path)
    camera = (folder / "cameras.txt").read_text().splitlines()[2].split()
    assert camera == ["1", "PINHOLE", "100", "80", "50", "50", "50", "40"]  # our 49.5 and 39.5, half a pixel on


def test_colmap_keeps_distortion_and_leaves_out_what_is_not_placed(scene, photos, tmp_path):
    pytest.importorskip("pycolmap")
    poses = scene.world_to_camera.copy()
    poses[1] = np.nan
    half = make(
        [np.eye(3)] * 2, np.zeros((2, 3)), scene.points, world_to_camera=poses, distortion=np.full((2, 4), 0.01)
    )
    read = read_scene(write_colmap(half, tmp_path / "model"), photos)
    np.testing.assert_array_equal(read.placed, [True, False])
    np.testing.assert_allclose(read.distortion[0, :4], 0.01)
    assert "1.jpg" in " ".join(read.notes)
    with pytest.raises(NbHelpersError, match="k3"):
        write_colmap(make(distortion=np.full((1, 5), 0.1)), tmp_path / "other")


def test_nothing_placed_is_nothing_to_write(tmp_path):
    empty = make(world_to_camera=np.full((1, 3, 4), np.nan))
    for write in (write_colmap, write_transforms):
        with pytest.raises(NbHelpersError, match="placed"):
            write(empty, tmp_path / "x")


def test_transforms_give_the_scene_back(scene, photos, tmp_path):
    path = write_transforms(scene, tmp_path / "transforms.json", "photos", "masks")
    same(read_scene(path, photos), scene)
    frame = json.loads(path.read_text())["frames"][1]
    assert frame["mask_path"] == "masks/1.png"
    # nerfstudio's cameras look against z with y up: of ours, which stands at x = 0.5, two axes turn round
    np.testing.assert_allclose(
        frame["transform_matrix"], [[1, 0, 0, 0.5], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], atol=1e-12
    )


def test_transforms_of_a_blender_scene_tell_a_field_of_view_alone(photos, tmp_path):
    frames = [{"file_path": f"./train/{n}", "transform_matrix": np.eye(4).tolist()} for n in range(2)]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_angle_x": np.pi / 2, "frames": frames}))
    read = read_scene(path, photos)
    np.testing.assert_allclose(read.K[0], [[50, 0, 49.5], [0, 50, 39.5], [0, 0, 1]])  # 90 degrees: half a width


def test_photos_made_smaller_get_smaller_intrinsics(scene, tmp_path):
    path = write_transforms(scene, tmp_path / "transforms.json")
    save_image(tmp_path / "half" / "0.jpg", np.zeros((40, 50, 3), np.uint8))
    small = read_scene(path, tmp_path / "half")
    # the corner (-0.5, -0.5) stays where it is, so 49.5 becomes (49.5 + 0.5) / 2 - 0.5
    np.testing.assert_allclose(small.K[0], [[25, 0, 24.5], [0, 25, 19.5], [0, 0, 1]])
    assert "1 more" in " ".join(small.notes)


def test_a_turned_photo_is_refused_with_the_reason(scene, tmp_path):
    path = write_transforms(scene, tmp_path / "transforms.json")
    save_image(tmp_path / "turned" / "0.jpg", np.zeros((100, 80, 3), np.uint8))
    with pytest.raises(NbHelpersError, match="EXIF"):
        read_scene(path, tmp_path / "turned")


BUNDLER = """# Bundle file v0.3
2 1
50 0.1 0.2
1 0 0
0 1 0
0 0 1
0 0 0
0 0 0
0 0 0
0 0 0
0 0 0
0 0 0
0.5 0.25 -2
10 20 30
1 0 7 12.5 6.25
"""


def test_bundler_counts_from_the_middle_with_y_up(photos, tmp_path):
    path = tmp_path / "bundle.out"
    path.write_text(BUNDLER)
    read = read_scene(path, photos)
    np.testing.assert_array_equal(read.placed, [True, False])
    np.testing.assert_allclose(read.K[0], [[50, 0, 49.5], [0, 50, 39.5], [0, 0, 1]])
    np.testing.assert_allclose(read.distortion[0], [0.1, 0.2])
    np.testing.assert_allclose(read.seen(0)[1], [[49.5 + 12.5, 39.5 - 6.25]])
    np.testing.assert_array_equal(read.colors, [[10, 20, 30]])
    # the camera looks against z: a point at z = -2, right and above, lies right of and above the middle
    pixels, depth = read.project(0, read.points)
    grown = 1 + 0.1 * (0.25**2 + 0.125**2) + 0.2 * (0.25**2 + 0.125**2) ** 2
    np.testing.assert_allclose(pixels, [[49.5 + 12.5 * grown, 39.5 - 6.25 * grown]])
    assert depth == pytest.approx([2])
    assert any("without a camera" in note for note in read.notes)


def test_bundler_takes_names_from_its_list(photos, tmp_path):
    (tmp_path / "bundle.out").write_text(BUNDLER)
    (tmp_path / "list.txt").write_text("images/1.jpg 0 532.1\nimages/0.jpg\n")
    np.testing.assert_array_equal(read_scene(tmp_path / "bundle.out", photos).placed, [False, True])


def test_bundler_without_names_wants_as_many_photos(photos, tmp_path):
    path = tmp_path / "bundle.out"
    path.write_text(BUNDLER)
    (photos / "1.jpg").unlink()
    with pytest.raises(NbHelpersError, match=r"list\.txt"):
        read_scene(path, photos)


def test_middlebury(photos, tmp_path):
    numbers = "50 0 49.5 0 50 39.5 0 0 1 1 0 0 0 1 0 0 0 1 0.5 0 2"
    (tmp_path / "x_par.txt").write_text(f"1\n1.jpg {numbers}\n")
    read = read_scene(tmp_path, photos)
    np.testing.assert_array_equal(read.placed, [False, True])
    np.testing.assert_allclose(read.world_to_camera[1, :, 3], [0.5, 0, 2])
    assert "no points" in " ".join(read.notes)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("transforms.json", '{"frames": [{"file_path": "0.jpg"}]}', "damaged"),
        ("transforms.json", '{"frames": ', "damaged"),
        ("bundle.out", "# Bundle file v0.3\n2 5\n50 0 0\n", "damaged"),
        ("x_par.txt", "1\n0.jpg 1 2 3\n", "damaged"),
        ("notes.txt", "hello", "no cameras"),
    ],
)
def test_damaged_files_are_one_clear_error(name, text, told, photos, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(NbHelpersError, match=told):
        read_scene(tmp_path / name, photos)


def test_a_colmap_model_that_is_cut_off_is_one_clear_error(scene, photos, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(scene, tmp_path / "text")
    (tmp_path / "text" / "points3D.txt").unlink()
    with pytest.raises(NbHelpersError, match="not whole"):
        read_scene(tmp_path / "text", photos)
    write_colmap(scene, tmp_path / "text")
    binary = tmp_path / "binary"
    binary.mkdir()
    pycolmap.Reconstruction(str(tmp_path / "text")).write_binary(str(binary))
    (binary / "images.bin").write_bytes((binary / "images.bin").read_bytes()[:60])
    with pytest.raises(NbHelpersError, match="COLMAP model"):
        read_scene(binary, photos)


def test_fisheye_lenses_are_refused(photos, tmp_path):
    frame = {"file_path": "0.jpg", "transform_matrix": np.eye(4).tolist(), "fl_x": 50, "w": 100, "h": 80}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_model": "OPENCV_FISHEYE", "frames": [frame]}))
    with pytest.raises(NbHelpersError, match="fisheye"):
        read_scene(path, photos)


def test_photos_that_the_file_does_not_know(scene, photos, tmp_path):
    path = write_transforms(scene, tmp_path / "transforms.json")
    for name in ("0.jpg", "1.jpg"):
        shutil.move(photos / name, photos / f"other-{name}")
    with pytest.raises(NbHelpersError, match="none of the photos"):
        read_scene(path, photos)


def test_photos_of_one_name_in_several_folders_are_told_apart_by_path(scene, tmp_path):
    frames = json.loads(write_transforms(scene, tmp_path / "transforms.json").read_text())["frames"]
    for frame, folder in zip(frames, ("left", "right"), strict=True):
        frame["file_path"] = f"images/{folder}/a.jpg"
        save_image(tmp_path / "images" / folder / "a.jpg", np.zeros((80, 100, 3), np.uint8))
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    paths = [tmp_path / "images" / folder / "a.jpg" for folder in ("right", "left")]
    read = read_scene(tmp_path / "transforms.json", paths)
    np.testing.assert_allclose(read.centers[:, 0], [0.5, 0])
    save_image(tmp_path / "a.jpg", np.zeros((80, 100, 3), np.uint8))
    with pytest.raises(NbHelpersError, match="fits several"):
        read_scene(tmp_path / "transforms.json", [tmp_path / "a.jpg"])


def test_quaternions_of_turns_with_small_traces():
    np.testing.assert_allclose(quaternion(np.eye(3)), [1, 0, 0, 0], atol=1e-12)
    for axis in range(3):
        turn = -np.eye(3)
        turn[axis, axis] = 1
        expected = np.zeros(4)
        expected[axis + 1] = 1
        np.testing.assert_allclose(np.abs(quaternion(turn)), expected, atol=1e-12)
