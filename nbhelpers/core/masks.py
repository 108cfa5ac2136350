"""Array functions on masks ``(H, W) bool`` and on low-resolution logits; measures of agreement between masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped

from nbhelpers.core.errors import NbHelpersError

LOW_RES_FACTOR = 4  # SAM's decoders answer at a quarter of their input resolution
SOFT = 0.3  # of a mask's pixels, at most, are between black and white; a photo has more
FLAT = 5  # pixels: a value that fills such a square is a region of its own, no soft edge
FEW = 16  # values, at most, of a picture that was not blurred or compressed
PINHOLE = 0.02  # of a mask's area: a smaller gap inside of it is taken for a fault of the segmenter
SHALLOW = 0.3  # of a region's greatest depth: less deep, a point lies at the rim or in a thin arm
SAMPLE = 100_000  # pixels from which the colour of a mask is taken
SHOWN = 8  # values or colours named in an error
UNCLEAR = "the mask is ambiguous: what it covers is not clear"
COVERS = "two values: white, 1 or one colour on black; or transparency around what is covered"
BOUND_TH = 0.008  # of the frame's diagonal: how far a contour may be off
RECALL_AT = 0.5
QUARTERS = 4


def load_mask(source: Any, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
    """Read a mask from a picture file of any tool.

    Example:
        >>> load_mask("cat_mask.png", image.shape[:2]).sum()
        20451

    Where the alpha channel varies (down to less than one half), it is the mask: a cut-out covers what is opaque.
    Otherwise it is the brightest channel: white, a colour or 1 on black. A soft edge is cut at one half. EXIF rotation
    is applied; colours are not converted. A picture of one value is empty (0), or covers all (1, 255, 65535).

    Args:
        source: as for `nbhelpers.core.images.load_image`; a bool array is used unchanged.
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
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}  # pyright: ignore[reportAttributeAccessIssue] - bytes, whatever the stubs say


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


def tight_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """`box_of` a mask that covers something.

    Raises:
        NbHelpersError: the mask is empty.
    """
    box = box_of(mask)
    if box is None:
        raise NbHelpersError("an empty mask has no box", given=f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels")
    return box


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


def components(region: Bool[np.ndarray, "h w"], min_area: float = 1) -> Int[np.ndarray, "h w"]:
    """Number the 8-connected parts of a region from 1, the largest first; 0 is outside.

    Example:
        >>> components(np.array([[1, 0, 1], [0, 0, 1]], bool))
        array([[2, 0, 1],
               [0, 0, 1]], dtype=int32)

    Args:
        region: what to take apart.
        min_area: parts of fewer cells are left out.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    areas = np.asarray(stats)[1:count, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")
    order = order[areas[order] >= min_area]
    number = np.zeros(count, np.int32)
    number[order + 1] = np.arange(1, len(order) + 1)
    return number[labels.astype(np.intp)]


def fill_holes(region: Bool[np.ndarray, "h w"], area: float) -> Bool[np.ndarray, "h w"]:
    """The region with its holes of up to ``area`` cells filled; what touches the border is no hole."""
    if area <= 0:
        return region
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~region).view(np.uint8), connectivity=4)
    x, y, width, height, size = stats[:, :5].T
    touches = (x == 0) | (y == 0) | (x + width == region.shape[1]) | (y + height == region.shape[0])
    small = ~touches & (size <= area)
    small[0] = False  # the region itself
    return region | small[labels] if small.any() else region


def depth(region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Distance of each cell inside to the nearest cell outside, in cells; beyond the picture is outside."""
    padded = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def deepest_points(region: Bool[np.ndarray, "h w"], spacing: float, most: int = 16) -> Int[np.ndarray, "k 2"]:
    """Points well inside a region: the deepest one, then the deepest at least ``spacing`` away from those before.

    The first is the pole of inaccessibility. A centroid may lie outside (of a ring, of a crescent); this never does.

    Args:
        region: one part, or several.
        spacing: smallest distance between two points, in cells.
        most: largest number of points.

    Returns:
        ``(x, y)`` of cells of the region; none for an empty region.
    """
    inside = depth(region)
    floor = SHALLOW * inside.max(initial=0)
    rows, columns = np.mgrid[: region.shape[0], : region.shape[1]]
    points: list[tuple[int, int]] = []
    while len(points) < most:
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        if inside[y, x] <= 0 or inside[y, x] < floor:
            break
        points.append((int(x), int(y)))
        inside[(columns - x) ** 2 + (rows - y) ** 2 < max(spacing, 1) ** 2] = 0
    return np.array(points, np.int64).reshape(-1, 2)


def centroid_point(region: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "k 2"]:
    """The centre of gravity as one ``(x, y)`` cell, which may lie outside; none for an empty region."""
    rows, columns = np.nonzero(region)
    if not len(rows):
        return np.empty((0, 2), np.int64)
    return np.round([[columns.mean(), rows.mean()]]).astype(np.int64)


def regular_points(region: Bool[np.ndarray, "h w"], spacing: float) -> Int[np.ndarray, "k 2"]:
    """The ``(x, y)`` cells of a square lattice over the whole picture that lie inside the region."""
    ys, xs = (np.arange(spacing / 2, side, max(spacing, 1)).astype(np.int64) for side in region.shape)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return grid[region[grid[:, 1], grid[:, 0]]]


def intersections(masks: Bool[np.ndarray, "n h w"]) -> Int[np.ndarray, "n n"]:
    """How many cells each two masks share; the diagonal holds their areas."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    return np.rint(flat @ flat.T).astype(np.int64)


def iou_matrix(shared: Shaped[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Intersection over union of each two masks, from their `intersections`; 0 where both are empty."""
    areas = np.diag(shared)
    union = areas[:, None] + areas[None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 0.0)


def distinct(
    shared: Shaped[np.ndarray, "n n"], confidence: Shaped[np.ndarray, " n"], threshold: float
) -> Int[np.ndarray, " n"]:
    """Greedy removal of duplicates: for each mask the index of the one that stands for it, itself if it is kept.

    Args:
        shared: `intersections` of the masks.
        confidence: of each mask; of two duplicates the more confident is kept.
        threshold: from this IoU on, two masks are one.
    """
    ious = iou_matrix(shared)
    stands_for = np.full(len(confidence), -1)
    for i in np.argsort(-np.asarray(confidence, float), kind="stable"):
        if stands_for[i] < 0:
            rest = (ious[i] >= threshold) & (stands_for < 0)
            stands_for[rest] = i
            stands_for[i] = i
    return stands_for


def is_group(mask: Bool[np.ndarray, "h w"], others: Iterable[Bool[np.ndarray, "h w"]], share: float = 0.15) -> bool:
    """Whether a mask is several things at once: it falls into parts, and each large part is a mask of its own.

    Args:
        mask: the one in question.
        others: masks of the same class.
        share: parts below this share of the area do not count.
    """
    parts = components(mask, share * np.count_nonzero(mask))
    count = int(parts.max(initial=0))
    if count < 2:
        return False
    unmatched = [parts == number for number in range(1, count + 1)]
    for other in others:
        unmatched = [
            part for part in unmatched if np.count_nonzero(part & other) < 0.7 * np.count_nonzero(part | other)
        ]
    return not unmatched


def ranked_pairs(count: int, wins: Sequence[tuple[int, int, float]]) -> list[int]:
    """Order items so that as few and as weak wins as possible are broken, winners first.

    Wins are locked in from the strongest to the weakest, unless one would close a circle. Source: Tideman 1987,
    "Independence of clones as a criterion for voting rules" (ranked pairs).

    Args:
        count: number of items.
        wins: ``(winner, loser, strength)``.
    """
    above = np.eye(count, dtype=bool)  # above[i, j]: i stands over j
    for winner, loser, _ in sorted(wins, key=lambda win: -win[2]):
        if not above[loser, winner]:
            above |= np.outer(above[:, winner], above[loser])
    return sorted(range(count), key=lambda item: -int(above[item].sum()))


def distance_to(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """For each pixel the distance in pixels to the nearest pixel of the mask; 0 inside, large where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.float32(1e6))
    return cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def dilate(mask: Bool[np.ndarray, "h w"], pixels: float) -> Bool[np.ndarray, "h w"]:
    """The mask, grown by a disc of that radius."""
    return distance_to(mask) <= pixels


def fill_pinholes(mask: Bool[np.ndarray, "h w"], share: float = PINHOLE) -> Bool[np.ndarray, "h w"]:
    """The mask without the small gaps that it encloses; the hole of a ring stays.

    Crumbs of an object left inside a hole would be taken for its surroundings by whatever fills it.
    """
    box = box_of(mask)
    if box is None:
        return mask
    out = mask.copy()
    inside = out[box[1] : box[3], box[0] : box[2]]
    inside[:] = fill_holes(inside, share * np.count_nonzero(inside))
    return out


def seam_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int] | None:
    """Tight box ``(x0, y0, x1, y1)`` on a picture whose edges meet; ``x1`` beyond the width goes on at the left.

    Example:
        >>> seam_box(np.array([[True, False, False, True]]))
        (3, 0, 5, 1)
    """
    box, width = box_of(mask), mask.shape[1]
    if box is None:
        return None
    columns = np.flatnonzero(mask.any(0))
    gaps = np.diff(np.append(columns, columns[0] + width))
    widest = int(gaps.argmax())  # the box begins behind the widest gap
    if gaps[widest] == gaps[-1]:
        return box
    return int(columns[widest + 1]), box[1], int(columns[widest]) + width + 1, box[3]


def seam_crop(picture: Shaped[np.ndarray, "h w *c"], box: tuple[int, int, int, int]) -> Shaped[np.ndarray, "ch cw *c"]:
    """The part of a picture in a box of `seam_box`."""
    x0, y0, x1, y1 = box
    if x1 <= picture.shape[1]:
        return picture[y0:y1, x0:x1]
    return np.concatenate([picture[y0:y1, x0:], picture[y0:y1, : x1 - picture.shape[1]]], axis=1)


def iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h2 w2"]) -> float:
    """Intersection over union (Jaccard index) of two masks, 0 to 1; two empty masks agree fully.

    Raises:
        NbHelpersError: masks of different size.
    """
    if a.shape != b.shape:
        raise NbHelpersError("masks of different size cannot be compared", given=f"{a.shape} and {b.shape}")
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


@dataclass(frozen=True)
class Summary:
    """A measure over a clip: its mean, the share of frames above one half, and what is lost from start to end.

    Attributes:
        mean: 0 to 1.
        recall: share of frames with a value above 0.5.
        decay: mean of the first quarter minus mean of the last quarter of the frames.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"]) -> float:
    """J: intersection over union, 0 to 1; two empty masks agree fully."""
    return iou(truth, found)


def contour_accuracy(
    truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"], bound_th: float = BOUND_TH
) -> float:
    """F: harmonic mean of the precision and recall of the contour pixels, 0 to 1.

    A contour pixel counts as matched when the other contour passes within a disk of ``ceil(bound_th * diagonal)``
    pixels. This dilation stands for the bipartite matching of the paper, as in the reference implementation.

    Example:
        >>> square = np.zeros((100, 100), bool); square[20:60, 20:60] = True
        >>> contour_accuracy(square, np.roll(square, 2, axis=1)), contour_accuracy(square, ~square & False)
        (1.0, 0.0)

    Args:
        truth: the true mask.
        found: the mask to judge.
        bound_th: tolerance as a share of the frame's diagonal; in pixels from 1 on.

    Raises:
        NbHelpersError: masks of different size.
    """
    if truth.shape != found.shape:
        raise NbHelpersError("masks of different size cannot be compared", given=f"{truth.shape} and {found.shape}")
    radius = int(np.ceil(bound_th if bound_th >= 1 else bound_th * np.hypot(*truth.shape)))
    true, outline = contour(truth), contour(found)
    if not outline.any() or not true.any():
        return float(outline.any() == true.any())
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    near_true, near_found = (cv2.dilate(line.astype(np.uint8), disk).astype(bool) for line in (true, outline))
    precision = np.count_nonzero(outline & near_true) / np.count_nonzero(outline)
    recall = np.count_nonzero(true & near_found) / np.count_nonzero(true)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The one pixel wide line between inside and outside.

    A pixel belongs to it when its right, lower or lower right neighbour is on the other side. The frame's own edge
    is not a contour. Source: ``_seg2bmap`` of the reference implementation.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, both = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ both)


def j_and_f(truth: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h2 w2"]) -> float:
    """The mean of `region_similarity` and `contour_accuracy` on one frame."""
    return (region_similarity(truth, found) + contour_accuracy(truth, found)) / 2


def score_clip(
    truths: Iterable[Bool[np.ndarray, "h w"]], found: Iterable[Bool[np.ndarray, "h w"]]
) -> Float64[np.ndarray, "frames 2"]:
    """J and F of each frame of a clip; `summarize` one column, without the first and the last frame, for DAVIS.

    Raises:
        NbHelpersError: not as many masks as true ones.
    """
    try:
        pairs = list(zip(truths, found, strict=True))
    except ValueError as error:
        raise NbHelpersError("not every frame has a mask to judge", given=error) from error
    values = [(region_similarity(a, b), contour_accuracy(a, b)) for a, b in pairs]
    return np.array(values, np.float64).reshape(-1, 2)


def summarize(values: Float64[np.ndarray, " frames"]) -> Summary:
    """Mean, recall and decay of one measure over the frames of a clip.

    Source: ``db_statistics`` of the reference implementation; neighbouring quarters share a frame, as there.

    Raises:
        NbHelpersError: no frames.
    """
    if not len(values):
        raise NbHelpersError("there is no frame to summarize")
    edges = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Summary(float(values.mean()), float((values > RECALL_AT).mean()), float(np.mean(first) - np.mean(last)))
