"""Array functions on masks ``(H, W) bool`` and on low-resolution logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.core.errors import NbHelpersError

LOW_RES_FACTOR = 4  # SAM's decoders answer at a quarter of their input resolution


def encode_rle(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """COCO run-length encoding with text counts: ``{"size": [H, W], "counts": str}``, valid JSON.

    Source: `pycocotools.mask.encode <https://github.com/cocodataset/cocoapi>`_ (column-major runs).
    """
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: Mapping[str, Any]) -> Bool[np.ndarray, "h w"]:
    """The mask of an `encode_rle` dictionary.

    Raises:
        NbHelpersError: not an RLE, or its runs do not fill its size.
    """
    from pycocotools import mask as coco

    try:
        size, counts = [int(side) for side in rle["size"]], rle["counts"]
        if _covered(counts) != size[0] * size[1]:  # coco.decode would leave the rest as it found the memory
            raise ValueError("the runs do not fill the size")
        return coco.decode({"size": size, "counts": counts}).astype(bool)
    except Exception as error:  # pycocotools raises what comes: KeyError, ValueError, MemoryError, Exception
        raise NbHelpersError(
            "the mask's run-length encoding cannot be read",
            given=error,
            expected='{"size": [H, W], "counts": "..."} as COCO writes it',
        ) from error


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
