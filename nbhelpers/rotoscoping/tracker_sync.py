"""Synchronisation of a tracker with the prompts of a project: predicts prompted frames and tracks the others."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.prompts import INCLUDE, ObjectPrompts, Prompt, Stroke
from nbhelpers.models.protocols import Detector, FrameSequence, Tracker
from nbhelpers.models.values import Prediction, TrackedFrame
from nbhelpers.models.whole import detect_objects
from nbhelpers.rotoscoping.project import Project, prompts_by_frame
from nbhelpers.rotoscoping.schedule import (
    MIN_EXCHANGED,
    Digests,
    PromptedMask,
    TrackedMask,
    flow_agreement,
    is_current,
    source_frame,
    to_small_grey,
)

MEMORY_FRAMES = 32  # memory frames that are kept, unless the tracker specifies it
MAX_WARM_UP = 16  # frames that are tracked again to restore a tracker whose memory cannot be saved
DRAFT_STEP = 3  # frames from one that a draft tracks to the next
MASK_CACHE_SIZE = 16  # masks beneath strokes, as RLE
GREY_CACHE_SIZE = 4  # small greyscale copies of frames
STROKE_BITS = 4  # fractional binary digits of the coordinates that OpenCV draws with

TrackerPrompts = Mapping[tuple[int, int], tuple[str, Callable[[], Prompt]]]
"""By object number and frame: the digest of the prompts, and a function that creates the tracker's prompt."""


class TrackerSync:
    """A tracker on a clip, synchronised with the prompts of a project, also after a restart.

    The memory of trackers with ``memory`` and ``recall`` (such as `nbhelpers.models.sam2_video.Sam2Tracker`) is saved
    with every frame, so that they continue exactly as before. Other trackers are given all prompts again and track the
    last few frames once more. A tracker's ``kept`` is the number of memory frames on either side of the latest one that
    it keeps while the prompts of the object are unchanged; None: all frames, whatever prompts are added.

    Args:
        tracker: see `nbhelpers.models.protocols.Tracker`.
        frames: the clip.
        project: holds the prompts; masks and memory frames are written there.
    """

    def __init__(self, tracker: Tracker, frames: FrameSequence, project: Project):
        self.tracker, self._frames, self._project = tracker, frames, project
        self.state = tracker.open(frames)
        self._memory_of: Callable[..., dict[str, np.ndarray]] | None = getattr(tracker, "memory", None)
        self._recall: Callable[..., None] | None = getattr(tracker, "recall", None)
        self._kept: int | None = getattr(tracker, "kept", MEMORY_FRAMES)
        self._added: dict[tuple[int, int], str] = {}  # by object and frame, digest of the prompts in the tracker
        self._memory: dict[int, dict[int, str]] = {}  # by object and memory frame, digest of what it depends on
        self._is_restored = not project.memory_frames()
        self._unsaved: set[int] = set()
        self._unpainted: OrderedDict[tuple[int, int, str], tuple[Mapping[str, Any], float]] = OrderedDict()
        self._greys: OrderedDict[int, np.ndarray] = OrderedDict()
        self._candidates: dict[tuple, Prediction] = {}  # of the latest click

    def predict_prompted(self) -> None:
        """Predict every prompted mask of the project that is missing or outdated, and write it there."""
        for entry in self._project.entries.values():
            for frame, prompts in prompts_by_frame(entry).items():
                record = self._project.record(frame, entry.number)
                if record.prompted and record.prompted.digest == prompts.digest:
                    continue
                rle, score = self._predict(entry.number, frame, prompts)
                prompted = PromptedMask(rle, round(score, 6), prompts.digest)
                self._project.put(
                    frame, {entry.number: replace(self._project.full(frame, entry.number), prompted=prompted)}
                )

    def track(
        self, todo: Mapping[int, set[int]], start: int, stop: int, step: int, draft: bool = False
    ) -> Generator[int]:
        """Track the objects from ``start`` to ``stop``, both included, and write the masks of ``todo`` to the project.

        Args:
            todo: by frame, numbers of the objects whose masks are written; contains ``start``.
            start: first frame.
            stop: last frame.
            step: 1 or -1.
            draft: track every third frame and interpolate the masks between.

        Yields:
            the index of each frame once its masks and memory are saved, including frames before ``start`` that had to
            be tracked again.
        """
        prompts, digests = self._prompts(), self._project.digests()
        self._add_prompts(prompts, prompts)
        first = self._warm_up_start(todo[start], digests, start, step)
        self._save_changed(prompts)
        if draft and 0 <= first - step < len(self._frames):
            first -= step  # one end of the first interpolation
        by = step * DRAFT_STEP if draft else step
        by = () if by == (1 if stop >= first else -1) else (by,)  # trackers need not know of steps
        for tracked in self.tracker.propagate(self.state, first, stop, *by):
            if tracked.is_interpolated:
                if tracked.frame in todo:
                    self._write_masks(tracked, todo[tracked.frame], digests, step, draft)
                yield tracked.frame
                continue
            for number in tracked.predictions:
                frames = self._memory.setdefault(number, {})
                frames[tracked.frame] = prompts_digest(prompts, number)
                for far in [frame for frame in frames if self._is_far(frame, tracked.frame)]:
                    del frames[far]
            self._save_frame(prompts, tracked.frame)
            if tracked.frame in todo:
                self._write_masks(tracked, todo[tracked.frame], digests, step, draft)
            yield tracked.frame

    def restore_memory(self) -> None:
        """Restore the saved memory of all unchanged prompts; call it before prompts change.

        Only the first call has an effect.
        """
        self._restore(self._prompts())

    def save_memory(self) -> None:
        """Save the memory of the frames whose prompts changed; call it after the prompts are saved."""
        self._save_changed(self._prompts())

    def _prompts(self) -> TrackerPrompts:
        """All prompts of the project, in the tracker's form."""
        return {
            (entry.number, frame): (prompts.digest, functools.partial(self._to_prompt, entry.number, frame, prompts))
            for entry in self._project.entries.values()
            for frame, prompts in prompts_by_frame(entry).items()
        }

    def _to_prompt(self, number: int, frame: int, prompts: ObjectPrompts) -> Prompt:
        """The prompt of a frame; for a painted frame, its mask."""
        if prompts.strokes or prompts.candidate is not None:
            return Prompt(mask=self._project.mask(frame, number, "prompted"))
        return self._without_strokes(number, frame, prompts)

    def _without_strokes(self, number: int, frame: int, prompts: ObjectPrompts) -> Prompt:
        """The prompt, with the mask that it corrects unless the tracker has that mask in memory."""
        in_memory = self._kept is None and frame in self._memory.get(number, {})
        prompt = (replace(prompts, base_rle=None) if in_memory else prompts).prompt()
        assert prompt is not None  # there is more than strokes
        return prompt

    def _predict(self, number: int, frame: int, prompts: ObjectPrompts) -> tuple[Mapping[str, Any], float]:
        """The mask of the prompts as RLE, and the tracker's confidence."""
        size = self._frames.size
        if prompts.strokes:
            rle, _ = self._predict(number, frame, replace(prompts, strokes=()))
            return encode_rle(draw_strokes(decode_rle(rle), prompts.strokes)), 1.0
        if prompts.is_empty:
            return prompts.base_rle or encode_rle(np.zeros(size, bool)), 1.0
        prompt = self._without_strokes(number, frame, prompts).check_inside(size)
        if prompts.mask_rle is not None and not prompts.points and prompts.box is None:
            return prompts.mask_rle, 1.0
        if prompts.candidate is not None:
            candidates = self.candidates(frame, prompts)
            if candidates is None:
                raise NbHelpersError("a step of the prompt log chooses a candidate mask where there are none")
            return encode_rle(candidates.mask(prompts.candidate)), float(candidates.scores[prompts.candidate])
        key = number, frame, prompts.digest
        if key not in self._unpainted:
            every = self._prompts()
            others = {k: value for k, value in every.items() if k != (number, frame) and k[0] == number}
            self._add_prompts(others, every)
            prediction = self._add(number, frame, prompts.digest, lambda: prompt)
            self._unpainted[key] = encode_rle(prediction.best), float(prediction.scores[prediction.choice])
            while len(self._unpainted) > MASK_CACHE_SIZE:
                self._unpainted.popitem(last=False)
        return self._unpainted[key]

    @property
    def _meanings_of(self) -> Callable[..., Prediction] | None:
        """The tracker's ``candidates``; None if it has none."""
        return getattr(self.tracker, "candidates", None)

    def candidates(self, frame: int, prompts: ObjectPrompts) -> Prediction | None:
        """The masks that a single including click may mean; None for other prompts, or if the tracker has none."""
        if self._meanings_of is None or prompts.labels != (INCLUDE,):
            return None
        if prompts.box is not None or prompts.mask_rle is not None or prompts.base_rle is not None:
            return None
        if (frame, prompts.points) not in self._candidates:
            self._candidates.clear()
            self._candidates[frame, prompts.points] = self._meanings_of(self.state, frame, prompts.points[0])
        return self._candidates[frame, prompts.points]

    def whole(self, frame: int, point: tuple[float, float], detector: Detector) -> int | None:
        """Index of the candidate that is a whole object under a click; None if it is the tracker's choice."""
        plain = self.candidates(frame, ObjectPrompts((point,), (INCLUDE,)))
        boxes = detect_objects(detector, self._frames[frame])
        if plain is None or self._meanings_of is None or not len(boxes):
            return None
        chosen = self._meanings_of(self.state, frame, point, boxes).choice
        return None if chosen == plain.choice else chosen

    def _add_prompts(self, prompts: TrackerPrompts, every: TrackerPrompts) -> None:
        """Add changed ``prompts`` to the tracker, and remove those that are not in ``every``."""
        self._restore(every)
        self._remove_deleted(every)
        for (number, frame), (digest, make) in sorted(prompts.items(), key=lambda item: item[0][::-1]):
            if self._added.get((number, frame)) != digest:
                self._add(number, frame, digest, make)

    def _add(self, number: int, frame: int, digest: str, make: Callable[[], Prompt]) -> Prediction:
        """Add the prompt of one object on one frame to the tracker."""
        prediction = self.tracker.add(self.state, frame, number, make())
        self._mark_changed(number, frame)
        self._added[number, frame] = digest
        return prediction

    def _remove_deleted(self, every: TrackerPrompts) -> None:
        """Remove prompts from the tracker that no longer exist."""
        for number, frame in [key for key in self._added if key not in every]:
            self.tracker.remove(self.state, number, frame)
            self._mark_changed(number, frame)

    def _mark_changed(self, number: int, frame: int) -> None:
        """Drop state that depends on the former prompts of a frame."""
        self._unsaved.add(frame)
        self._added.pop((number, frame), None)
        if self._kept is not None:
            self._memory.pop(number, None)

    def _is_far(self, frame: int, latest: int) -> bool:
        """Whether a frame is too far from the latest one to be in the tracker's memory."""
        return self._kept is not None and abs(frame - latest) > self._kept

    def _save_changed(self, prompts: TrackerPrompts) -> None:
        """Save the memory of all frames whose prompts changed."""
        self._remove_deleted(prompts)
        while self._unsaved:
            self._save_frame(prompts, self._unsaved.pop())

    def _save_frame(self, prompts: TrackerPrompts, frame: int) -> None:
        """Save the memory of one frame, and delete memory frames that are too far away."""
        if self._memory_of is None:
            return
        added = {str(n): digest for (n, f), digest in self._added.items() if f == frame}
        depends = {str(n): frames[frame] for n, frames in self._memory.items() if frame in frames}
        about = {"told": added, "known": depends}  # the keys of the file format
        self._project.save_memory(frame, self._memory_of(self.state, frame), about)
        if self._kept is not None:
            prompted = {f for _, f in prompts}
            for far in self._project.memory_frames():
                if self._is_far(far, frame) and far not in prompted:
                    self._project.delete_memory(far)

    def _restore(self, prompts: TrackerPrompts) -> None:
        """Restore the saved memory of the tracker, once."""
        if self._is_restored:
            return
        self._is_restored = True
        if self._recall is None:
            return
        prompted = {frame for _, frame in prompts}
        for frame in sorted(self._project.memory_frames(), key=lambda frame: (frame not in prompted, frame)):
            if (saved := self._project.memory(frame)) is None:
                continue
            arrays, about = saved
            added = {int(n): digest for n, digest in about["told"].items()}
            depends = {int(n): digest for n, digest in about["known"].items()}
            valid = {
                n
                for n in added.keys() | depends.keys()
                if self._is_valid(prompts, n, frame, added.get(n), depends.get(n))
            }
            arrays = {name: value for name, value in arrays.items() if int(name.partition("/")[0]) in valid}
            if arrays:
                known = {n: prompts[n, frame][1]() for n in valid & added.keys()}
                self._recall(self.state, frame, arrays, known)
            self._added |= {(n, frame): added[n] for n in valid & added.keys()}
            for number in valid & depends.keys():
                self._memory.setdefault(number, {})[frame] = depends[number]

    def _is_valid(
        self, prompts: TrackerPrompts, number: int, frame: int, added: str | None, depends: str | None
    ) -> bool:
        """Whether the saved memory of an object on a frame is up to date."""
        if added is not None:
            return (number, frame) in prompts and prompts[number, frame][0] == added
        return depends == prompts_digest(prompts, number) or (
            self._kept is None and any(n == number for n, _ in prompts)
        )

    def _warm_up_start(self, numbers: set[int], digests: Digests, start: int, step: int) -> int:
        """The frame to start from, so that the tracker has the frames before ``start`` in memory."""
        first = start
        for number in numbers:
            frame = start
            while abs(frame - start) < MAX_WARM_UP and not self._has_memory(number, frame - step):
                before = frame - step
                tracked = self._project.record(before, number).tracked if 0 <= before < len(self._frames) else None
                if not is_current(tracked, digests[number], before) or tracked.step != step:
                    break
                frame = before
            first = min(first, frame, key=lambda each: each * step)
        return first

    def _has_memory(self, number: int, frame: int) -> bool:
        """Whether the tracker has an object's mask on a frame in memory and can continue from it."""
        return frame in self._memory.get(number, {}) or (number, frame) in self._added

    def _write_masks(self, tracked: TrackedFrame, numbers: set[int], digests: Digests, step: int, draft: bool) -> None:
        """Write the masks of a tracked frame and their agreement with optical flow to the project."""
        frame, neighbour = tracked.frame, tracked.frame - step
        records = {}
        for entry in self._project.entries.values():
            if (number := entry.number) not in numbers or number not in tracked.predictions:
                continue
            prediction, gone = tracked.predictions[number], number in tracked.gone
            mask = np.zeros(self._frames.size, bool) if gone else prediction.best
            overlap = jump = None
            known = 0 <= neighbour < len(self._frames) and self._project.state(neighbour, entry) != "empty"
            if known and not tracked.is_interpolated:
                before = self._project.current_mask(neighbour, entry)
                overlap, jump = flow_agreement(mask, self._grey(frame), before, self._grey(neighbour))
            source = source_frame(digests[number], frame, step)
            assert source is not None  # only frames with one are tracked
            score = round(float(prediction.scores[prediction.choice]), 6)
            digest = digests[number][source]
            found = TrackedMask(encode_rle(mask), score, gone, step, source, digest, overlap, jump, draft=draft)
            if (other := tracked.others.get(number)) is not None:
                exchanged = round(float(other.scores[0]), 4)
                rle = encode_rle(other.best) if exchanged >= MIN_EXCHANGED / 2 else None
                found = replace(found, exchanged=exchanged, other=rle)
            records[number] = replace(self._project.full(frame, number), tracked=found)
        if records:
            self._project.put(frame, records)

    def _grey(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """A small greyscale copy of a frame, cached."""
        if frame not in self._greys:
            self._greys[frame] = to_small_grey(self._frames[frame])
            while len(self._greys) > GREY_CACHE_SIZE:
                self._greys.popitem(last=False)
        return self._greys[frame]


def prompts_digest(prompts: TrackerPrompts, number: int) -> str:
    """16 hexadecimal digits that change with any prompt of an object."""
    parts = sorted((frame, digest) for (n, frame), (digest, _) in prompts.items() if n == number)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def draw_strokes(mask: Bool[np.ndarray, "h w"], strokes: Sequence[Stroke]) -> Bool[np.ndarray, "h w"]:
    """Draw brush strokes over a mask, in order, clipped to the frame.

    Example:
        >>> draw_strokes(mask, [Stroke(points=((10, 10), (60, 10)), radius=5)]).shape
        (480, 640)
    """
    canvas = mask.astype(np.uint8, order="C")
    for stroke in strokes:
        colour = 0 if stroke.erase else 1
        # OpenCV rounds the width of a line to whole pixels, so discs of the exact radius are drawn along it
        points = np.round(np.asarray(stroke.points) * 2**STROKE_BITS).astype(np.int32)
        radius = round(stroke.radius * 2**STROKE_BITS)
        for x, y in points:
            cv2.circle(canvas, (int(x), int(y)), radius, colour, cv2.FILLED, cv2.LINE_8, STROKE_BITS)
        for a, b in pairwise(points):
            cv2.fillConvexPoly(canvas, _band(a, b, radius), colour, cv2.LINE_8, STROKE_BITS)
    return canvas.view(np.bool_)


def _band(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """The four corners of the area that a brush covers between two points, without its round ends."""
    along = (b - a).astype(np.float64)
    length = np.hypot(*along)
    across = np.array([-along[1], along[0]]) / (length or 1) * radius
    return np.round([a + across, b + across, b - across, a - across]).astype(np.int32)
