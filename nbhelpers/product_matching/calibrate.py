"""The threshold of a session from its own scores, since no fixed one suits every product.

Three kinds of scores are known without a person: what the references score against each other and against views of
themselves (turned, smaller, darker, partly hidden) is what a match can be expected to reach; what other things of the
photos score is background; and what was rejected must stay below. The threshold lies between background and expected
matches, nearer to the background: views of a reference are more like it than other photos are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nbhelpers.product_matching.background import LEAST, others
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.matching import similarities
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Scores

BACKGROUND = 0.9  # share of background scores below which the background ends: the rest may be look-alikes
EXPECTED = 0.1  # share of expected matches that may fall short
NEARER = 0.4  # of the way from background to expected matches
BINS = 40


@dataclass(frozen=True)
class Calibration:
    """A threshold and where it comes from.

    Attributes:
        threshold: least score of a match.
        source: ``"calibration"``, or ``"settings"`` where there was too little to calibrate from.
        why: a sentence for a person.
        expected: scores of the references against each other and of views of the references.
        background: scores of things that are not the most similar of their photo.
        best: the score of the most similar thing of each photo.
        rejected: scores of what a person has rejected.
    """

    threshold: float
    source: str
    why: str
    expected: tuple[float, ...] = field(default=(), repr=False)
    background: tuple[float, ...] = field(default=(), repr=False)
    best: tuple[float, ...] = field(default=(), repr=False)
    rejected: tuple[float, ...] = field(default=(), repr=False)

    def histogram(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Edges of 40 bins from the lowest score (or 0) to 1, and for each kind of score its counts."""
        kinds = {name: getattr(self, name) for name in ("expected", "background", "best", "rejected")}
        low = min([0.0, *(min(values) for values in kinds.values() if values)])
        edges = np.linspace(low, 1, BINS + 1)
        return edges, {name: np.histogram(values, edges)[0] for name, values in kinds.items()}


def calibrate(photos: Iterable[Scores], gallery: Gallery, settings: Settings) -> Calibration:
    """The threshold for a gallery and the photos that were searched with it.

    Args:
        photos: what the gallery says of each, from `nbhelpers.product_matching.matching.score_all`.
        gallery: references with their views (`nbhelpers.product_matching.features.describe_reference`).
        settings: the threshold to fall back on, and the weights of the score.
    """
    best, background = [], []
    for photo in photos:
        if not photo.things:
            continue
        best.append(photo.things[0].score)
        background += [each.score for each in others(photo)]
    expected = expected_scores(gallery, settings)
    rejected = similarities(gallery.negatives, gallery, settings).tolist() if gallery.negatives else []
    known = tuple(map(tuple, (expected, background, best, rejected)))
    return _threshold(*known, settings)


def expected_scores(gallery: Gallery, settings: Settings) -> list[float]:
    """What matches can be expected to score: views of each reference against it, each reference against the others."""
    found: list[float] = []
    for index, reference in enumerate(gallery.positives):
        if reference.views:
            found += similarities(reference.views, replace(gallery, positives=(reference,)), settings).tolist()
        rest = gallery.positives[:index] + gallery.positives[index + 1 :]
        if rest:
            found += similarities([reference], replace(gallery, positives=rest), settings).tolist()
    return found


def _threshold(
    expected: Sequence[float],
    background: Sequence[float],
    best: Sequence[float],
    rejected: Sequence[float],
    settings: Settings,
) -> Calibration:
    known = {"expected": expected, "background": background, "best": best, "rejected": rejected}
    if len(background) < LEAST or not expected:
        why = f"too little to calibrate from ({len(background)} background scores, {len(expected)} expected matches)"
        return Calibration(settings.similarity_threshold, "settings", why, **known)
    low, high = float(np.quantile(background, BACKGROUND)), float(np.quantile(expected, EXPECTED))
    if high <= low:
        high = max(low, float(np.median(expected)))
    if high <= low:
        threshold = low
        why = f"the product is not told from the background, which scores up to {low:.2f}: matches are unsure"
    else:
        threshold = low + NEARER * (high - low)
        why = f"between the background (up to {low:.2f}) and expected matches (from {high:.2f})"
    if rejected and max(rejected) >= threshold and max(rejected) < high:
        threshold = (max(rejected) + high) / 2
        why = f"between the nearest reject ({max(rejected):.2f}) and expected matches (from {high:.2f})"
    return Calibration(float(threshold), "calibration", why, **known)
