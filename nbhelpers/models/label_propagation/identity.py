"""Staying with one object among others that look the same.

The votes of `votes` compare looks, and two equal things look equal. Where other things on a frame look like the object
(its rivals), each of them is tracked too, and each cell goes to the thing whose cells look like it and are expected
near it. A thing is expected where a Kalman filter with constant velocity predicts it, as Yang et al. 2024 (SAMURAI,
arXiv 2411.11922, section 4.1) choose among SAM 2's masks. That rivals are remembered and vote against the object is
the idea of Videnovic et al. 2024 (DAM4SAM, arXiv 2411.17576, section 3.2). Without rivals nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from nbhelpers.core.masks import components, dilate, distance_to

MIN_LOOKS = 2 / 3  # cosine similarity to a cell of the object from which a cell looks like it; see `Votes.similarity`
RIVAL_AREAS = 0.3, 3.0  # smallest and largest area of a rival, of the object's
MAX_RIVALS = 6  # the largest ones
MAX_PAST = 24  # frames from which a position is predicted
MEASURED, MEASURED_TOUCHING = 0.05, 0.4  # standard deviation of a measured position, of the object's size
ACCELERATION = 0.04  # standard deviation of the change of velocity from frame to frame, of the object's size
LOOKS_TEMPERATURE = 0.1  # cosine similarity that counts as much as a factor e in the probability of a position
CELL_SPREAD = 1.5  # coarse cells between a cell and where it is expected, besides the error of the filter
GATE = 4.0  # standard deviations from which a position is not that of a thing
NEAREST = 3  # most similar cells that are averaged
TOUCHING = 1.5  # coarse cells between two masks that touch


@dataclass(frozen=True)
class Place:
    """Where a thing is on a frame, in cells of the decoder's grid.

    Attributes:
        center: ``(x, y)``, mean of its cells.
        area: number of its cells.
        alone: whether no rival touches it; otherwise mask and position are not to be trusted.
    """

    center: tuple[float, float]
    area: float
    alone: bool = True

    def array(self) -> Float64[np.ndarray, " 4"]:
        """As numbers, to be saved."""
        return np.array([*self.center, self.area, self.alone], np.float64)

    @classmethod
    def of_array(cls, values: Float64[np.ndarray, " 4"]) -> Place:
        """The inverse of `array`."""
        x, y, area, alone = values.tolist()
        return cls((x, y), area, bool(alone))


@dataclass(frozen=True)
class Expectation:
    """Where a thing is expected on a frame.

    Attributes:
        center: ``(x, y)`` in cells of the decoder's grid.
        spread: standard deviation of it.
        area: in cells, that of the last frame on which it was alone.
        seen: that frame.
    """

    center: tuple[float, float]
    spread: float
    area: float
    seen: int


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one thing on memory frames, moved along with it to where they are expected.

    Attributes:
        features: ``(n, c)``, unit length.
        positions: ``(n, 2)``, column and row in coarse cells.
        spread: standard deviation of the positions, in coarse cells.
    """

    features: Float32[np.ndarray, "n c"]
    positions: Float32[np.ndarray, "n 2"]
    spread: float


def place(mask: Bool[np.ndarray, "s s"], alone: bool = True) -> Place | None:
    """The place of a mask; None if it is empty."""
    rows, columns = np.nonzero(mask)
    return Place((float(columns.mean()), float(rows.mean())), float(len(rows)), alone) if len(rows) else None


def expect(places: Mapping[int, Place], frame: int, step: int, start: int | None) -> Expectation | None:
    """Where a thing is expected, from the frames before.

    Args:
        places: of the thing by frame.
        frame: for which it is predicted.
        step: 1 if time runs forwards, -1 if backwards.
        start: the frame to begin with, such as a prompted one: what lies before it is older than its correction.

    Returns:
        None if the thing is on no frame before.
    """
    first = frame - step * MAX_PAST if start is None else max(frame - step * MAX_PAST, start, key=lambda f: f * step)
    past = [index for index in range(first, frame, step) if index in places]
    if not past:
        return None
    known = [index for index in past if places[index].alone] or past
    area = places[known[-1]].area
    size = area**0.5
    x, spread = _predict([(index * step, places[index]) for index in past], frame * step, size)
    return Expectation((float(x[0]), float(x[1])), spread, area, known[-1])


def _predict(past: Sequence[tuple[int, Place]], time: int, size: float) -> tuple[Float64[np.ndarray, " 2"], float]:
    """Position at a time by a Kalman filter over position and velocity, and its standard deviation."""
    model = cv2.KalmanFilter(4, 2, 0, cv2.CV_64F)
    model.transitionMatrix = np.eye(4) + np.eye(4, k=2)
    model.measurementMatrix = np.eye(2, 4)
    change = (ACCELERATION * size) ** 2  # white noise acceleration over one frame
    model.processNoiseCov = change * np.kron(np.array([[0.25, 0.5], [0.5, 1.0]]), np.eye(2))
    clock, first = past[0]
    model.statePost = np.array([*first.center, 0.0, 0.0])[:, None]
    model.errorCovPost = np.diag([(MEASURED * size) ** 2] * 2 + [(2 * ACCELERATION * size) ** 2] * 2)
    for moment, here in past[1:]:
        for _ in range(moment - clock):
            model.predict()
        model.measurementNoiseCov = np.eye(2) * ((MEASURED if here.alone else MEASURED_TOUCHING) * size) ** 2
        model.correct(np.array(here.center, np.float64)[:, None])
        clock = moment
    for _ in range(time - clock):
        model.predict()
    covariance = model.errorCovPre
    return model.statePre[:2, 0], float(np.sqrt((covariance[0, 0] + covariance[1, 1]) / 2))


def look_alikes(
    looks: Float[np.ndarray, "g g"], mask: Float[np.ndarray, "g g"], area: float
) -> list[Bool[np.ndarray, "g g"]]:
    """Regions of a frame that look like an object: `RIVAL_AREAS` of its area, the largest ones first.

    Args:
        looks: similarity of each coarse cell to the most similar cell of the object.
        mask: fraction of each cell that the object or a known rival covers.
        area: of the object, in coarse cells.
    """
    # the cells of the contour show both the object and what is behind it
    free = dilate(mask > 0.1, 1)
    labels = components((looks > MIN_LOOKS) & ~free, RIVAL_AREAS[0] * area)
    found = [labels == number for number in range(1, int(labels.max(initial=0)) + 1)]
    return [each for each in found if np.count_nonzero(each) <= RIVAL_AREAS[1] * area][:MAX_RIVALS]


def ownership(
    queries: Float32[np.ndarray, "n c"], positions: Float32[np.ndarray, "n 2"], things: Sequence[Cells]
) -> Float32[np.ndarray, "k n"]:
    """Probability that each cell belongs to each of several things; the rest, up to 1, is that it belongs to none.

    A thing explains a cell by its own cells that look like it and are expected near it: exp(similarity / temperature)
    times the normal density of the distance. None of them explains a cell that is `GATE` standard deviations away.

    Args:
        queries: unit features of the cells.
        positions: column and row, in coarse cells.
        things: the object and its rivals.
    """
    scores = np.full((len(things) + 1, len(queries)), -np.inf)
    for number, thing in enumerate(things):
        if not len(thing.features):
            continue
        away = ((positions[:, None] - thing.positions[None]) ** 2).sum(2) / thing.spread**2
        each = queries @ thing.features.T / LOOKS_TEMPERATURE - away / 2
        count = min(NEAREST, each.shape[1])
        best = np.partition(each, each.shape[1] - count, axis=1)[:, -count:].mean(1)
        scores[number] = best - 2 * np.log(thing.spread)
    scores[-1] = MIN_LOOKS / LOOKS_TEMPERATURE - GATE**2 / 2 - 2 * np.log(CELL_SPREAD)
    scores -= scores.max(0)
    shares = np.exp(scores)
    return (shares / shares.sum(0))[:-1].astype(np.float32)


def exchange_probability(own: Expectation, here: Place, other: Expectation, there: Place) -> float:
    """The probability that two things that look the same have been mistaken for each other, 0 to 0.5.

    Compares how well the two places match the expectations as they are, and exchanged.

    Args:
        own: where the object is expected.
        here: where it was found.
        other: where its rival is expected.
        there: where that was found.
    """
    error = CELL_SPREAD * 4  # of a measured centre, in cells of the decoder's grid
    swapped = _misfit(own, there, error) + _misfit(other, here, error)
    margin = (swapped - _misfit(own, here, error) - _misfit(other, there, error)) / 2
    return float(1 / (1 + np.exp(np.clip(margin, 0, 30))))


def _misfit(expected: Expectation, found: Place, error: float) -> float:
    """Squared distance of a place from where a thing is expected, in standard deviations."""
    away = (np.array(found.center) - np.array(expected.center)) ** 2
    return float(away.sum() / (expected.spread**2 + error**2))


def touches(mask: Bool[np.ndarray, "s s"], others: Sequence[Bool[np.ndarray, "s s"]], cell: float) -> bool:
    """Whether a mask is within `TOUCHING` coarse cells of another one.

    Args:
        mask: of a thing.
        others: masks of other things.
        cell: cells of the masks' grid in a coarse cell.
    """
    if not mask.any() or not len(others):
        return False
    away = distance_to(mask)
    return any(bool((away[other] <= TOUCHING * cell).any()) for other in others if other.any())
