"""Correct the instances that words found by clicks: each becomes an object of a click session."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool

from nbhelpers.clip_guided.selection import detections
from nbhelpers.clip_guided.values import ClipGuidedResult
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou, tight_box
from nbhelpers.core.prompts import PromptLog
from nbhelpers.export.masks import check_formats

if TYPE_CHECKING:
    from nbhelpers.models.values import Prediction
    from nbhelpers.segment import ClickSession

IOU_FAITHFUL = 0.9  # from which a prompt reproduces an instance well enough; below, the mask and its box are added
CLICK_CONFIDENCE = 1.0  # of instances that a user clicked
FORMATS = ("masks", "cutouts", "coco", "labels", "prompts")
"""What `ClipGuidedSession.export` writes."""


class ClipGuidedSession:
    """A `ClipGuidedResult` that follows the user's clicks.

    Example:
        >>> clicks = nbhelpers.ClickSession(image, segmenter)
        >>> session = ClipGuidedSession(result, clicks)
        >>> ClickWidget(clicks)                        # every instance is an object: click, clear, delete, undo
        >>> session.add(320, 200, "cat")               # or from code
        >>> session.result.names
        ('cat 1', 'sofa', 'cat 2')

    Instances without clicks keep their masks. One that got a click takes the click session's mask; one whose object was
    deleted or cleared is removed; a new object becomes an instance of the class that its name begins with, or else of
    the class with the highest probability in it. Clicked instances lie over the others.

    Args:
        result: where to start from.
        clicks: a new session on the same photo; it gets the instances as objects. `undo` stops there.

    Raises:
        NbHelpersError: a session on another photo, or one that already has prompts.
    """

    def __init__(self, result: ClipGuidedResult, clicks: ClickSession):
        if clicks.image.shape != result.image.shape or not np.array_equal(clicks.image, result.image):
            raise NbHelpersError("the click session is on another photo", do="ClickSession(result.image, segmenter)")
        if len(clicks.objects) > 1 or not clicks.prompts().is_empty:
            raise NbHelpersError("the click session already has prompts", do="pass a new ClickSession")
        self.found, self.clicks = result, clicks
        self._owners: list[str] = []
        self._seeded: dict[str, tuple[int, str]] = {}  # object -> instance, digest of its prompts
        self._current: ClipGuidedResult | None = None
        self._seed()
        clicks.seal()
        clicks.on_change(self._forget)

    @classmethod
    def open(cls, path: str | Path, result: ClipGuidedResult, clicks: ClickSession) -> ClipGuidedSession:
        """Open a session from a prompt log written by `save`, on the same result.

        Args:
            path: of the prompt log.
            result: the one that was corrected.
            clicks: a new session on its photo.

        Raises:
            NbHelpersError: the log cannot be read, or belongs to another photo, model or result.
        """
        saved, session = PromptLog.open(path), cls(result, clicks)
        seeds = json.loads(json.dumps(clicks.log.events))
        same = (saved.image.get("sha256"), saved.model) == (clicks.log.image.get("sha256"), clicks.log.model)
        if not same or saved.events[: len(seeds)] != seeds or saved.cursor < len(seeds):
            raise NbHelpersError(
                "the prompt log belongs to another photo, model or result",
                given=f"{path}: {saved.image.get('name')}, {saved.model}",
                expected=f"{clicks.name}, {clicks.log.model}",
            )
        clicks.log.events, clicks.log.cursor = saved.events, saved.cursor
        session._forget()
        return session

    def save(self, path: str | Path) -> Path:
        """Write the prompt log as JSON and return its path."""
        return self.clicks.save(path)

    @property
    def result(self) -> ClipGuidedResult:
        """The result with all corrections."""
        if self._current is None:
            self._current = self._corrected()
        return self._current

    def click(self, x: float, y: float, label: int = 1, *, name: str | None = None) -> Prediction:
        """Add a point, 1 to include or 0 to exclude, in pixels of the photo; see `ClickSession.click`.

        Args:
            x: pixels from the left.
            y: pixels from the top.
            label: 1 to include, 0 to exclude.
            name: of an instance's object; by default the active one.
        """
        return self.clicks.click(x, y, label, name=name)

    def set_box(self, box: Sequence[float] | None, *, name: str | None = None) -> Prediction | None:
        """Set or, with None, remove the box ``(x0, y0, x1, y1)`` of an object."""
        return self.clicks.set_box(box, name=name)

    def set_mask(self, mask: Bool[np.ndarray, "h w"] | None, *, name: str | None = None) -> Prediction | None:
        """Set or, with None, remove a mask prompt of photo size."""
        return self.clicks.set_mask(mask, name=name)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return self.clicks.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return self.clicks.can_redo

    def undo(self) -> bool:
        """Undo the last correction; False when there is none."""
        return self.clicks.undo()

    def redo(self) -> bool:
        """Redo the last undone correction; False when there is none."""
        return self.clicks.redo()

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the corrected result as `ClipGuidedResult.save`, and the prompt log; return the paths.

        Args:
            folder: created if it is missing.
            formats: some of `FORMATS`; the COCO file and the summary are always written.

        Raises:
            NbHelpersError: an unknown format, or the folder cannot be written.
        """
        check_formats(formats, FORMATS)
        paths = self.result.save(folder, self.clicks.name, formats)
        return [*paths, self.save(paths[-1].with_suffix(".prompts.json"))] if "prompts" in formats else paths

    def add(self, x: float, y: float, name: str | None = None) -> str:
        """Add an instance by a click in pixels of the photo; return the name of its object.

        Args:
            x: pixels from the left.
            y: pixels from the top.
            name: a class of the vocabulary, or a new one; by default the most probable class.
        """
        if name is not None:
            taken, number = set(self.clicks.objects), 1
            stem = name
            while name in taken:
                number += 1
                name = f"{stem} {number}"
        name = self.clicks.add_object(name)
        self.clicks.click(x, y)
        return name

    def remove(self, x: float, y: float) -> str:
        """Remove the instance at ``(x, y)``; return its name."""
        height, width = self.found.image.shape[:2]
        column, row = round(x), round(y)
        inside = 0 <= column < width and 0 <= row < height
        index = int(self.result.instance_map[row, column]) if inside else -1
        if index < 0:
            raise NbHelpersError(
                "there is no instance at this point", given=(x, y), do="click inside a coloured region"
            )
        name = self._owners[index]
        if len(self.clicks.objects) == 1:
            self.clicks.clear(name=name)
        else:
            self.clicks.remove_object(name)
        return name

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after every step; returns a function that stops it."""
        return self.clicks.on_change(callback)

    def _seed(self) -> None:
        """Add an object with the best prompt for each instance to the click session."""
        clicks, result = self.clicks, self.found
        for index, name in enumerate(result.names):
            if index:
                clicks.add_object(name)
            else:
                clicks.rename_object(clicks.active, name)
            best = max((p for p in result.prompts if p.instance == index), key=lambda p: p.score * p.agreement)
            if best.box is not None:
                clicks.set_box(best.box)
            else:
                clicks.click(*best.point)
                clicks.choose_candidate(best.candidate)
            mask = result.instance_map == index
            if iou(clicks.mask(), mask) < IOU_FAITHFUL:
                clicks.set_box(tight_box(mask))
                clicks.set_mask(mask)
            self._seeded[name] = index, clicks.prompts(name).digest

    def _is_untouched(self, name: str) -> bool:
        """Whether an object is an instance without corrections."""
        return self._seeded.get(name, (-1, None))[1] == self.clicks.prompts(name).digest

    def _evidence(self, name: str) -> str:
        """What found an object: a click, unless it is an instance without corrections."""
        index, _ = self._seeded.get(name, (-1, None))
        return str(self.found.instances.data["evidence"][index]) if self._is_untouched(name) else "click"

    def _forget(self) -> None:
        self._current = None

    def _corrected(self) -> ClipGuidedResult:
        """Instances without corrections first, then the clicked ones, in the order of the click session."""
        found, clicks = self.found, self.clicks
        class_ids, certainty = np.asarray(found.instances.class_id), np.asarray(found.instances.confidence)
        vocabulary = list(found.vocabulary)
        numbers = np.full(found.instance_map.shape, -1, np.int16)
        ids, confidence, owners, clicked = [], [], [], []
        for name in clicks.objects:
            index, _ = self._seeded.get(name, (-1, None))
            if clicks.prompts(name).is_empty:
                continue
            if self._is_untouched(name):
                numbers[found.instance_map == index] = len(ids)
                ids.append(int(class_ids[index]))
                confidence.append(float(certainty[index]))
                owners.append(name)
            else:
                clicked.append((name, index))
        for name, index in clicked:
            mask = clicks.mask(name)
            if not mask.any():
                continue
            numbers[mask] = len(ids)
            ids.append(int(class_ids[index]) if index >= 0 else self._class_of(name, mask, vocabulary))
            confidence.append(CLICK_CONFIDENCE)
            owners.append(name)
        remaining = np.flatnonzero(np.bincount(numbers.ravel() + 1, minlength=len(ids) + 1)[1:])
        number = np.full(len(ids) + 1, -1, np.int16)
        number[remaining] = np.arange(len(remaining))
        self._owners = [owners[i] for i in remaining]
        ids, confidence = [ids[i] for i in remaining], [confidence[i] for i in remaining]
        instances = detections(number[numbers], ids, confidence, [vocabulary[i] for i in ids])
        evidence = [self._evidence(name) for name in self._owners]
        instances.data["evidence"] = np.array(evidence, str)
        untouched = {name: i for i, name in enumerate(self._owners)}
        moved = {old: untouched.get(name, -1) for name, (old, _) in self._seeded.items()}
        prompts = tuple(replace(p, instance=moved.get(p.instance, -1)) for p in found.prompts)
        conflicts = tuple(
            replace(c, winner=moved.get(c.winner, -1), loser=moved.get(c.loser, -1)) for c in found.conflicts
        )
        return replace(
            found,
            vocabulary=tuple(vocabulary),
            instances=instances,
            instance_map=number[numbers],
            prompts=prompts,
            conflicts=conflicts,
        )

    def _class_of(self, name: str, mask: Bool[np.ndarray, "h w"], vocabulary: list[str]) -> int:
        """Index of the class of a new object; a new name is appended to the vocabulary."""
        stem = re.sub(r"\s+\d+$", "", name.strip())
        folded = [word.casefold() for word in vocabulary]
        if stem.casefold() in folded:
            return folded.index(stem.casefold())
        if stem.casefold() != "object":
            vocabulary.append(stem)
            return len(vocabulary) - 1
        planes = self.found.class_map.probabilities[: len(self.found.vocabulary)]
        coverage = cv2.resize(mask.astype(np.float32), planes.shape[:0:-1], interpolation=cv2.INTER_AREA)
        return int((planes * coverage).sum((1, 2)).argmax())
