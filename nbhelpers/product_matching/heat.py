"""Where in a photo to ask: how much each place resembles the product, and the points and boxes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of
from nbhelpers.core.regions import components
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.product_matching.features import unit
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.settings import Settings

WARM = 0.6  # of the hottest place: the level at which a region ends
WARMER = 0.8
FAINT = 0.25  # the level at which peaks end
BETWEEN_PEAKS, BETWEEN_POINTS = 1.5, 2.0  # patches
LOADING = 30  # times the mean variance is added to each
SAME = 0.85  # IoU from which two boxes are one


def heat_map(
    image: UInt8[np.ndarray, "h w 3"], encoder: PatchEncoder, gallery: Gallery, side: int
) -> Float32[np.ndarray, "rows columns"]:
    """How much each patch of the photo, its longer side scaled to ``side`` pixels, resembles the gallery: -1 to 1.

    A patch is compared with the references seen from afar, and the size that fits best counts. The similarity is that
    of finding a known thing in clutter, the adaptive cosine estimator (Kraut, Scharf and McWhorter 2001, "Adaptive
    Subspace Detectors"): what the photo shows everywhere is taken off, and directions in which its patches differ much,
    such as from subject to background, count less. The covariance is loaded on its diagonal, for a photo has few
    patches.
    """
    scaled = fit(image, side)
    if max(scaled.shape[:2]) < side:
        grow = side / max(scaled.shape[:2])
        size = tuple(max(1, round(length * grow)) for length in scaled.shape[1::-1])
        scaled = cv2.resize(scaled, size, interpolation=cv2.INTER_LINEAR)
    tokens = unit(encoder.tokens([scaled])[0])
    mean = tokens.mean((0, 1))
    tokens = tokens - mean
    flat = tokens.reshape(-1, tokens.shape[-1])
    variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    whitening = directions / np.sqrt(np.maximum(variances, 0) + LOADING * variances.mean() + 1e-12)
    tokens, wanted = unit(tokens @ whitening), unit((gallery.afar - mean) @ whitening)
    return (tokens @ wanted.T).max(-1)


def peaks(
    heats: Sequence[Float32[np.ndarray, "_ _"]], size: tuple[int, int], settings: Settings
) -> Float32[np.ndarray, "n 2"]:
    """Where to ask, as ``(x, y)`` pixels of a photo of ``size``: peaks of the heat of all scales, the hottest first.

    A peak is a local maximum at least a quarter as hot as the hottest one, and no second peak lies within 1.5 patches
    of it: a small thing is fainter than a large one that resembles it less. Where there are fewer peaks than prompts,
    the hottest other places follow, 2 patches apart: a thing may stand before a hotter one without a peak of its own.
    """
    found: list[tuple[bool, float, float, float]] = []
    hottest = max(float(heat.max()) for heat in heats)
    for heat in heats:
        rows, columns = heat.shape
        smooth = cv2.GaussianBlur(heat, (0, 0), 0.7)
        top = (smooth >= cv2.dilate(smooth, np.ones((3, 3), np.uint8))) & (heat >= FAINT * hottest)
        for y, x in np.argwhere(smooth > 0):
            place = (x + 0.5) * size[1] / columns - 0.5, (y + 0.5) * size[0] / rows - 0.5
            found.append((bool(top[y, x]), float(smooth[y, x]), *place))
    finest = min(max(size) / max(heat.shape) for heat in heats)
    kept: list[tuple[float, float]] = []
    for is_peak, _, x, y in sorted(found, reverse=True):
        apart = finest * (BETWEEN_PEAKS if is_peak else BETWEEN_POINTS)
        if all((x - a) ** 2 + (y - b) ** 2 >= apart**2 for a, b in kept):
            kept.append((x, y))
        if len(kept) == settings.max_prompts:
            break
    points = np.array(kept, np.float32).reshape(-1, 2)
    return np.clip(points, 0, np.array([size[1] - 1, size[0] - 1], np.float32))


def warm_boxes(
    heats: Sequence[Float32[np.ndarray, "_ _"]], size: tuple[int, int], settings: Settings
) -> list[tuple[float, ...]]:
    """Boxes around the warm regions of each scale, the hottest first, no two nearly the same."""
    found: list[tuple[float, tuple[float, ...]]] = []
    for heat in heats:
        rows, columns = heat.shape
        step = size[1] / columns, size[0] / rows
        for level in (WARM, WARMER):
            parts = components(heat >= level * heat.max())
            for number in range(1, min(parts.max(initial=0), 6) + 1):
                part = parts == number
                x0, y0, x1, y1 = box_of(part)
                box = x0 * step[0], y0 * step[1], min(x1 * step[0], size[1] - 1), min(y1 * step[1], size[0] - 1)
                found.append((float(heat[part].max()), box))
    kept: list[tuple[float, ...]] = []
    for _, box in sorted(found, reverse=True):
        if all(box_iou(box, other) < SAME for other in kept):
            kept.append(box)
    return kept


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two XYXY boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, high)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / both if both > 0 else 0.0
