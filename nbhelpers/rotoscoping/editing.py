"""The half of a rotoscoping session that a person works on: objects, prompts on frames, undo."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.mattes import MatteSettings
from nbhelpers.core.promptevents import ObjectEntry, ObjectPrompts, object_name
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.rotoscoping.answers import Answers
from nbhelpers.rotoscoping.follower import Follower
from nbhelpers.rotoscoping.project import Project


class Editing:
    """Objects and prompts of a clip over a prompt log; see `nbhelpers.rotoscoping.RotoSession`.

    Every step is recorded, answered and saved, or leaves everything as it was.
    """

    def __init__(self, frames: FrameSequence, project: Project, follower: Follower):
        self.frames, self._project, self._follower = frames, project, follower
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], object]] = []
        self._answers = Answers(project, follower, self.size)
        self._known: tuple[object, int, dict[str, ObjectEntry]] | None = None
        self._runs = 0  # counts what ends a propagation: steps, and `cancel`
        self._frame = 0
        self._active: str | None = None
        if not self.log.events:
            self.log.append("object.add", object=object_name(()), number=1)
            project.save_log()
        self._answers.update(self._entries)

    @property
    def log(self):
        """The `PromptLog`: everything that was done, in order."""
        return self._project.log

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of every frame."""
        return tuple(self.frames.size)

    @property
    def frame(self) -> int:
        """Index of the current frame."""
        return self._frame

    def go(self, frame: int) -> int:
        """Make a frame the current one; beyond the ends the clip's first or last. Returns its index."""
        self._frame = min(max(int(frame), 0), len(self.frames) - 1)
        self._changed()
        return self._frame

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects, in the order in which they were added."""
        return tuple(self._entries)

    @property
    def active(self) -> str:
        """The object that prompts go to."""
        names = self.objects
        return self._active if self._active in names else names[-1]

    def select(self, name: str) -> None:
        """Make an object the active one."""
        self._entry(name)
        self._active = name
        self._changed()

    def prompts(self, name: str | None = None, frame: int | None = None) -> ObjectPrompts:
        """What was said about an object (the active one) on a frame (the current one)."""
        return self._entry(name).on(self._at(frame))

    def prompted_frames(self, name: str | None = None) -> list[int]:
        """Frames on which something was said about an object, in order."""
        return sorted(frame for frame, said in self._entry(name).frames.items() if not said.is_empty)

    def click(
        self, x: float, y: float, include: bool = True, *, name: str | None = None, frame: int | None = None
    ) -> Bool[np.ndarray, "h w"]:
        """Add a point in pixels of the frame, including or excluding, and return the new mask."""
        return self._do("point.add", name, frame, x=float(x), y=float(y), label=int(include))

    def move(
        self, index: int, x: float, y: float, *, name: str | None = None, frame: int | None = None
    ) -> Bool[np.ndarray, "h w"]:
        """Move point ``index`` to ``(x, y)`` and return the new mask."""
        return self._do("point.move", name, frame, index=int(index), x=float(x), y=float(y))

    def remove(self, index: int, *, name: str | None = None, frame: int | None = None) -> Bool[np.ndarray, "h w"]:
        """Remove point ``index`` and return the new mask."""
        return self._do("point.remove", name, frame, index=int(index))

    def set_box(
        self, box: Sequence[float] | None, *, name: str | None = None, frame: int | None = None
    ) -> Bool[np.ndarray, "h w"]:
        """Set or, with None, take away the box ``(x0, y0, x1, y1)``, and return the new mask."""
        return self._do("box.set", name, frame, box=None if box is None else [float(side) for side in box])

    def stroke(
        self,
        points: Sequence[tuple[float, float]],
        radius: float,
        erase: bool = False,
        *,
        name: str | None = None,
        frame: int | None = None,
    ) -> Bool[np.ndarray, "h w"]:
        """Paint over the mask with a round brush, or erase, and return the new mask.

        Args:
            points: ``(x, y)`` pixels that the brush's centre goes through; one makes a dot.
            radius: of the brush, in pixels.
            erase: take away instead of adding.
            name: of the object; the active one when left out.
            frame: the current one when left out.
        """
        path = [[float(x), float(y)] for x, y in points]
        return self._do("stroke.add", name, frame, points=path, radius=float(radius), erase=bool(erase))

    def set_mask(
        self, mask: Bool[np.ndarray, "h w"] | None, *, name: str | None = None, frame: int | None = None
    ) -> Bool[np.ndarray, "h w"]:
        """Take a mask from elsewhere as the answer or, with None, take it away again; return the new mask."""
        if mask is not None:
            Prompt(mask=np.asarray(mask, bool)).check_inside(self.size)
            mask = np.asarray(mask, bool)
        return self._do("mask.set", name, frame, mask=mask)

    def clear(self, *, name: str | None = None, frame: int | None = None) -> Bool[np.ndarray, "h w"]:
        """Take away all that was said on a frame; what was tracked there shows again."""
        return self._do("clear", name, frame)

    def matte_settings(self, name: str | None = None) -> MatteSettings:
        """How an object's masks become mattes."""
        return MatteSettings(**(self._entry(name).matte or {}))

    def set_matte(self, settings: MatteSettings | None, *, name: str | None = None) -> None:
        """Set how an object's masks become mattes; None: as they are."""
        self._step("matte.set", name, settings=None if settings is None else asdict(settings))

    def add_object(self, name: str | None = None) -> str:
        """Add an object, make it the active one, and return its name."""
        name = object_name(self.objects) if name is None else name
        used = [event.get("number", 0) for event in self.log.events] + self._project.numbers()
        with self._lock:
            self._record("object.add", object=name, number=max(used) + 1)
            self._active = name
        self._changed()
        return name

    def rename_object(self, old: str, new: str) -> None:
        """Give an object another name."""
        with self._lock:
            self._record("object.rename", object=old, to=new)
            self._active = new if self._active == old else self._active
        self._changed()

    def remove_object(self, name: str) -> None:
        """Remove an object with its prompts; undo brings it back. The last one stays."""
        if len(self.objects) == 1:
            raise NbHelpersError("the last object cannot be removed", given=name, do="clear() empties a frame")
        self._step("object.remove", name)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return any(event["op"] != "propagate" for event in self.log.events[1 : self.log.cursor])

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return any(event["op"] != "propagate" for event in self.log.events[self.log.cursor :])

    def undo(self) -> bool:
        """Take back the last step; False when there is none. Masks that were followed stay, and may become stale."""
        return self._travel(self.can_undo, self.log.undo)

    def redo(self) -> bool:
        """Do the last undone step again; False when there is none."""
        return self._travel(self.can_redo, self.log.redo)

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener()`` after every step; returns a function that stops it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    @property
    def _entries(self) -> dict[str, ObjectEntry]:
        """By name, what is said of each object; computed anew after each step."""
        events, cursor = self.log.events, self.log.cursor
        if self._known is None or self._known[0] is not events or self._known[1] != cursor:
            self._known = events, cursor, self.log.entries()
        return self._known[2]

    def _entry(self, name: str | None) -> ObjectEntry:
        if (name := self.active if name is None else name) not in self._entries:
            raise NbHelpersError("there is no such object", given=name, expected=f"one of {', '.join(self.objects)}")
        return self._entries[name]

    def _at(self, frame: int | None) -> int:
        frame = self._frame if frame is None else frame
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")
        return int(frame)

    def _do(self, op: str, name: str | None, frame: int | None, **what: Any) -> Bool[np.ndarray, "h w"]:
        """A step on one frame; the first one there is given the mask that it corrects."""
        entry, frame = self._entry(name), self._at(frame)
        if op not in ("clear", "mask.set") and self.state(frame, name) in ("tracked", "stale"):
            rle = self._project.rle(frame, entry.number, "tracked")
            what |= {"base": rle} if decode_rle(rle).any() else {}
        self._step(op, name, frame=frame, **what)
        return self.mask(frame, name)

    def _step(self, op: str, name: str | None, **what: Any) -> None:
        self._entry(name := self.active if name is None else name)
        with self._lock:
            self._record(op, object=name, **what)
            self._active = name
        self._changed()

    def _record(self, op: str, **what: Any) -> None:
        """Put a step in force, answer it and save it; a step that fails leaves everything as it was."""
        before = self.log.events, self.log.cursor
        if "frame" in what or op == "object.remove":
            self._answers.recall(self._entries)
        self.log.append(op, **what)
        self._settle(before)

    def _settle(self, before: tuple[list[dict], int]) -> None:
        """Answer what is in force now and save the log; if that fails, the log is again as it was ``before``."""
        try:
            self._answers.update(self._entries)
            self._project.save_log()
            self._answers.save(self._entries)
        except BaseException:
            self.log.events, self.log.cursor = before
            with contextlib.suppress(NbHelpersError):  # a mask may have been written that is not wanted now
                self._answers.update(self._entries)
            raise
        self._runs += 1

    def _travel(self, possible: bool, step: Callable[[], dict | None]) -> bool:
        if not possible:
            return False
        with self._lock:
            before = self.log.events, self.log.cursor
            self._answers.recall(self._entries)
            while (event := step())["op"] == "propagate":
                continue
            while self.log.can_redo and self.log.events[self.log.cursor]["op"] == "propagate":
                self.log.redo()
            self._settle(before)
            for name in (event.get("to"), event["object"]):
                self._active = name if name in self.objects else self._active
            if isinstance(event.get("frame"), int):
                self._frame = event["frame"]
        self._changed()
        return True

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()
