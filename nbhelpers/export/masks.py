"""Masks, mattes and cut-outs as files: PNG, RGBA with straight or premultiplied alpha, COCO.

COCO: https://cocodataset.org/#format-data, "Object Detection", with run-length encoded segmentations.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import file_stem, own_name, write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import box_of, encode_rle
from nbhelpers.core.mattes import Mattes, full_of
from nbhelpers.export.manifest import Manifest

MASK_FORMATS = ("masks", "cutouts")
"""What `save_masks` writes beside the COCO file."""
REACH = 64  # pixels around the matte with colours of the nearby edge; beyond, one colour, which makes files small
SOLID = 0.9  # opacity from which a pixel shows the object alone
STRIP = 1024  # rows that are mixed at a time
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # channels -> grey, RGB, RGBA
STRIP_BYTES = 4 << 20
NONE, SUB = 0, 1  # filters
LEVEL = 1  # of deflate; higher levels take many times as long to save a tenth of the size
ADLER = 65521

Picture = Shaped[np.ndarray, "h w 3"]


def cutout(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mask_h mask_w"], margin: int | None = 16
) -> UInt8[np.ndarray, "h w 4"]:
    """The photo with straight (not premultiplied) alpha: 255 inside the mask, 0 outside.

    Example:
        >>> cutout(image, mask).shape
        (480, 640, 4)

    Args:
        image: RGB.
        mask: of the object.
        margin: pixels around the mask whose colours are kept, so that scaling or feathering the cut-out causes no dark
            fringe; colours beyond are 0, which compresses well. None keeps all.

    Raises:
        NbHelpersError: image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise NbHelpersError("the mask and the image differ in size", given=mask.shape, expected=str(image.shape[:2]))
    inside = mask.astype(np.uint8)
    out = np.empty((*mask.shape, 4), np.uint8)
    out[:, :, :3] = image
    out[:, :, 3] = inside * 255
    if margin is not None:
        out[:, :, :3] *= cv2.dilate(inside, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))[:, :, None]
    return out


def save_mask(path: str | Path, mask: Bool[np.ndarray, "h w"]) -> Path:
    """Write a mask as a greyscale PNG, 255 inside and 0 outside; return the path."""
    return save_image(_png(path), mask.astype(np.uint8) * 255)


def save_cutout(path: str | Path, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mask_h mask_w"]) -> Path:
    """Write a `cutout` as an RGBA PNG; return the path."""
    return save_image(_png(path), cutout(image, mask))


def _png(path: str | Path) -> Path:
    """The path, if it ends in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise NbHelpersError("masks and cut-outs need a lossless format", given=path, expected="a name in .png")
    return path


def straight_rgba(image: Picture, alpha: Shaped[np.ndarray, "h w"], reach: int = REACH) -> Shaped[np.ndarray, "h w 4"]:
    """The image with straight (unpremultiplied) alpha and colours extended outward.

    Opaque pixels keep their colours exactly. Transparent pixels get those of the nearby object, and partly transparent
    pixels a mixture, since they show the background too, which would remain as a halo.

    Example:
        >>> straight_rgba(image, make_matte(mask, settings)).shape
        (480, 640, 4)

    Args:
        image: RGB, ``uint8`` or ``uint16``.
        alpha: matte of the same size and type.
        reach: pixels over which colours are extended; farther pixels get the mean colour of the object.

    Raises:
        NbHelpersError: sizes or types differ.
    """
    full = _check(image, alpha)
    box = box_of(alpha > 0)
    if box is None:
        return np.zeros((*alpha.shape, 4), image.dtype)
    solid = alpha.dtype.type(round(SOLID * int(full)))
    inside = alpha[box[1] : box[3], box[0] : box[2]]
    if inside.max() < solid:  # a matte without opaque pixels: use its most opaque ones
        solid = inside.max()
    rows = slice(max(0, box[1] - reach), box[3] + reach)
    columns = slice(max(0, box[0] - reach), box[2] + reach)
    near, opacity = image[rows, columns], alpha[rows, columns]
    coarse, mean = _coarse(near, opacity >= solid)
    out = _flat(alpha.shape, mean, image.dtype)
    target = out[rows, columns]
    for top in range(0, len(near), STRIP):  # in strips, to bound the memory
        part = slice(top, top + STRIP)
        own, alpha_part = near[part], opacity[part]
        colours = _enlarged(coarse, top, alpha_part.shape)
        cv2.copyTo(own, (alpha_part == full).view(np.uint8), colours)
        soft = (alpha_part > 0) & (alpha_part < full)
        if soft.any():
            weight = alpha_part[soft].astype(np.float32)[:, None] / np.float32(full)
            filled = colours[soft]
            colours[soft] = np.rint(weight * own[soft] + (1 - weight) * filled)
        cv2.mixChannels([colours, np.ascontiguousarray(alpha_part)], [target[part]], [0, 0, 1, 1, 2, 2, 3, 3])
    return out


def premultiplied_rgba(image: Picture, alpha: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h w 4"]:
    """The image with its colours multiplied by alpha, black where transparent; arguments as for `straight_rgba`."""
    full = int(_check(image, alpha))
    out = np.empty((*alpha.shape, 4), image.dtype)
    for top in range(0, len(alpha), STRIP):  # in strips, since the products take two to four times the memory
        rows = slice(top, top + STRIP)
        product = image[rows].astype(np.uint32) * alpha[rows, :, None]
        out[rows, :, :3] = (product + full // 2) // full
    out[:, :, 3] = alpha
    return out


def fill_outward(image: Picture, known: Bool[np.ndarray, "h w"]) -> tuple[Picture, Shaped[np.ndarray, " 3"]]:
    """The image with unknown pixels interpolated smoothly from known ones, and the mean of the known pixels.

    Args:
        image: RGB, ``uint8`` or ``uint16``; not changed.
        known: which pixels are known; at least one.

    Source: pull-push (Gortler, Grzeszczuk, Szeliski and Cohen, "The Lumigraph", SIGGRAPH 1996, section 3.4), with
    weights of 0 and 1.
    """
    if known.all():
        return image.copy(), np.array(cv2.mean(image)[:3])
    coarse, mean = _coarse(image, known)
    filled = _enlarged(coarse, 0, known.shape)
    cv2.copyTo(image, known.view(np.uint8), filled)
    return filled, mean


def _coarse(image: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The filled image at half the size, rounded up, and the mean."""
    bottom, right = (length % 2 for length in known.shape)
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        known = np.pad(known, ((0, bottom), (0, right)))
    small = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    quarters = [known[i::2, j::2].view(np.uint8) for i in (0, 1) for j in (0, 1)]
    count = quarters[0] + quarters[1] + quarters[2] + quarters[3]
    # the plain mean is wrong only where some of the four pixels are known, which is rare
    rows, columns = np.nonzero((count > 0) & (count < 4))
    total = np.zeros((len(rows), 3), np.uint32)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += image[2 * rows + i, 2 * columns + j] * known[2 * rows + i, 2 * columns + j, None].astype(np.uint32)
    total_known = count[rows, columns, None].astype(np.uint32)
    small[rows, columns] = (total + total_known // 2) // total_known
    return fill_outward(small, count > 0)


def _enlarged(coarse: np.ndarray, top: int, size: tuple[int, int]) -> np.ndarray:
    """Rows of the image of which ``coarse`` is half the size: ``size`` of them, from an even ``top``."""
    first = max(0, top // 2 - 1)
    part = coarse[first : (top + size[0] + 1) // 2 + 1]
    double = cv2.resize(part, (2 * part.shape[1], 2 * part.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(double[top - 2 * first :][: size[0], : size[1]])


def _flat(size: tuple[int, int], colour: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A transparent RGBA image of one colour."""
    pixel = np.zeros(4, dtype)
    pixel[:3] = np.rint(colour)
    return np.full(size, pixel.view(np.uint32 if dtype == np.uint8 else np.uint64)[0]).view(dtype).reshape(*size, 4)


def _check(image: np.ndarray, alpha: np.ndarray) -> np.generic:
    """The value of full opacity; raises an error if image and matte do not match."""
    if image.shape[:2] != alpha.shape or image.dtype != alpha.dtype:
        raise NbHelpersError(
            "the matte and the image differ in size or type",
            given=f"{alpha.shape} {alpha.dtype}",
            expected=f"{image.shape[:2]} {image.dtype}",
        )
    return full_of(alpha.dtype)


def encode_png(
    image: Shaped[np.ndarray, "h w c"] | Shaped[np.ndarray, "h w"],
    pool: Executor | None = None,
    exif: bytes | None = None,
    icc: bytes | None = None,
) -> Iterator[bytes]:
    """Encode an image as PNG piece by piece, to bound the memory.

    Example:
        >>> path.write_bytes(b"".join(encode_png(rgba)))

    Args:
        image: greyscale, RGB or RGBA, ``uint8`` or ``uint16``; alpha is stored unchanged.
        pool: compresses strips in parallel; sequential without it.
        exif: metadata as a TIFF block.
        icc: colour profile.

    Yields:
        the file's bytes in order.

    Raises:
        NbHelpersError: an array that a PNG cannot hold.

    Source: PNG Specification, third edition, W3C 2025 (filters, section 9; ``eXIf``, ``iCCP``, section 11.3); joining
    deflate streams at a sync flush and their Adler-32 sums is what pigz does.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in (np.uint8, np.uint16) or channels not in COLOUR_TYPES or not image.size:
        raise NbHelpersError(
            "the array cannot be stored as PNG",
            given=f"{image.shape} {image.dtype}",
            expected="(H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16",
        )
    height, width = image.shape[:2]
    depth = 8 * image.dtype.itemsize
    yield SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, 0))
    if icc:
        yield _chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
    if exif:
        yield _chunk(b"eXIf", exif)
    row_bytes = width * channels * image.dtype.itemsize
    rows = max(1, STRIP_BYTES // row_bytes)
    strips = [(image[top : top + rows], top + rows >= height) for top in range(0, height, rows)]
    yield _chunk(b"IDAT", b"\x78\x01")  # the header of the zlib stream that goes through all IDAT chunks
    checksum = 1
    for packed, strip_sum, length in (pool.map if pool and len(strips) > 1 else map)(_strip, strips):
        checksum = _join_adler(checksum, strip_sum, length)
        yield packed
    yield _chunk(b"IDAT", struct.pack(">I", checksum))
    yield _chunk(b"IEND", b"")


def _strip(strip: tuple[np.ndarray, bool]) -> tuple[bytes, int, int]:
    """Some rows, filtered and compressed, as a chunk; with the Adler-32 and length of the uncompressed data."""
    rows, last = strip
    colourful = rows.ndim == 3
    step = rows.itemsize * (rows.shape[2] if colourful else 1)
    rows = rows.astype(">u2") if rows.itemsize == 2 else np.ascontiguousarray(rows)
    raw = rows.view(np.uint8).reshape(len(rows), -1)
    filtered = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
    if colourful or rows.itemsize == 2:
        filtered[:, 0] = SUB
        filtered[:, 1 : 1 + step] = raw[:, :step]
        np.subtract(raw[:, step:], raw[:, :-step], out=filtered[:, 1 + step :])
    else:  # mattes have long runs of equal values, which compress best unfiltered
        filtered[:, 0] = NONE
        filtered[:, 1:] = raw
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    packed = deflate.compress(filtered) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    return _chunk(b"IDAT", packed), zlib.adler32(filtered), filtered.size


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _join_adler(first: int, second: int, length: int) -> int:
    """Adler-32 of the concatenation of two pieces of data, ``length`` that of the second.

    Source: ``adler32_combine`` of zlib.
    """
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % ADLER
    high = ((first >> 16) + (second >> 16) + length % ADLER * ((first & 0xFFFF) - 1)) % ADLER
    return high << 16 | low


def to_coco(
    image_name: str,
    size: tuple[int, int],
    masks: Mapping[str, Any],
    scores: Mapping[str, float] | None = None,
    sha256: str | None = None,
) -> dict[str, Any]:
    """The masks of a photo as a COCO dictionary for ``pycocotools`` and similar tools.

    Example:
        >>> to_coco("cat.jpg", (480, 640), {"cat": mask})["annotations"][0]["bbox"]
        [120.0, 64.0, 200.0, 310.0]

    Args:
        image_name: becomes ``file_name``.
        size: ``(H, W)`` of the photo.
        masks: object name -> ``(H, W) bool``, or its run-length encoding of `encode_rle`, which takes less
            memory. Each object has its own category. Empty masks get no annotation, since evaluators fail on
            boxes without area.
        scores: object name -> predicted IoU, written as ``score``.
        sha256: digest of the photo, stored with its name, for `nbhelpers.core.files.own_name`.

    Returns:
        ``images`` (one), ``categories``, ``annotations`` with ``segmentation`` (RLE), ``bbox``
        ``[x, y, width, height]`` and ``area`` in pixels, ``iscrowd`` 0. Ids count from 1.

    Raises:
        NbHelpersError: a mask of another size.
    """
    from pycocotools import mask as coco

    annotations, categories = [], []
    for number, (name, mask) in enumerate(masks.items(), start=1):
        rle: Any = encode_rle(mask) if isinstance(mask, np.ndarray) else dict(mask)
        if tuple(rle["size"]) != tuple(size):
            raise NbHelpersError(
                "a mask and the photo differ in size", given=f"{name}: {rle['size']}", expected=str(tuple(size))
            )
        categories.append({"id": number, "name": name, "supercategory": "object"})
        area = int(coco.area(rle))
        if not area:
            continue
        annotation = {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "segmentation": rle,
            "bbox": [float(side) for side in coco.toBbox(rle)],
            "area": area,
            "iscrowd": 0,
        }
        if scores is not None and name in scores:
            annotation["score"] = float(scores[name])
        annotations.append(annotation)
    image = {"id": 1, "file_name": image_name, "height": int(size[0]), "width": int(size[1])}
    if sha256 is not None:
        image["sha256"] = sha256
    return {"images": [image], "categories": categories, "annotations": annotations}


def save_coco(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write the result of `to_coco` as JSON, atomically; return the path."""
    return write_text(path, json.dumps(data))


def sequence_to_coco(
    mattes: Mattes, names: Mapping[Any, str] | None = None, progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """The objects of a clip as a COCO dictionary: one image per frame, one category per object.

    Example:
        >>> sequence_to_coco(mattes, {1: "walker"})["annotations"][0]["track_id"]
        1

    Each annotation has a ``track_id``, the same for an object in all frames; otherwise see `to_coco`. Pixels that are
    more than half opaque belong to the object.

    Args:
        mattes: of the clip, per object.
        names: object -> its name, if different.
        progress: called with the number of finished frames and the total.
    """
    names = names or {}
    categories: dict[str, int] = {}
    images, annotations = [], []
    for index in range(len(mattes)):
        parts = mattes.make_each(index)
        masks = {
            str(names.get(key, "object" if key is None else key)): matte > full_of(matte.dtype) // 2
            for key, matte in parts.items()
        }
        if len(masks) < len(parts):
            raise NbHelpersError("two objects have the same name", given=", ".join(masks), do="rename one of them")
        frame = to_coco(mattes.names[index], mattes.size, masks)
        images.append({**frame["images"][0], "id": index + 1})
        for annotation in frame["annotations"]:
            name = frame["categories"][annotation["category_id"] - 1]["name"]
            number = categories.setdefault(name, len(categories) + 1)
            annotations.append(
                {
                    **annotation,
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": number,
                    "track_id": number,
                }
            )
        for name in masks:
            categories.setdefault(name, len(categories) + 1)
        if progress is not None:
            progress(index + 1, len(mattes))
    listed = [{"id": number, "name": name, "supercategory": "object"} for name, number in categories.items()]
    return {"images": images, "categories": listed, "annotations": annotations}


def write_sequence_coco(
    path: str | Path,
    mattes: Mattes,
    names: Mapping[Any, str] | None = None,
    replace: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write the result of `sequence_to_coco` as JSON, atomically; return the path.

    Raises:
        NbHelpersError: a file of other origin exists, or one from other masks without ``replace``.
    """
    path = Path(path).expanduser()
    manifest = Manifest(path.parent)
    manifest.check([path])
    data = json.dumps(sequence_to_coco(mattes, names, progress)).encode()
    signature = f"{zlib.crc32(data):08x}"
    if manifest.is_done(path, signature):
        return path
    if path.exists() and not replace:
        raise NbHelpersError(
            "the file exists from an earlier export of other masks or settings",
            given=path,
            do="pass replace=True to overwrite it, or choose another name",
        )
    return manifest.write(path, [data], signature)


def check_formats(formats: Iterable[str], known: Iterable[str]) -> None:
    """Raise an error if one of the formats of an export is unknown."""
    known = tuple(known)
    if unknown := [name for name in formats if name not in known]:
        raise NbHelpersError("unknown export format", given=", ".join(unknown), expected=", ".join(known))


def save_masks(
    folder: str | Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    masks: Mapping[str, Bool[np.ndarray, "h w"]],
    scores: Mapping[str, float] | None = None,
    file_name: str | None = None,
    formats: Collection[str] = MASK_FORMATS,
) -> list[Path]:
    """Write each mask and its cut-out as PNG, and all of them as one COCO file; return the paths.

    File names start with the name of the photo, followed by that of the object (`file_stem`); ``_`` in an object's name
    becomes ``-``, so that two photos never share a file name. Saving again replaces the files of the same photo. If
    results of another photo have the same name, a number is appended and logged, see `own_name`.

    Args:
        folder: created if necessary; ``~`` is the home folder.
        name: of the photo.
        image: RGB.
        masks: object name -> mask.
        scores: object name -> predicted IoU.
        file_name: of the photo in the COCO file, by which other tools find it; by default ``name``.
        formats: ``"masks"`` and ``"cutouts"``, or one of them. The COCO file is always written: it says of which photo
            the others are.

    Returns:
        the files; the last is ``<name>.coco.json``.

    Raises:
        NbHelpersError: the folder cannot be written, or a mask and the photo differ in size.
    """
    folder = Path(folder).expanduser()
    digest = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
    stem = own_name(folder, file_stem(name), digest)
    paths: list[Path] = []
    taken: set[str] = set()
    for object_name, mask in masks.items():
        part = file_stem(object_name).replace("_", "-")
        while part.lower() in taken:
            part += "-2"
        taken.add(part.lower())
        if "masks" in formats:
            paths.append(save_mask(folder / f"{stem}_{part}_mask.png", mask))
        if "cutouts" in formats:
            paths.append(save_cutout(folder / f"{stem}_{part}_cutout.png", image, mask))
    about = to_coco(file_name or name, image.shape[:2], masks, scores, digest)
    return [*paths, save_coco(folder / f"{stem}.coco.json", about)]
