"""Pictures in and out: whatever a camera, a scanner or an artist made becomes ``(H, W, 3) uint8`` RGB.

EXIF orientation is data too: pixels here are upright, while COLMAP, nerfstudio and others read them as they are stored.
Everything turns by one function a kind of value, from stored to upright; with ``INVERSE[orientation]`` and the upright
size it turns back.

Example:
    >>> orientation = orientation_of("portrait.jpg")                      # 6: stored lying on its side
    >>> stored_mask = turn(mask, INVERSE[orientation])                    # as COLMAP reads the photo
    >>> upright_xy = turn_points(stored_xy, orientation, stored_size)     # what COLMAP found, in our pixels
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import shlex
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, check_local, matches, natural_path_key, outputs_dir, replacing
from nbhelpers.core.profiles import UNREADABLE, to_srgb

if TYPE_CHECKING:
    from PIL import Image

BYTES_PER_PIXEL = 12  # decoded, rotated and converted copies that exist at one time while loading
TURNS = (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90",
)  # fmt: skip
READABLE = "a JPEG, PNG, HEIC, TIFF, WebP, AVIF, BMP or GIF"
WANTED = "a file, (H, W, 3) uint8 array, PIL image, bytes, open binary file, or (C, H, W) uint8 tensor"
DARK = 4095  # largest value of 12 bits; a 16 bit picture that stays below is nearly black
WEB = re.compile(r"(https?|ftp|s3|gs):/+(?P<rest>.+)", re.IGNORECASE)
ROWS = 512  # rows blended at a time
ORIENTATION = 0x0112  # EXIF and TIFF tag
UPRIGHT = 1
SHAPE_SLACK = 1.0  # pixels by which a picture made smaller may miss its shape
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
MIRRORED = (2, 4, 5, 7)
# which way the axes go: upright (x, y) = AXES @ stored (x, y), then shifted so that the first pixel is at (0, 0) again
AXES = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, 1), (-1, 0)),
}
log = logging.getLogger(__name__)


def load_image(source: Any, *, max_value: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture, or check an array, as RGB.

    Example:
        >>> load_image("photo.heic").shape
        (480, 640, 3)
        >>> load_image("microscope.tif", max_value=4095).max()     # 12 bits in a file of 16
        255

    EXIF rotation is applied, and colours of any ICC profile become sRGB. Grey becomes RGB, CMYK is converted, 16 bit
    becomes 8 (the high byte), transparency is laid over white, of an animation the first frame is taken.

    Args:
        source: a file, ``bytes``, an open binary file, a ``PIL.Image``; an array ``(H, W)``, ``(H, W, 1)``,
            ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, uint16 or bool; a torch tensor ``(H, W)`` or ``(C, H, W)`` of
            these. A float array is refused without ``max_value``: its range cannot be known.
        max_value: the value that becomes 255, of 10 or 12 bits in a file of 16, or of floats.

    Raises:
        NbHelpersError: missing, empty, truncated or unknown file; more pixels than memory; wrong array.
    """
    if max_value is not None and not 0 < max_value < float("inf"):
        raise NbHelpersError("max_value is not a positive number", given=max_value)
    with opened(source) as (picture, file, name):
        if isinstance(picture, np.ndarray):
            return _from_array(picture, max_value, name)
        check_memory(picture.size, name)
        if picture.mode.startswith("I;16"):
            deep = np.asarray(upright(picture)).astype(np.uint16)
            grey = _image(np.ascontiguousarray(_eight_bit(deep, max_value, name)), picture)
            return _rgb(to_srgb(grey, file, name))
        picture = _deep(picture, file, max_value, name)
        picture = upright(picture)
        if picture.mode in ("F", "I"):
            if max_value is None:
                raise NbHelpersError(
                    "the picture's values have no known range",
                    given=f"{name} ({picture.mode}, {picture.size[0]} x {picture.size[1]})",
                    expected="8 or 16 bits a channel",
                    do="load_image(..., max_value=1.0), with the value that is white",
                )
            return _from_array(np.asarray(picture), max_value, name)
        return _rgb(to_srgb(_plain(picture), file, name))


def image_size(source: Any) -> tuple[int, int]:
    """``(H, W)`` that `load_image` would give, from the file's header, without decoding the pixels where possible.

    Args:
        source: as for `load_image`.

    Raises:
        NbHelpersError: missing, empty or unknown file; wrong array.
    """
    with opened(source) as (picture, _, name):
        if isinstance(picture, np.ndarray):
            height, width = _checked(picture, name).shape[:2]
            return height, width
        width, height = picture.size
        return (width, height) if is_quarter(orientation(picture)) else (height, width)


@contextlib.contextmanager
def opened(source: Any) -> Iterator[tuple[Image.Image | np.ndarray, io.BufferedIOBase | IO[bytes] | None, str]]:
    """Anything that may be a picture, as a PIL image or an array; one clear error for all that goes wrong.

    Args:
        source: as for `load_image`.

    Yields:
        the picture, not decoded yet; the open file, if there is one; and how to call it in messages.

    Raises:
        NbHelpersError: as `load_image`, here or while the block decodes the picture.
    """
    array = _array_of(source)
    if array is not None:
        yield array, None, f"shape {array.shape}, {array.dtype}"
        return
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        try:
            source.load()
        except UNREADABLE as error:
            raise NbHelpersError("the PIL image cannot be read", given=f"{source}: {error}") from error
        copy = source.copy()  # colours are converted in place below
        copy.format = source.format
        yield copy, None, f"PIL image of mode {source.mode}"
        return
    name = str(source) if isinstance(source, (str, os.PathLike)) else f"{type(source).__name__}"
    try:
        with _file(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL warns of (large, odd EXIF) is checked or handled below
            head = file.read(12)
            file.seek(0)
            if not head:
                raise NbHelpersError("the picture file is empty", given=name, do="copy it again from its source")
            if head[4:8] == b"ftyp":
                _register_heif()
            with Image.open(cast(IO[bytes], file)) as picture:
                yield picture, file, name
    except Image.DecompressionBombError as error:
        raise NbHelpersError(
            "the picture has too many pixels", given=name, expected=str(error), do="make a smaller copy"
        ) from error
    except (UnidentifiedImageError, *UNREADABLE) as error:
        raise NbHelpersError(
            "the picture cannot be read; it may be cut off", given=f"{name}: {error}", expected=READABLE
        ) from error


def orientation(picture: Image.Image) -> int:
    """How a picture that was opened is to be turned, 1 to 8 as in EXIF; 1 where that is unknown or done already."""
    if picture.format == "TIFF":  # Pillow rotates these itself and reports the rotated size
        return 1
    try:
        code = picture.getexif().get(ORIENTATION, 1)
    except UNREADABLE:  # odd EXIF
        return 1
    return code if isinstance(code, int) and 1 <= code <= 8 else 1


def upright(picture: Image.Image) -> Image.Image:
    """A picture, decoded and turned as its EXIF orientation says."""
    from PIL import Image

    code = orientation(picture)
    picture.load()
    if code == 1:
        return picture
    turned = picture.transpose(getattr(Image.Transpose, TURNS[code - 2]))
    turned.format = picture.format
    return turned


def _register_heif() -> None:
    """Teach Pillow to read HEIC and HEIF, once; the import takes a moment, so only when a file needs it."""
    from PIL import Image

    if "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _array_of(source: Any) -> np.ndarray | None:
    """A NumPy array or torch tensor as an array with channels last; None for anything else."""
    if isinstance(source, np.ndarray):
        return source
    if not any(
        kind.__module__.partition(".")[0] == "torch" and kind.__name__ == "Tensor" for kind in type(source).mro()
    ):
        return None
    try:
        array = source.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, meta
        raise NbHelpersError("the tensor is not an image", given=str(error), expected="(C, H, W) uint8, RGB") from error
    if array.ndim == 3 and array.shape[0] not in (1, 3, 4):
        raise NbHelpersError(
            "the tensor is not an image",
            given=f"shape {array.shape}, {array.dtype}",
            expected="(C, H, W) uint8, RGB, C first",
            do="tensor.permute(2, 0, 1)" if array.shape[2] in (1, 3, 4) else None,
        )
    return np.moveaxis(array, 0, 2) if array.ndim == 3 else array


def _file(source: Any) -> io.BufferedIOBase | IO[bytes]:
    """A path, bytes or a binary file as a file that can be closed.

    Raises:
        NbHelpersError: a web address, a folder, a missing file, one that may not be read; anything else.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        if address := WEB.match(str(source)):
            address = re.sub(r":/+", "://", str(source), count=1)  # a Path makes one slash of two
            raise NbHelpersError(
                "a picture on the web has to be downloaded first",
                given=address,
                do=f"curl -L -O {shlex.quote(address)}",
            )
        path = Path(source).expanduser()
        try:
            if path.is_dir():
                raise NbHelpersError("this is a folder, not a picture", given=source, do="name a picture in it")
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise NbHelpersError("there is no such picture", given=source) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NbHelpersError("the picture file cannot be opened", given=f"{str(source)[:200]}: {reason}") from error
    try:
        if source.seekable():
            source.seek(0)
        return io.BytesIO(source.read())
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise NbHelpersError("this is not a picture", given=type(source).__name__, expected=WANTED) from error


def _deep(
    picture: Image.Image, file: io.BufferedIOBase | IO[bytes] | None, max_value: float | None, name: str
) -> Image.Image:
    """Colours of 16 bits as 8, of which Pillow would silently take the high byte; anything else unchanged."""
    is_deep = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))
    if picture.format == "TIFF" and (pages := getattr(picture, "n_frames", 1)) > 1:
        log.warning("%s: the file holds %d pictures, the first is taken", name, pages)
    picture.load()
    if file is None or not is_deep or picture.mode not in ("RGB", "RGBA", "LA"):
        return _scaled(picture, max_value)
    extrema = np.reshape(picture.getextrema(), (-1, 2))[: 1 if picture.mode == "LA" else 3]
    if max_value is None and extrema.max() > DARK >> 8:
        return picture
    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] not in (picture.size, picture.size[::-1]):
        return _scaled(picture, None if max_value is None else max_value / 257)
    channels = [2, 1, 0] if values.ndim == 3 else [0, 0, 0]
    values = np.atleast_3d(values)
    rgb = _eight_bit(np.ascontiguousarray(values[:, :, channels]), max_value, name)
    if picture.mode != "RGB" and values.shape[2] == 4:
        rgb = np.dstack([rgb, (values[:, :, 3].astype(np.uint16) >> 8).astype(np.uint8)])
    return _image(rgb, picture)


def _scaled(picture: Image.Image, max_value: float | None) -> Image.Image:
    """Values of 8 bits times 255 / ``max_value``; alpha unchanged."""
    if max_value is None or picture.mode in ("F", "I"):
        return picture
    bands = _plain(picture)
    table = np.clip(np.rint(np.arange(256) * (255 / max_value)), 0, 255).astype(int).tolist()
    same = list(range(256))
    return bands.point([v for band in bands.getbands() for v in (same if band == "A" else table)])


def _image(pixels: np.ndarray, like: Image.Image) -> Image.Image:
    """Pixels as a PIL image with the metadata of another."""
    from PIL import Image

    out = Image.fromarray(pixels)
    out.format, out.info = like.format, dict(like.info)
    return out


def _plain(picture: Image.Image) -> Image.Image:
    """The picture in mode L, RGB, RGBA or CMYK."""
    if picture.mode in ("RGB", "RGBA", "L", "CMYK") and not (
        picture.mode in ("RGB", "L") and picture.has_transparency_data
    ):
        return picture
    about = picture.format
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.has_transparency_data:
        plain = picture.convert("RGBA")
    else:
        plain = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    plain.format = about
    return plain


def _rgb(picture: Image.Image) -> np.ndarray:
    """A picture of mode L, RGB, RGBA, CMYK as RGB on white."""
    if picture.mode == "RGBA":
        return _over_white(np.asarray(picture))
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def save_image(path: str | Path, image: UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w"]) -> Path:
    """Write RGB, RGBA or grey ``uint8`` to ``path`` (format by suffix), whole or not at all; return the path."""
    from PIL import Image

    with replacing(path) as temporary:
        try:
            options: dict[str, Any] = {"quality": 95} if temporary.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
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


def rgb_to_lab(colors: UInt8[np.ndarray, "*n 3"]) -> Float32[np.ndarray, "*n 3"]:
    """CIELAB of RGB colours, L* from 0 to 100: distances are about those that people see."""
    plane = np.ascontiguousarray(colors, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(plane, cv2.COLOR_RGB2LAB).reshape(colors.shape) if plane.size else np.zeros_like(plane[0])


def _from_array(array: np.ndarray, max_value: float | None, name: str) -> np.ndarray:
    array = _checked(array, name, max_value)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8 or max_value is not None:
        colours = _eight_bit(array[:, :, :3] if array.ndim == 3 else array, max_value, name)
        alpha = array[:, :, 3:] if array.ndim == 3 else array[:0]
        array = np.dstack([colours, _eight_bit(alpha, _full(array), name)]) if alpha.size else colours
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return _over_white(array) if array.shape[2] == 4 else np.ascontiguousarray(array)


def _checked(array: np.ndarray, name: str, max_value: float | None = None) -> np.ndarray:
    """The array itself, if it can be taken as an image."""
    kinds = (np.uint8, np.uint16, np.bool_) if max_value is None else (np.integer, np.floating, np.bool_)
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not any(np.issubdtype(array.dtype, kind) for kind in kinds) or not shape_fits or array.size == 0:
        floats = np.issubdtype(array.dtype, np.number) and shape_fits
        raise NbHelpersError(
            "the array is not an image",
            given=name,
            expected="(H, W, 3) uint8, RGB, 0 to 255",
            do="load_image(..., max_value=1.0), with the value that is white" if floats else None,
        )
    return array


def _eight_bit(values: np.ndarray, max_value: float | None, name: str) -> np.ndarray:
    """Values of any range as uint8: of 16 bits the high byte, or scaled so that ``max_value`` becomes 255."""
    if max_value is not None:
        if not np.isfinite(values).all():
            raise NbHelpersError(
                "the picture holds values that are no numbers", given=name, do="mend it with nan_to_num"
            )
        return np.clip(np.rint(values * np.float32(255 / max_value)), 0, 255).astype(np.uint8)
    largest = int(values.max(initial=0))
    if 0 < largest <= DARK:
        log.warning(
            "%s: of 16 bits, the largest value is %d, so the picture is nearly black; if it holds %d bits: "
            "load_image(..., max_value=%d)",
            name, largest, max(largest.bit_length(), 8), (1 << max(largest.bit_length(), 8)) - 1,
        )  # fmt: skip
    return (values >> 8).astype(np.uint8)


def _full(array: np.ndarray) -> float:
    """The opaque value of an alpha channel of this type."""
    return float(np.iinfo(array.dtype).max) if np.issubdtype(array.dtype, np.integer) else 1.0


def _over_white(rgba: np.ndarray) -> np.ndarray:
    out = np.empty((*rgba.shape[:2], 3), np.uint8)
    alpha = rgba[:, :, 3].astype(np.uint16)
    for channel in range(3):  # one channel at a time: a large photo must not be held in 16 bit thrice
        out[:, :, channel] = (rgba[:, :, channel] * alpha + 255 * (255 - alpha) + 127) // 255
    return out


def check_memory(size: tuple[int, int], name: str) -> None:
    """Refuse a picture of ``size`` ``(W, H)`` that would not fit into the free memory while it is loaded."""
    needed = size[0] * size[1] * BYTES_PER_PIXEL
    free = free_memory()
    if free is not None and needed > free:
        raise NbHelpersError(
            "the picture has more pixels than this machine's free memory holds",
            given=f"{name}: {size[0]} x {size[1]}, about {needed / 1e9:.1f} GB to open",
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


def fit_square(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], side: int
) -> tuple[UInt8[np.ndarray, "side side 3"], Bool[np.ndarray, "side side"], tuple[int, int]]:
    """A picture of any size as a network that works on squares wants it: scaled, then continued by reflection.

    Returns:
        the picture, the mask (whatever it touched stays covered; the reflection is covered where it shows the hole)
        and the ``(height, width)`` of the part at the top left that shows the picture, for `unfit_square`.
    """
    scale = side / max(image.shape[:2])
    height, width = (min(side, max(1, round(length * scale))) for length in image.shape[:2])
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = image if scale == 1 else cv2.resize(image, (width, height), interpolation=kernel)
    # by the same kernel as the picture: no pixel that the hole's content bled into counts as known
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=kernel)
    edges = ((0, side - height), (0, side - width))
    return (
        np.pad(small, (*edges, (0, 0)), "symmetric"),
        np.pad(np.abs(share) > 1e-6, edges, "symmetric"),
        (height, width),
    )


def unfit_square(
    square: UInt8[np.ndarray, "side side 3"], inside: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of ``size`` ``(H, W)`` out of what a network made of a `fit_square`."""
    part = square[: inside[0], : inside[1]]
    if inside == size:
        return np.ascontiguousarray(part)
    kernel = cv2.INTER_AREA if size[0] < inside[0] else cv2.INTER_CUBIC
    return cv2.resize(part, size[::-1], interpolation=kernel)


def paste(
    target: UInt8[np.ndarray, "h w 3"],
    fill: UInt8[np.ndarray, "h w 3"],
    opacity: Float32[np.ndarray, "h w"],
    shift: Float32[np.ndarray, "sh sw 3"] | None = None,
) -> None:
    """Lay a fill over ``target``, in place; pixels of opacity 0 are not written, so they stay as they are.

    Args:
        target: changed in place; may be a view of a photo.
        fill: what is laid over.
        opacity: 0 to 1.
        shift: added to the fill, scaled up to its size; see `colour_shift`.
    """
    height, width = opacity.shape
    for top in range(0, height, ROWS):  # in strips: three float copies of a large crop would fill the memory
        rows = slice(top, min(top + ROWS, height))
        touched = opacity[rows] > 0
        if not touched.any():
            continue
        new = fill[rows].astype(np.float32)
        if shift is not None:
            new += _strip(shift, (height, width), rows)
        weight = opacity[rows][touched][:, None]
        mixed = weight * new[touched] + (1 - weight) * target[rows][touched]
        target[rows][touched] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _strip(shift: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
    """Some rows of ``shift``, enlarged to ``size``; half-pixel centres."""
    if shift.shape[:2] == size:
        return shift[rows]
    sx, sy = shift.shape[1] / size[1], shift.shape[0] / size[0]
    inverse = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, (rows.start + 0.5) * sy - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = (size[1], rows.stop - rows.start)
    return cv2.warpAffine(shift, inverse, enlarged, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of a picture file, 1 to 8: what `nbhelpers.core.images.load_image` applies.

    1 (upright) also where the file has no tag, or one of another value, which image programs pass over. Pixels are
    not decoded, except of a PNG with metadata behind its pixels.

    Raises:
        NbHelpersError: the file cannot be read.

    Source: EXIF 2.32, tag 0x0112 "Orientation".
    """
    return _header(Path(path))[0]


def stored_size(path: str | Path) -> tuple[int, int]:
    """``(H, W)`` of a picture file as stored, without its EXIF orientation.

    Raises:
        NbHelpersError: the file cannot be read.
    """
    return _header(Path(path))[1]


def _header(path: Path) -> tuple[int, tuple[int, int]]:
    from PIL import Image

    with opened(path) as (picture, _, _):
        assert not isinstance(picture, np.ndarray)  # a file is none
        width, height = picture.size
        try:
            if picture.format == "PNG" and not _metadata_behind_pixels(path):
                found = Image.Image.getexif(picture).get(ORIENTATION, UPRIGHT)  # PNG's own decodes the pixels
            else:
                found = picture.getexif().get(ORIENTATION, UPRIGHT)
        except UNREADABLE:  # odd EXIF
            found = UPRIGHT
        if picture.format == "TIFF":  # whose size PIL gives after turning
            tags = picture.tag_v2  # pyright: ignore[reportAttributeAccessIssue] - a TiffImageFile has them
            width, height = tags[256], tags[257]
    return found if found in AXES else UPRIGHT, (height, width)


def _metadata_behind_pixels(path: Path) -> bool:
    """Whether a PNG has chunks other than pixels after its first pixels; only their headers are read."""
    with path.open("rb") as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind not in (b"IDAT", b"IEND"):
                return True
            pixels = pixels or kind == b"IDAT"
            file.seek(length + 4, 1)
    return False


def photos(
    source: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], folder: str | Path | None = None
) -> list[Path]:
    """The files of some photos, in natural order, or in that of a list.

    Example:
        >>> photos("trip/**/*.jpg")
        [PosixPath('trip/1.jpg'), PosixPath('trip/2/1.jpg')]

    Args:
        source: a picture, a folder of pictures, a glob, a numbered name (see `matches`), an array ``(n, H, W, c)``,
            or a list of any of these and of arrays ``(H, W, c)``. A name in a list that nothing is there for stays in
            it: the reader of the photos reports it and continues.
        folder: where arrays are written as PNG, named by their content; by default ``outputs/photos``.

    Raises:
        NbHelpersError: nothing is there, or an array that is not an image.
    """
    if not isinstance(source, (str, Path)):
        if not len(source):
            raise NbHelpersError("there are no photos", expected="at least one")
        return [path for each in source for path in _listed(each, folder)]
    check_local(source)
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    listed = (
        (each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else matches(path)
    )
    found = [each for each in listed if not each.name.startswith(".")]
    if not found:
        raise NbHelpersError(
            "there is no such picture", given=source, expected="a picture, a folder with pictures, or a glob"
        )
    return sorted(found, key=natural_path_key)


def _listed(source: Any, folder: str | Path | None) -> list[Path]:
    """The files of one entry of a list."""
    if not isinstance(source, (str, Path)):
        return [_written(source, folder)]
    check_local(source)
    path = Path(source).expanduser()
    return [path] if path.is_file() or not (path.is_dir() or matches(path)) else photos(path)


def _written(array: np.ndarray, folder: str | Path | None) -> Path:
    """The PNG file of an array, written if it is not there."""
    image = load_image(np.asarray(array))
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]
    path = Path(outputs_dir("photos") if folder is None else folder) / f"array-{digest}.png"
    return path if path.exists() else save_image(path, image)


def is_quarter(orientation: int) -> bool:
    """Whether height and width change places."""
    return orientation in (5, 6, 7, 8)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """``(H, W)`` after turning; the same forwards and back."""
    height, width = (int(side) for side in size)
    return (width, height) if is_quarter(orientation) else (height, width)


def same_shape(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> bool:
    """Whether two ``(H, W)`` may be of one picture made smaller or larger, to a pixel."""
    (height, width), (other_height, other_width) = ([int(side) for side in size] for size in (first, second))
    across, down = other_width / width, other_height / height
    return abs(across * height - other_height) <= SHAPE_SLACK or abs(down * width - other_width) <= SHAPE_SLACK


def turn(picture: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """An array of pixels, from stored to upright; a view where that will do, as of `numpy.flip`."""
    (xx, xy), (yx, yy) = AXES[_known_orientation(orientation)]
    out = picture.swapaxes(0, 1) if is_quarter(orientation) else picture
    return out[:: -1 if yx + yy < 0 else 1, :: -1 if xx + xy < 0 else 1]


def turn_points(points: Float[np.ndarray, "n 2"], orientation: int, size: tuple[int, int]) -> Float[np.ndarray, "n 2"]:
    """Pixel coordinates ``(x, y)``, from stored to upright; ``(0, 0)`` is the centre of the top-left pixel.

    Args:
        points: pixels of the stored picture.
        orientation: of the file.
        size: ``(H, W)`` of the stored picture.
    """
    axes, shift = _motion(orientation, size)
    return np.asarray(points, float) @ axes.T + shift


def turn_camera(
    K: Float[np.ndarray, "3 3"],  # noqa: N803 - the field's own name
    world_to_camera: Float[np.ndarray, "3 4"],
    distortion: Float[np.ndarray, " c"] | None,
    orientation: int,
    size: tuple[int, int],
    name: str = "",
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 4"], Float[np.ndarray, " c"] | None]:
    """A camera of the stored picture as a camera of the upright one; the world is unchanged.

    With ``A`` the motion of pixels and ``Q`` that of the axes alone, ``A K [R t] = (A K Q') (Q [R t])``, and ``A K Q'``
    is again an intrinsic matrix. OpenCV's tangential coefficients ``(p2, p1)`` turn as a vector does.

    Args:
        K: intrinsics in pixels.
        world_to_camera: the pose.
        distortion: 2, 4 or 5 coefficients in the order of OpenCV, or None.
        orientation: of the file.
        size: ``(H, W)`` of the stored picture.
        name: of the photo, for the error.

    Raises:
        NbHelpersError: a mirrored picture: no camera in the same world sees it.
    """
    if _known_orientation(orientation) in MIRRORED:
        raise NbHelpersError(
            "a photo is stored mirrored, and a mirrored photo has no camera in the same world",
            given=f"{name or 'a photo'}: EXIF orientation {orientation}",
            expected="1, 3, 6 or 8",
            do="save the photos upright, without the EXIF entry, and find or write their cameras again",
        )
    axes, shift = _motion(orientation, size)
    pixels, space = np.eye(3), np.eye(3)
    pixels[:2, :2], pixels[:2, 2] = axes, shift
    space[:2, :2] = axes
    if distortion is not None and len(distortion) > 2:
        distortion = np.array(distortion, float)
        distortion[[3, 2]] = axes @ distortion[[3, 2]]
    return pixels @ K @ space.T, space @ world_to_camera, distortion


def _known_orientation(orientation: int) -> int:
    if orientation not in AXES:
        raise NbHelpersError("there is no such EXIF orientation", given=orientation, expected="1 to 8")
    return orientation


def _motion(orientation: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    axes = np.array(AXES[_known_orientation(orientation)], float)
    last = np.array([size[1] - 1, size[0] - 1], float)
    return axes, -np.minimum(axes * last, 0).sum(1)
