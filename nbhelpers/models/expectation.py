"""Where a tracked instance is expected on the next frame: a Kalman filter with constant velocity.

Yang et al. 2024 (SAMURAI, arXiv 2411.11922, section 4.1) choose among SAM 2's masks by such a filter; here it also
keeps instances that look the same apart (`nbhelpers.models.label_propagation.identity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64

MAX_PAST = 24  # frames from which a position is predicted
MEASURED, MEASURED_TOUCHING = 0.05, 0.15  # standard deviation of a measured position, of the object's size
ACCELERATION = 0.06  # standard deviation of the change of velocity from frame to frame, of the object's size


@dataclass(frozen=True)
class Place:
    """Where an instance is on a frame, in cells of the decoder's grid.

    Attributes:
        center: ``(x, y)``, mean of its cells.
        area: number of its cells.
        alone: whether no distractor touches it; otherwise mask and position are not to be trusted.
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
    """Where an instance is expected on a frame.

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

    def moved(self, mask: Bool[np.ndarray, "s s"], there: Place) -> Bool[np.ndarray, "s s"]:
        """A mask of the instance, moved from its place there to where the instance is expected."""
        dx, dy = np.array(self.center) - np.array(there.center)
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        return cv2.warpAffine(mask.astype(np.uint8), shift, mask.shape[::-1]).astype(bool)


def place_of(mask: Bool[np.ndarray, "s s"], alone: bool = True) -> Place | None:
    """The place of a mask; None if it is empty."""
    rows, columns = np.nonzero(mask)
    return Place((float(columns.mean()), float(rows.mean())), float(len(rows)), alone) if len(rows) else None


def expect(places: Mapping[int, Place], frame: int, step: int, start: int | None) -> Expectation | None:
    """Where an instance is expected, from the frames before.

    Args:
        places: of the instance by frame.
        frame: for which it is predicted.
        step: 1 if time runs forwards, -1 if backwards.
        start: the frame to begin with, such as a prompted one: what lies before it is older than its correction.

    Returns:
        None if the instance is on no frame before.
    """
    first = frame - step * MAX_PAST if start is None else max(frame - step * MAX_PAST, start, key=lambda f: f * step)
    past = [index for index in range(first, frame, step) if index in places]
    if not past:  # out of sight for long
        older = [
            index for index in places if (first - index) * step > 0 and (start is None or (index - start) * step >= 0)
        ]
        past = sorted(older, key=lambda index: index * step)[-1:]
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
