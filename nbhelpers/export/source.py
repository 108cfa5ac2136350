"""The original pictures at their full depth, with the metadata that is worth carrying on."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped

from nbhelpers.core.matting import Mattes
from nbhelpers.core.orientation import ORIENTATION
from nbhelpers.core.profiles import is_srgb

SAMPLE = 7  # every so many rows and columns of a 16 bit picture are compared with the frame
log = logging.getLogger(__name__)


def depth_of(paths: Sequence[Path] | None, index: int) -> int:
    """8 or 16: bits a channel of a frame's file; 8 where frames are no files."""
    if paths is None or (path := paths[index]).suffix.lower() not in (".png", ".tif", ".tiff"):
        return 8
    from PIL import Image

    try:
        if path.suffix.lower() == ".png":
            with path.open("rb") as file:
                return 16 if struct.unpack(">24xB", file.read(25))[0] == 16 else 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                return 16 if max(picture.tag_v2.get(258, (8,))) == 16 else 8
    except (OSError, SyntaxError, ValueError, struct.error):
        return 8  # whoever decodes the frame names what is wrong with it


def read_source(mattes: Mattes, index: int, bits: int) -> Shaped[np.ndarray, "h w 3"]:
    """Frame ``index`` as RGB of that depth.

    A 16 bit original is read at its own depth if that shows the same picture as the frame; else, as when the frame
    was scaled to the clip's size, and from 8 bit originals, 8 bit are spread over 16.

    Args:
        mattes: of the clip.
        index: of the frame.
        bits: 8 or 16.
    """
    frame = mattes.image(index)
    if bits == 8:
        return frame
    if depth_of(mattes.paths, index) == 16:
        path = mattes.paths[index]
        deep = _upright(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
        if deep is not None and deep.shape == frame.shape:
            rest = np.abs((deep[::SAMPLE, ::SAMPLE] >> 8).astype(np.int16) - frame[::SAMPLE, ::SAMPLE])
            if rest.max() <= 1:
                return deep
        log.warning("%s: its 16 bits cannot be used with the frame as it is shown; 8 are taken", path)
    return frame.astype(np.uint16) * 257


def metadata_of(paths: Sequence[Path] | None, index: int) -> dict[str, bytes]:
    """EXIF (focal length, camera) and colour profile of a frame's file, as `encode_png` takes them.

    Frames are sRGB: the profile of a file with other colours no longer holds, and is left out.
    """
    if paths is None:
        return {}
    path = paths[index]
    from PIL import Image

    found: dict[str, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF is left out below
        try:
            with Image.open(path) as picture:
                icc = picture.info.get("icc_profile")
                if icc and picture.mode == "RGB" and is_srgb(icc):
                    found["icc"] = icc
                if picture.format in ("JPEG", "MPO", "PNG", "WEBP", "HEIF"):
                    exif = picture.getexif()
                    if exif:
                        exif.pop(ORIENTATION, None)  # frames come upright, so it no longer holds
                        found["exif"] = exif.tobytes().removeprefix(b"Exif\0\0")
        except Exception as error:  # PIL raises what comes on broken EXIF, and the pictures are whole without it
            log.debug("%s: its metadata is left out: %s", path, error)
    return found


def orientation_tag(orientation: int) -> bytes:
    """EXIF that says nothing but an orientation, as `encode_png` takes it."""
    from PIL import Image

    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _upright(picture: np.ndarray | None) -> np.ndarray | None:
    """What OpenCV decoded as 16 bit RGB, transparency laid over white; None if it is something else."""
    if picture is None or picture.dtype != np.uint16:
        return None
    if picture.ndim == 2:
        return np.repeat(picture[:, :, None], 3, axis=2)
    if picture.shape[2] == 4:
        alpha = picture[:, :, 3:].astype(np.uint64)
        over = (picture[:, :, :3] * alpha + 65535 * (65535 - alpha) + 32767) // 65535
        picture = over.astype(np.uint16)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
