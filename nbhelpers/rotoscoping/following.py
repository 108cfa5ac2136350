"""The half of a rotoscoping session that follows objects from frame to frame, saving each before the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import encode_rle
from nbhelpers.models.values import TrackedFrame
from nbhelpers.rotoscoping import plan
from nbhelpers.rotoscoping.drift import compare, shrink
from nbhelpers.rotoscoping.editing import Editing
from nbhelpers.rotoscoping.follower import WARM
from nbhelpers.rotoscoping.records import BACKWARD, FORWARD, Tracked

SMALLS = 4  # small grey copies of frames that are kept


class Following(Editing):
    """Propagation over the prompts of `Editing`; see `nbhelpers.rotoscoping.RotoSession`."""

    def __init__(self, *args: Any):
        self._smalls: OrderedDict[int, np.ndarray] = OrderedDict()
        super().__init__(*args)

    def propagate(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        backwards: bool = False,
        on_frame: Callable[[int], object] | None = None,
    ) -> Iterator[int]:
        """Follow all objects and give the index of each frame that got new masks, as soon as they are saved.

        Prompted frames keep their masks, and so do frames that are up to date: up to the next prompted frame those
        that were followed in this direction, behind it all. The iterator can be left at any frame; a step on the
        session, or `cancel`, ends it with the frame in the making.

        Args:
            start: first frame; the current one when left out.
            stop: last frame, included; the clip's end in that direction when left out.
            backwards: follow from ``start`` down to ``stop``.
            on_frame: called with each index too.

        Raises:
            NbHelpersError: nothing has been prompted yet, no such frame, or a frame that cannot be read.
        """
        start = self._at(start)
        stop = self._at(stop) if stop is not None else (0 if backwards else len(self.frames) - 1)
        if (start - stop if backwards else stop - start) < 0:
            raise NbHelpersError(
                "the range runs the other way",
                given=f"{start} to {stop}",
                do="exchange start and stop" if backwards else "pass backwards=True",
            )
        self._need_prompts()
        return self._propagate({"start": start, "stop": stop, "backwards": backwards}, on_frame)

    def propagate_all(self, on_frame: Callable[[int], object] | None = None) -> Iterator[int]:
        """Follow all objects to every frame that is empty or stale, forwards and then backwards; see `propagate`."""
        self._need_prompts()
        return self._propagate_all(on_frame)

    def take(self, events: Sequence[Mapping[str, Any]]) -> Iterator[int]:
        """Take the steps of another session's log; gives each frame that was followed.

        Steps that were taken before are passed over, so a replay that was cut off goes on.

        Args:
            events: in the form of `nbhelpers.core.promptlog.PromptLog.events`.

        Raises:
            NbHelpersError: this session took other steps.
        """
        own = self.log.events[: self.log.cursor]
        if len(own) == 1:  # nothing but the object that every session begins with
            self.log.events, self.log.cursor, own = [], 0, []
        for event, before in zip(events, own, strict=False):
            if any(event.get(key) != before.get(key) for key in {*event, *before} - {"stop"}):
                raise NbHelpersError(
                    "the project has prompts of its own, or of another log",
                    given=f"{self.project}: {before['op']}",
                    expected=event["op"],
                    do="name another folder",
                )
        if any(event["op"] != "propagate" for event in own[len(events) :]):
            raise NbHelpersError(
                "somebody went on with the project since", given=self.project, do="open it with RotoSession instead"
            )
        if own and own[-1]["op"] == "propagate" and len(own) <= len(events):  # it may have been cut off
            yield from self._propagate(dict(events[len(own) - 1]), None, record=False)
        for event in events[len(own) :]:
            what = {key: value for key, value in event.items() if key != "op"}
            self._record(event["op"], **what)
            if event["op"] == "propagate":
                yield from self._propagate(self.log.events[-1], None, record=False)
        self._changed()

    def cancel(self) -> None:
        """End a running propagation with the frame in the making; all that was followed stays."""
        self._runs += 1

    def _need_prompts(self) -> None:
        if not self._keys():
            raise NbHelpersError("there is nothing to follow yet", do="click the object on some frame first")

    def _keys(self) -> dict[int, dict[int, str]]:
        """By object number and prompted frame, the digest of what was said."""
        every: dict[int, dict[int, str]] = {}
        for (number, frame), (digest, _) in self._answers.said(self._entries).items():
            every.setdefault(number, {})[frame] = digest
        return every

    def _tracked(self, number: int, frame: int) -> Tracked | None:
        return self._project.record(frame, number).tracked

    def _propagate_all(self, on_frame: Callable[[int], object] | None) -> Iterator[int]:
        last = len(self.frames) - 1
        runs = self._runs
        for start, stop, backwards in ((0, last, False), (last, 0, True)):
            event = {"start": start, "stop": stop, "backwards": backwards, "missing": True}
            if runs == self._runs and self._todo(event):
                yield from self._propagate(event, on_frame)

    def _todo(self, event: Mapping[str, Any]) -> dict[int, set[int]]:
        """Frames that a propagation has to follow, with the numbers of the objects."""
        step = BACKWARD if event["backwards"] else FORWARD
        choose = plan.missing if event.get("missing") else plan.asked
        return choose(self._keys(), self._tracked, event["start"], event["stop"], step)

    def _propagate(
        self, event: dict[str, Any], on_frame: Callable[[int], object] | None, record: bool = True
    ) -> Iterator[int]:
        step = BACKWARD if event["backwards"] else FORWARD
        with self._lock:
            todo = self._todo(event)
            if record and todo:
                before = self.log.events, self.log.cursor
                self.log.append("propagate", **event)
                event = self.log.events[-1]
                try:
                    self._project.save_log()
                except NbHelpersError:
                    self.log.events, self.log.cursor = before
                    raise
            runs = self._runs
        reached = None
        try:
            for start, stop in plan.stretches(todo, step):
                for tracked in self._follow(todo, start, stop, step, runs):
                    reached = tracked.frame
                    if on_frame is not None:
                        on_frame(reached)
                    yield reached
        finally:
            with self._lock:
                self._note_reached(event, reached, max(todo, key=lambda frame: frame * step, default=None))
            self._changed()

    def _note_reached(self, event: dict[str, Any], reached: int | None, last: int | None) -> None:
        """Let the log tell how far a propagation came; one that came nowhere is forgotten."""
        if reached == last or not self._project.is_held:
            return
        if reached is not None:
            event["stop"] = reached
        elif self.log.cursor == len(self.log.events) and self.log.events[-1] is event:
            self.log.undo()
            self.log.events = self.log.events[: self.log.cursor]
        self._project.save_log()

    def _follow(
        self, todo: Mapping[int, set[int]], start: int, stop: int, step: int, runs: int
    ) -> Iterator[TrackedFrame]:
        """Follow one stretch of neighbours and save what is found."""
        with self._lock:
            said, keys = self._answers.said(self._entries), self._keys()
            self._follower.tell(said)
            first = self._warm_up(todo[start], keys, start, step)
            following = self._follower.follow(said, first, stop)
        while True:
            with self._lock:
                tracked = next(following, None) if runs == self._runs else None
                if tracked is None:
                    following.close()
                    return
                if tracked.frame in todo:
                    self._store(tracked, todo[tracked.frame], keys, step)
            if tracked.frame in todo:
                yield tracked

    def _small(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """A small grey copy of a frame; the latest few are kept."""
        if frame not in self._smalls:
            self._smalls[frame] = shrink(self.frames[frame])
            while len(self._smalls) > SMALLS:
                self._smalls.popitem(last=False)
        return self._smalls[frame]

    def _warm_up(self, numbers: set[int], keys: Mapping[int, Mapping[int, str]], start: int, step: int) -> int:
        """Where to begin so that the tracker knows what came before ``start``; at ``start`` if it does."""
        first = start
        for number in numbers:
            frame = start
            while abs(frame - start) < WARM and not self._follower.is_warm(number, frame - step):
                tracked = self._tracked(number, frame - step) if 0 <= frame - step < len(self.frames) else None
                if not plan.is_fresh(tracked, keys[number], frame - step) or tracked.step != step:
                    break
                frame -= step
            first = min(first, frame, key=lambda each: each * step)
        return first

    def _store(
        self, tracked: TrackedFrame, numbers: set[int], keys: Mapping[int, Mapping[int, str]], step: int
    ) -> None:
        frame, neighbour = tracked.frame, tracked.frame - step
        records = {}
        for name, entry in self._entries.items():
            if (number := entry.number) not in numbers or number not in tracked.predictions:
                continue
            prediction = tracked.predictions[number]
            mask = prediction.best
            if number in tracked.gone:
                mask = np.zeros(self.size, bool)
            overlap = jump = None
            if 0 <= neighbour < len(self.frames) and self.has_mask(neighbour, name):
                before = self.mask(neighbour, name)
                overlap, jump = compare(mask, self._small(frame), before, self._small(neighbour))
            key = plan.source(keys[number], frame, step)
            score = round(float(prediction.scores[prediction.choice]), 6)
            gone = number in tracked.gone
            found = Tracked(encode_rle(mask), score, gone, step, key, keys[number][key], overlap, jump)
            records[number] = replace(self._project.full(frame, number), tracked=found)
        if records:
            self._project.put(frame, records)
