"""Correct by clicks what the words found: every instance becomes an object of a click session."""

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

FAITHFUL = 0.9  # IoU from which a click shows an instance well enough; below, its mask is given as a prompt too
CLICKED = 1.0  # confidence of what a person clicked


class ClipGuidedSession:
    """A `ClipGuidedResult` that follows a person's clicks.

    Example:
        >>> clicks = nbhelpers.ClickSession(image, segmenter)
        >>> session = ClipGuidedSession(result, clicks)
        >>> ClickWidget(clicks)                        # every instance is an object there: click, clear, delete, undo
        >>> session.add(320, 200, "cat")               # or by code
        >>> session.result.names
        ('cat 1', 'sofa', 'cat 2')

    Instances that nobody touched keep their masks. One that got a click takes the click session's mask; one whose
    object was deleted or cleared is gone; a new object becomes an instance of the class that its name begins with, or
    else of the class that the class map gives most of it to. What was clicked lies over what was not.

    Args:
        result: where to start from.
        clicks: a new session on the same photo; it gets the instances as objects.

    Raises:
        NbHelpersError: a session on another photo, or one that has been used.
    """

    def __init__(self, result: ClipGuidedResult, clicks: ClickSession):
        if clicks.image.shape != result.image.shape or not np.array_equal(clicks.image, result.image):
            raise NbHelpersError("the click session is on another photo", do="ClickSession(result.image, segmenter)")
        if len(clicks.objects) > 1 or not clicks.prompts().is_empty:
            raise NbHelpersError("the click session has been used already", do="give a new ClickSession")
        self.found, self.clicks = result, clicks
        self._owners: list[str] = []
        self._seeded: dict[str, tuple[int, tuple]] = {}
        self._current: ClipGuidedResult | None = None
        self._seed()
        clicks.on_change(self._forget)

    @property
    def result(self) -> ClipGuidedResult:
        """The result with all corrections so far."""
        if self._current is None:
            self._current = self._corrected()
        return self._current

    def add(self, x: float, y: float, name: str | None = None) -> str:
        """Add the region at a click, in pixels of the photo; return the name of its object.

        Args:
            x: to the right.
            y: downwards.
            name: a class of the vocabulary, or a new one; the class map decides when left out.
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
        """Remove the region under a click; return its name."""
        height, width = self.found.image.shape[:2]
        column, row = round(x), round(y)
        inside = 0 <= column < width and 0 <= row < height
        index = int(self.result.instance_map[row, column]) if inside else -1
        if index < 0:
            raise NbHelpersError("there is no region at this place", given=(x, y), do="click inside a coloured region")
        name = self._owners[index]
        if len(self.clicks.objects) == 1:
            self.clicks.clear(name=name)
        else:
            self.clicks.remove_object(name)
        return name

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener()`` after every step; returns a function that stops it."""
        return self.clicks.on_change(listener)

    def _seed(self) -> None:
        """Give the click session one object for each instance, with the points that found it."""
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
            if iou(clicks.mask(), mask) < FAITHFUL:
                clicks.set_mask(mask)
            self._seeded[name] = index, self._said(name)

    def _said(self, name: str) -> tuple:
        said = self.clicks.prompts(name)
        rle = said.mask_rle and said.mask_rle["counts"]
        return said.points, said.labels, said.box, said.candidate, rle

    def _evidence(self, name: str) -> str:
        """What found an object: a person, unless it is an untouched instance."""
        index, said = self._seeded.get(name, (-1, None))
        return str(self.found.instances.data["evidence"][index]) if said == self._said(name) else "click"

    def _forget(self) -> None:
        self._current = None

    def _corrected(self) -> ClipGuidedResult:
        """Untouched instances first, then what was clicked, in the order of the click session."""
        found, clicks = self.found, self.clicks
        vocabulary = list(found.vocabulary)
        numbers = np.full(found.instance_map.shape, -1, np.int16)
        ids, confidence, owners, clicked = [], [], [], []
        for name in clicks.objects:
            index, said = self._seeded.get(name, (-1, None))
            if clicks.prompts(name).is_empty:
                continue
            if said == self._said(name):
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
            confidence.append(CLICKED)
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
        """Index of the class of a new object; a name that is no class yet is appended to the vocabulary."""
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
