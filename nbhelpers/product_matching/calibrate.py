"""Calibration of the threshold from the scores of a session, since no fixed threshold suits every product.

Three kinds of scores are known without labels. Scores of the references against each other and against augmented views
of themselves (rotated, smaller, darker, partly occluded) are those expected of matches; scores of the other objects in
the photos are background; and rejected detections must score below the threshold. The threshold lies between background
and expected matches, closer to the background, since augmented views are more similar to a reference than real matches.

The other objects also have a common component. The mean feature of whole photos
(`nbhelpers.product_matching.gallery.mean_feature`) is known before a search and guides it. After the search the
proposals that are not the product are known as well. They were cropped like the product and proposed for their
similarity to it, so their common component does not discriminate and is subtracted before scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np

from nbhelpers.product_matching.gallery import Gallery, common_components
from nbhelpers.product_matching.match import PhotoScores, ScoredProposal, score_photos, similarity_scores
from nbhelpers.product_matching.propose import PhotoProposals, box_iou
from nbhelpers.product_matching.settings import ProductSettings

MIN_BACKGROUND = 8  # other objects needed to calibrate, and to subtract their common component
BACKGROUND_QUANTILE = 0.9  # of the background scores; higher ones may be look-alikes
EXPECTED_QUANTILE = 0.1  # of the expected scores; lower ones are outliers
THRESHOLD_FRACTION = 0.4  # of the way from background to expected matches
BINS = 40


@dataclass(frozen=True)
class Calibration:
    """A threshold and its origin.

    Attributes:
        threshold: minimum score of a match.
        source: ``"calibration"``, or ``"settings"`` if there are too few scores to calibrate from.
        why: the reason as a sentence.
        expected: scores of the references against each other and against augmented views of themselves.
        background: scores of all objects except the most similar one of each photo.
        best: the score of the most similar object of each photo.
        rejected: scores of rejected detections.
    """

    threshold: float
    source: str
    why: str
    expected: tuple[float, ...] = field(default=(), repr=False)
    background: tuple[float, ...] = field(default=(), repr=False)
    best: tuple[float, ...] = field(default=(), repr=False)
    rejected: tuple[float, ...] = field(default=(), repr=False)

    def histogram(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Edges of 40 bins from the lowest score (or 0) to 1, and the counts of each kind of score."""
        kinds = {name: getattr(self, name) for name in ("expected", "background", "best", "rejected")}
        low = min([0.0, *(min(values) for values in kinds.values() if values)])
        edges = np.linspace(low, 1, BINS + 1)
        return edges, {name: np.histogram(values, edges)[0] for name, values in kinds.items()}


def calibrate(photos: Iterable[PhotoScores], gallery: Gallery, settings: ProductSettings) -> Calibration:
    """The threshold for a gallery and the photos that were scored against it.

    Args:
        photos: scores of each, from `nbhelpers.product_matching.match.score_photos`.
        gallery: references with their views (`nbhelpers.product_matching.features.describe_reference`).
        settings: the default threshold, and the weights of the score.
    """
    best, background = [], []
    for photo in photos:
        if not photo.proposals:
            continue
        best.append(photo.proposals[0].score)
        background += [each.score for each in background_proposals(photo)]
    expected = expected_scores(gallery, settings)
    rejected = similarity_scores(gallery.negatives, gallery, settings).tolist() if gallery.negatives else []
    return _threshold(tuple(expected), tuple(background), tuple(best), tuple(rejected), settings)


def expected_scores(gallery: Gallery, settings: ProductSettings) -> list[float]:
    """Scores to be expected of matches: views of each reference against it, each reference against the others."""
    scores: list[float] = []
    for index, reference in enumerate(gallery.positives):
        if reference.views:
            scores += similarity_scores(reference.views, replace(gallery, positives=(reference,)), settings).tolist()
        rest = gallery.positives[:index] + gallery.positives[index + 1 :]
        if rest:
            scores += similarity_scores([reference], replace(gallery, positives=rest), settings).tolist()
    return scores


def _threshold(
    expected: tuple[float, ...],
    background: tuple[float, ...],
    best: tuple[float, ...],
    rejected: tuple[float, ...],
    settings: ProductSettings,
) -> Calibration:
    """The threshold between background and expected scores, above the rejected ones."""
    known = {"expected": expected, "background": background, "best": best, "rejected": rejected}
    if len(background) < MIN_BACKGROUND or not expected:
        why = f"too few scores to calibrate ({len(background)} background scores, {len(expected)} expected matches)"
        return Calibration(settings.similarity_threshold, "settings", why, **known)
    low, high = float(np.quantile(background, BACKGROUND_QUANTILE)), float(np.quantile(expected, EXPECTED_QUANTILE))
    if high <= low:
        high = max(low, float(np.median(expected)))
    if high <= low:
        threshold = low
        why = f"the product does not differ from the background, which scores up to {low:.2f}: matches are uncertain"
    else:
        threshold = low + THRESHOLD_FRACTION * (high - low)
        why = f"between the background (up to {low:.2f}) and expected matches (from {high:.2f})"
    if rejected and max(rejected) >= threshold and max(rejected) < high:
        threshold = (max(rejected) + high) / 2
        why = f"between the nearest reject ({max(rejected):.2f}) and expected matches (from {high:.2f})"
    return Calibration(float(threshold), "calibration", why, **known)


def background_proposals(scores: PhotoScores) -> list[ScoredProposal]:
    """The proposals of a photo except the most similar one, which may be the product."""
    if not scores.proposals:
        return []
    first, *rest = scores.proposals
    return [each for each in rest if box_iou(each.proposal.box, first.proposal.box) == 0]


def subtract_background(photos: Iterable[PhotoProposals], gallery: Gallery, settings: ProductSettings) -> Gallery:
    """The gallery with the common component of the other objects instead of that of whole photos.

    Args:
        photos: proposals of some photos of the session; read one by one.
        gallery: positives, negatives and the mean feature of whole photos.
        settings: weights of the score.

    Returns:
        The same gallery if there are fewer than 8 other objects.
    """
    patches = (
        photo.items[each.number].features.patches
        for photo in photos
        for each in background_proposals(score_photos([photo], gallery, settings)[0])
    )
    first = list(islice(patches, MIN_BACKGROUND))
    return gallery if len(first) < MIN_BACKGROUND else replace(gallery, mean=common_components(chain(first, patches)))
