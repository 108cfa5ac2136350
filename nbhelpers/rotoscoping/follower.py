"""A tracker kept in step with what a person said, whether it was told just now or before the kernel was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import FrameSequence, Tracker
from nbhelpers.models.values import Prediction, TrackedFrame
from nbhelpers.rotoscoping.project import Project

KEPT = 32  # frames whose memory is kept, where the tracker does not say
WARM = 16  # frames at most that are followed anew to bring a tracker up to date that cannot be saved

Said = Mapping[tuple[int, int], tuple[str, Callable[[], Prompt]]]
"""By object number and frame: the digest of what was said, and what makes the prompt as the tracker is to know it."""


class Follower:
    """One tracker on one clip.

    Trackers that have ``memory`` and ``recall`` (as `nbhelpers.models.sam2_video.Sam2Tracker` does) are saved with
    every frame, and a new follower goes on exactly as the old one would have. Others are told all prompts anew, and
    follow the last few frames once more. A tracker's ``kept`` says how many frames on both sides of the latest one it
    remembers, as long as the prompts of the object are the same; None: all frames, whatever is said later.

    Args:
        tracker: see `nbhelpers.models.protocols.Tracker`.
        frames: the clip.
        project: where memories are written.
    """

    def __init__(self, tracker: Tracker, frames: FrameSequence, project: Project):
        self.tracker, self.project = tracker, project
        self.state = tracker.open(frames)
        self.saves = hasattr(tracker, "memory") and hasattr(tracker, "recall")
        self._kept: int | None = getattr(tracker, "kept", KEPT)
        self._told: dict[tuple[int, int], str] = {}
        self._known: dict[int, dict[int, str]] = {}  # by object, frames in memory and on what they depend
        self._recalled = not project.remembered()
        self._unsaved: set[int] = set()

    def answer(self, said: Said, number: int, frame: int, digest: str, prompt: Callable[[], Prompt]) -> Prediction:
        """The mask that a prompt means; everything else that was said of the object is told before."""
        self.tell({key: value for key, value in said.items() if key != (number, frame) and key[0] == number}, said)
        return self._add(said, number, frame, digest, prompt)

    def tell(self, said: Said, every: Said | None = None) -> None:
        """Bring the tracker up to date with ``said``; ``every`` tells what else still stands."""
        every = said if every is None else every
        self.recall(every)
        self._forget(every)
        for (number, frame), (digest, prompt) in sorted(said.items(), key=lambda item: item[0][::-1]):
            if self._told.get((number, frame)) != digest:
                self._add(every, number, frame, digest, prompt)

    def follow(self, said: Said, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Follow all objects from ``start`` to ``stop``, both included, and save what is remembered of each frame."""
        self.tell(said)
        self.save(said)
        for tracked in self.tracker.propagate(self.state, start, stop):
            for number in tracked.predictions:
                known = self._known.setdefault(number, {})
                known[tracked.frame] = depends_on(said, number)
                for far in [frame for frame in known if self._is_far(frame, tracked.frame)]:
                    del known[far]
            self._save(said, tracked.frame)
            yield tracked

    def save(self, said: Said) -> None:
        """Save what is remembered of the frames whose prompts changed; to be called when the prompts are saved."""
        self._forget(said)
        while self._unsaved:
            self._save(said, self._unsaved.pop())

    def is_warm(self, number: int, frame: int) -> bool:
        """Whether the tracker remembers an object on a frame, and can go on from there."""
        return frame in self._known.get(number, {}) or (number, frame) in self._told

    def corrects(self, number: int, frame: int) -> bool:
        """Whether the tracker itself remembers the mask that a prompt on this frame corrects, whenever it comes."""
        return self._kept is None and frame in self._known.get(number, {})

    def _is_far(self, frame: int, latest: int) -> bool:
        return self._kept is not None and abs(frame - latest) > self._kept

    def _add(self, said: Said, number: int, frame: int, digest: str, prompt: Callable[[], Prompt]) -> Prediction:
        prediction = self.tracker.add(self.state, frame, number, prompt())
        self._changed(number, frame)
        self._told[number, frame] = digest
        return prediction

    def _forget(self, said: Said) -> None:
        for number, frame in [key for key in self._told if key not in said]:
            self.tracker.remove(self.state, number, frame)
            self._changed(number, frame)

    def _changed(self, number: int, frame: int) -> None:
        self._unsaved.add(frame)
        self._told.pop((number, frame), None)
        if self._kept is not None:
            self._known.pop(number, None)

    def _save(self, said: Said, frame: int) -> None:
        if not self.saves:
            return
        told = {str(n): digest for (n, f), digest in self._told.items() if f == frame}
        known = {str(n): frames[frame] for n, frames in self._known.items() if frame in frames}
        about = {"told": told, "known": known}
        self.project.save_memory(frame, self.tracker.memory(self.state, frame), about)
        if self._kept is not None:
            prompted = {f for _, f in said}
            for far in self.project.remembered():
                if self._is_far(far, frame) and far not in prompted:
                    self.project.forget_memory(far)

    def recall(self, said: Said) -> None:
        """Put back, once, what was saved of all that still stands; later calls do nothing."""
        if self._recalled:
            return
        self._recalled = True
        if not self.saves:
            return
        prompted = {frame for _, frame in said}
        for frame in sorted(self.project.remembered(), key=lambda frame: (frame not in prompted, frame)):
            if (saved := self.project.memory(frame)) is None:
                continue
            arrays, about = saved
            told = {int(n): digest for n, digest in about["told"].items()}
            known = {int(n): digest for n, digest in about["known"].items()}
            right = {n for n in told.keys() | known.keys() if self._holds(said, n, frame, told.get(n), known.get(n))}
            kept = {name: value for name, value in arrays.items() if int(name.partition("/")[0]) in right}
            if kept:
                prompts = {n: said[n, frame][1]() for n in right & told.keys()}
                self.tracker.recall(self.state, frame, kept, prompts)
            self._told |= {(n, frame): told[n] for n in right & told.keys()}
            for number in right & known.keys():
                self._known.setdefault(number, {})[frame] = known[number]

    def _holds(self, said: Said, number: int, frame: int, told: str | None, known: str | None) -> bool:
        """Whether what was saved of an object on a frame is still what the tracker would remember."""
        if told is not None:
            return (number, frame) in said and said[number, frame][0] == told
        return known == depends_on(said, number) or (self._kept is None and any(n == number for n, _ in said))


def depends_on(said: Said, number: int) -> str:
    """16 hexadecimal digits that change with anything that was said about an object."""
    parts = sorted((frame, digest) for (n, frame), (digest, _) in said.items() if n == number)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
