"""Pictures in and out: whatever a camera, a scanner or an artist made becomes ``(H, W, 3) uint8`` RGB."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing

BYTES_PER_PIXEL = 12  # decoded, rotated and converted copies that exist at one time while loading
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap width and height
READABLE = "a JPEG, PNG, TIFF, WebP, BMP or GIF"


def load_image(source: str | Path | Shaped[np.ndarray, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture, or check an array, as RGB.

    Example:
        >>> load_image("photo.jpg").shape
        (480, 640, 3)

    EXIF rotation is applied. Grey becomes RGB, CMYK is converted, 16 bit becomes 8 (the high byte), transparency
    is laid over white, of an animation the first frame is taken.

    Args:
        source: a file, or an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, uint16
            or bool. A float array is refused: its range cannot be known.

    Raises:
        NbHelpersError: missing, empty, truncated or unknown file; more pixels than memory; wrong array.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(source)
    if path.is_file() and path.stat().st_size == 0:
        raise NbHelpersError("the picture file is empty", given=path, do="copy it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL warns of (large, odd EXIF) is checked or handled below
            with Image.open(path) as picture:
                _check_memory(picture.size, path)
                if picture.mode.startswith("I;16"):
                    array = np.asarray(ImageOps.exif_transpose(picture))
                    return _from_array(array.astype(np.uint16))
                picture.load()
                ImageOps.exif_transpose(picture, in_place=True)  # no second copy of what may be 160 MB
                if picture.mode in ("F", "I"):
                    raise NbHelpersError(
                        "the picture's values have no known range",
                        given=f"{path} ({picture.mode}, {picture.size[0]} x {picture.size[1]})",
                        expected="8 or 16 bits a channel",
                    )
                if picture.has_transparency_data:
                    return _over_white(np.asarray(picture.convert("RGBA")))
                return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except FileNotFoundError:
        raise NbHelpersError("there is no such picture", given=path) from None
    except Image.DecompressionBombError as error:
        raise NbHelpersError(
            "the picture has too many pixels", given=path, expected=str(error), do="make a smaller copy"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise NbHelpersError(
            "the picture cannot be read; it may be cut off", given=f"{path}: {error}", expected=READABLE
        ) from error


def image_size(path: str | Path) -> tuple[int, int]:
    """``(H, W)`` that `load_image` would give, from the file's header, without decoding the pixels where possible.

    Raises:
        NbHelpersError: missing, empty or unknown file.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                turned = picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                return picture.size if turned else picture.size[::-1]
    except Exception as error:  # PIL raises what comes: OSError, SyntaxError, ValueError, struct.error
        raise NbHelpersError("the picture cannot be read", given=f"{path}: {error}", expected=READABLE) from error


def save_image(path: str | Path, image: UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w"]) -> Path:
    """Write RGB, RGBA or grey ``uint8`` to ``path`` (format by suffix), whole or not at all; return the path."""
    from PIL import Image

    with replacing(path) as temporary:
        try:
            options = {"quality": 95} if temporary.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
            Image.fromarray(image).save(temporary, **options)
        except ValueError as error:
            raise NbHelpersError(
                "the picture cannot be written in this format", given=path, expected=READABLE
            ) from error
    return Path(path)


def fit(image: UInt8[np.ndarray, "h w 3"], longest: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image, made smaller by area averaging if its longer side exceeds ``longest`` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _from_array(array: np.ndarray) -> np.ndarray:
    given = f"shape {array.shape}, {array.dtype}"
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits or array.size == 0:
        raise NbHelpersError("the array is not an image", given=given, expected="(H, W, 3) uint8, RGB, 0 to 255")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return _over_white(array) if array.shape[2] == 4 else np.ascontiguousarray(array)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    out = np.empty((*rgba.shape[:2], 3), np.uint8)
    alpha = rgba[:, :, 3].astype(np.uint16)
    for channel in range(3):  # one channel at a time: a large photo must not be held in 16 bit thrice
        out[:, :, channel] = (rgba[:, :, channel] * alpha + 255 * (255 - alpha) + 127) // 255
    return out


def _check_memory(size: tuple[int, int], path: Path) -> None:
    needed = size[0] * size[1] * BYTES_PER_PIXEL
    free = free_memory()
    if free is not None and needed > free:
        raise NbHelpersError(
            "the picture has more pixels than this machine's free memory holds",
            given=f"{path}: {size[0]} x {size[1]}, about {needed / 1e9:.1f} GB to open",
            expected=f"at most {free / 1e9:.1f} GB",
            do="make a smaller copy, or close other programs",
        )


def free_memory() -> int | None:
    """Bytes of memory that can be had now, or None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (ValueError, OSError, AttributeError):
            return None
