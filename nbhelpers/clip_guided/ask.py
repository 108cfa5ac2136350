"""All points to the segmenter, on one embedding; then again where confident places were left without a mask."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from nbhelpers.clip_guided.choose import Answer, Chooser, grid_size
from nbhelpers.clip_guided.merge import instances
from nbhelpers.clip_guided.values import Settings
from nbhelpers.clip_guided.where import Evidence, Places, unanswered
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import ClassMap, Embedding, Prediction

AT_A_TIME = 256  # points whose masks are held as the segmenter gave them; afterwards in half the bytes


class Questions:
    """The points of a photo and the answers to them so far.

    Args:
        segmenter: who is asked.
        embedding: of the photo.
        class_map: of the photo.
        places: the points; at least one.

    Attributes:
        places: with the points that were added.
        answers: one for each point.
        evidence: the class map on the grid of the answers.
        shape: a prediction of this photo, for its size and extent.
        choosing: seconds spent on choosing candidates and on placing more points.
    """

    evidence: Evidence
    shape: Prediction

    def __init__(self, segmenter: Segmenter, embedding: Embedding, class_map: ClassMap, places: Places):
        self._segmenter, self._embedding, self._class_map = segmenter, embedding, class_map
        self._chooser: Chooser | None = None
        self.places, self.answers, self.choosing = places, list[Answer](), 0.0

    def ask(self, wanted: dict[int, bool], settings: Settings) -> None:
        """Ask all points, then for some rounds those that `unanswered` adds.

        Args:
            wanted: class index -> whether it is stuff.
            settings: number of rounds and points.
        """
        self._ask_new()
        for _ in range(settings.rounds - 1 if settings.placement == "deepest" else 0):
            started = time.perf_counter()
            found, _ = instances(self.answers, wanted, settings, self.cell)
            claimed = np.zeros(self.evidence.size, bool)
            for item in found:
                claimed |= item.logits > 0
            self.places = unanswered(self.places, claimed, settings)
            self.choosing += time.perf_counter() - started
            if len(self.places.points) == len(self.answers):
                break
            self._ask_new()

    @property
    def cell(self) -> float:
        """Pixels of the photo in one cell of the answers' grid."""
        return self.shape.size[0] * self.shape.size[1] / (self.evidence.size[0] * self.evidence.size[1])

    def _ask_new(self) -> None:
        for start in range(len(self.answers), len(self.places.points), AT_A_TIME):

            def choose(number: int, candidates: Prediction, start=start) -> int:
                return self._choose(start + number, candidates)

            points = self.places.points[start : start + AT_A_TIME]
            prediction = self._segmenter.predict_points(self._embedding, points, choose)
            height, width = self.evidence.size
            for number, score in enumerate(prediction.scores.tolist(), start):
                class_id, candidate, agreement = self._chooser.taken[number]
                logits = prediction.logits[number - start, :height, :width].astype(np.float16)
                self.answers.append(Answer(logits, class_id, candidate, score, agreement))
            self.shape = replace(prediction, logits=prediction.logits[:1], scores=prediction.scores[:1], choice=0)

    def _choose(self, number: int, candidates: Prediction) -> int:
        started = time.perf_counter()
        if self._chooser is None:
            self.evidence = Evidence(self._class_map, grid_size(candidates))
            self._chooser = Chooser(self.evidence, self.places)
        self._chooser.places = self.places
        index = self._chooser(number, candidates)
        self.choosing += time.perf_counter() - started
        return index
