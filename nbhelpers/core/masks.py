"""Array functions on masks ``(H, W) bool`` and on low-resolution logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.core.errors import NbHelpersError

LOW_RES_FACTOR = 4  # SAM's decoders answer at a quarter of their input resolution
SOFT = 0.3  # of a mask's pixels, at most, are between black and white; a photo has more
FLAT = 5  # pixels: a value that fills such a square is a region of its own, no soft edge
FEW = 16  # values, at most, of a picture that was not blurred or compressed
SAMPLE = 100_000  # pixels from which the colour of a mask is taken
SHOWN = 8  # values or colours named in an error
UNCLEAR = "the mask is ambiguous: it cannot be told what it covers"
COVERS = "two values: white, 1 or one colour on black; or transparency around what is covered"


def load_mask(source: Any, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
    """Read a mask from a picture file of any tool.

    Example:
        >>> load_mask("cat_mask.png", image.shape[:2]).sum()
        20451

    Where the alpha channel varies (down to less than one half), it is the mask: a cut-out covers what is opaque.
    Otherwise it is the brightest channel: white, a colour or 1 on black. A soft edge is cut at one half. EXIF rotation
    is applied; colours are not converted. A picture of one value is empty (0), or covers all (1, 255, 65535).

    Args:
        source: as for `nbhelpers.core.images.load_image`; a bool array is taken as it is.
        size: ``(H, W)`` that the mask must have.

    Raises:
        NbHelpersError: unreadable; ambiguous, such as a photo, a label map of several objects, two colours without
            black, several pages; or of another size. The values found are named.
    """
    from nbhelpers.core.images import check_memory, opened, upright

    with opened(source) as (picture, _, name):
        if not isinstance(picture, np.ndarray):
            if (pages := getattr(picture, "n_frames", 1)) > 1 and picture.format != "MPO":
                raise NbHelpersError(UNCLEAR, given=f"{name}: {pages} pictures in one file", expected="one picture")
            check_memory(picture.size, name)
            picture = _channels(upright(picture))
    if picture.ndim not in (2, 3) or not picture.size or (picture.ndim == 3 and picture.shape[2] > 4):
        raise NbHelpersError("the array is not a mask", given=name, expected="(H, W) bool")
    if size is not None and picture.shape[:2] != tuple(size):
        turned = picture.shape[1::-1] == tuple(size)
        raise NbHelpersError(
            "the mask has another size than the photo",
            given=f"{name}: {picture.shape[1]} x {picture.shape[0]} pixels",
            expected=f"{size[1]} x {size[0]} pixels",
            do="turn the mask by 90 degrees" if turned else "save the mask at the size of the photo",
        )
    return picture if picture.dtype == np.bool_ and picture.ndim == 2 else _covered_by(picture, name)


def _channels(picture: Any) -> np.ndarray:
    """The channels of a PIL image as they are stored, palettes resolved: ``(H, W)`` or ``(H, W, 2 to 4)``."""
    mode = picture.mode
    if mode in ("P", "PA") or (mode in ("1", "L", "RGB") and picture.has_transparency_data):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif mode in ("La", "RGBa"):
        picture = picture.convert("LA" if mode == "La" else "RGBA")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        picture = picture.convert("RGB")
    return np.asarray(picture)


def _covered_by(picture: np.ndarray, name: str) -> np.ndarray:
    """What a picture covers as a mask; see `load_mask`."""
    if not np.isfinite(picture).all():
        raise NbHelpersError(UNCLEAR, given=f"{name}: values that are no numbers", expected=COVERS)
    full = 255 if picture.max() > 1 or picture.dtype == np.bool_ else 1
    if picture.dtype != np.uint8 and picture.max() > 255:
        full = 65535
    if picture.ndim == 3 and picture.shape[2] in (2, 4):
        alpha = picture[:, :, -1]
        if alpha.min() < alpha.max() and alpha.min() < full / 2:
            return _cut(alpha, full, name)
        picture = picture[:, :, :-1]
    if picture.ndim == 2:
        return _cut(picture, full, name)
    channels = np.moveaxis(picture, 2, 0)
    values = np.maximum.reduce(channels)  # many times faster than along the last axis
    if (values - np.minimum.reduce(channels)).max() > full / 10:
        _check_colours(picture, values, full, name)
    return _cut(values, full, name)


def _check_colours(picture: np.ndarray, values: np.ndarray, full: float, name: str) -> None:
    """Refuse a picture with more than one colour on black: a photo, a map of labels, red on white."""
    bright = values > (full if values.max() > full / 2 else values.max()) / 2
    some = picture[bright][:: 1 + np.count_nonzero(bright) // SAMPLE].astype(np.float32)
    hue = np.median(some / some.max(1, keepdims=True), 0)
    apart = np.zeros(values.shape, bool)
    for channel, part in enumerate(hue):
        apart |= np.abs(picture[:, :, channel] - part * values.astype(np.float32)) > 0.25 * values
    apart &= bright
    several = np.count_nonzero(apart) > 0.02 * np.count_nonzero(bright) or _is_region(apart)
    if several or not (values <= full / 8).any():
        pixels = picture.reshape(-1, picture.shape[2])[:: 1 + values.size // SAMPLE]
        found, counts = np.unique(pixels, axis=0, return_counts=True)
        most = [tuple(found[i].tolist()) for i in np.argsort(-counts)[:SHOWN]]
        more = f" and {len(found) - len(most)} more" if len(found) > len(most) else ""
        raise NbHelpersError(UNCLEAR, given=f"{name}: colours {', '.join(map(str, most))}{more}", expected=COVERS)


def _cut(values: np.ndarray, full: float, name: str) -> np.ndarray:
    """One channel, cut midway between what is not covered and what is."""
    found, counts = _histogram(values)
    low, high = found[0].item(), found[-1].item()
    if len(found) == 1:
        if high not in (0, 1, 255, 65535):
            raise NbHelpersError(UNCLEAR, given=f"{name}: {high:g} everywhere", expected=COVERS)
        return np.full(values.shape, high != 0)
    middle = (low + high) / 2
    if len(found) > 2:
        level = (found.astype(np.float64) - low) / (high - low)
        between = (level > 0.1) & (level < 0.9)
        regions = [value for value in _regions(values, found, level) if value not in (low, high)]
        far = low > full / 8 or high < full / 2 or counts[between].sum() > SOFT * values.size
        if far or regions:
            shown = [low, *regions[: SHOWN - 2], high] if regions else found[np.argsort(-counts)[:SHOWN]].tolist()
            more = f", {len(found)} in all" if len(found) > len(shown) else ""
            text = ", ".join(f"{value:g}" for value in sorted(shown))
            raise NbHelpersError(UNCLEAR, given=f"{name}: values {text}{more}", expected=COVERS)
    return values > middle


def _regions(values: np.ndarray, found: np.ndarray, level: np.ndarray) -> list[float]:
    """Values between the darkest and the brightest that cover a region of their own."""
    if len(found) <= FEW:
        return [value.item() for value in found[1:-1] if _is_region(values == value)]
    bins = np.bincount((np.interp(values.ravel(), found, level) * 100).astype(int), minlength=101).astype(float)
    peaks = [
        place
        for place in range(10, 91)
        if bins[place - 1 : place + 2].sum() > 0.01 * values.size
        and bins[place - 1 : place + 2].sum()
        > 3 * (bins[place - 6 : place - 1].sum() + bins[place + 2 : place + 7].sum())
    ]
    return [float(found[np.abs(level - place / 100).argmin()]) for place in peaks]


def _is_region(here: np.ndarray) -> bool:
    """Whether pixels fill a square of `FLAT` pixels somewhere."""
    kernel = np.ones((FLAT, FLAT), np.uint8)
    return bool(cv2.erode(here.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).any())


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, in ascending order, and how often; without sorting where they are small integers."""
    if values.dtype not in (np.uint8, np.uint16):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values.ravel())
    found = np.flatnonzero(counts)
    return found, counts[found]


def encode_rle(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """COCO run-length encoding with text counts: ``{"size": [H, W], "counts": str}``, valid JSON.

    Source: `pycocotools.mask.encode <https://github.com/cocodataset/cocoapi>`_ (column-major runs).
    """
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: Any, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
    """The mask of a COCO run-length encoding: compressed, as `encode_rle` gives it, or a list of run lengths.

    Args:
        rle: ``{"size": [H, W], "counts": str}``, or with the runs, first that of background, as a list of ints.
        size: ``(H, W)`` that the mask must have.

    Raises:
        NbHelpersError: not an RLE; its runs do not fill its size, or are negative; or another size.
    """
    from pycocotools import mask as coco

    try:
        if not isinstance(rle, Mapping):
            raise TypeError("a list of polygons" if isinstance(rle, (list, tuple)) else type(rle).__name__)
        if "rle" in rle and "counts" not in rle:
            tool = "a mask of CVAT, of its box alone" if "left" in rle else "a brush mask of Label Studio"
            raise TypeError(f"{tool}; export it as COCO or PNG")
        (height, width), counts = [int(side) for side in rle["size"]], rle["counts"]
        if size is not None and (height, width) != tuple(size):
            swapped = ", which is height and width swapped" if (width, height) == tuple(size) else ""
            raise ValueError(f"size [{height}, {width}] is not [{size[0]}, {size[1]}]{swapped}")
        if height < 1 or width < 1:
            raise ValueError(f"size [{height}, {width}] has no pixels")
        runs = None if isinstance(counts, (str, bytes)) else _runs(counts)
        total = _covered(counts) if runs is None else int(runs.sum())
        if total != height * width:  # coco.decode would leave the rest as it found the memory
            raise ValueError(f"the runs cover {total} pixels, but size [{height}, {width}] has {height * width}")
        if runs is None:
            return coco.decode({"size": [height, width], "counts": counts}).astype(bool)
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    except Exception as error:  # pycocotools raises what comes: KeyError, ValueError, MemoryError, Exception
        raise NbHelpersError(
            "the mask's run-length encoding cannot be read",
            given=f"no {error}" if isinstance(error, KeyError) else error,
            expected='{"size": [H, W], "counts": "..." or [n, n, ...]} as COCO writes it',
        ) from error


def _runs(counts: Any) -> np.ndarray:
    """Uncompressed ``counts`` as an array, checked."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or not np.issubdtype(runs.dtype, np.integer):
        raise ValueError(f"counts are not a list of ints: {str(counts)[:80]}")
    if (runs < 0).any():
        place = int(np.argmax(runs < 0))
        raise ValueError(f"run {place} is negative: {runs[place]}")
    return runs


def _covered(counts: str | bytes) -> int:
    """How many pixels the runs of compressed ``counts`` cover; source: ``rleFrString`` in cocoapi's maskApi.c."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii") if isinstance(counts, str) else counts:
        character -= 48
        value |= (character & 0x1F) << shift
        shift += 5
        if not character & 0x20:
            value -= (character & 0x10) << (shift - 4)  # the highest bit is the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return sum(runs)


def box_of(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int] | None:
    """Tight box ``(x0, y0, x1, y1)`` in pixels, ``x1`` and ``y1`` exclusive; None for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def polygon_mask(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Fill a polygon of ``(x, y)`` pixel coordinates into a mask of ``size`` ``(H, W)``."""
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.round(np.asarray(points, np.float64)).astype(np.int32)], 1)
    return canvas.astype(bool)


def mask_logits(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A mask as low-resolution logits of ``size`` ``(h, w)``, to be used as a prompt: 10 inside, -10 outside.

    Source: how sam2 feeds a given mask (``_use_mask_as_output``, sam2/modeling/sam2_base.py).
    """
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return share * 20 - 10


def upsample(
    logits: Float32[np.ndarray, "h w"], extent: tuple[float, float], size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """Bring low-resolution logits to image size as SAM and SAM 2 do, bit for bit (bilinear, half-pixel centres).

    Args:
        logits: what a decoder gave.
        extent: height and width of the part that shows the image, in logits pixels. Equal to the shape where the
            image was stretched to a square (SAM 2); smaller where it was padded (SAM): then the logits are
            enlarged by 4 and cropped first.
        size: ``(H, W)`` of the image.

    Source: ``postprocess_masks`` of segment-anything and of sam2 (``F.interpolate(..., align_corners=False)``).
    """
    import torch

    def enlarge(values: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(values, target, mode="bilinear", align_corners=False)

    h, w = logits.shape
    values = torch.from_numpy(np.ascontiguousarray(logits))[None, None]
    if extent != (h, w):
        values = enlarge(values, (h * LOW_RES_FACTOR, w * LOW_RES_FACTOR))
        values = values[..., : round(extent[0] * LOW_RES_FACTOR), : round(extent[1] * LOW_RES_FACTOR)]
    return enlarge(values, size)[0, 0].numpy()


def view_logits(
    logits: Float32[np.ndarray, "h w"],
    extent: tuple[float, float],
    size: tuple[int, int],
    window: tuple[float, float, float, float],
    shape: tuple[int, int],
) -> Float32[np.ndarray, "vh vw"]:
    """Logits as seen through a window on the image, without making the full-size mask.

    Cost depends on ``shape`` alone, so a 6000 x 9000 photo redraws as fast as a small one.

    Args:
        logits: what a decoder gave.
        extent: as in `upsample`.
        size: ``(H, W)`` of the image.
        window: ``(x0, y0, x1, y1)`` in image pixels measured from the image's corner (edges, not centres).
        shape: ``(height, width)`` of the result.
    """
    padded = extent != logits.shape
    rows = _weights(logits.shape[0], extent[0], size[0], window[1], window[3], shape[0], padded)
    columns = _weights(logits.shape[1], extent[1], size[1], window[0], window[2], shape[1], padded)
    return rows @ logits @ columns.T


def _weights(n: int, extent: float, size: int, start: float, stop: float, count: int, padded: bool) -> np.ndarray:
    """``(count, n) float32``: what `upsample` does along one axis, for ``count`` cells of a window."""
    if not padded:
        return _bilinear(n, start * n / size, stop * n / size, count)
    enlarged, kept = n * LOW_RES_FACTOR, round(extent * LOW_RES_FACTOR)
    crop = _bilinear(kept, start * kept / size, stop * kept / size, count)
    return crop @ _bilinear(n, 0, n, enlarged)[:kept]


def _bilinear(n: int, start: float, stop: float, count: int) -> np.ndarray:
    """``(count, n) float32`` weights that sample ``n`` values at the centres of ``count`` cells of a window."""
    centres = start + (np.arange(count) + 0.5) * (stop - start) / count - 0.5
    centres = np.clip(centres, 0, n - 1)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, n - 1)
    part = (centres - low).astype(np.float32)
    weights = np.zeros((count, n), np.float32)
    weights[np.arange(count), low] += 1 - part
    weights[np.arange(count), high] += part
    return weights
