"""What benchmarks count: class areas and mIoU, clicks, average precision, the area under a ROC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import depth

LEVELS = (0.85, 0.90)  # IoU of NoC@85 and NoC@90
MAX_CLICKS = 20
SHOWN_CLICKS = (1, 2, 3, 5)


def class_areas(
    truth: Integer[np.ndarray, "h w"], found: Integer[np.ndarray, "h2 w2"], classes: int, void: int = 255
) -> Int64[np.ndarray, "3 classes"]:
    """Pixels of each class in both maps, in the prediction, and in the truth; add up those of all photos.

    Example:
        >>> class_areas(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), classes=2)
        array([[1, 0],
               [2, 0],
               [1, 1]])

    Args:
        truth: the class of each pixel, or ``void``.
        found: the predicted class; a value outside of the classes is no prediction.
        classes: how many there are.
        void: pixels of this value in the truth are not counted.

    Raises:
        NbHelpersError: maps of different size.

    Source: ``IoUMetric.intersect_and_union`` of mmsegmentation (mmseg/evaluation/metrics/iou_metric.py).
    """
    if truth.shape != found.shape:
        raise NbHelpersError("class maps of different size cannot be compared", given=f"{truth.shape}, {found.shape}")
    counted = truth != void
    truth, found = truth[counted].astype(np.int64), found[counted].astype(np.int64)
    maps = truth[truth == found], found, truth
    return np.stack([np.bincount(m[(m >= 0) & (m < classes)], minlength=classes)[:classes] for m in maps])


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores over all photos of a benchmark, 0 to 1.

    Attributes:
        miou: mean of the IoU over the classes that the truth or the predictions hold: mmsegmentation's mIoU.
        pixel_accuracy: mmsegmentation's aAcc.
        mean_accuracy: mean of the classes' accuracy over the classes that the truth holds: mAcc.
        iou: of each class; NaN where neither holds it.
        accuracy: of each class; NaN where the truth lacks it.
        present_miou: mean of the IoU over the classes that the truth holds. On few photos it is higher than ``miou``,
            in which a class that is wrongly predicted anywhere counts as 0.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: Float[np.ndarray, " classes"]
    accuracy: Float[np.ndarray, " classes"]
    present_miou: float


def class_scores(areas: Int64[np.ndarray, "3 classes"]) -> ClassScores:
    """The scores of summed `class_areas`.

    Source: ``total_area_to_metrics`` of mmsegmentation's ``IoUMetric``.
    """
    both, found, truth = areas.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = both / (found + truth - both), both / truth
        total = both.sum() / truth.sum()
    return ClassScores(
        _nanmean(iou), float(total), _nanmean(accuracy), iou, accuracy, _nanmean(np.where(truth > 0, iou, np.nan))
    )


def _nanmean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def next_click(
    truth: Bool[np.ndarray, "h w"],
    found: Bool[np.ndarray, "h w"],
    void: Bool[np.ndarray, "h w"] | None = None,
    clicked: Sequence[tuple[int, int]] = (),
    jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[tuple[int, int], int] | None:
    """Where a user who sees the true mask clicks next, and the label: the middle of the largest error.

    The missed and the wrongly covered pixels each have a point that is farthest from their edge (the picture's border
    counts as edge); the deeper of the two is clicked. Pixels that were clicked before are left out.

    Example:
        >>> next_click(truth, np.zeros_like(truth))             # the first click is in the middle of the object
        ((320, 200), 1)

    Args:
        truth: the true mask.
        found: the mask so far.
        void: pixels that are not counted.
        clicked: ``(x, y)`` of earlier clicks.
        jitter: 0 clicks exactly there. People do not: their clicks scatter over the error region (RClicks, arXiv
            2410.11722). With a jitter ``j`` the click is drawn from the pixels of the region, the probability falling
            as ``exp(-d^2 / (2 (j r)^2))`` with the distance ``d`` to the exact place, ``r`` being the region's depth
            there.
        rng: of the jitter.

    Returns:
        ``((x, y), label)``; None where nothing is wrong.

    Source: Sofiiuk et al. 2021, arXiv 2102.06583, ``isegm/inference/clicker.py`` of the reference implementation.
    """
    counted = np.ones(truth.shape, bool) if void is None else ~void
    regions = truth & ~found & counted, found & ~truth & counted
    depths = [depth(region) for region in regions]
    for x, y in clicked:
        for each in depths:
            each[y, x] = 0
    label = int(depths[0].max() > depths[1].max())
    region, inside = regions[1 - label], depths[1 - label]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    if inside[y, x] <= 0:
        return None
    if jitter and rng is not None:
        rows, columns = np.nonzero(region & (inside > 0))
        squares = (columns - x) ** 2 + (rows - y) ** 2
        weights = np.exp(-squares / (2 * (jitter * inside[y, x]) ** 2))
        chosen = rng.choice(len(rows), p=weights / weights.sum())
        x, y = columns[chosen], rows[chosen]
    return (int(x), int(y)), label


def click_scores(ious: Sequence[Sequence[float]], most: int = MAX_CLICKS) -> dict[str, float]:
    """NoC, failures and IoU after some clicks, over objects.

    NoC@85 is the mean number of clicks until the IoU is at least 0.85; an object that does not get there within
    ``most`` clicks counts as ``most``, and as a failure (Sofiiuk et al. 2021, arXiv 2102.06583).

    Args:
        ious: for each object the IoU after the 1st, 2nd, ... click; after the last one it stays the same.
        most: number of clicks at which an object is given up.
    """
    out: dict[str, float] = {}
    for level in LEVELS:
        counts = [next((n for n, iou in enumerate(each, 1) if iou >= level), None) for each in ious]
        name = f"{level:.0%}".rstrip("%")
        out[f"noc{name}"] = float(np.mean([most if count is None else count for count in counts]))
        out[f"failures{name}"] = sum(count is None for count in counts)
    for count in SHOWN_CLICKS:
        out[f"iou{count}"] = float(np.mean([each[min(count, len(each)) - 1] for each in ious]))
    return out


def average_precision(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Mean of the precision at the rank of each right item; NaN where none is right."""
    order = np.argsort(np.asarray(scores, float), kind="stable")[::-1]
    hits = np.asarray(right, bool)[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean()) if hits.any() else float("nan")


def area_under_roc(bad: Sequence[float], good: Sequence[float]) -> float | None:
    """Probability that a bad item has a lower score than a good one, ties half; None where one side is empty."""
    if not len(bad) or not len(good):
        return None
    below = np.array(bad)[:, None] < np.array(good)
    equal = np.array(bad)[:, None] == np.array(good)
    return float((below + 0.5 * equal).mean())


def rounded(values: Mapping[str, float | int | None], digits: int = 4) -> dict[str, float | int | None]:
    """The same numbers, rounded, NaN as None: what goes into JSON."""
    return {
        key: None if value is None or value != value else (value if isinstance(value, int) else round(value, digits))
        for key, value in values.items()
    }
