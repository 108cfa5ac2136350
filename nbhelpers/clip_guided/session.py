"""Correction of a guided segmentation by clicks: every instance becomes an object of a click session."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool

from nbhelpers.clip_guided.selection import detections
from nbhelpers.clip_guided.values import ClipGuidedResult
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.metrics import iou

if TYPE_CHECKING:
    from nbhelpers.segment import ClickSession

MIN_CLICK_IOU = 0.9  # IoU below which the prompt of an instance is complemented by its mask
CLICK_CONFIDENCE = 1.0  # of instances that the user clicked


class ClipGuidedSession:
    """A `ClipGuidedResult` that is updated by clicks.

    Example:
        >>> clicks = nbhelpers.ClickSession(image, segmenter)
        >>> session = ClipGuidedSession(result, clicks)
        >>> ClickWidget(clicks)                        # every instance is an object: click, clear, delete, undo
        >>> session.add(320, 200, "cat")               # or from code
        >>> session.result.names
        ('cat 1', 'sofa', 'cat 2')

    Unedited instances keep their masks. An edited instance takes the mask of the click session; one whose object was
    deleted or cleared is removed; a new object becomes an instance of the class that its name starts with, or else of
    the most probable class in the class map. Edited instances are painted over unedited ones.

    Args:
        result: the initial result.
        clicks: a new session on the same photo, to which the instances are added as objects.

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
        self._seeded: dict[str, tuple[int, tuple]] = {}
        self._current: ClipGuidedResult | None = None
        self._seed()
        clicks.on_change(self._forget)

    @property
    def result(self) -> ClipGuidedResult:
        """The result with all corrections."""
        if self._current is None:
            self._current = self._corrected()
        return self._current

    def add(self, x: float, y: float, name: str | None = None) -> str:
        """Add an instance by a click in pixels of the photo; return the name of its object.

        Args:
            x: column.
            y: row.
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

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener()`` after every step; returns a function that removes it."""
        return self.clicks.on_change(listener)

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
            if iou(clicks.mask(), mask) < MIN_CLICK_IOU:
                clicks.set_mask(mask)
            self._seeded[name] = index, self._prompts(name)

    def _prompts(self, name: str) -> tuple:
        prompts = self.clicks.prompts(name)
        rle = prompts.mask_rle and prompts.mask_rle["counts"]
        return prompts.points, prompts.labels, prompts.box, prompts.candidate, rle

    def _evidence(self, name: str) -> str:
        """The evidence of an object: that of the instance if unedited, else a click."""
        index, prompts = self._seeded.get(name, (-1, None))
        return str(self.found.instances.data["evidence"][index]) if prompts == self._prompts(name) else "click"

    def _forget(self) -> None:
        self._current = None

    def _corrected(self) -> ClipGuidedResult:
        """Unedited instances first, then edited ones, in the order of the click session."""
        found, clicks = self.found, self.clicks
        vocabulary = list(found.vocabulary)
        numbers = np.full(found.instance_map.shape, -1, np.int16)
        ids, confidence, owners, clicked = [], [], [], []
        for name in clicks.objects:
            index, prompts = self._seeded.get(name, (-1, None))
            if clicks.prompts(name).is_empty:
                continue
            if prompts == self._prompts(name):
                numbers[found.instance_map == index] = len(ids)
                ids.append(int(found.instances.class_id[index]))
                confidence.append(float(found.instances.confidence[index]))
                owners.append(name)
            else:
                clicked.append((name, index))
        for name, index in clicked:
            mask = clicks.mask(name)
            if not mask.any():
                continue
            numbers[mask] = len(ids)
            ids.append(int(found.instances.class_id[index]) if index >= 0 else self._class_of(name, mask, vocabulary))
            confidence.append(CLICK_CONFIDENCE)
            owners.append(name)
        standing = np.flatnonzero(np.bincount(numbers.ravel() + 1, minlength=len(ids) + 1)[1:])
        number = np.full(len(ids) + 1, -1, np.int16)
        number[standing] = np.arange(len(standing))
        self._owners = [owners[i] for i in standing]
        ids, confidence = [ids[i] for i in standing], [confidence[i] for i in standing]
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
        share = cv2.resize(mask.astype(np.float32), planes.shape[:0:-1], interpolation=cv2.INTER_AREA)
        return int((planes * share).sum((1, 2)).argmax())
