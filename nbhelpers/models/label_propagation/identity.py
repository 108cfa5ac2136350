"""Staying with one object among others that look the same.

The votes of `votes` compare features, and two equal instances have equal features. Other instances that resemble the
object (its distractors) are tracked too, and each cell is assigned to the instance whose cells resemble it and are
expected near it (`nbhelpers.models.expectation`). Distractors that are remembered and vote against the object are the
idea of Videnovic et al. 2024 (DAM4SAM, arXiv 2411.17576, section 3.2). Without distractors nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from nbhelpers.core.masks import components, dilate, distance_to
from nbhelpers.models.expectation import Expectation, Place

MIN_CELL_SIMILARITY = 2 / 3  # cosine to the most similar cell of the object; see `Votes.similarity`
DISTRACTOR_AREAS = 0.3, 3.0  # smallest and largest area of a distractor, of the object's
MAX_DISTRACTORS = 6  # the largest ones
SIMILARITY_TEMPERATURE = 0.1  # cosine similarity that counts as much as a factor e in the probability of a position
CELL_SPREAD = 1.0  # standard deviation of the place of a cell within its instance, in coarse cells
GATE = 4.0  # standard deviations from which a position is not that of an instance
NEAREST = 3  # most similar cells that are averaged
TOUCHING = 1.5  # coarse cells between two masks that touch


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one instance on memory frames, moved along with it to where they are expected.

    Attributes:
        features: ``(n, c)``, unit length.
        positions: ``(n, 2)``, column and row in coarse cells.
    """

    features: Float32[np.ndarray, "n c"]
    positions: Float32[np.ndarray, "n 2"]


def similar_regions(
    similarity: Float[np.ndarray, "g g"], mask: Float[np.ndarray, "g g"], area: float
) -> list[Bool[np.ndarray, "g g"]]:
    """Regions of a frame that look like an object: `DISTRACTOR_AREAS` of its area, the largest ones first.

    Args:
        similarity: similarity of each coarse cell to the most similar cell of the object.
        mask: fraction of each cell that the object or a known distractor covers.
        area: of the object, in coarse cells.
    """
    # the cells of the contour show both the object and what is behind it
    free = dilate(mask > 0.1, 1)
    labels = components((similarity > MIN_CELL_SIMILARITY) & ~free, DISTRACTOR_AREAS[0] * area)
    found = [labels == number for number in range(1, int(labels.max(initial=0)) + 1)]
    return [each for each in found if np.count_nonzero(each) <= DISTRACTOR_AREAS[1] * area][:MAX_DISTRACTORS]


def ownership(
    queries: Float32[np.ndarray, "n c"], positions: Float32[np.ndarray, "n 2"], instances: Sequence[Cells]
) -> Float32[np.ndarray, "k n"]:
    """Probability that each cell belongs to each of several instances; the rest, up to 1, is that it belongs to none.

    An instance explains a cell by its own cells that resemble it and are expected near it: exp(similarity /
    temperature) times the normal density of the distance. None of them explains a cell that is `GATE` standard
    deviations away.

    Args:
        queries: unit features of the cells.
        positions: column and row, in coarse cells.
        instances: the object and its distractors.
    """
    scores = np.full((len(instances) + 1, len(queries)), -np.inf)
    for number, instance in enumerate(instances):
        if not len(instance.features):
            continue
        away = ((positions[:, None] - instance.positions[None]) ** 2).sum(2) / CELL_SPREAD**2
        each = queries @ instance.features.T / SIMILARITY_TEMPERATURE - away / 2
        count = min(NEAREST, each.shape[1])
        best = np.partition(each, each.shape[1] - count, axis=1)[:, -count:].mean(1)
        scores[number] = best
    scores[-1] = MIN_CELL_SIMILARITY / SIMILARITY_TEMPERATURE - GATE**2 / 2
    scores -= scores.max(0)
    shares = np.exp(scores)
    return (shares / shares.sum(0))[:-1].astype(np.float32)


def exchange_probability(own: Expectation, here: Place, other: Expectation, there: Place) -> float:
    """The probability that two instances that look the same have been mistaken for each other, 0 to 0.5.

    Compares how well the two places match the expectations as they are, and exchanged.

    Args:
        own: where the object is expected.
        here: where it was found.
        other: where its distractor is expected.
        there: where that was found.
    """
    error = CELL_SPREAD * 4  # of a measured centre, in cells of the decoder's grid
    swapped = _misfit(own, there, error) + _misfit(other, here, error)
    margin = (swapped - _misfit(own, here, error) - _misfit(other, there, error)) / 2
    return float(1 / (1 + np.exp(np.clip(margin, 0, 30))))


def _misfit(expected: Expectation, found: Place, error: float) -> float:
    """Squared distance of a place from where an instance is expected, in standard deviations."""
    away = (np.array(found.center) - np.array(expected.center)) ** 2
    return float(away.sum() / (expected.spread**2 + error**2))


def touches(mask: Bool[np.ndarray, "s s"], others: Sequence[Bool[np.ndarray, "s s"]], reach: float) -> bool:
    """Whether a mask is near another one.

    Args:
        mask: of an instance.
        others: masks of other instances.
        reach: the largest distance that is near, in cells of the masks' grid; `TOUCHING` coarse cells for a touch.
    """
    if not mask.any() or not len(others):
        return False
    away = distance_to(mask)
    return any(bool((away[other] <= reach).any()) for other in others if other.any())
