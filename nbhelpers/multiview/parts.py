"""Which parts of a mask can be one object: what hides its middle parts it, but its parts are near, or just as sure."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float

from nbhelpers.core.regions import components

GAP = 0.75  # of the main part's size (root of its area): parts farther off are something else
STRONG = 0.9  # of the main part's mean support: a part as sure as this may lie anywhere
SLACK = 1.25  # a prompted mask that is parted farther allows so much more in other views
SPECK = 0.02  # of the mask's area: smaller parts say nothing about how far an object is parted
WEAK = 0.75  # of the main part's mean support: a part less sure than this is another thing,
LARGE = 0.1  # if it has at least this share of the mask's area


def belonging(
    region: Bool[np.ndarray, "s s"], support: Float[np.ndarray, "s s"], allowed: float = GAP
) -> Bool[np.ndarray, "s s"]:
    """The main part of a region, the parts near it, and those that as much speaks for.

    Args:
        region: what to look through.
        support: how much speaks for each cell; the part with the largest sum is the main one.
        allowed: distance to the main part, as a share of its size.
    """
    labels, main, away = _distances(region, support)
    if main is None:
        return region
    sure = STRONG * support[labels == main].mean()
    kept = [part for part, distance in away.items() if distance <= allowed or support[labels == part].mean() >= sure]
    return np.isin(labels, [main, *kept])


def apart(region: Bool[np.ndarray, "h w"], support: Float[np.ndarray, "h w"]) -> list[Bool[np.ndarray, "h w"]]:
    """The things that lie in one mask: its main part with what goes with it, then each large part less spoken for.

    A segmenter takes water and a white sky for one thing, if it is asked for so much; the word fits one of them better.

    Args:
        region: the mask.
        support: how much speaks for each pixel; the part with the largest sum is the main one.
    """
    labels = components(region, LARGE * np.count_nonzero(region))
    count = int(labels.max(initial=0))
    if count < 2:
        return [region]
    sums, sizes = np.bincount(labels.ravel(), support.ravel(), count + 1)[1:], np.bincount(labels.ravel())[1:]
    means = sums / sizes
    others = 1 + np.flatnonzero(means < WEAK * means[sums.argmax()])
    return [region & ~np.isin(labels, others), *(labels == other for other in others)]


def farthest(region: Bool[np.ndarray, "s s"]) -> float:
    """How far the parts of a mask lie from its main one, as a share of its size; 0 for a mask in one piece."""
    sure = components(region, SPECK * np.count_nonzero(region)) > 0
    _, _, away = _distances(sure, sure.astype(np.float32))
    return max(away.values(), default=0.0)


def _distances(region: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, int | None, dict[int, float]]:
    """Numbered parts, the number of the main one, and how far each other one lies from it in units of its size."""
    labels = components(region)
    count = int(labels.max(initial=0))
    if not count:
        return labels, None, {}
    sums = np.bincount(labels.ravel(), support.ravel(), count + 1)
    main = 1 + int(sums[1:].argmax())
    apart = cv2.distanceTransform((labels != main).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    size = np.sqrt(np.count_nonzero(labels == main))
    others = [number for number in range(1, count + 1) if number != main]
    return labels, main, {number: float(apart[labels == number].min() / size) for number in others}
