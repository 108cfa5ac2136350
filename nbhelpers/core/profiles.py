"""Colour management: pixels of any ICC profile, or with the colour tags of PNG, HEIF and camera files, become sRGB."""

from __future__ import annotations

import functools
import io
import logging
import struct
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageCms

SRGB_LEVELS = 1  # a profile that moves no colour by more is taken for sRGB, and pixels stay as they are
LATTICE = 9  # levels a channel at which that is tried
MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}  # colour space -> Pillow's modes

D65 = (0.3127, 0.3290)
PRIMARIES = {  # ITU-T H.273, table 2: xy of white, red, green, blue
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709, sRGB
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # PAL
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # NTSC
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
ADOBE_RGB = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # H.273, table 3; all others of standard dynamic range are shown as sRGB
HDR = {16: "PQ", 18: "HLG"}
INTEROP, INTEROP_INDEX = 0xA005, 1  # EXIF: "R03" there says Adobe RGB (DCF 2.0)
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError, struct.error)
log = logging.getLogger(__name__)


def to_srgb(picture: Image.Image, file: io.BufferedIOBase | IO[bytes] | None, name: str) -> Image.Image:
    """A decoded picture in sRGB; the picture itself where it is sRGB already or says nothing about its colours.

    An ICC profile that is damaged or made for another kind of picture is ignored with a warning.

    Args:
        picture: of mode RGB, RGBA, L or CMYK, with its format's ``info``.
        file: what it was read from; PNG tags that Pillow passes over are read there.
        name: of the file, for warnings.

    Source: ICC.1:2022, perceptual intent, by LittleCMS; the order of precedence of PNG tags is that of the PNG
    Specification, third edition, W3C 2025, section 4.3.
    """
    icc = _profile_of(picture, file, name)
    if icc is None:
        return picture
    from PIL import ImageCms

    try:
        space, transform = _transform(icc, picture.mode)
    except (ImageCms.PyCMSError, *UNREADABLE) as error:
        log.warning("%s: its colour profile cannot be used, its colours are taken as sRGB: %s", name, error)
        return picture
    if picture.mode == "L" and space == "RGB":
        picture, (space, transform) = picture.convert("RGB"), _transform(icc, "RGB")
    if picture.mode not in MODES.get(space, ()):
        log.warning("%s: a %s profile does not fit %s, and is ignored", name, space, picture.mode)
        return picture
    if transform is None:
        return picture
    in_place = picture.mode in ("RGB", "RGBA")
    return ImageCms.applyTransform(picture, transform, inPlace=in_place) or picture


def is_srgb(icc: bytes) -> bool:
    """Whether RGB pixels with this ICC profile are sRGB."""
    from PIL import ImageCms

    try:
        return _transform(icc, "RGB") == ("RGB", None)
    except (ImageCms.PyCMSError, *UNREADABLE):
        return False


@functools.lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The profile's colour space, and its transform to sRGB; None where it changes nothing or does not fit."""
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space = profile.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue] - stubs say a file
    if mode not in MODES.get(space, ()):
        return space, None
    out = mode if mode in ("RGB", "RGBA") else "RGB"
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, out)
    if mode in ("RGB", "RGBA", "L"):
        levels = np.linspace(0, 255, LATTICE).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        if mode == "L":
            grid = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        tried = Image.fromarray(np.ascontiguousarray(grid[:, :, 0]) if mode == "L" else grid).convert(mode)
        moved = np.asarray(ImageCms.applyTransform(tried, transform))[:, :, :3].astype(int) - grid
        if np.abs(moved).max() <= SRGB_LEVELS:
            return space, None
    return space, transform


def _profile_of(picture: Image.Image, file: io.BufferedIOBase | IO[bytes] | None, name: str) -> bytes | None:
    """An ICC profile for the picture's colours; None where they are sRGB or unknown."""
    info = picture.info
    icc = info.get("icc_profile") or None
    if picture.format == "PNG" and file is not None and (tags := _cicp(file)):
        return _coded(*tags, name)
    if icc is not None or picture.mode == "CMYK":
        return icc
    if nclx := info.get("nclx_profile"):
        return _coded(nclx["color_primaries"], nclx["transfer_characteristics"], name)
    if picture.format == "PNG" and "srgb" not in info and ("gamma" in info or "chromaticity" in info):
        gamma = 1 / info["gamma"] if info.get("gamma") else 2.2
        return matrix_profile(info.get("chromaticity", PRIMARIES[1]), None if abs(gamma - 2.2) < 0.1 else gamma)
    if picture.format in ("JPEG", "MPO", "TIFF") and _is_adobe_rgb(picture):
        return matrix_profile(ADOBE_RGB, 2.2)
    return None


def _coded(primaries: int, transfer: int, name: str) -> bytes | None:
    """A profile for the code points of H.273, as cICP of PNG and nclx of HEIF hold them."""
    if transfer in HDR:
        log.warning("%s: high dynamic range (%s) is not tone-mapped, its brightness is wrong", name, HDR[transfer])
    if primaries not in PRIMARIES and primaries != 2:
        log.warning("%s: its colour primaries (code %d) are not known, its colours are taken as sRGB", name, primaries)
    if primaries in (1, 2) and transfer not in GAMMAS:
        return None
    return matrix_profile(PRIMARIES.get(primaries, PRIMARIES[1]), GAMMAS.get(transfer))


def _is_adobe_rgb(picture: Image.Image) -> bool:
    try:
        return str(picture.getexif().get_ifd(INTEROP).get(INTEROP_INDEX, "")).startswith("R03")
    except UNREADABLE:  # odd EXIF
        return False


def _cicp(file: io.BufferedIOBase | IO[bytes]) -> tuple[int, int] | None:
    """Primaries and transfer of a PNG's cICP chunk, which stands before its pixels; None where there is none."""
    before = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP":
                code = file.read(2)
                return (code[0], code[1]) if len(code) == 2 else None
            file.seek(length + 4, io.SEEK_CUR)
        return None
    finally:
        file.seek(before)


@functools.lru_cache(maxsize=16)
def matrix_profile(chromaticities: tuple[float, ...], gamma: float | None) -> bytes:
    """An ICC profile of an RGB space.

    Args:
        chromaticities: xy of white, red, green and blue.
        gamma: exponent of its transfer curve; None for the curve of sRGB.

    Source: ICC.1:2001-04, sections 6.3.1.2 and 6.5.3; Bradford adaptation to D50 as in its annex E.
    """
    xy = np.reshape(np.asarray(chromaticities, float), (4, 2))
    xyz = np.column_stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]]).T
    columns = xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    scale = np.diag((bradford @ d50) / (bradford @ xyz[:, 0]))
    columns = np.linalg.solve(bradford, scale @ bradford @ columns)
    if gamma is None:
        x = np.linspace(0, 1, 1024)
        linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        curve = struct.pack(">4s4xI", b"curv", len(x)) + np.rint(linear * 65535).astype(">u2").tobytes()
    else:
        curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    text = b"RGB\0"
    tags = {
        b"desc": struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78),
        b"cprt": struct.pack(">4s4x", b"text") + b"CC0\0",
        b"wtpt": _point(d50),
        **{name: _point(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12x4s4x12xI3i", start + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp", 0,
        *(round(v * 65536) for v in d50),
    )  # fmt: skip
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _point(xyz: np.ndarray) -> bytes:
    """A tag of type XYZ."""
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in xyz))
