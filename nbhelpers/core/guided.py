"""The guided filter: smooth a map so that its edges are the photo's."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32


def guided_filter(
    guide: Float32[np.ndarray, "h w 3"],
    source: Float32[np.ndarray, "h w"],
    radius: int,
    epsilon: float,
    step: int = 1,
) -> Float32[np.ndarray, "h w"]:
    """The source as, in each window, the linear function of the guide's colours that fits it best.

    Example:
        >>> guided_filter(image / np.float32(255), mask.astype(np.float32), radius=8, epsilon=4e-4).shape
        (480, 640)

    Args:
        guide: RGB, 0 to 1.
        source: what is filtered, e.g. a mask as 0 and 1; the result may leave its range a little.
        radius: of the square windows, which are ``2 radius + 1`` wide and cut at the picture's border.
        epsilon: added to the colours' covariance; edges of smaller variance are smoothed away.
        step: the linear functions are fitted on a picture that many times smaller and applied to the full one, which
            costs less by the square of it and changes little while it is well below the radius.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, equations 14 to 16 (colour guide), and the first
    author's MATLAB reference ``guidedfilter_color.m``, which cuts windows at the border in the same way. The step is
    that of He and Sun, "Fast Guided Filter", arXiv 1505.00996.
    """
    # centred first: variances as differences of large squares lose digits in 32 bit
    guide = guide - guide.reshape(-1, 3).mean(0)
    if step == 1:
        slopes, rest = _fit(guide, source, radius, epsilon)
    else:
        size = source.shape[::-1]
        small = tuple(-(-length // step) for length in size)
        coarse = (cv2.resize(array, small, interpolation=cv2.INTER_AREA) for array in (guide, source))
        slopes, rest = _fit(*coarse, max(1, round(radius / step)), epsilon)
        slopes = [cv2.resize(slope, size, interpolation=cv2.INTER_LINEAR) for slope in slopes]
        rest = cv2.resize(rest, size, interpolation=cv2.INTER_LINEAR)
    for channel, slope in enumerate(slopes):
        rest += slope * guide[:, :, channel]
    return rest


def _fit(guide: np.ndarray, source: np.ndarray, radius: int, epsilon: float) -> tuple[list[np.ndarray], np.ndarray]:
    """For each pixel the mean slopes and rest of the linear functions of all windows that hold it."""
    size = (2 * radius + 1, 2 * radius + 1)

    def total(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, cv2.CV_32F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)

    share = 1 / total(np.ones_like(source))

    def mean(values: np.ndarray) -> np.ndarray:
        return total(values) * share

    channels = [np.ascontiguousarray(guide[:, :, c]) for c in range(3)]
    means = [mean(channel) for channel in channels]
    level = mean(source)
    right = [mean(channel * source) - m * level for channel, m in zip(channels, means, strict=True)]
    variance = {}
    for i in range(3):
        for j in range(i, 3):
            variance[i, j] = mean(channels[i] * channels[j]) - means[i] * means[j]
            if i == j:
                variance[i, j] += epsilon
    slopes = _solve(variance, right)
    rest = level - sum(slope * m for slope, m in zip(slopes, means, strict=True))
    return [mean(slope) for slope in slopes], mean(rest)


def _solve(m: dict[tuple[int, int], np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """At each pixel the solution of a symmetric 3 x 3 system, by its adjugate."""
    cofactor = {
        (0, 0): m[1, 1] * m[2, 2] - m[1, 2] ** 2,
        (0, 1): m[0, 2] * m[1, 2] - m[0, 1] * m[2, 2],
        (0, 2): m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1],
        (1, 1): m[0, 0] * m[2, 2] - m[0, 2] ** 2,
        (1, 2): m[0, 1] * m[0, 2] - m[0, 0] * m[1, 2],
        (2, 2): m[0, 0] * m[1, 1] - m[0, 1] ** 2,
    }
    determinant = sum(m[0, j] * cofactor[0, j] for j in range(3))
    return [sum(cofactor[min(i, j), max(i, j)] * right[j] for j in range(3)) / determinant for i in range(3)]
