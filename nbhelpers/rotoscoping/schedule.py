"""The mask records of a frame, their drift, and which frames a propagation has to track, in which direction.

Drift is measured by the tracker's score and the agreement with the neighbouring frame by optical flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeGuard

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, iou
from nbhelpers.core.video import optical_flow, warp

FORWARD, BACKWARD = 1, -1
FLOW_SIDE = 480  # pixels of the longer side at which optical flow is computed
MIN_AREA = 24  # pixels at that size; the flow of smaller masks is unreliable
MIN_DOUBTFUL = 0.5  # drift score from which a frame is doubtful
VANISHED_SCORE = 0.75  # drift score of a frame on which the object vanishes
USUAL_SCORE, USUAL_OVERLAP = 0.9, 0.9  # assumed before there are statistics of an object
SCORE_DROP, OVERLAP_DROP = 0.1, 0.2  # fraction below the object's usual value that is doubtful
MAX_BAD_SCORE, MAX_BAD_OVERLAP = 0.5, 0.4  # values that are always doubtful
MIN_EXCHANGED = 0.1  # probability of an exchange with another instance, from which a frame is doubtful
DOUBTFUL_JUMP, USUAL_JUMP = 1.75, 1.25  # factor of the area that is doubtful, and one that is not


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


def is_current(tracked: TrackedMask | None, digests: Mapping[int, str], frame: int) -> TypeGuard[TrackedMask]:
    """Whether a tracked mask is up to date: the prompts of its source frame have not changed."""
    if tracked is None:
        return False
    source = source_frame(digests, frame, tracked.step)
    return source == tracked.source and digests[tracked.source] == tracked.digest


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


@dataclass(frozen=True)
class Drift:
    """How likely it is that a mask has drifted off its object.

    Attributes:
        score: 0 (reliable) to 1 (unreliable); from 0.5 on the frame is doubtful.
        model: the tracker's confidence, 0 to 1.
        flow_overlap: IoU with the neighbour's mask warped to this frame by optical flow; None if unreliable.
        area_jump: area divided by that of the warped mask; None if unreliable.
        why: the reason in one sentence.
        exchanged: probability that another instance that looks the same is the object, at most 0.5; None without one.
    """

    score: float
    model: float
    flow_overlap: float | None
    area_jump: float | None
    why: str
    exchanged: float | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether the frame should be inspected."""
        return self.score >= MIN_DOUBTFUL

    @property
    def has_other(self) -> bool:
        """Whether another instance is about as likely to be the object, so that the frame is doubtful."""
        return self.exchanged is not None and self.exchanged >= MIN_EXCHANGED


def drift_score(
    model: float,
    overlap: float | None = None,
    jump: float | None = None,
    gone: bool = False,
    usual: tuple[float, float] = (USUAL_SCORE, USUAL_OVERLAP),
    exchanged: float | None = None,
) -> Drift:
    """The drift of a mask: the worst of tracker confidence, overlap, area jump and probability of an exchange.

    A thin and fast object overlaps little with its neighbour even if the mask is correct, and trackers differ in their
    confidence. Both are therefore compared with the usual values of the object.

    Args:
        model: the tracker's confidence, 0 to 1.
        overlap: see `flow_agreement`.
        jump: see `flow_agreement`.
        gone: the tracker predicts that the object is not visible.
        usual: medians of ``model`` and ``overlap`` over the object's frames.
        exchanged: probability that another instance that looks the same is the object, at most 0.5.
    """
    if gone:
        vanished = overlap is not None  # the neighbour's mask did not leave the frame, but there is none here
        why = "the object vanishes from one frame to the next" if vanished else "the object is gone"
        return Drift(VANISHED_SCORE if vanished else 0.0, model, overlap, jump, why)
    doubts = {f"the tracker's confidence is low ({model:.0%})": _doubt(model, usual[0], SCORE_DROP, MAX_BAD_SCORE)}
    if overlap is not None:
        why = f"its overlap with the mask predicted by optical flow is only {overlap:.0%}"
        doubts[why] = _doubt(overlap, usual[1], OVERLAP_DROP, MAX_BAD_OVERLAP)
    if jump is not None:
        factor = max(jump, 1 / max(jump, 1e-3))
        grown = "grew" if jump > 1 else "shrank"
        excess = (factor - USUAL_JUMP) / (DOUBTFUL_JUMP - USUAL_JUMP)
        doubts[f"its area {grown} {factor:.1f}-fold from one frame to the next"] = MIN_DOUBTFUL * excess
    if exchanged is not None:
        why = f"another thing that looks the same may be the object ({exchanged:.0%})"
        doubts[why] = MIN_DOUBTFUL * exchanged / MIN_EXCHANGED
    why, score = max(doubts.items(), key=lambda item: item[1])
    score = min(max(score, 0.0), 1.0)
    why = why if score >= MIN_DOUBTFUL / 2 else "no sign of drift"
    return Drift(round(score, 3), model, overlap, jump, why, exchanged)


def flow_agreement(
    mask: Bool[np.ndarray, "h w"],
    here: UInt8[np.ndarray, "sh sw"],
    before: Bool[np.ndarray, "h w"],
    there: UInt8[np.ndarray, "sh sw"],
) -> tuple[float | None, float | None]:
    """Overlap and area jump of a mask, compared with the neighbour's mask warped to this frame.

    Args:
        mask: on the frame.
        here: the frame, from `to_small_grey`.
        before: the mask on the neighbour.
        there: the neighbour, from `to_small_grey`.

    Returns:
        IoU and ratio of the areas; None and None if the neighbour's mask is too small, or if the optical flow explains
        the background, but what the mask shows no better than a constant: it does not follow thin or fast parts. At a
        cut it explains neither.
    """
    shape = here.shape[::-1]
    area = [cv2.resize(m.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.5 for m in (mask, before)]
    if np.count_nonzero(area[1]) < MIN_AREA:
        return None, None
    flow = optical_flow(here, there, fast=True)
    warped = warp(area[1], flow) > 0.5
    size = np.count_nonzero(warped)
    if size < MIN_AREA:  # it leaves the frame
        return None, None
    background = ~area[0]
    if (box := box_of(area[0])) is not None and background.any():
        x0, y0, x1, y1 = box
        residual = (here - warp(there, flow)) ** 2
        follows_background = residual[background].mean() < np.var(here[background])
        if follows_background and residual[area[0]].mean() > np.var(here[y0:y1, x0:x1]):
            return None, None
    return round(iou(area[0], warped), 4), round(int(np.count_nonzero(area[0])) / int(size), 4)


def to_small_grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "sh sw"]:
    """A greyscale copy of a frame, small enough for fast optical flow."""
    return cv2.cvtColor(fit(image, FLOW_SIDE), cv2.COLOR_RGB2GRAY)


def _doubt(value: float, usual: float, drop: float, bad: float) -> float:
    """0 at the usual value, 0.5 at a fraction ``drop`` below it, and 0.5 at ``bad`` at the latest."""
    return MIN_DOUBTFUL * max((1 - value / max(usual, 1e-6)) / drop, (1 - value) / (1 - bad) if value < bad else 0.0)
