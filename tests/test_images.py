import errno
import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from nbhelpers.core import images
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image, save_image

ORIENTATION = 0x0112


def corners(size=(40, 60)):
    """Red, green, blue and grey quarters: any turn or mirroring shows."""
    height, width = size
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


def close(a, b, by=12):
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).mean() < by


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".jpg", ".gif"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    path = save_image(tmp_path / f"picture{suffix}", corners())
    image = load_image(path)
    assert image.dtype == np.uint8 and image.flags.writeable
    if suffix in (".png", ".tif", ".bmp"):
        assert (image == corners()).all()
    else:
        assert close(image, corners())


def test_a_path_may_be_text(tmp_path):
    assert load_image(str(save_image(tmp_path / "a.png", corners()))).shape == (40, 60, 3)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(corners()).save(tmp_path / "turned.png", exif=exif)
    assert (load_image(tmp_path / "turned.png") == TURNS[orientation](corners())).all()
    Image.fromarray(corners()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert close(load_image(tmp_path / "turned.jpg"), TURNS[orientation](corners()))


def test_exif_rotation_is_applied_to_16_bit_grey(tmp_path):
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 256
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(grey).save(tmp_path / "deep.png", exif=exif)
    assert (load_image(tmp_path / "deep.png")[:, :, 0] == np.rot90(grey >> 8, -1)).all()


def test_cmyk_is_converted(tmp_path):
    Image.fromarray(corners()).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert close(load_image(tmp_path / "print.jpg"), corners())
    Image.fromarray(corners()).convert("CMYK").save(tmp_path / "print.tif")
    assert close(load_image(tmp_path / "print.tif"), corners(), by=2)


def test_grey_becomes_three_channels(tmp_path):
    grey = corners()[:, :, 0]
    image = load_image(save_image(tmp_path / "grey.png", grey))
    assert image.shape == (40, 60, 3) and (image == grey[:, :, None]).all()


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = corners()[:, :, 0] > 200
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert (load_image(tmp_path / "bits.png") == np.where(bits, 255, 0)[:, :, None]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_the_high_byte(tmp_path, suffix):
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), deep)
    image = load_image(tmp_path / f"deep{suffix}")
    assert image.shape == (2, 3, 3) and image[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_keeps_the_high_byte_and_the_order(tmp_path, suffix):
    assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), corners()[:, :, ::-1].astype(np.uint16) * 257)
    assert np.abs(load_image(tmp_path / f"deep{suffix}").astype(int) - corners()).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_with_alpha_lies_on_white(tmp_path, suffix):
    deep = np.dstack([corners()[:, :, ::-1], np.zeros((40, 60), np.uint8)]).astype(np.uint16) * 257
    deep[:, :30, 3] = 65535
    assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), deep)
    image = load_image(tmp_path / f"deep{suffix}")
    assert (image[:, 30:] == 255).all()
    assert np.abs(image[:, :30].astype(int) - corners()[:, :30]).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_lies_on_white(tmp_path, suffix):
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, 30:] = 0
    alpha[0, 0] = 128
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.dstack([corners(), alpha])).save(tmp_path / f"cut{suffix}", **options)
    image = load_image(tmp_path / f"cut{suffix}")
    assert (image[:, 30:] == 255).all() and (image[1:, :30] == corners()[1:, :30]).all()
    assert image[0, 0].tolist() == [255, 127, 127]


def test_grey_with_alpha_lies_on_white(tmp_path):
    pixels = np.array([[[100, 255], [100, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "la.png")
    assert load_image(tmp_path / "la.png")[:, :, 0].tolist() == [[100, 255]]


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8))
    indexed = indexed.convert("P")
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    indexed.save(tmp_path / "palette.png", transparency=0)
    assert load_image(tmp_path / "palette.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]
    indexed.save(tmp_path / "plain.png")
    assert load_image(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    red.save(tmp_path / "two.gif", save_all=True, append_images=[blue])
    assert load_image(tmp_path / "two.gif")[0, 0].tolist() == [255, 0, 0]


def test_a_picture_of_one_pixel_is_a_picture(tmp_path):
    one = np.array([[[1, 2, 3]]], np.uint8)
    assert (load_image(save_image(tmp_path / "one.png", one)) == one).all()
    assert (fit(one, 1) == one).all()


def picture_bytes(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, kind)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("part", [0.5, 0.01])
def test_a_file_that_was_cut_off_is_one_clear_error(tmp_path, kind, part):
    data = picture_bytes(kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(NbHelpersError, match="cannot be read") as told:
        load_image(path)
    assert str(path) in told.value.given and "PNG" in told.value.expected


def test_an_empty_file_is_one_clear_error(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(NbHelpersError, match="empty"):
        load_image(tmp_path / "empty.jpg")


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(NbHelpersError, match="no such picture"):
        load_image(tmp_path / "missing.jpg")


def test_a_folder_is_one_clear_error(tmp_path):
    with pytest.raises(NbHelpersError, match="cannot be read"):
        load_image(tmp_path)


@pytest.mark.parametrize("name", ["notes.jpg", "notes.tif", "notes"])
def test_something_else_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_text("these are no pixels\n" * 50)
    with pytest.raises(NbHelpersError, match="cannot be read"):
        load_image(tmp_path / name)


def test_a_damaged_16_bit_tiff_is_one_clear_error(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.tif"), np.full((300, 300, 3), 999, np.uint16))
    data = (tmp_path / "deep.tif").read_bytes()
    (tmp_path / "deep.tif").write_bytes(data[: len(data) // 3])
    with pytest.raises(NbHelpersError, match="cannot be read"):
        load_image(tmp_path / "deep.tif")


def test_floats_in_a_file_have_no_known_range(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(NbHelpersError, match="no known range"):
        load_image(tmp_path / "depth.tif")


@pytest.mark.parametrize("name", ["big.png", "deep.tif"])
def test_more_pixels_than_memory_is_refused_before_they_are_read(tmp_path, monkeypatch, name):
    deep = np.zeros((200, 300, 3), np.uint16 if name == "deep.tif" else np.uint8)
    cv2.imwrite(str(tmp_path / name), deep)
    monkeypatch.setattr(images, "free_memory", lambda: 100_000)
    with pytest.raises(NbHelpersError, match="memory") as told:
        load_image(tmp_path / name)
    assert "300 x 200" in told.value.given


def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path):
    data = bytearray(picture_bytes("BMP"))
    data[18:26] = (2_000_000).to_bytes(4, "little") + (2_000_000).to_bytes(4, "little")
    (tmp_path / "bomb.bmp").write_bytes(data)
    with pytest.raises(NbHelpersError, match="pixels"):
        load_image(tmp_path / "bomb.bmp")


def test_the_system_tells_its_free_memory_or_nothing():
    free = images.free_memory()
    assert free is None or 1e6 < free < 1e15


@pytest.mark.parametrize(
    ("array", "first"),
    [
        (np.array([[7, 8]], np.uint8), [7, 7, 7]),
        (np.array([[[7], [8]]], np.uint8), [7, 7, 7]),
        (np.array([[[7, 8, 9], [0, 0, 0]]], np.uint8), [7, 8, 9]),
        (np.array([[[7, 8, 9, 255]]], np.uint8), [7, 8, 9]),
        (np.array([[[7, 8, 9, 0]]], np.uint8), [255, 255, 255]),
        (np.array([[True, False]]), [255, 255, 255]),
        (np.array([[0x1234]], np.uint16), [0x12, 0x12, 0x12]),
    ],
)
def test_arrays_are_taken_as_pictures(array, first):
    image = load_image(array)
    assert image.dtype == np.uint8 and image.shape == (*array.shape[:2], 3) and image[0, 0].tolist() == first


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_other_arrays_are_one_clear_error(array):
    with pytest.raises(NbHelpersError, match="not an image") as told:
        load_image(array)
    assert str(array.dtype) in told.value.given


def test_a_view_that_runs_backwards_is_taken():
    image = load_image(corners()[:, ::-1])
    assert image.flags.c_contiguous and (image == corners()[:, ::-1]).all()


def test_fit_makes_smaller_but_never_larger():
    assert fit(corners(), 30).shape == (20, 30, 3)
    assert fit(corners(), 60) is not None and (fit(corners(), 600) == corners()).all()
    assert fit(np.zeros((4000, 2, 3), np.uint8), 100).shape == (100, 1, 3)


def test_fit_averages():
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[::2] = 200
    assert (fit(stripes, 20) == 100).all()


def test_alpha_is_written(tmp_path):
    pixels = np.dstack([corners(), np.full((40, 60), 77, np.uint8)])
    with Image.open(save_image(tmp_path / "cut.png", pixels)) as written:
        assert (np.asarray(written) == pixels).all()


@pytest.mark.parametrize("name", ["picture.xyz", "picture", "cut.jpg"])
def test_a_format_that_cannot_hold_it_is_one_clear_error(tmp_path, name):
    with pytest.raises(NbHelpersError):
        save_image(tmp_path / name, np.dstack([corners(), corners()[:, :, 0]]))
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_the_old_picture_stands(tmp_path, monkeypatch):
    path = save_image(tmp_path / "picture.png", corners())
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(NbHelpersError, match="cannot be written"):
        save_image(path, corners() // 2)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
