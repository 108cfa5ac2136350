"""The verifier finds each fault that is planted, names the file and says what is wrong."""

import cv2
import numpy as np
import pytest
from PIL import Image

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
from nbhelpers.export.verify import verify_layout


@pytest.fixture
def mattes(photo, tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    rows, columns = np.mgrid[:120, :160]
    mask = (columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2
    for number in range(3):
        Image.fromarray(np.roll(photo, number, 1)).save(folder / f"{number}.png")
    return Mattes(Frames(folder), [np.roll(mask, number, 1) for number in range(3)], MatteSettings(feather=4))


@pytest.fixture
def plan(mattes, tmp_path):
    plan = layouts.postshot(mattes, tmp_path / "out")
    write_layout(plan, mattes)
    return plan


def planted(path, change):
    """Change the pixels of an exported file."""
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def premultiply(rgba):
    rgba = rgba.astype(np.uint16)
    rgba[:, :, :3] = rgba[:, :, :3] * rgba[:, :, 3:] // 255
    return rgba.astype(np.uint8)


def blacken(rgba):
    rgba[rgba[:, :, 3] == 0] = 0
    rgba[:, :, :3] = np.where((rgba[:, :, 3:] < 200), 5, rgba[:, :, :3])
    return rgba


def tint(rgba):
    rgba[:, :, 0] = np.where(rgba[:, :, 3] == 255, 255 - rgba[:, :, 0], rgba[:, :, 0])
    return rgba


def invert_alpha(rgba):
    rgba[:, :, 3] = 255 - rgba[:, :, 3]
    return rgba


def opaque(rgba):
    rgba[:, :, 3] = 255
    return rgba


def test_a_good_export_gives_a_readable_report(plan, mattes, tmp_path):
    report = verify_layout(plan, mattes)
    assert report.check() is report
    assert str(report).splitlines() == [
        f"postshot in {tmp_path / 'out'}: 9 files, all good",
        "  3 x straight, 8 bit",
        "  3 x keep white, 8 bit",
        "  3 x keep black, 8 bit",
    ]


RGBA, WHITE, BLACK = "1_matte.png", "masks_remove_background/1.png", "masks_remove_occluders/1.png"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (WHITE, lambda grey: 255 - grey, "polarity is wrong"),
        (BLACK, lambda grey: 255 - grey, "polarity is wrong"),
        (RGBA, invert_alpha, "polarity is wrong"),
        (WHITE, lambda grey: grey[:-1], "160 x 119 pixels, not 160 x 120"),
        (RGBA, lambda rgba: np.ascontiguousarray(np.rot90(rgba)), "120 x 160 pixels, not 160 x 120"),
        (RGBA, premultiply, "premultiplied by alpha, not straight"),
        (RGBA, blacken, "dark under the edge"),
        (RGBA, lambda rgba: rgba[:, :, :3], "no alpha channel"),
        (RGBA, opaque, "255 everywhere"),
        (RGBA, tint, "not those of the original"),
        (WHITE, lambda grey: grey * 0, "0 everywhere"),
        (WHITE, lambda grey: cv2.blur(grey, (5, 5)), "not pure black and white"),
        (WHITE, lambda grey: np.roll(grey, 9, 1), "differ from the frame's matte"),
        (WHITE, lambda grey: np.repeat(grey[:, :, None], 3, 2), "not a greyscale image"),
        (RGBA, lambda rgba: np.ascontiguousarray(np.roll(rgba, 9, 1)), "differ from the frame's matte"),
    ],
)
def test_each_planted_fault_is_found_and_named(name, change, told, plan, mattes, tmp_path):
    planted(tmp_path / "out" / name, change)
    report = verify_layout(plan, mattes)
    assert [mismatch.path for mismatch in report.mismatches] == [tmp_path / "out" / name]
    assert told in str(report) and "FAULTY" in str(report)
    with pytest.raises(NbHelpersError, match=told) as caught:
        report.check()
    assert name in str(caught.value)


def test_missing_empty_cut_off_and_strange_files_are_found(plan, mattes, tmp_path):
    out = tmp_path / "out"
    (out / RGBA).unlink()
    (out / WHITE).write_bytes(b"")
    half = (out / BLACK).read_bytes()
    (out / BLACK).write_bytes(half[: len(half) // 2])
    (out / "masks_remove_background/99.png").write_bytes(half)
    report = verify_layout(plan, mattes)
    told = {mismatch.path.relative_to(out).as_posix(): mismatch.what for mismatch in report.mismatches}
    assert told[RGBA] == "it is missing" and told[WHITE] == "it is empty"
    assert told["masks_remove_background/99.png"] == "it belongs to no frame of the clip"
    assert set(told) == {RGBA, WHITE, BLACK, "masks_remove_background/99.png"}
    with pytest.raises(NbHelpersError, match=r"(?s)missing.*1_matte.png, and 3 more"):
        report.check()


def test_the_depth_is_checked(mattes, tmp_path):
    plan = layouts.rgba_sequence(mattes, tmp_path / "deep", bits=16)
    write_layout(plan, mattes)
    assert verify_layout(plan, mattes).ok
    planted(tmp_path / "deep/0.png", lambda rgba: rgba)  # Pillow knows 8 bits only
    assert "8 bits per channel, not 16" in str(verify_layout(plan, mattes))


def test_straight_in_place_of_premultiplied_is_found(mattes, tmp_path):
    write_layout(layouts.rgba_sequence(mattes, tmp_path / "out"), mattes)
    report = verify_layout(layouts.rgba_sequence(mattes, tmp_path / "out", premultiplied=True), mattes)
    assert len(report.mismatches) == 3 and "straight, not premultiplied" in report.mismatches[0].what


def test_a_changed_transforms_file_is_found(mattes, tmp_path):
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "transforms.json").write_text('{"frames": [{"file_path": "images/0.png"}]}')
    plan = layouts.nerfstudio(mattes, scene)
    write_layout(plan, mattes)
    (scene / "transforms_masked.json").write_text("{}")
    assert "has been changed" in str(verify_layout(plan, mattes))
    (scene / "transforms_masked.json").unlink()
    assert "missing" in str(verify_layout(plan, mattes))


def test_pixels_of_every_so_many_frames_and_the_presence_of_all(plan, mattes, tmp_path):
    planted(tmp_path / "out" / WHITE, lambda grey: 255 - grey)
    assert verify_layout(plan, mattes, every=2).ok
    (tmp_path / "out" / BLACK).unlink()
    seen = []
    assert len(verify_layout(plan, mattes, every=2, progress=lambda *done: seen.append(done)).mismatches) == 1
    assert seen == [(1, 3), (2, 3), (3, 3)]
