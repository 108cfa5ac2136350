"""What other tools hand in and read: photos stored turned, odd names, lenses, scenes beside scenes. Each was wrong once."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_images import save_turned
from test_scenes import make

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import INVERSE, MIRRORED, orientation_of, save_image, turn, turned_size
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.scene_files import write_colmap, write_transforms
from nbhelpers.core.scenes import read_scene
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
from nbhelpers.export.masks import to_coco
from nbhelpers.export.verify import verify_layout

EVERY = range(1, 9)
ROTATED = (1, 3, 6, 8)


def texture(height, width, seed=0):
    """A picture full of corners."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def object_mask(height, width):
    """Off the middle, so that no turning hides."""
    mask = np.zeros((height, width), bool)
    mask[height // 8 : height // 2, width // 8 : width // 3] = True
    return mask


def stored_photo(path, upright, orientation):
    return save_turned(path, np.ascontiguousarray(turn(upright, INVERSE[orientation])), orientation)


def grey(path):
    """As COLMAP and nerfstudio read a mask: no EXIF."""
    with Image.open(path) as picture:
        return np.array(picture)


def extracted(folder, masks=None):
    """What COLMAP finds in a folder: by name the keypoints, counted as we do, and the camera's ``(H, W)``."""
    pycolmap = pytest.importorskip("pycolmap")
    reader, options = pycolmap.ImageReaderOptions(), pycolmap.FeatureExtractionOptions()
    reader.mask_path = "" if masks is None else str(masks)
    options.use_gpu, options.num_threads = False, 1
    path = folder.parent / "features.db"
    pycolmap.extract_features(
        str(path), str(folder), reader_options=reader, extraction_options=options, device=pycolmap.Device.cpu
    )
    database = pycolmap.Database.open(str(path))
    cameras = {camera.camera_id: (camera.height, camera.width) for camera in database.read_all_cameras()}
    found = {
        image.name: (database.read_keypoints(image.image_id)[:, :2] - 0.5, cameras[image.camera_id])
        for image in database.read_all_images()
    }
    database.close()
    return found


@pytest.mark.parametrize("shape", [(160, 200), (200, 200)])
def test_colmap_finds_features_on_the_object_of_photos_stored_in_every_way(shape, tmp_path):
    upright, mask = texture(*shape), object_mask(*shape)
    paths = [stored_photo(tmp_path / "images" / f"{o}.jpg", upright, o) for o in EVERY]
    mattes = Mattes(Frames(paths), [mask] * 8)
    plan = layouts.colmap(mattes, tmp_path / "masks")
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).check().ok
    found = extracted(tmp_path / "images", tmp_path / "masks")
    for o in EVERY:
        pixels, size = found[f"{o}.jpg"]
        assert size == turned_size(shape, o)
        on = turn(mask, INVERSE[o])
        x, y = np.clip(np.rint(pixels).astype(int), 0, np.array(on.shape[::-1]) - 1).T
        assert len(pixels) > 10 and on[y, x].all()


@pytest.mark.parametrize("orientation", ROTATED)
@pytest.mark.parametrize("shape", [(80, 100), (100, 100)])
def test_cameras_of_stored_photos_are_read_upright_and_written_back(orientation, shape, tmp_path):
    """A world of points that COLMAP's own projection, and ours, must see at matching pixels."""
    pycolmap = pytest.importorskip("pycolmap")
    upright = texture(*shape)
    for name in ("0.jpg", "1.jpg"):
        stored_photo(tmp_path / "images" / name, upright, orientation)
    points = np.array([[0.0, 0, 2], [0.4, 0.1, 3], [-0.2, 0.3, 2.5]])
    K = np.array([[50.0, 0, 45], [0, 52, 37], [0, 0, 1]])  # noqa: N806 - the field's own name
    plain = make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points, K=np.stack([K, K]),
                 sizes=np.tile(shape, (2, 1)), distortion=np.tile([0.1, 0.0, 0.02, -0.03], (2, 1)),
                 orientation=np.full(2, orientation))  # fmt: skip
    seen = np.concatenate([plain.project(view, points)[0] for view in (0, 1)])
    scene = make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points, K=plain.K, sizes=plain.sizes,
                 distortion=plain.distortion, orientation=plain.orientation, observation_pixel=seen)  # fmt: skip
    model = pycolmap.Reconstruction(str(write_colmap(scene, tmp_path / "sparse" / "0")))
    for image in model.images.values():
        assert (image.camera.height, image.camera.width) == turned_size(shape, orientation)
        for spot in image.points2D:  # COLMAP's own projection falls on what it says was seen
            np.testing.assert_allclose(image.project_point(model.points3D[spot.point3D_id].xyz), spot.xy, atol=1e-6)
    for file in (tmp_path, write_transforms(scene, tmp_path / "t" / "transforms.json")):
        read = read_scene(file, tmp_path / "images")
        np.testing.assert_allclose(read.K, scene.K, atol=1e-9)
        np.testing.assert_allclose(read.world_to_camera, scene.world_to_camera, atol=1e-9)
        np.testing.assert_allclose(read.distortion[:, :4], scene.distortion, atol=1e-9)
        np.testing.assert_array_equal(read.orientation, [orientation] * 2)
        np.testing.assert_array_equal(read.sizes, scene.sizes)
        assert ("stored turned" in " ".join(read.notes)) == (orientation != 1)
    np.testing.assert_allclose(read_scene(tmp_path, tmp_path / "images").errors, 0, atol=1e-6)
    frame = json.loads((tmp_path / "t" / "transforms.json").read_text())["frames"][0]
    assert (frame["h"], frame["w"]) == turned_size(shape, orientation)


def test_cameras_made_for_upright_copies_stay_as_they_are(tmp_path):
    for name in ("0.jpg", "1.jpg"):
        stored_photo(tmp_path / "images" / name, texture(80, 100), 6)
    scene = make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)])
    read = read_scene(write_colmap(scene, tmp_path / "sparse"), tmp_path / "images")
    np.testing.assert_allclose(read.K, scene.K)
    assert "shape of the upright photo" in " ".join(read.notes)


@pytest.mark.parametrize("orientation", MIRRORED)
def test_cameras_of_mirrored_photos_are_refused_both_ways(orientation, tmp_path):
    stored_photo(tmp_path / "images" / "0.jpg", texture(80, 100), orientation)
    height, width = turned_size((80, 100), orientation)
    file = write_transforms(make(sizes=np.array([[height, width]])), tmp_path / "transforms.json")
    with pytest.raises(NbHelpersError, match=r"(?s)mirrored.*0\.jpg"):
        read_scene(file, tmp_path / "images")
    for writer in (write_colmap, write_transforms):
        with pytest.raises(NbHelpersError, match="mirrored"):
            writer(make(orientation=np.array([orientation])), tmp_path / "out")


@pytest.mark.parametrize("orientation", EVERY)
def test_nerfstudio_masks_lie_as_its_pictures_do(orientation, tmp_path):
    """Its own copies are the photo with its tag, or the stored pixels without; half sizes round as they like."""
    upright, mask = texture(78, 102), object_mask(78, 102)
    photo = stored_photo(tmp_path / "camera" / "a.jpg", upright, orientation)
    stored = turn(upright, INVERSE[orientation])
    scene = tmp_path / "scene"
    (scene / "images").mkdir(parents=True)
    shutil.copy(photo, scene / "images" / "a.jpg")
    save_image(scene / "images_2" / "a.jpg", np.ascontiguousarray(stored[::2, ::2]))  # ffmpeg -noautorotate
    save_image(scene / "images_4" / "a.jpg", np.ascontiguousarray(stored[::4, ::4]))  # rounded up
    (scene / "transforms.json").write_text(json.dumps({"frames": [{"file_path": "images\\a.jpg"}]}))
    mattes = Mattes(Frames([photo]), [mask])
    plan = layouts.nerfstudio(mattes, scene)
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).check().ok
    np.testing.assert_array_equal(grey(scene / "masks" / "a.png") > 0, turn(mask, INVERSE[orientation]))
    for half in ("_2", "_4"):
        small, step = grey(scene / f"masks{half}" / "a.png"), int(half[1])
        assert small.shape == grey(scene / f"images{half}" / "a.jpg").shape[:2]
        assert ((small > 0) == turn(mask, INVERSE[orientation])[::step, ::step]).mean() > 0.95
    assert json.loads((scene / "transforms_masked.json").read_text())["frames"][0]["mask_path"] == "masks/a.png"


def test_masks_made_on_the_smaller_pictures_fit_the_large_ones_too(tmp_path):
    for folder, shape in (("images", (80, 100)), ("images_2", (40, 50)), ("images_4", (20, 25))):
        save_image(tmp_path / folder / "a.jpg", texture(*shape))
    mattes = Mattes(Frames(tmp_path / "images_2"), [object_mask(40, 50)])
    plan = layouts.nerfstudio(mattes, tmp_path)
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).check().ok
    sizes = [grey(tmp_path / folder / "a.png").shape for folder in ("masks", "masks_2", "masks_4")]
    assert sizes == [(80, 100), (40, 50), (20, 25)]
    save_image(tmp_path / "images_4" / "a.jpg", texture(32, 40))
    with pytest.raises(NbHelpersError, match="does not match the name of its folder"):
        layouts.nerfstudio(mattes, tmp_path)


def test_nerfstudio_pictures_that_were_turned_upright_get_upright_masks(tmp_path):
    photo = stored_photo(tmp_path / "camera" / "a.jpg", texture(80, 100), 6)
    save_image(tmp_path / "scene" / "images" / "a.jpg", texture(80, 100))  # older ffmpeg turned them
    mattes = Mattes(Frames([photo]), [object_mask(80, 100)])
    plan = layouts.nerfstudio(mattes, tmp_path / "scene")
    write_layout(plan, mattes)
    np.testing.assert_array_equal(grey(tmp_path / "scene" / "masks" / "a.png") > 0, object_mask(80, 100))
    save_image(tmp_path / "scene" / "images" / "a.jpg", texture(80, 60))
    with pytest.raises(NbHelpersError, match="differ in aspect ratio"):
        layouts.nerfstudio(mattes, tmp_path / "scene")
    square = Mattes(Frames([stored_photo(tmp_path / "b" / "a.jpg", texture(80, 80), 6)]), [object_mask(80, 80)])
    save_image(tmp_path / "scene" / "images" / "a.jpg", texture(80, 80))
    with pytest.raises(NbHelpersError, match="orientation of an image is ambiguous"):
        layouts.nerfstudio(square, tmp_path / "scene")


@pytest.mark.parametrize("orientation", EVERY)
def test_postshot_masks_are_stored_as_the_photo_is_and_say_so(orientation, tmp_path):
    upright, mask = texture(80, 100), object_mask(80, 100)
    photo = stored_photo(tmp_path / "a.jpg", upright, orientation)
    mattes = Mattes(Frames([photo]), [mask])
    plan = layouts.postshot(mattes)
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).check().ok
    separate = tmp_path / "masks_remove_background" / "a.png"
    assert orientation_of(separate) == orientation
    np.testing.assert_array_equal(grey(separate) > 0, turn(mask, INVERSE[orientation]))
    rgba = tmp_path / "a_matte.png"
    assert orientation_of(rgba) == 1
    np.testing.assert_array_equal(grey(rgba)[:, :, 3] > 0, mask)


def test_the_verifier_looks_at_the_photo_and_not_at_the_plan(tmp_path):
    photo = stored_photo(tmp_path / "images" / "a.jpg", texture(80, 80), 1)
    mattes = Mattes(Frames([photo]), [object_mask(80, 80)])
    plan = layouts.colmap(mattes, tmp_path / "masks")
    write_layout(plan, mattes)
    save_turned(photo, texture(80, 80), 6)  # somebody turned it since
    assert "has EXIF orientation 6" in str(verify_layout(plan, mattes))
    save_turned(photo, texture(60, 80), 1)
    assert "80 x 60" in str(verify_layout(plan, mattes))


def test_masks_of_resized_frames_have_the_size_of_their_photos(tmp_path):
    for name, shape in (("a.png", (80, 100)), ("b.png", (80, 100)), ("c.png", (40, 50))):
        save_image(tmp_path / "images" / name, texture(*shape))
    frames = Frames(tmp_path / "images", on_size="resize")
    mattes = Mattes(frames, [object_mask(80, 100)] * 3)
    plan = layouts.colmap(mattes, tmp_path / "masks")
    write_layout(plan, mattes)
    assert grey(tmp_path / "masks" / "c.png.png").shape == (40, 50) and verify_layout(plan, mattes).check().ok


def test_coco_masks_are_upright_as_its_readers_open_photos(tmp_path):
    supervision = pytest.importorskip("supervision")
    mask = object_mask(80, 100)
    stored_photo(tmp_path / "images" / "a.jpg", texture(80, 100), 6)
    (tmp_path / "a.json").write_text(json.dumps(to_coco("a.jpg", (80, 100), {"thing": mask})))
    read = supervision.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "a.json"), force_masks=True)
    _, image, detections = read[0]
    assert image.shape[:2] == (80, 100)
    np.testing.assert_array_equal(detections.mask[0], mask)


def two_views(names, **changes):
    points = np.array([[0.0, 0, 2], [0.4, 0.1, 3], [-0.2, 0.3, 2.5]])
    plain = make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points)
    pixels = np.concatenate([plain.project(view, points)[0] for view in (0, 1)])
    return make([np.eye(3)] * 2, [(0, 0, 0), (0.5, 0, 0)], points, observation_pixel=pixels, names=names, **changes)


@pytest.mark.parametrize("names", [("my photo 1.jpg", "my photo 2.jpg"), ("tab\there.jpg", "b.jpg")])
@pytest.mark.parametrize("curve", [None, np.tile([0.1, 0, 0.01, 0.02], (2, 1))])
def test_names_with_spaces_come_back_whole(names, curve, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    for name in names:
        save_image(tmp_path / "images" / name, np.zeros((80, 100, 3), np.uint8))
    scene = two_views(names, distortion=curve)
    folder = write_colmap(scene, tmp_path / "sparse")
    model = pycolmap.Reconstruction(str(folder))
    assert sorted(image.name for image in model.images.values()) == sorted(names)
    assert len(model.points3D) == 3 and model.compute_mean_reprojection_error() >= 0
    read = read_scene(folder, [tmp_path / "images" / name for name in names])
    np.testing.assert_allclose(read.K, scene.K)
    np.testing.assert_allclose(read.world_to_camera, scene.world_to_camera)
    np.testing.assert_allclose(read.points, scene.points)
    for view in (0, 1):
        np.testing.assert_allclose(read.seen(view)[1], scene.seen(view)[1])
    write_colmap(scene, folder)  # again over itself
    with pytest.raises(NbHelpersError, match="another COLMAP model"):
        write_colmap(two_views(("0.jpg", "1.jpg")), folder)


def test_a_text_model_of_another_program_with_spaces_is_read_by_whole_names(tmp_path):
    """RealityScan writes such files, which COLMAP reads up to the first space (LichtFeld-Studio #810)."""
    pytest.importorskip("pycolmap")
    for name in ("my photo 1.jpg", "my photo 2.jpg"):
        save_image(tmp_path / "images" / name, np.zeros((80, 100, 3), np.uint8))
    folder = write_colmap(two_views(("0.jpg", "1.jpg")), tmp_path / "sparse")
    text = (folder / "images.txt").read_text()
    (folder / "images.txt").write_text(text.replace(" 1.jpg", " my photo 2.jpg").replace(" 0.jpg", " my photo 1.jpg"))
    read = read_scene(folder, tmp_path / "images")
    np.testing.assert_array_equal(read.placed, [True, True])
    np.testing.assert_allclose(read.centers[:, 0], [0, 0.5])


def test_text_beside_anything_that_colmap_reads_with_it_is_not_written(tmp_path):
    for name in ("cameras.bin", "rigs.txt", "frames.bin"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name).write_bytes(b"of another model")
        with pytest.raises(NbHelpersError, match=f"(?s)another COLMAP model.*{name}"):
            write_colmap(two_views(("0.jpg", "1.jpg")), tmp_path / name)


FRAME = {"file_path": "images/0.jpg", "transform_matrix": np.eye(4).tolist(), "fl_x": 50, "w": 100, "h": 80}


@pytest.fixture
def photo(tmp_path):
    return save_image(tmp_path / "images" / "0.jpg", np.zeros((80, 100, 3), np.uint8))


def transforms(tmp_path, **changes):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"frames": [{**FRAME, **changes}]}))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": "FISHEYE624"}, "FISHEYE624"),
        ({"camera_model": "ORTHOPHOTO"}, "ORTHOPHOTO"),
        ({"camera_model": "a lens of tomorrow"}, "a lens of tomorrow"),
        ({"k4": 0.1}, "k4"),
        ({"s1": 0.1}, "s1"),
        ({"ftheta_p1": 3.0}, "ftheta_p1"),
        ({"latlong": True}, "latlong"),
        ({"distortion_params": [0, 0, 0, 0.1, 0, 0]}, "k4"),
        ({"distortion_params": [0.1] * 12}, "12 values"),
        ({"fl_x": 0}, "no focal length"),
        ({"fl_x": -50}, "no focal length"),
        ({"h": 0}, "only one of w and h"),
        ({"fl_x": None}, "neither fl_x nor camera_angle_x"),
    ],
)
def test_lenses_that_are_not_known_are_refused(changes, told, photo, tmp_path):
    with pytest.raises(NbHelpersError, match=told):
        read_scene(transforms(tmp_path, **changes), photo.parent)


def test_nerfstudios_distortion_params_are_read(photo, tmp_path):
    read = read_scene(transforms(tmp_path, distortion_params=[0.1, 0.2, 0.3, 0, 0.4, 0.5]), photo.parent)
    np.testing.assert_allclose(read.distortion, [[0.1, 0.2, 0.4, 0.5, 0.3]])


@pytest.mark.parametrize("kind", ["PINHOLE", "OPENCV", "SIMPLE_RADIAL", "opencv"])
def test_perspective_cameras_are_read(kind, photo, tmp_path):
    assert read_scene(transforms(tmp_path, camera_model=kind, k4=0, is_fisheye=False), photo.parent).placed.all()


@pytest.mark.parametrize(
    ("name", "text"),
    [("transforms.json", '{"frames": []}'), ("bundle.out", "# Bundle file v0.3\n0 0\n"), ("x_par.txt", "0\n")],
)
def test_a_file_without_photos_says_so(name, text, photo, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(NbHelpersError, match=r"names no photos|not a name and 21 numbers"):
        read_scene(tmp_path / name, photo.parent)


@pytest.mark.parametrize(
    "told",
    [
        "images\\0.jpg", "C:\\Users\\me\\images\\0.jpg", "../elsewhere/images/0.jpg", "/old/place/images/0.jpg", "./0",
        "images/0.JPG", "images/0.png", "IMAGES/0.Jpg",
    ],
)  # fmt: skip
def test_photos_are_known_by_paths_of_every_system(told, photo, tmp_path):
    assert read_scene(transforms(tmp_path, file_path=told), photo.parent).placed.all()


def test_equal_names_in_several_folders_are_told_apart_above_and_below(tmp_path):
    """A model with pictures in the folder itself and in one below; and paths that lead up from the file."""
    paths = [save_image(tmp_path / "images" / name, np.zeros((80, 100, 3), np.uint8)) for name in ("a.jpg", "s/a.jpg")]
    for told in (("a.jpg", "s/a.jpg"), ("../x/images/a.jpg", "../x/images/s/a.jpg")):
        frames = [{**FRAME, "file_path": name, "fl_x": 50 + n} for n, name in enumerate(told)]
        (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
        read = read_scene(tmp_path / "transforms.json", paths)
        np.testing.assert_array_equal(read.K[:, 0, 0], [50, 51])


def test_names_with_dots_and_without_a_suffix(tmp_path):
    save_image(tmp_path / "images" / "frame.0001.png", np.zeros((80, 100, 3), np.uint8))
    assert read_scene(transforms(tmp_path, file_path="./images/frame.0001"), tmp_path / "images").placed.all()


def test_poses_that_are_no_numbers_are_not_placed_and_told(photo, tmp_path):
    other = save_image(tmp_path / "images" / "1.jpg", np.zeros((80, 100, 3), np.uint8))
    frames = [FRAME, {**FRAME, "file_path": "1.jpg", "transform_matrix": np.full((4, 4), np.nan).tolist()}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    read = read_scene(tmp_path / "transforms.json", [photo, other])
    np.testing.assert_array_equal(read.placed, [True, False])
    assert "1.jpg" in " ".join(read.notes)


def test_masks_of_equal_names_go_to_their_own_pictures(tmp_path):
    """Both frames had the mask of the last picture of that name."""
    paths = [save_image(tmp_path / "images" / side / "a.png", texture(80, 100)) for side in ("left", "right")]
    frames = [{"file_path": f"images/{side}/a.png"} for side in ("right", "left")]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    mattes = Mattes(Frames(paths), [object_mask(80, 100), ~object_mask(80, 100)])
    plan = layouts.nerfstudio(mattes, tmp_path)
    write_layout(plan, mattes)
    masks = [frame["mask_path"] for frame in json.loads((tmp_path / "transforms_masked.json").read_text())["frames"]]
    np.testing.assert_array_equal(grey(tmp_path / masks[0]) > 0, ~object_mask(80, 100))
    np.testing.assert_array_equal(grey(tmp_path / masks[1]) > 0, object_mask(80, 100))


def test_bundler_and_middlebury_names_with_spaces(tmp_path):
    from test_scene_files import BUNDLER

    for name in ("my 0.jpg", "my 1.jpg"):
        save_image(tmp_path / "images" / name, np.zeros((80, 100, 3), np.uint8))
    (tmp_path / "bundle.out").write_text(BUNDLER)
    (tmp_path / "list.txt").write_text("images/my 1.jpg 0 532.1\nimages/my 0.jpg\n")
    np.testing.assert_array_equal(read_scene(tmp_path / "bundle.out", tmp_path / "images").placed, [False, True])
    numbers = "50 0 49.5 0 50 39.5 0 0 1 1 0 0 0 1 0 0 0 1 0.5 0 2"
    (tmp_path / "x_par.txt").write_text(f"1\nmy 1.jpg {numbers}\n")
    np.testing.assert_array_equal(read_scene(tmp_path / "x_par.txt", tmp_path / "images").placed, [False, True])


def test_frames_of_two_kinds_are_not_taken_for_one(photo, tmp_path):
    """A focal length in pixels beside a field of view without a width became half a pixel."""
    angle = {key: value for key, value in FRAME.items() if key not in ("fl_x", "w", "h")} | {"camera_angle_x": 1.57}
    other = {key: value for key, value in FRAME.items() if key not in ("w", "h")} | {"file_path": "images/1.jpg"}
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [angle, other]}))
    with pytest.raises(NbHelpersError, match="only some frames tell fl_x"):
        read_scene(tmp_path / "transforms.json", photo.parent)


def test_two_cameras_of_one_photo_are_refused_and_the_same_twice_is_not(photo, tmp_path):
    for second, good in ((FRAME, True), ({**FRAME, "fl_x": 70}, False)):
        (tmp_path / "transforms.json").write_text(json.dumps({"frames": [FRAME, second]}))
        if good:
            assert read_scene(tmp_path / "transforms.json", photo.parent).placed.all()
        else:
            with pytest.raises(NbHelpersError, match="several cameras for one photo"):
                read_scene(tmp_path / "transforms.json", photo.parent)


def test_a_focal_length_that_is_no_number_is_told(photo, tmp_path):
    read = read_scene(transforms(tmp_path, fl_x=float("nan")), photo.parent)
    assert not read.placed.any() and "0.jpg" in " ".join(read.notes)


def test_json_with_a_byte_order_mark(photo, tmp_path):
    path = transforms(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_scene(path, photo.parent).placed.all()


def test_two_frames_never_share_a_file(tmp_path):
    class Clip:
        size, names, paths = (8, 10), ["a.png", "a.png"], None

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.zeros((8, 10, 3), np.uint8)

    mattes = Mattes(Clip(), [np.ones((8, 10), bool)] * 2)
    with pytest.raises(NbHelpersError, match="two frames would be written to one file"):
        write_layout(layouts.colmap(mattes, tmp_path), mattes)


def test_models_of_rigs_are_read_with_the_pose_of_each_camera(tmp_path):
    """Since COLMAP 3.12 a pose belongs to a frame of a rig."""
    pycolmap = pytest.importorskip("pycolmap")
    model, rig, frame = pycolmap.Reconstruction(), pycolmap.Rig(rig_id=1), pycolmap.Frame(frame_id=1, rig_id=1)
    cameras = [
        pycolmap.Camera(camera_id=n, model="PINHOLE", width=100, height=80, params=[50 + n, 50, 50, 40]) for n in (1, 2)
    ]
    rig.add_ref_sensor(cameras[0].sensor_id)
    rig.add_sensor(cameras[1].sensor_id, pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0.5, 0, 0])))
    images = [pycolmap.Image(name=f"{side}/0.jpg", camera_id=n, image_id=n) for n, side in ((1, "left"), (2, "right"))]
    for camera in cameras:
        model.add_camera(camera)
    for image in images:
        frame.add_data_id(image.data_id)
        image.frame_id = 1
    frame.rig_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0, 0, 1.0]))
    model.add_rig(rig)
    model.add_frame(frame)
    for image in images:
        model.add_image(image)
    model.register_frame(1)
    (tmp_path / "sparse").mkdir()
    model.write_binary(str(tmp_path / "sparse"))
    shape = np.zeros((80, 100, 3), np.uint8)
    paths = [save_image(tmp_path / "images" / side / "0.jpg", shape) for side in ("right", "left")]
    read = read_scene(tmp_path / "sparse", paths)
    np.testing.assert_allclose(read.K[:, 0, 0], [52, 51])
    np.testing.assert_allclose(read.world_to_camera[:, :, 3], [[0.5, 0, 1], [0, 0, 1]])
