"""Exports for splat and photogrammetry tools: names, places, polarity, alpha, and what must never be overwritten."""

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.profiles import PRIMARIES, matrix_profile
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
from nbhelpers.export.manifest import NAME, Manifest, written_here
from nbhelpers.export.masks import encode_png, fill_outward, premultiplied_rgba, straight_rgba
from nbhelpers.export.verify import verify_layout


@pytest.fixture
def mask():
    rows, columns = np.mgrid[:120, :160]
    return (columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2


@pytest.fixture
def footage(photo, tmp_path):
    """Three frames as JPEG."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.roll(photo, number, 1)).save(folder / f"IMG_{number}.jpg", quality=95)
    return folder


@pytest.fixture
def mattes(footage, mask):
    return Mattes(Frames(footage), [np.roll(mask, number, 1) for number in (1, 2, 10)])


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path):
    return np.array(Image.open(path))


def test_postshot_gets_rgba_beside_the_originals_and_both_polarities(footage, mattes, mask):
    before = {path.name: path.read_bytes() for path in footage.iterdir()}
    plan = layouts.postshot(mattes)
    done = write_layout(plan, mattes)
    assert (done.written, done.kept) == (9, 0)
    names = ["IMG_1", "IMG_10", "IMG_2"]
    assert listing(footage) == sorted(
        [NAME]
        + [f"{name}.jpg" for name in names]
        + [f"{name}_matte.png" for name in names]
        + [f"masks_remove_background/{name}.png" for name in names]
        + [f"masks_remove_occluders/{name}.png" for name in names]
    )
    assert {name: (footage / name).read_bytes() for name in before} == before, "originals are untouched"
    rgba, inside = pixels(footage / "IMG_10_matte.png"), np.roll(mask, 10, 1)
    assert rgba.shape == (120, 160, 4) and np.array_equal(rgba[:, :, 3] == 255, inside)
    assert np.array_equal(rgba[inside][:, :3], pixels(footage / "IMG_10.jpg")[inside])
    assert np.array_equal(pixels(footage / "masks_remove_background/IMG_10.png"), inside * np.uint8(255))
    assert np.array_equal(pixels(footage / "masks_remove_occluders/IMG_10.png"), ~inside * np.uint8(255))
    assert verify_layout(plan, mattes).check().ok
    mine = written_here(footage)
    assert len(mine) == 9 and "IMG_1_matte.png" in mine and "IMG_1.jpg" not in mine


@pytest.mark.parametrize("shrink", ["pillow", "area", "linear"])
def test_an_exported_rgba_shrinks_without_a_dark_fringe(shrink, tmp_path):
    """Each channel alone is made four times smaller, as careless programs do, and laid over white."""
    image = np.zeros((400, 400, 3), np.uint8)  # a bright disc before black
    rows, columns = np.mgrid[:400, :400]
    inside = (columns - 210) ** 2 + (rows - 190) ** 2 <= 120**2
    image[inside] = (230, 180, 60)
    alpha = inside.astype(np.uint8) * 255
    path = tmp_path / "a.png"
    path.write_bytes(b"".join(encode_png(straight_rgba(image, alpha))))
    if shrink == "pillow":
        small = np.dstack([np.array(Image.fromarray(c).resize((100, 100), Image.Resampling.LANCZOS))
                           for c in np.moveaxis(pixels(path), 2, 0)])  # fmt: skip
    else:
        how = cv2.INTER_AREA if shrink == "area" else cv2.INTER_LINEAR
        small = cv2.resize(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (100, 100), interpolation=how)
        small = small[:, :, [2, 1, 0, 3]]
    seen = small[:, :, 3] > 0
    assert np.abs(small[seen][:, :3].astype(int) - (230, 180, 60)).max() <= 2
    plain = cv2.resize(np.dstack([image, alpha]), (100, 100), interpolation=cv2.INTER_AREA)
    assert plain[plain[:, :, 3] > 0][:, :3].min() < 30, "without bleeding there is one"


def test_bled_colours_are_those_of_the_nearby_edge(photo, mask):
    image = photo.copy()
    image[:60] = (250, 10, 10)
    image[60:] = (10, 10, 250)
    alpha = mask.astype(np.uint8) * 255
    rgba = straight_rgba(image, alpha, reach=20)
    assert np.array_equal(rgba[mask][:, :3], image[mask]) and np.array_equal(rgba[:, :, 3], alpha)
    assert rgba[32, 50, 0] > 240 and rgba[88, 50, 2] > 240
    assert np.unique(rgba[:, 100:, :3].reshape(-1, 3), axis=0).shape == (1, 3), "far out there is one colour"
    soft = alpha.copy()
    soft[mask & ~cv2.erode(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)] = 40
    contaminated = np.where((soft == 255)[:, :, None], 200, 0).astype(np.uint8) * np.ones(3, np.uint8)
    assert straight_rgba(contaminated, soft)[soft == 40][:, :3].min() > 160, "a soft edge loses the background"


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (33, 47), (64, 64)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_filling_outward_keeps_what_is_known(size, dtype):
    random = np.random.default_rng(1)
    image = random.integers(100, 120, (*size, 3)).astype(dtype)
    known = random.random(size) < 0.3
    known[0, 0] = True
    before = image.copy()
    filled, mean = fill_outward(image, known)
    assert np.array_equal(filled[known], image[known]) and np.array_equal(image, before)
    assert filled.min() >= image[known].min() - 1 and filled.max() <= image[known].max() + 1
    assert image[known].min() <= mean.min() and mean.max() <= image[known].max()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nothing_and_everything_can_be_exported(photo, dtype):
    image = photo.astype(dtype)
    nothing = np.zeros((120, 160), dtype)
    assert not straight_rgba(image, nothing)[:, :, 3].any()
    everything = np.full((120, 160), np.iinfo(dtype).max, dtype)
    assert np.array_equal(straight_rgba(image, everything)[:, :, :3], image)
    assert np.array_equal(premultiplied_rgba(image, everything)[:, :, :3], image)
    with pytest.raises(NbHelpersError, match="differ in size or type"):
        straight_rgba(image, nothing.astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 3), (700, 1100, 4), (64, 3000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_is_what_opencv_and_pillow_read(shape, dtype):
    random = np.random.default_rng(0)
    image = random.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    image[: len(image) // 2] //= 7
    with ThreadPoolExecutor(2) as pool:
        data = b"".join(encode_png(image, pool))
    assert data == b"".join(encode_png(image)), "the pool changes nothing"
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if read.ndim == 3:
        read = read[:, :, [2, 1, 0, 3][: read.shape[2]]]
    assert read.dtype == dtype and np.array_equal(read, image)
    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()
    if dtype == np.uint8:
        assert np.array_equal(np.array(Image.open(io.BytesIO(data))), image)


def test_what_a_png_cannot_hold_is_refused():
    with pytest.raises(NbHelpersError, match="cannot be stored as PNG"):
        list(encode_png(np.zeros((4, 4), np.float32)))


def test_colmap_names_keep_suffix_and_folders(photo, mask, tmp_path):
    paths = []
    for name in ("a/012.jpg", "b/012.JPG", "b/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
        paths.append(path)
    mattes = Mattes(Frames(paths), [mask] * 3)
    plan = layouts.colmap(mattes, tmp_path / "masks")
    write_layout(plan, mattes)
    assert listing(tmp_path / "masks") == [NAME, "a/012.jpg.png", "b/012.JPG.png", "b/2.png.png"]
    assert np.array_equal(pixels(tmp_path / "masks/a/012.jpg.png") > 0, mask), "black is ignored"
    assert verify_layout(plan, mattes).ok
    with pytest.raises(NbHelpersError, match="outside the image folder"):
        layouts.colmap(mattes, tmp_path / "masks", images=tmp_path / "images/a")
    same = layouts.postshot(mattes, tmp_path / "out", masks=False)
    assert len({target.path for target in same.targets}) == 3, "equal stems are told apart"


def test_soft_mattes_become_pure_black_and_white_where_a_tool_takes_any_light_for_white(footage, mask, tmp_path):
    mattes = Mattes(Frames(footage), [mask] * 3, MatteSettings(feather=9))
    write_layout(layouts.colmap(mattes, tmp_path / "c"), mattes)
    assert np.unique(pixels(tmp_path / "c/IMG_1.jpg.png")).tolist() == [0, 255]
    write_layout(layouts.matte_sequence(mattes, tmp_path / "m"), mattes)
    assert len(np.unique(pixels(tmp_path / "m/IMG_1.png"))) > 20


def test_nerfstudio_gets_a_new_transforms_file_and_smaller_masks(footage, mattes, tmp_path):
    scene = tmp_path / "scene"
    (scene / "images_2").mkdir(parents=True)
    frames = [{"file_path": f"images/IMG_{n}.jpg", "transform_matrix": [[n]]} for n in (10, 1)]
    original = json.dumps({"fl_x": 800.5, "frames": frames})
    (scene / "transforms.json").write_text(original)
    plan = layouts.nerfstudio(mattes, scene)
    write_layout(plan, mattes)
    assert (scene / "transforms.json").read_text() == original
    masked = json.loads((scene / "transforms_masked.json").read_text())
    assert [frame["mask_path"] for frame in masked["frames"]] == ["masks/IMG_10.png", "masks/IMG_1.png"]
    assert masked["fl_x"] == 800.5 and masked["frames"][0]["transform_matrix"] == [[10]]
    assert pixels(scene / "masks/IMG_2.png").shape == (120, 160)
    assert pixels(scene / "masks_2/IMG_2.png").shape == (60, 80)
    assert verify_layout(plan, mattes).ok
    (scene / "transforms.json").write_text(json.dumps({"frames": [{"file_path": "images/IMG_3.jpg"}]}))
    with pytest.raises(NbHelpersError, match="does not have"):
        layouts.nerfstudio(mattes, scene)
    (scene / "transforms.json").write_text("{")
    with pytest.raises(NbHelpersError, match="cannot be read"):
        layouts.nerfstudio(mattes, scene)


def test_premultiplied_on_request(footage, mask, tmp_path):
    mattes = Mattes(Frames(footage), [mask] * 3, MatteSettings(feather=8))
    plan = layouts.rgba_sequence(mattes, tmp_path / "p", premultiplied=True)
    write_layout(plan, mattes)
    rgba = pixels(tmp_path / "p/IMG_1.png").astype(int)
    photo = pixels(footage / "IMG_1.jpg").astype(int)
    assert np.abs(rgba[:, :, :3] - np.rint(photo * rgba[:, :, 3:] / 255)).max() <= 1
    assert verify_layout(plan, mattes).ok


def test_sixteen_bits_stay_sixteen_bits(mask, tmp_path):
    random = np.random.default_rng(0)
    deep = random.integers(0, 65536, (120, 160, 3)).astype(np.uint16)
    for name in ("a.png", "b.tif"):
        cv2.imwrite(str(tmp_path / name), deep[:, :, ::-1])
    mattes = Mattes(Frames(tmp_path), [mask] * 2, MatteSettings(feather=5))
    plan = layouts.rgba_sequence(mattes, tmp_path / "out")
    assert [target.bits for target in plan.targets] == [16, 16]
    write_layout(plan, mattes)
    for name in ("a", "b"):
        rgba = cv2.imread(str(tmp_path / f"out/{name}.png"), cv2.IMREAD_UNCHANGED)[:, :, [2, 1, 0, 3]]
        opaque = rgba[:, :, 3] == 65535
        assert rgba.dtype == np.uint16 and np.array_equal(rgba[opaque][:, :3], deep[opaque])
        assert len(np.unique(rgba[:, :, 3])) > 256 / 4 and opaque.any()
    assert verify_layout(plan, mattes).ok
    eight = layouts.rgba_sequence(mattes, tmp_path / "eight", bits=8)
    write_layout(eight, mattes)
    assert pixels(tmp_path / "eight/a.png").dtype == np.uint8 and verify_layout(eight, mattes).ok
    with pytest.raises(NbHelpersError, match="invalid bit depth"):
        layouts.rgba_sequence(mattes, tmp_path, bits=12)


def test_a_profile_that_no_longer_holds_is_not_carried_on(photo, mask, tmp_path):
    icc = matrix_profile(PRIMARIES[12], None)
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=icc)
    mattes = Mattes(Frames(tmp_path), [mask])
    plan = layouts.rgba_sequence(mattes, tmp_path / "out")
    write_layout(plan, mattes)
    with Image.open(tmp_path / "out/a.png") as picture:
        assert "icc_profile" not in picture.info, "pixels are sRGB by now, and would be converted twice"
        assert (np.asarray(picture)[mask][:, :3] == load_image(tmp_path / "a.png")[mask]).all()
        assert (np.asarray(picture)[mask][:, :3] != photo[mask]).any()


def test_focal_length_and_colour_profile_are_carried_on(photo, mask, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8769)[0x920A] = 35.0
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    frames = Frames(tmp_path)
    mattes = Mattes(frames, [np.rot90(mask, -1)])
    plan = layouts.rgba_sequence(mattes, tmp_path / "out")
    write_layout(plan, mattes)
    with Image.open(tmp_path / "out/a.png") as picture:
        about = picture.getexif()
        assert about[0x010F] == "Camera" and float(about.get_ifd(0x8769)[0x920A]) == 35 and 0x0112 not in about
        assert picture.info["icc_profile"] == profile and picture.size == (120, 160)
    assert verify_layout(plan, mattes).ok


def test_an_export_goes_on_where_it_was_stopped_and_writes_nothing_twice(footage, mattes):
    plan = layouts.postshot(mattes)

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layout(plan, mattes, progress=stop)
    times = {path: path.stat().st_mtime_ns for path in footage.rglob("*.png")}
    assert 3 <= len(times) <= 6
    assert write_layout(plan, mattes).kept == len(times)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert write_layout(plan, mattes).written == 0 and verify_layout(plan, mattes).ok


def test_a_corrected_mask_is_written_anew_when_asked(footage, mattes, mask):
    plan = layouts.postshot(mattes)
    write_layout(plan, mattes)
    other = Mattes(mattes.frames, [np.roll(mask, 1, 1), mask & False, np.roll(mask, 10, 1)])
    with pytest.raises(NbHelpersError, match=r"(?s)earlier export.*IMG_2_matte.*replace=True"):
        write_layout(layouts.postshot(other), other)
    done = write_layout(layouts.postshot(other), other, replace=True)
    assert (done.written, done.kept) == (3, 6) and not pixels(footage / "IMG_2_matte.png")[:, :, 3].any()


def test_files_of_other_origin_are_never_overwritten(footage, mattes):
    mine = footage / "masks_remove_background" / "IMG_2.png"
    mine.parent.mkdir()
    mine.write_bytes(b"drawn by hand")
    for replace in (False, True):
        with pytest.raises(NbHelpersError, match=r"(?s)did not write.*masks_remove_background/IMG_2.png"):
            write_layout(layouts.postshot(mattes), mattes, replace=replace)
    assert mine.read_bytes() == b"drawn by hand" and not list(footage.glob("*_matte.png")), "nothing was begun"


def test_a_file_of_ours_that_was_retouched_is_theirs(footage, mattes):
    write_layout(layouts.postshot(mattes), mattes)
    retouched = footage / "IMG_1_matte.png"
    Image.open(retouched).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(retouched)
    before = retouched.read_bytes()
    with pytest.raises(NbHelpersError, match=r"(?s)have been changed.*IMG_1_matte"):
        write_layout(layouts.postshot(mattes), mattes, replace=True)
    assert retouched.read_bytes() == before


def test_a_copied_folder_is_still_known(footage, mattes, tmp_path):
    import shutil

    write_layout(layouts.matte_sequence(mattes, tmp_path / "a"), mattes)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert write_layout(layouts.matte_sequence(mattes, tmp_path / "b"), mattes).kept == 3


def test_a_ledger_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    ledger = Manifest(tmp_path)
    ledger.check([])
    ledger.write(tmp_path / "a", [b"one"], "1")
    with (tmp_path / NAME).open("a") as file:
        file.write('\n{"file": "b", "by')
    again = Manifest(tmp_path)
    again.write(tmp_path / "c", [b"two"], "2")
    last = Manifest(tmp_path)
    assert (
        last.is_done(tmp_path / "a", "1")
        and last.is_done(tmp_path / "c", "2")
        and not last.is_done(tmp_path / "a", "2")
    )


def test_a_plain_sequence_never_takes_the_names_of_the_originals(photo, mask, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.png")
    mattes = Mattes(Frames(tmp_path), [mask])
    with pytest.raises(NbHelpersError, match="overwrite the originals"):
        layouts.matte_sequence(mattes, tmp_path)


def test_a_video_has_no_footage_folder(photo, mask, tmp_path):
    class Video:
        size, names, paths = (120, 160), ["000.png"], None

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return photo

    mattes = Mattes(Video(), [mask])
    with pytest.raises(NbHelpersError, match="no footage folder"):
        layouts.postshot(mattes)
    plan = layouts.postshot(mattes, tmp_path)
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).ok and (tmp_path / "000_matte.png").is_file()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_footage_folder_is_one_sentence(code, footage, mattes, monkeypatch):
    opened = Path.open

    def refuse(path, mode="r", *rest, **more):
        if Path(path).is_relative_to(footage) and mode[0] in "wa":
            raise OSError(code, "Read-only file system", str(path))
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NbHelpersError, match=r"(?s)folder cannot be written.*another output folder"):
        write_layout(layouts.postshot(mattes), mattes)
    assert len(list(footage.iterdir())) == 3


FULL_DISK = """
import resource, signal, sys
import numpy as np
from nbhelpers import NbHelpersError
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.profiles import PRIMARIES, matrix_profile
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
frames = Frames(sys.argv[1])
mattes = Mattes(frames, [np.ones(frames.size, bool)] * len(frames))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
try:
    write_layout(layouts.postshot(mattes), mattes)
except NbHelpersError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system cannot limit the length of files")
def test_a_full_disk_is_one_sentence_and_leaves_nothing_torn(tmp_path):
    """A limit on the length of files stands in for the full disk: the system refuses the write in the same way."""
    assert resource.RLIMIT_FSIZE is not None
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    for number, rest in enumerate((np.zeros_like(noise), noise)):  # the second becomes too long
        Image.fromarray(rest).save(tmp_path / f"{number}.jpg")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout and "it resumes" in done.stdout
    assert [name for name in listing(tmp_path) if name.startswith(".")] == [NAME], "no temporary file is left"
    assert (tmp_path / "0_matte.png").is_file() and not (tmp_path / "1_matte.png").exists()
    frames = Frames(tmp_path, pattern="*.jpg")
    mattes = Mattes(frames, [np.ones(frames.size, bool)] * 2)
    assert write_layout(layouts.postshot(mattes), mattes).kept >= 1


KILLED = """
import sys
import numpy as np
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.profiles import PRIMARIES, matrix_profile
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
frames = Frames(sys.argv[1])
mattes = Mattes(frames, [np.tri(*frames.size, index, dtype=bool) for index in range(len(frames))])
print("ready", flush=True)
write_layout(layouts.rgba_sequence(mattes, sys.argv[2]), mattes, progress=lambda done, total: print(done, flush=True))
"""


def test_killed_runs_leave_whole_files_and_are_taken_up(photo, tmp_path):
    footage, out = tmp_path / "footage", tmp_path / "out"
    footage.mkdir()
    large = np.tile(photo, (3, 3, 1))
    for number in range(12):
        Image.fromarray(np.roll(large, number, 1)).save(footage / f"{number}.jpg")
    done = []
    for patience in (2, 5, 8):
        with subprocess.Popen([sys.executable, "-c", KILLED, footage, out], stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if line.strip() == str(patience):
                    child.kill()
                    break
        whole = [path for path in out.glob("*.png") if not path.name.startswith(".")]
        assert all(Image.open(path).convert("RGBA") for path in whole)
        assert len(whole) >= max([patience - 2, *done])
        done.append(len(whole))
    left = out / ".3-abcdefgh.png"
    left.write_bytes(b"torn")
    os.utime(left, (0, 0))
    frames = Frames(footage)
    mattes = Mattes(frames, [np.tri(*frames.size, index, dtype=bool) for index in range(len(frames))])
    plan = layouts.rgba_sequence(mattes, out)
    assert write_layout(plan, mattes).kept == done[-1] and not left.exists()
    assert verify_layout(plan, mattes).check().files == 12
