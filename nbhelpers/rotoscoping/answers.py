"""From what was said on a frame to a mask."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.promptevents import ObjectEntry, ObjectPrompts
from nbhelpers.core.prompts import Prompt
from nbhelpers.rotoscoping.follower import Follower, Said
from nbhelpers.rotoscoping.project import Project
from nbhelpers.rotoscoping.records import Prompted
from nbhelpers.rotoscoping.strokes import paint

ANSWERS = 16  # masks beneath strokes that are kept, as RLE


class Answers:
    """Asks the tracker about prompts, paints strokes over its answers, and writes the masks into the project.

    Args:
        project: of the clip.
        follower: asks the tracker.
        size: ``(H, W)`` of a frame.
    """

    def __init__(self, project: Project, follower: Follower, size: tuple[int, int]):
        self._project, self._follower, self._size = project, follower, size
        self._beneath: OrderedDict[tuple[int, int, str], tuple[Mapping[str, Any], float]] = OrderedDict()

    def update(self, entries: Mapping[str, ObjectEntry]) -> None:
        """Answer whatever was said and has no mask yet; the masks are in the project then."""
        for entry in entries.values():
            for frame, said in entry.frames.items():
                record = self._project.record(frame, entry.number)
                if said.is_empty or (record.prompted and record.prompted.digest == said.digest):
                    continue
                rle, score = self._answer(entries, entry.number, frame, said)
                prompted = Prompted(rle, round(score, 6), said.digest)
                self._project.put(
                    frame, {entry.number: replace(self._project.full(frame, entry.number), prompted=prompted)}
                )

    def _answer(
        self, entries: Mapping[str, ObjectEntry], number: int, frame: int, said: ObjectPrompts
    ) -> tuple[Mapping[str, Any], float]:
        """The mask that answers what was said, as RLE, and the tracker's confidence."""
        if said.strokes:
            rle, _ = self._answer(entries, number, frame, replace(said, strokes=()))
            return encode_rle(paint(decode_rle(rle), said.strokes)), 1.0
        if said.is_empty:
            return said.base_rle or encode_rle(np.zeros(self._size, bool)), 1.0
        prompt = self._question(number, frame, said).check_inside(self._size)
        if not said.points and said.box is None:
            return said.mask_rle, 1.0
        key = number, frame, said.digest
        if key not in self._beneath:
            prediction = self._follower.answer(self.said(entries), number, frame, said.digest, lambda: prompt)
            self._beneath[key] = encode_rle(prediction.best), float(prediction.scores[prediction.choice])
            while len(self._beneath) > ANSWERS:
                self._beneath.popitem(last=False)
        return self._beneath[key]

    def recall(self, entries: Mapping[str, ObjectEntry]) -> None:
        """Let the tracker remember what it knew when the project was closed; to be called before prompts change."""
        self._follower.recall(self.said(entries))

    def save(self, entries: Mapping[str, ObjectEntry]) -> None:
        """Save what the tracker remembers of the answers; to be called when the prompts are saved."""
        self._follower.save(self.said(entries))

    def said(self, entries: Mapping[str, ObjectEntry]) -> Said:
        """Everything that stands, as the tracker is to know it."""
        return {
            (entry.number, frame): (said.digest, functools.partial(self._prompt, entry.number, frame, said))
            for entry in entries.values()
            for frame, said in entry.frames.items()
            if not said.is_empty
        }

    def _prompt(self, number: int, frame: int, said: ObjectPrompts) -> Prompt:
        if said.strokes:
            return Prompt(mask=self._project.mask(frame, number, "prompted"))
        return self._question(number, frame, said)

    def _question(self, number: int, frame: int, said: ObjectPrompts) -> Prompt:
        """The prompt, with the mask that it corrects unless the tracker has that itself, and better."""
        known = self._follower.corrects(number, frame)
        return (replace(said, base_rle=None) if known else said).prompt()
