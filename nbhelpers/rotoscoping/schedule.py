"""The mask records of a frame, and which frames a propagation has to track, in which direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

FORWARD, BACKWARD = 1, -1


@dataclass(frozen=True)
class TrackedMask:
    """A mask that a tracker propagated to a frame.

    Attributes:
        rle: the mask as COCO RLE.
        score: the tracker's confidence, 0 to 1.
        gone: the tracker believes that the object is hidden or out of the picture.
        step: 1 if it was tracked forwards, -1 if backwards.
        source: the source frame, the prompted frame that it was tracked from.
        digest: of the prompts on the source frame.
        overlap: IoU with the neighbour's mask warped to this frame by optical flow; None where the flow says nothing.
        jump: area divided by that of the warped mask.
    """

    rle: Mapping[str, Any] = field(repr=False)
    score: float
    gone: bool
    step: int
    source: int
    digest: str
    overlap: float | None = None
    jump: float | None = None


@dataclass(frozen=True)
class PromptedMask:
    """The mask predicted from the prompts on a frame.

    Attributes:
        rle: the mask as COCO RLE.
        score: the tracker's confidence, 0 to 1; 1 for a mask that was painted or imported.
        digest: of the prompts.
    """

    rle: Mapping[str, Any] = field(repr=False)
    score: float
    digest: str


@dataclass(frozen=True)
class MaskRecord:
    """Both masks of one object on one frame; the prompted one counts as long as the frame has prompts."""

    tracked: TrackedMask | None = None
    prompted: PromptedMask | None = None

    def without_masks(self) -> MaskRecord:
        """All but the masks: small enough to be kept for every frame of a clip."""
        return MaskRecord(
            None if self.tracked is None else replace(self.tracked, rle={}),
            None if self.prompted is None else replace(self.prompted, rle={}),
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data; the field names are those of the project's files."""
        parts = {"tracked": self.tracked, "prompted": self.prompted}
        return {name: dict(vars(part)) for name, part in parts.items() if part is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaskRecord:
        """The inverse of `to_dict`; raises ``TypeError`` or ``KeyError`` where the data do not fit."""
        tracked, prompted = data.get("tracked"), data.get("prompted")
        return cls(tracked and TrackedMask(**tracked), prompted and PromptedMask(**prompted))


Find = Callable[[int, int], TrackedMask | None]
"""The tracked mask of an object (number) on a frame."""
Digests = Mapping[int, Mapping[int, str]]
"""By object number and prompted frame, the digest of the prompts."""


def source_frame(digests: Mapping[int, str], frame: int, step: int) -> int | None:
    """The prompted frame that a frame is tracked from in the direction ``step``: the nearest one before it."""
    before = [key for key in digests if (key - frame) * step < 0]
    return max(before, key=lambda key: key * step) if before else None


def is_current(tracked: TrackedMask | None, digests: Mapping[int, str], frame: int) -> bool:
    """Whether tracking again would give the same mask: the prompts of its source frame have not changed."""
    if tracked is None:
        return False
    source = source_frame(digests, frame, tracked.step)
    return source == tracked.source and digests[source] == tracked.digest


def frames_in_range(digests: Digests, find: Find, start: int, stop: int, step: int) -> dict[int, set[int]]:
    """Frames to track, with the object numbers, when a person requests a range.

    Up to the next prompted frame these are all frames that are not current in this very direction; after it, only
    those that are not current in either direction.
    """
    todo: dict[int, set[int]] = {}
    for number, prompted in digests.items():
        first = True
        for frame in range(start, stop + step, step):
            if frame in prompted:
                first = first and frame == start
                continue
            tracked = find(number, frame)
            done = is_current(tracked, prompted, frame) and (tracked.step == step or not first)
            if not done and source_frame(prompted, frame, step) is not None:
                todo.setdefault(frame, set()).add(number)
    return todo


def missing_frames(digests: Digests, find: Find, start: int, stop: int, step: int) -> dict[int, set[int]]:
    """Frames of a range, with the object numbers, that are empty or outdated and best tracked in this direction.

    Frames before an object's first prompt are tracked backwards, all others forwards, except where they were tracked
    backwards before.
    """
    todo: dict[int, set[int]] = {}
    for number, prompted in digests.items():
        for frame in range(start, stop + step, step):
            tracked = find(number, frame)
            if frame in prompted or is_current(tracked, prompted, frame):
                continue
            direction = tracked.step if tracked is not None else FORWARD
            if source_frame(prompted, frame, direction) is None:
                direction = -direction
            if direction == step and source_frame(prompted, frame, direction) is not None:
                todo.setdefault(frame, set()).add(number)
    return todo


def contiguous_ranges(frames: Iterable[int], step: int) -> list[tuple[int, int]]:
    """First and last frame of each run of neighbours, in the direction ``step``."""
    ordered: Sequence[int] = sorted(frames, reverse=step == BACKWARD)
    if not ordered:
        return []
    breaks = [(a, b) for a, b in pairwise(ordered) if b - a != step]
    starts, stops = [ordered[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), ordered[-1]]
    return list(zip(starts, stops, strict=True))
