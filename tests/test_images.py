import errno
import io
import itertools
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from test_scenes import make

from nbhelpers.core import images
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import (
    INVERSE,
    MIRRORED,
    fit,
    image_size,
    load_image,
    orientation_of,
    save_image,
    stored_size,
    turn,
    turn_camera,
    turn_points,
    turned_size,
)
from nbhelpers.core.profiles import ADOBE_RGB, PRIMARIES, matrix_profile

ORIENTATION = 0x0112
EVERY = range(1, 9)
STORED = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)


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
    with pytest.raises(NbHelpersError, match="folder"):
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


def saved(picture, kind, **options):
    """A PIL image as the bytes of a file."""
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def heic(pixels, **options):
    pillow_heif.register_heif_opener()
    return saved(Image.fromarray(pixels), "HEIF", quality=98, chroma=444, **options)


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo.jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_of_a_phone_is_read_and_turned(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (tmp_path / name).write_bytes(heic(corners(), exif=exif.tobytes()))
    image = load_image(tmp_path / name)
    assert close(image, TURNS[orientation](corners()), by=4)
    assert image_size(tmp_path / name) == image.shape[:2]


def test_a_heic_that_was_cut_off_is_one_clear_error():
    data = heic(corners())
    for part in (0.3, 0.9):
        with pytest.raises(NbHelpersError, match="cannot be read"):
            load_image(data[: int(len(data) * part)])


P3 = matrix_profile(PRIMARIES[12], None)
SRGB = ImageCms.createProfile("sRGB")


def managed(picture, icc):
    """The reference: what LittleCMS makes of the file's own pixels."""
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    source = picture.convert("RGB") if picture.mode == "RGBA" else picture
    out = np.asarray(ImageCms.profileToProfile(source, profile, SRGB, outputMode="RGB")).astype(int)
    if alpha is not None:
        a = np.asarray(alpha)[:, :, None].astype(int)
        out = np.rint((out * a + 255 * (255 - a)) / 255)
    return out


def colours(mode="RGB"):
    ramp = np.random.default_rng(3).integers(0, 256, (32, 48, 4), np.uint8)
    picture = Image.fromarray(ramp[:, :, :3])
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(ramp[:, :, 3]))
    return picture if mode == "RGBA" else picture.convert(mode)


@pytest.mark.parametrize("icc", [P3, matrix_profile(ADOBE_RGB, 2.2), matrix_profile(PRIMARIES[9], 1.8)])
@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "TIFF"), ("RGB", "WEBP")])
def test_a_wide_gamut_becomes_srgb(mode, kind, icc):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(colours(mode), kind, icc_profile=icc, **options)
    wanted = managed(colours(mode), icc)
    assert np.abs(load_image(data) - wanted).max() <= 2
    assert np.abs(wanted - np.asarray(colours())).max() > 20 or mode == "RGBA"


def test_the_red_of_a_phone_is_the_red_of_a_screen():
    # (234, 51, 35) of Display P3 is the red of sRGB: https://www.w3.org/TR/css-color-4/#predefined-display-p3
    data = saved(Image.new("RGB", (4, 4), (234, 51, 35)), "PNG", icc_profile=P3)
    assert np.abs(load_image(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 2
    data = heic(np.full((16, 16, 3), (234, 51, 35), np.uint8), icc_profile=P3)
    assert np.abs(load_image(data)[8, 8].astype(int) - (255, 0, 0)).max() <= 5


def test_pixels_with_the_profile_of_srgb_stay_as_they_are():
    icc = ImageCms.ImageCmsProfile(SRGB).tobytes()
    assert (load_image(saved(colours(), "PNG", icc_profile=icc)) == np.asarray(colours())).all()
    grey = saved(colours("L"), "PNG", icc_profile=icc)
    assert (load_image(grey) == np.asarray(colours("L"))[:, :, None]).all()


def cmyk_profile():
    """A profile of a made-up press: L* falls with black, a* and b* follow cyan, magenta and yellow."""
    table = bytearray()
    for place in range(16):
        c, m, y, k = ((place >> shift) & 1 for shift in (3, 2, 1, 0))
        lightness = 0 if k else 255 - 60 * (c + m + y)
        table += bytes([max(0, lightness), 128 + 60 * (m - c), 128 + 60 * (y - c)])
    identity = np.tile(np.arange(256, dtype=np.uint8), 1).tobytes()
    matrix = struct.pack(">9i", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + bytes(table) + identity * 3
    tags = {
        b"desc": struct.pack(">4s4xI", b"desc", 2) + b"C\0" + bytes(78),
        b"wtpt": struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061),
        b"A2B0": lut,
    }
    entries, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        entries += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + entries + body


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_the_profile_of_a_press_is_used(kind):
    ramp = np.linspace(0, 255, 32 * 32 * 4).reshape(32, 32, 4).astype(np.uint8)
    picture, options = Image.fromarray(ramp, "CMYK"), {"quality": 100} if kind == "JPEG" else {}
    data = saved(picture, kind, icc_profile=cmyk_profile(), **options)
    with Image.open(io.BytesIO(data)) as stored:
        wanted = managed(stored, cmyk_profile())
    assert np.abs(load_image(data) - wanted).max() <= 2
    assert np.abs(wanted - np.asarray(picture.convert("RGB"))).max() > 20


def test_photoshop_writes_cmyk_upside_down():
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    data = saved(picture, "JPEG", quality=100)
    assert b"Adobe" in data[:200], "which says that values are inverted"
    assert np.abs(load_image(data)[8, 8].astype(int) - (255, 0, 0)).max() <= 5


@pytest.mark.parametrize("icc", [b"no profile at all", P3[:200], cmyk_profile()])
def test_a_profile_that_cannot_be_used_is_ignored_and_told(caplog, icc):
    assert (load_image(saved(colours(), "PNG", icc_profile=icc)) == np.asarray(colours())).all()
    assert "profile" in caplog.text


def png_with(chunk, data, picture=None):
    info = PngImagePlugin.PngInfo()
    info.add(chunk, data)
    return saved(picture or colours(), "PNG", pnginfo=info)


def test_the_colour_tags_of_a_png_are_used():
    wanted = managed(colours(), P3)
    assert np.abs(load_image(png_with(b"cICP", bytes([12, 13, 0, 1]))) - wanted).max() <= 2
    assert (load_image(png_with(b"cICP", bytes([1, 13, 0, 1]))) == np.asarray(colours())).all()
    assert (load_image(png_with(b"gAMA", struct.pack(">I", 45455))) == np.asarray(colours())).all()
    linear = load_image(png_with(b"gAMA", struct.pack(">I", 100000), Image.new("RGB", (4, 4), (55, 55, 55))))
    assert np.abs(linear.astype(int) - 128).max() <= 1, "55 / 255 of the light is mid-grey"


def test_high_dynamic_range_is_told(caplog):
    load_image(png_with(b"cICP", bytes([9, 16, 0, 1])))
    assert "PQ" in caplog.text


def test_a_camera_that_says_adobe_rgb_in_exif_alone_is_believed():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    data = saved(colours(), "JPEG", quality=100, subsampling=0, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        wanted = managed(stored.convert("RGB"), matrix_profile(ADOBE_RGB, 2.2))
    assert np.abs(load_image(data) - wanted).max() <= 2


def test_lab_becomes_srgb():
    red = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 30, 40)), SRGB, ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(load_image(saved(red, "TIFF"))[0, 0].astype(int) - (200, 30, 40)).max() <= 3


def same_everywhere(tmp_path):
    torch = pytest.importorskip("torch")
    data = saved(Image.fromarray(corners()), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    return {
        "pil": Image.fromarray(corners()),
        "pil file": Image.open(tmp_path / "a.png"),
        "bytes": data,
        "bytearray": bytearray(data),
        "stream": io.BytesIO(data),
        "file": (tmp_path / "a.png").open("rb"),
        "tensor": torch.from_numpy(corners()).permute(2, 0, 1),
    }


def test_what_libraries_hand_over_is_read(tmp_path):
    for name, source in same_everywhere(tmp_path).items():
        assert image_size(source) == (40, 60), name
        assert (load_image(source) == corners()).all(), name
        assert (hasattr(source, "close") and source.close() is None) or name in ("bytes", "bytearray", "tensor")


def test_a_pil_image_is_not_changed():
    picture = colours()
    picture.info["icc_profile"] = P3
    assert np.abs(load_image(picture) - managed(colours(), P3)).max() <= 2
    assert (np.asarray(picture) == np.asarray(colours())).all()


def test_tensors_of_one_and_two_channels_and_grey():
    torch = pytest.importorskip("torch")
    grey = torch.full((4, 6), 7, dtype=torch.uint8)
    assert load_image(grey)[0, 0].tolist() == load_image(grey[None])[0, 0].tolist() == [7, 7, 7]
    for wrong in (torch.zeros(3, 4, 6), torch.zeros(2, 3, 4, 6)):
        with pytest.raises(NbHelpersError, match="not an image"):
            load_image(wrong)
        with pytest.raises(NbHelpersError, match="not an image"):
            image_size(wrong)
    with pytest.raises(NbHelpersError, match="not an image") as told:
        load_image(torch.zeros(40, 60, 3, dtype=torch.uint8))
    assert "permute" in told.value.do


@pytest.mark.parametrize("source", [None, 7, [[1, 2], [3, 4]], object(), io.StringIO("text")])
def test_anything_else_is_one_clear_error(source):
    for read in (load_image, image_size):
        with pytest.raises(NbHelpersError, match="not a picture"):
            read(source)


@pytest.mark.parametrize("wrap", [str, Path])
def test_a_web_address_is_told_with_the_command_that_fetches_it(wrap):
    for read in (load_image, image_size):
        with pytest.raises(NbHelpersError, match="downloaded") as told:
            read(wrap("https://example.org/a/cat photo.jpg?x=1"))
        assert told.value.do == "curl -L -O 'https://example.org/a/cat photo.jpg?x=1'"


def test_image_size_tells_the_same_errors(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.jpg").write_text("these are no pixels\n" * 50)
    for path, what in ((tmp_path, "folder"), (tmp_path / "empty.jpg", "empty"), (tmp_path / "no", "no such"), (tmp_path / "notes.jpg", "cannot be read")):  # fmt: skip
        with pytest.raises(NbHelpersError, match=what):
            image_size(path)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "JPEG"])
def test_image_size_is_that_of_the_turned_picture(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(Image.fromarray(corners()), kind, exif=exif)
    assert image_size(data) == load_image(data).shape[:2] == TURNS[orientation](corners()).shape[:2]
    assert close(load_image(data), TURNS[orientation](corners()))


def deep_png(values):
    return cv2.imencode(".png", values[:, :, ::-1] if values.ndim == 3 else values)[1].tobytes()


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("colour", [False, True])
def test_ten_bits_in_sixteen_are_told_and_can_be_scaled(caplog, bits, colour):
    full = (1 << bits) - 1
    values = (
        (corners().astype(np.uint32) * full // 255).astype(np.uint16)
        if colour
        else np.array([[0, full // 2, full]], np.uint16)
    )
    assert load_image(deep_png(values)).max() <= 15
    assert f"the largest value is {full}" in caplog.text and f"max_value={full}" in caplog.text
    caplog.clear()
    image = load_image(deep_png(values), max_value=full)
    assert image.max() == 255 and not caplog.text
    if colour:
        assert np.abs(image.astype(int) - corners()).max() <= 1
        turned = load_image(cv2.imencode(".tif", values[:, :, ::-1])[1].tobytes(), max_value=full)
        assert np.abs(turned.astype(int) - corners()).max() <= 1
    if not colour:
        assert (load_image(values, max_value=full) == image).all()
        load_image(values)
        assert "nearly black" in caplog.text


def test_sixteen_full_bits_are_not_told(caplog):
    load_image(deep_png(corners().astype(np.uint16) * 257))
    load_image(deep_png(np.zeros((4, 4), np.uint16)))
    assert not caplog.text


def test_a_range_that_is_given_is_used(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "depth.tif")
    assert load_image(tmp_path / "depth.tif", max_value=1)[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(np.array([[0, 0.5, 2]]), max_value=1.0)[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(np.array([[0, 1]], np.uint8), max_value=1)[0, :, 0].tolist() == [0, 255]
    assert load_image(saved(Image.fromarray(np.array([[0, 1]], np.uint8)), "PNG"), max_value=1)[0, :, 0].tolist() == [0, 255]  # fmt: skip
    for bad in (0, -1, float("inf"), float("nan")):
        with pytest.raises(NbHelpersError, match="positive"):
            load_image(tmp_path / "depth.tif", max_value=bad)
    with pytest.raises(NbHelpersError, match="no numbers"):
        load_image(np.array([[0, np.nan]]), max_value=1.0)


@pytest.mark.parametrize(
    ("mode", "pixel"),
    [("LA", (100, 0)), ("PA", None), ("La", None), ("RGBa", None), ("1", None), ("P", None), ("HSV", None), ("YCbCr", None)],
)  # fmt: skip
def test_every_mode_of_pillow_is_read(mode, pixel):
    if mode in ("La", "RGBa"):
        picture = Image.fromarray(np.dstack([corners(), np.full((40, 60), 255, np.uint8)])).convert(mode[:1] + "A" if mode == "La" else "RGBA").convert(mode)  # fmt: skip
    else:
        picture = Image.fromarray(corners()).convert(mode)
    image = load_image(picture)
    assert image.shape == (40, 60, 3) and image_size(picture) == (40, 60)
    if pixel:
        assert (load_image(Image.new(mode, (3, 3), pixel)) == 255).all()


def test_of_two_pictures_of_a_phone_the_first_is_taken():
    data = saved(
        Image.fromarray(corners()), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))], quality=95
    )
    assert close(load_image(data), corners())


def test_of_a_moving_png_the_first_frame_is_taken():
    data = saved(Image.fromarray(corners()), "PNG", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    assert (load_image(data) == corners()).all()


def test_further_pages_of_a_scan_are_told(caplog):
    data = saved(Image.fromarray(corners()), "TIFF", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    assert (load_image(data) == corners()).all() and "2 pictures" in caplog.text


def test_a_file_that_may_not_be_read_is_told_as_that(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(NbHelpersError, match="cannot be opened") as told:
        load_image(tmp_path / "photo.jpg")
    assert "Permission denied" in told.value.given


def test_a_name_that_lies_about_the_format_does_not_matter(tmp_path):
    (tmp_path / "photo.png").write_bytes(saved(Image.fromarray(corners()), "JPEG", quality=95))
    assert close(load_image(tmp_path / "photo.png"), corners())


@pytest.mark.parametrize("damage", range(8))
def test_odd_exif_is_no_reason_to_refuse_a_photo(damage):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    data = bytearray(saved(Image.fromarray(corners()), "JPEG", exif=exif))
    start = data.index(b"Exif") + 6
    data[start + damage * 4 : start + damage * 4 + 4] = b"\xff\xff\xff\xff"
    assert load_image(bytes(data)).shape[:2] == image_size(bytes(data))


def test_one_list_of_suffixes():
    from nbhelpers.clip_guided import pipeline
    from nbhelpers.core import video_stills
    from nbhelpers.core.files import IMAGE_SUFFIXES

    assert video_stills.IMAGE_SUFFIXES is images.IMAGE_SUFFIXES is pipeline.IMAGE_SUFFIXES is IMAGE_SUFFIXES
    assert {".heic", ".heif", ".jpg", ".tif"} <= set(IMAGE_SUFFIXES)


def test_photos_of_a_phone_are_frames_and_photos(tmp_path):
    from nbhelpers.core.images import photos
    from nbhelpers.core.video import Frames

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for name in ("IMG_2.HEIC", "IMG_10.heic"):
        (tmp_path / name).write_bytes(heic(corners(), exif=exif.tobytes()))
    clip = Frames(tmp_path)
    assert [path.name for path in photos(tmp_path)] == ["IMG_2.HEIC", "IMG_10.heic"]
    assert len(clip) == 2 and clip.size == (60, 40) and close(np.asarray(clip[1]), TURNS[6](corners()), by=4)


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
