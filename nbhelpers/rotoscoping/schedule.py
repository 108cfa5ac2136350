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
        gone: the tracker predicts that the object is occluded or out of frame.
        step: 1 if it was tracked forwards, -1 if backwards.
        source: the source frame, the prompted frame that it was tracked from.
        digest: of the prompts on the source frame.
        overlap: IoU with the neighbour's mask warped to this frame by optical flow; None if unreliable.
        jump: area divided by that of the warped mask.
        exchanged: probability that the other candidate is the object; None if there is no other.
        other: the mask of the other candidate as COCO RLE, where it is probable enough to be offered.
        draft: it was tracked as a draft, see `nbhelpers.rotoscoping.RotoSession`.
    """

    rle: Mapping[str, Any] = field(repr=False)
    score: float
    gone: bool
    step: int
    source: int
    digest: str
    overlap: float | None = None
    jump: float | None = None
    exchanged: float | None = None
    other: Mapping[str, Any] | None = field(default=None, repr=False)
    draft: bool = False


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
    """Both masks of one object on one frame; the prompted one takes precedence while the frame has prompts."""

    tracked: TrackedMask | None = None
    prompted: PromptedMask | None = None

    def without_masks(self) -> MaskRecord:
        """A copy without the masks, small enough to keep for every frame of a clip."""
        return MaskRecord(
            None if self.tracked is None else replace(self.tracked, rle={}, other=self.tracked.other and {}),
            None if self.prompted is None else replace(self.prompted, rle={}),
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data, with the field names of the project files."""
        parts = {"tracked": self.tracked, "prompted": self.prompted}
        data = {name: dict(vars(part)) for name, part in parts.items() if part is not None}
        if self.tracked is not None and not self.tracked.draft:
            del data["tracked"]["draft"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaskRecord:
        """The inverse of `to_dict`; raises ``TypeError`` or ``KeyError`` for invalid data."""
        tracked, prompted = data.get("tracked"), data.get("prompted")
        return cls(tracked and TrackedMask(**tracked), prompted and PromptedMask(**prompted))


Find = Callable[[int, int], TrackedMask | None]
"""The tracked mask of an object (number) on a frame."""
Digests = Mapping[int, Mapping[int, str]]
"""Digest of the prompts by object number and prompted frame."""


def source_frame(digests: Mapping[int, str], frame: int, step: int) -> int | None:
    """The prompted frame from which a frame is tracked in the direction ``step``: the nearest one before it."""
    before = [key for key in digests if (key - frame) * step < 0]
    return max(before, key=lambda key: key * step) if before else None


def is_current(tracked: TrackedMask | None, digests: Mapping[int, str], frame: int) -> bool:
    """Whether a tracked mask is up to date: the prompts of its source frame have not changed."""
    if tracked is None:
        return False
    source = source_frame(digests, frame, tracked.step)
    return source == tracked.source and digests[source] == tracked.digest


def frames_in_range(digests: Digests, find: Find, start: int, stop: int, step: int) -> dict[int, set[int]]:
    """Frames to track, with the object numbers, for a requested range.

    Up to the next prompted frame these are all frames that are not current in this direction; after it, only those that
    are not current in either direction.
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
    """Empty or outdated frames of a range, with the object numbers, that should be tracked in this direction.

    Frames before an object's first prompt are tracked backwards, all others forwards unless they were tracked backwards
    before.
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
