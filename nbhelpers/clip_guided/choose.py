"""Which reading of a point is meant: part, larger part or whole."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float16

from nbhelpers.clip_guided.where import Evidence, Places
from nbhelpers.models.values import Prediction


@dataclass(frozen=True)
class Answer:
    """The mask that was taken for one point.

    Attributes:
        logits: on the segmenter's grid; 16 bits are enough, since only the sign and the slope at the edge count.
        class_id: index into the class map's names.
        candidate: 1, 2 or 3.
        score: predicted IoU.
        agreement: share of the mask that the class map gives to the class, 0 to 1.
    """

    logits: Float16[np.ndarray, "h w"]
    class_id: int
    candidate: int
    score: float
    agreement: float

    @property
    def confidence(self) -> float:
        """Predicted IoU times agreement."""
        return self.score * self.agreement


class Chooser:
    """Picks for each point the candidate that agrees best with the segmenter's score and the class map.

    A candidate's worth is its predicted IoU, times the share of it that belongs to the class, times the fourth root of
    the share of the point's region that it covers, times the root of the share of it that hangs together with the
    point. The third prefers the whole animal to its head, and is weak enough that two animals side by side, which are
    one region, stay two; the last is against masks of two animals that stand apart.
    """

    def __init__(self, evidence: Evidence, places: Places):
        self.evidence = evidence
        self.places = places
        """May get more points; the regions stay."""
        self.taken: dict[int, tuple[int, int, float]] = {}
        """Point -> class, candidate and agreement."""
        height, width = evidence.size
        self._regions = cv2.resize(places.numbers, (width, height), interpolation=cv2.INTER_NEAREST)
        self._areas = np.bincount(self._regions.ravel() + 1, minlength=places.numbers.max(initial=0) + 2)[1:]

    def __call__(self, number: int, candidates: Prediction) -> int:
        """Index of the candidate for point ``number``."""
        height, width = self.evidence.size
        masks = candidates.logits[:, :height, :width] > 0
        class_id, region = int(self.places.class_ids[number]), int(self.places.region_ids[number])
        relative, inside = self.evidence.relative(class_id), self._regions == region
        agreements = [mean_inside(relative, mask) for mask in masks]
        covers = [np.count_nonzero(mask & inside) / max(1, self._areas[region]) for mask in masks]
        joined = [self._joined(number, mask, candidates.size) for mask in masks]
        worth = candidates.scores * np.array(agreements) * np.power(covers, 0.25) * np.sqrt(joined)
        best = int(worth.argmax())
        self.taken[number] = class_id, best + 1, agreements[best]
        return best

    def _joined(self, number: int, mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> float:
        """Share of a mask that is connected to its point; 0 where the point is outside."""
        across, down = mask.shape[1] / size[1], mask.shape[0] / size[0]
        x, y = self.places.points[number]
        column, row = min(int((x + 0.5) * across), mask.shape[1] - 1), min(int((y + 0.5) * down), mask.shape[0] - 1)
        if not mask[row, column]:
            return 0.0
        _, labels = cv2.connectedComponents(mask.astype(np.uint8))
        return np.count_nonzero(labels == labels[row, column]) / np.count_nonzero(mask)


def grid_size(prediction: Prediction) -> tuple[int, int]:
    """``(h, w)``: the part of a prediction's logits that shows the photo."""
    return max(1, round(prediction.extent[0])), max(1, round(prediction.extent[1]))


def mean_inside(values: Float[np.ndarray, "h w"], where: Bool[np.ndarray, "h w"]) -> float:
    """Mean of values over a mask; 0 for an empty one."""
    count = np.count_nonzero(where)
    return float(values[where].sum() / count) if count else 0.0
