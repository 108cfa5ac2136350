"""Tracking of objects through a clip with corrections on any frame: the session behind the frames widget."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.device import choose_precision
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.prompts import INCLUDE, ObjectEntry, ObjectPrompts, Prompt, PromptLog, object_name
from nbhelpers.core.video import find_cuts
from nbhelpers.export.verify import ExportReport
from nbhelpers.models.adapters import precision_name
from nbhelpers.models.protocols import Detector, FrameSequence, Tracker
from nbhelpers.models.values import Prediction
from nbhelpers.models.whole import use_detector
from nbhelpers.rotoscoping import schedule
from nbhelpers.rotoscoping.export import export_mattes
from nbhelpers.rotoscoping.project import Project, State, identify, open_clip, prompts_by_frame, read_about
from nbhelpers.rotoscoping.schedule import BACKWARD, FORWARD, Drift
from nbhelpers.rotoscoping.tracker_sync import TrackerSync

QUALITIES = ("full", "draft")


class RotoSession:
    """Objects of a clip: prompts on any frame and masks on every frame, stored in a project folder.

    Example:
        >>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
        >>> session.click(320, 200)                          # on frame 0
        >>> for frame in session.propagate():                # 1, 2, 3, ...; may be stopped at any frame
        ...     show(session.mask(frame))
        >>> session.go(session.next_doubtful())
        >>> session.click(300, 190, label=0)                 # frames tracked from here are outdated now ...
        >>> for frame in session.propagate_all():            # ... and is tracked again
        ...     pass
        >>> session.export("outputs/walk", ["colmap"])

    The masks of a prompted frame are predicted from its prompts. Those of other frames are tracked from the nearest
    prompted frame before them, and become outdated when the prompts there change. Each step and each tracked frame is
    saved before the next, so that a killed session can be resumed by the same call.

    The session is composed of the clip, a `Project` (prompts and masks) and a `TrackerSync`.

    Args:
        frames: a `FrameSequence` such as `nbhelpers.core.video.Frames`, or its input: a path, a glob, arrays.
        tracker: tracks the objects; by default that of an existing project, else from `nbhelpers.load`.
        project: the folder, created or continued; by default a temporary one that is deleted with the session.
        name: of the clip in the log and in messages; by default the stem of the path.
        quality: ``"draft"`` for a quick look: `propagate` tracks every third frame, and interpolates the masks between
            along the optical flow, in about a third of the time. Once `quality` is ``"full"``, drafts are outdated and
            `propagate` tracks their frames again.
        detector: finds whole objects, one of which a single click is taken for rather than for a part, unless something
            moves along with it. True: from `nbhelpers.load`, as by default where ``tracker`` is. Trackers without
            ``candidates`` decide alone.

    Attributes:
        frames: the clip.
        tracker: tracks the objects.
        name: of the clip.
        project: the folder, as a path.

    Raises:
        NbHelpersError: an unreadable clip; a project of another clip or model, or a folder with other files; an unknown
            quality.
    """

    def __init__(
        self,
        frames: FrameSequence | str | Path | np.ndarray | Sequence[Any],
        tracker: Tracker | None = None,
        *,
        project: str | Path | None = None,
        name: str | None = None,
        quality: str = "full",
        detector: Detector | bool | None = None,
    ):
        self.quality = quality
        self.frames = open_clip(frames)
        clip = identify(self.frames, name)
        self._detector = tracker is None if detector is None else detector
        if tracker is None:
            from nbhelpers.models.load import load

            about = read_about(project)
            tracker = load("tracker", None if about is None else about["model"])
            saved = "" if about is None else about["precision"]
            if tracker.device == "cpu" and saved == "float32" and choose_precision("cpu") == "auto":
                tracker = load("tracker", tracker.name, precision=saved)  # as it began
        self.tracker, self.name = tracker, clip["name"]
        self._project = Project(project, clip, tracker.name, precision_name(tracker))
        self._sync = TrackerSync(tracker, self.frames, self._project)
        self.project = self._project.folder
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], object]] = []
        self._runs = 0  # counts the events that end a propagation: steps and `cancel`
        self._frame = 0
        self._active: str | None = None
        self._sync.predict_prompted()

    @classmethod
    def open(
        cls,
        project: str | Path,
        frames: FrameSequence | str | Path | np.ndarray | Sequence[Any],
        tracker: Tracker | None = None,
    ) -> RotoSession:
        """Continue the project in a folder: same prompts, same undo history, same masks.

        Args:
            project: the folder.
            frames: the clip of the project.
            tracker: the tracker of the project; loaded by default.

        Raises:
            NbHelpersError: there is no project in the folder, or an error of the class.
        """
        about = read_about(project)
        if about is None:
            raise NbHelpersError(
                "there is no project in the folder", given=project, do="RotoSession(frames, project=...) creates one"
            )
        return cls(frames, tracker, project=project, name=about["clip"].get("name"))

    def save(self, path: str | Path) -> Path:
        """Write a copy of the prompt log as JSON, e.g. for `nbhelpers.rotoscoping.replay_clip`; return the path.

        The project itself is saved automatically after every step.
        """
        return self.log.save(path)

    @property
    def log(self) -> PromptLog:
        """The prompt log: all steps, in order."""
        return self._project.log

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of every frame."""
        return self.frames.size

    @property
    def quality(self) -> str:
        """``"full"`` or ``"draft"``: how the next `propagate` tracks."""
        return self._quality

    @quality.setter
    def quality(self, quality: str) -> None:
        """Set how the next `propagate` tracks."""
        if quality not in QUALITIES:
            raise NbHelpersError("unknown quality", given=quality, expected=" or ".join(QUALITIES))
        self._quality = quality

    def is_draft(self, frame: int | None = None, name: str | None = None) -> bool:
        """Whether the mask of an object (the active one) on a frame (the current one) was tracked as a draft."""
        frame, entry = self._at(frame), self._entry(name)
        tracked = self._project.record(frame, entry.number).tracked
        return self._project.state(frame, entry) in ("tracked", "gone") and tracked is not None and tracked.draft

    @property
    def frame(self) -> int:
        """Index of the current frame."""
        return self._frame

    def go(self, frame: int) -> int:
        """Make a frame the current one, clipped to the range of the clip; return its index."""
        self._frame = min(max(int(frame), 0), len(self.frames) - 1)
        self._changed()
        return self._frame

    def image(self, frame: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """A frame (the current one) as RGB."""
        return self.frames[self._at(frame)]

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects, in order of creation."""
        return tuple(self._project.entries)

    @property
    def active(self) -> str:
        """The object to which prompts are added."""
        names = self.objects
        return self._active if self._active in names else names[-1]

    def select(self, name: str) -> None:
        """Make an object the active one."""
        self._entry(name)
        self._active = name
        self._changed()

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
        """Rename an object."""
        with self._lock:
            self._record("object.rename", object=old, to=new)
            self._active = new if self._active == old else self._active
        self._changed()

    def remove_object(self, name: str) -> None:
        """Remove an object and its prompts; the last object cannot be removed."""
        if len(self.objects) == 1:
            raise NbHelpersError("the last object cannot be removed", given=name, do="clear() removes its prompts")
        self._step("object.remove", name)

    def prompts(self, name: str | None = None, frame: int | None = None) -> ObjectPrompts:
        """The prompts of an object (the active one) on a frame (the current one)."""
        return self._entry(name).on(self._at(frame))

    def prompted_frames(self, name: str | None = None) -> list[int]:
        """Frames on which an object has prompts, in order."""
        return sorted(prompts_by_frame(self._entry(name)))

    def click(
        self, x: float, y: float, label: int = 1, *, name: str | None = None, frame: int | None = None
    ) -> Prediction:
        """Add a point in pixels of the frame, 1 to include or 0 to exclude, and return the new prediction."""
        what = {} if label != INCLUDE else self._whole(self._at(frame), name, (float(x), float(y)))
        return self._prompt("point.add", name, frame, x=float(x), y=float(y), label=int(label), **what)

    def candidates(self, *, name: str | None = None, frame: int | None = None) -> Prediction | None:
        """The masks that the only click on a frame may mean, such as a part and the whole; None for other prompts.

        None too if the tracker does not know them. `choose_candidate` takes another one than the tracker's choice.
        """
        return self._sync.candidates(self._at(frame), self.prompts(name, frame))

    def choose_candidate(self, index: int, *, name: str | None = None, frame: int | None = None) -> Prediction:
        """Use candidate ``index`` of `candidates` instead of the tracker's choice, and return its prediction.

        A click on the same frame corrects it.

        Raises:
            NbHelpersError: there are no candidates, or no such one.
        """
        candidates = self.candidates(name=name, frame=frame)
        if candidates is None or not 0 <= index < len(candidates):
            raise NbHelpersError(
                "there is no such candidate mask",
                given=index,
                expected="one click on this frame" if candidates is None else f"0 to {len(candidates) - 1}",
            )
        return self._prompt("candidate.set", name, frame, index=int(index))

    def next_candidate(self, *, name: str | None = None, frame: int | None = None) -> int:
        """Select the next candidate mask, cyclically; return its index."""
        candidates, chosen = self.candidates(name=name, frame=frame), self.prompts(name, frame).candidate
        if candidates is None:
            raise NbHelpersError("there are no candidate masks", do="click once on a frame without other prompts")
        index = ((candidates.choice if chosen is None else chosen) + 1) % len(candidates)
        self.choose_candidate(index, name=name, frame=frame)
        return index

    def move(self, index: int, x: float, y: float, *, name: str | None = None, frame: int | None = None) -> Prediction:
        """Move point ``index`` to ``(x, y)`` and return the new prediction."""
        return self._prompt("point.move", name, frame, index=int(index), x=float(x), y=float(y))

    def remove(self, index: int, *, name: str | None = None, frame: int | None = None) -> Prediction:
        """Remove point ``index`` and return the new prediction."""
        return self._prompt("point.remove", name, frame, index=int(index))

    def set_box(self, box: Sequence[float] | None, *, name: str | None = None, frame: int | None = None) -> Prediction:
        """Set or, with None, remove the box ``(x0, y0, x1, y1)``, and return the new prediction."""
        return self._prompt("box.set", name, frame, box=None if box is None else [float(side) for side in box])

    def stroke(
        self,
        points: Sequence[tuple[float, float]],
        radius: float,
        erase: bool = False,
        *,
        name: str | None = None,
        frame: int | None = None,
    ) -> Prediction:
        """Paint over the mask with a round brush, or erase, and return the new prediction.

        Args:
            points: ``(x, y)`` pixels along the path of the brush; one point paints a disc.
            radius: of the brush, in pixels.
            erase: erase instead of painting.
            name: of the object; by default the active one.
            frame: by default the current one.
        """
        path = [[float(x), float(y)] for x, y in points]
        return self._prompt("stroke.add", name, frame, points=path, radius=float(radius), erase=bool(erase))

    def set_mask(
        self, mask: Bool[np.ndarray, "h w"] | None, *, name: str | None = None, frame: int | None = None
    ) -> Prediction:
        """Set a mask, which is kept unchanged, or remove it with None; return the new prediction."""
        if mask is not None:
            Prompt(mask=np.asarray(mask, bool)).check_inside(self.size)
            mask = np.asarray(mask, bool)
        return self._prompt("mask.set", name, frame, mask=mask)

    def clear(self, *, name: str | None = None, frame: int | None = None) -> Prediction:
        """Remove all prompts on a frame, which gets its tracked mask again; return that as a prediction."""
        return self._prompt("clear", name, frame)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return any(event["op"] != "propagate" for event in self.log.events[1 : self.log.cursor])

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return any(event["op"] != "propagate" for event in self.log.events[self.log.cursor :])

    def undo(self) -> bool:
        """Undo the last step; False if there is none. Tracked masks are kept, but may become outdated."""
        return self._travel(self.can_undo, self.log.undo)

    def redo(self) -> bool:
        """Redo the last undone step; False if there is none."""
        return self._travel(self.can_redo, self.log.redo)

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after every step; returns a function that stops it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def state(self, frame: int | None = None, name: str | None = None) -> State:
        """State of an object's mask on a frame.

        ``"prompted"``: predicted from prompts on the frame; ``"tracked"``: tracked from a prompted frame;
        ``"outdated"``: tracked from prompts that have changed since; ``"gone"``: the tracker predicts that the object
        is occluded or out of frame; ``"empty"``: no mask.
        """
        return self._project.state(self._at(frame), self._entry(name))

    def has_mask(self, frame: int | None = None, name: str | None = None) -> bool:
        """Whether an object has been prompted on a frame or tracked to it, even if the mask is outdated."""
        return self.state(frame, name) != "empty"

    def mask(self, frame: int | None = None, name: str | None = None) -> Bool[np.ndarray, "h w"]:
        """The mask of an object (the active one) on a frame (the current one), read-only; empty if there is none."""
        return self._project.current_mask(self._at(frame), self._entry(name))

    def masks(self, frame: int | None = None) -> dict[str, Bool[np.ndarray, "h w"]]:
        """The masks of all objects that have one on a frame, by name."""
        return self._project.masks(self._at(frame))

    def drift(self, frame: int | None = None, name: str | None = None) -> Drift | None:
        """The drift of an object's mask on a frame; None without a mask."""
        return self._project.drift(self._at(frame), self._entry(name))

    def other_candidate(self, frame: int | None = None, name: str | None = None) -> Bool[np.ndarray, "h w"] | None:
        """The mask of another instance that may be the object, on a tracked frame; None if there is none.

        See `Drift` for how probable it is; `take_other` takes it.
        """
        frame, entry = self._at(frame), self._entry(name)
        if self._project.state(frame, entry) not in ("tracked", "outdated"):
            return None
        tracked = self._project.full(frame, entry.number).tracked
        return None if tracked is None or tracked.other is None else decode_rle(tracked.other)

    def take_other(self, frame: int | None = None, name: str | None = None) -> Prediction:
        """Take the other candidate: its mask becomes the object's on this frame, like a correction.

        Raises:
            NbHelpersError: there is no other candidate on this frame.
        """
        other = self.other_candidate(frame, name)
        if other is None:
            raise NbHelpersError(
                "there is no other candidate on this frame",
                given=f"frame {self._at(frame)}",
                do="click the object instead",
            )
        return self.set_mask(other, name=name, frame=frame)

    def next_doubtful(self, after: int | None = None, name: str | None = None) -> int | None:
        """The next doubtful frame after ``after`` (the current one), cyclically; None if there is none."""
        after, count = self._at(after), len(self.frames)
        order = [*range(after + 1, count), *range(after + 1)]
        drifts = ((frame, self.drift(frame, name)) for frame in order)
        return next((frame for frame, drift in drifts if drift is not None and drift.is_doubtful), None)

    def doubtful_frames(self, name: str | None = None) -> list[int]:
        """All frames on which an object's mask is doubtful."""
        drifts = ((frame, self.drift(frame, name)) for frame in range(len(self.frames)))
        return [frame for frame, drift in drifts if drift is not None and drift.is_doubtful]

    def cuts(self) -> list[int]:
        """First frames of detected shots. Objects cannot be tracked across a cut, so open the shots one by one.

        Decodes the whole clip once. ``Frames(path, start=cut)`` opens the shot after a cut.
        """
        return find_cuts(self.frames[index] for index in range(len(self.frames)))

    def propagate(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        backwards: bool = False,
        on_frame: Callable[[int], object] | None = None,
    ) -> Iterator[int]:
        """Track all objects and yield the index of each frame once its new masks are saved.

        Prompted frames keep their masks, and so do frames that are current: up to the next prompted frame those tracked
        in this direction, after it all of them. Drafts are current for a draft only. The iterator can be stopped at any
        frame; a step on the session, or `cancel`, ends it after the frame in progress.

        Args:
            start: first frame; by default the current one.
            stop: last frame, inclusive; by default the end of the clip in that direction.
            backwards: track from ``start`` down to ``stop``.
            on_frame: called with each index.

        Raises:
            NbHelpersError: no prompts yet, an invalid frame index, or a frame that cannot be read.
        """
        start = self._at(start)
        stop = self._at(stop) if stop is not None else (0 if backwards else len(self.frames) - 1)
        if (start - stop if backwards else stop - start) < 0:
            raise NbHelpersError(
                "the range has the other direction",
                given=f"{start} to {stop}",
                do="swap start and stop" if backwards else "pass backwards=True",
            )
        self._need_prompts()
        return self._propagate(self._event(start, stop, backwards), on_frame)

    def propagate_all(self, on_frame: Callable[[int], object] | None = None) -> Iterator[int]:
        """Track all objects to every frame that is empty or outdated, forwards and then backwards; see `propagate`."""
        self._need_prompts()
        return self._propagate_all(on_frame)

    def cancel(self) -> None:
        """Stop a running propagation after the frame in progress; tracked masks are kept."""
        self._runs += 1

    def replay(self, events: Sequence[Mapping[str, Any]]) -> Iterator[int]:
        """Repeat the steps of another session's log; yields each frame that was tracked.

        Steps that were repeated before are skipped, so an interrupted replay resumes.

        Args:
            events: in the form of `nbhelpers.core.prompts.PromptLog.events`.

        Raises:
            NbHelpersError: this session has other steps.
        """
        own = self.log.events[: self.log.cursor]
        if len(own) == 1:  # only the initial object
            self.log.events, self.log.cursor, own = [], 0, []
        for event, before in zip(events, own, strict=False):
            if any(event.get(key) != before.get(key) for key in {*event, *before} - {"stop"}):
                raise NbHelpersError(
                    "the project already has other prompts",
                    given=f"{self.project}: {before['op']}",
                    expected=event["op"],
                    do="name another folder",
                )
        if any(event["op"] != "propagate" for event in own[len(events) :]):
            raise NbHelpersError(
                "the project has further steps after those of the log",
                given=self.project,
                do="open it with RotoSession instead",
            )
        if own and own[-1]["op"] == "propagate" and len(own) <= len(events):  # it may have been interrupted
            yield from self._propagate(dict(events[len(own) - 1]), None, record=False)
        for event in events[len(own) :]:
            what = {key: value for key, value in event.items() if key != "op"}
            self._record(event["op"], **what)
            if event["op"] == "propagate":
                yield from self._propagate(self.log.events[-1], None, record=False)
        self._changed()

    def matte_settings(self, name: str | None = None) -> MatteSettings:
        """The matte settings of an object."""
        return MatteSettings(**(self._entry(name).matte or {}))

    def set_matte(self, settings: MatteSettings | None, *, name: str | None = None) -> None:
        """Set the matte settings of an object; None for unchanged masks."""
        self._step("matte.set", name, settings=None if settings is None else asdict(settings))

    def mattes(self, names: Iterable[str] | None = None, invert: bool = False) -> Mattes:
        """The mattes of the clip for the union of some or all objects, computed lazily.

        Args:
            names: of the objects; all by default.
            invert: the mattes of the background instead.
        """
        names = tuple(self.objects if names is None else names)
        settings = {name: self.matte_settings(name) for name in names}
        matting = None
        if any(each.needs_network for each in settings.values()):
            from nbhelpers.models.load import load

            matting = load("matting").alphas
        return Mattes(self.frames, self._project.masks, settings, names, invert, matting)

    def matte(self, frame: int | None = None, name: str | None = None) -> UInt8[np.ndarray, "h w"]:
        """The soft matte of an object (the active one) on a frame (the current one), 0 to 255."""
        return self.mattes([self.active if name is None else name]).make(self._at(frame))

    def export(
        self,
        folder: str | Path | None = None,
        formats: Sequence[str] | Mapping[str, str | Path] = ("mattes",),
        *,
        objects: Iterable[str] | None = None,
        apart: bool = False,
        invert: bool = False,
        bits: int | None = None,
        replace: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[ExportReport]:
        """Write mattes in formats for other tools and verify the files by reading them back.

        Example:
            >>> for report in session.export("outputs/walk", ["postshot", "colmap", "overlay"]):
            ...     print(report)

        Args:
            folder: parent of the formats' folders; by default ``postshot`` is written next to the originals.
            formats: see `nbhelpers.rotoscoping.export.export_mattes`; or a mapping from format to its folder.
            objects: names of the objects to export; all by default.
            apart: write a folder, or file, per object.
            invert: the background instead of the objects.
            bits: 8 or 16 per channel, if the format allows it.
            replace: overwrite an earlier export of other masks or settings.
            progress: called with the number of finished frames and the total; may raise to stop.

        Raises:
            NbHelpersError: see `nbhelpers.rotoscoping.export.export_mattes`.
        """
        names = tuple(self.objects if objects is None else objects)
        mattes = self.mattes(names, invert)
        missing = self._project.frames_without_masks([self._entry(name) for name in names])
        drafts = [f for f in range(len(self.frames)) if any(self.is_draft(f, name) for name in names)]
        clip, how = {**self._project.clip, "name": self.name}, {"replace": replace, "progress": progress}
        how |= {"missing": missing, "drafts": drafts}
        return export_mattes(mattes, folder, formats, clip, apart=apart, bits=bits, **how)

    def _entry(self, name: str | None) -> ObjectEntry:
        """The prompts of an object (the active one)."""
        if (name := self.active if name is None else name) not in self._project.entries:
            raise NbHelpersError("there is no such object", given=name, expected=f"one of {', '.join(self.objects)}")
        return self._project.entries[name]

    def _at(self, frame: int | None) -> int:
        """A frame's index, checked; the current one for None."""
        frame = self._frame if frame is None else frame
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")
        return int(frame)

    def _need_prompts(self) -> None:
        """Raise an error if no object has prompts."""
        if not self._project.digests():
            raise NbHelpersError("there is no prompt yet", do="click the object on some frame first")

    def _prompt(self, op: str, name: str | None, frame: int | None, **what: Any) -> Prediction:
        """Do a step on one frame; the first one there gets the tracked mask that it corrects."""
        entry, frame = self._entry(name), self._at(frame)
        if op not in ("clear", "mask.set") and self._project.state(frame, entry) in ("tracked", "outdated"):
            rle = self._project.rle(frame, entry.number, "tracked")
            what |= {"base": rle} if decode_rle(rle).any() else {}
        elif op == "point.add" and self.prompts(name, frame).candidate is not None:
            what["base"] = self._project.rle(frame, entry.number, "prompted")
        self._step(op, name, frame=frame, **what)
        entry = self._entry(name)
        prompted = self._project.record(frame, entry.number).prompted
        is_prompted = self._project.state(frame, entry) == "prompted"
        return Prediction.of_mask(self.mask(frame, name), prompted.score if is_prompted and prompted else 0.0)

    def _whole(self, frame: int, name: str | None, point: tuple[float, float]) -> dict[str, int]:
        """For a click on a frame without prompt and mask, the candidate of the whole object, as a field of the log."""
        if self._detector is False or not hasattr(self.tracker, "candidates") or self.state(frame, name) != "empty":
            return {}
        if not self.prompts(name, frame).is_empty or not all(
            0 <= a < b for a, b in zip(point, self.size[::-1], strict=True)
        ):
            return {}
        detector = use_detector(self._detector)
        self._detector = False if detector is None else detector
        chosen = None if detector is None else self._sync.whole(frame, point, detector)
        return {} if chosen is None else {"candidate": chosen}

    def _step(self, op: str, name: str | None, **what: Any) -> None:
        """Do a step on one object and make it the active one."""
        self._entry(name := self.active if name is None else name)
        with self._lock:
            self._record(op, object=name, **what)
            self._active = name
        self._changed()

    def _record(self, op: str, **what: Any) -> None:
        """Append a step to the log, predict its mask and save both; a step that fails changes nothing."""
        before = self.log.events, self.log.cursor
        if "frame" in what or op == "object.remove":
            self._sync.restore_memory()
        self.log.append(op, **what)
        self._commit(before)

    def _commit(self, before: tuple[list[dict], int]) -> None:
        """Predict the masks of the current log and save it; on failure restore the log ``before``."""
        try:
            self._sync.predict_prompted()
            self._project.save_log()
            self._sync.save_memory()
        except BaseException:
            self.log.events, self.log.cursor = before
            with contextlib.suppress(NbHelpersError):  # a mask of the failed step may have been written
                self._sync.predict_prompted()
            raise
        self._runs += 1

    def _travel(self, possible: bool, step: Callable[[], dict | None]) -> bool:
        """Undo or redo one step, skipping propagations."""
        if not possible:
            return False
        with self._lock:
            before = self.log.events, self.log.cursor
            self._sync.restore_memory()
            while (event := step()) is not None and event["op"] == "propagate":
                continue
            assert event is not None  # it is possible
            while self.log.can_redo and self.log.events[self.log.cursor]["op"] == "propagate":
                self.log.redo()
            self._commit(before)
            for name in (event.get("to"), event["object"]):
                self._active = name if name in self.objects else self._active
            if isinstance(event.get("frame"), int):
                self._frame = event["frame"]
        self._changed()
        return True

    def _changed(self) -> None:
        """Call the listeners."""
        for listener in tuple(self._listeners):
            listener()

    def _propagate_all(self, on_frame: Callable[[int], object] | None) -> Iterator[int]:
        """Propagate forwards, then backwards, to frames with missing or outdated masks."""
        last = len(self.frames) - 1
        runs = self._runs
        for start, stop, backwards in ((0, last, False), (last, 0, True)):
            event = self._event(start, stop, backwards) | {"missing": True}
            if runs == self._runs and self._todo(event):
                yield from self._propagate(event, on_frame)

    def _event(self, start: int, stop: int, backwards: bool) -> dict[str, Any]:
        """A propagation in the present quality, as the log records it."""
        draft = {"draft": True} if self.quality == "draft" else {}
        return {"start": start, "stop": stop, "backwards": backwards, **draft}

    def _todo(self, event: Mapping[str, Any]) -> dict[int, set[int]]:
        """Frames that a propagation has to track, with the numbers of the objects."""
        select = schedule.missing_frames if event.get("missing") else schedule.frames_in_range
        step = BACKWARD if event["backwards"] else FORWARD

        def find(number: int, frame: int) -> schedule.TrackedMask | None:
            tracked = self._project.record(frame, number).tracked
            if tracked is None or not tracked.draft or event.get("draft"):
                return tracked
            return replace(tracked, digest="")  # outdated

        return select(
            self._project.digests(),
            find,
            event["start"],
            event["stop"],
            step,
        )

    def _propagate(
        self, event: dict[str, Any], on_frame: Callable[[int], object] | None, record: bool = True
    ) -> Iterator[int]:
        """Run a propagation and record in the log how far it came."""
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
            for start, stop in schedule.contiguous_ranges(todo, step):
                tracking = self._sync.track(todo, start, stop, step, bool(event.get("draft")))
                while (frame := self._next_frame(tracking, runs)) is not None:
                    if frame not in todo:
                        continue
                    reached = frame
                    if on_frame is not None:
                        on_frame(reached)
                    yield reached
        finally:
            with self._lock:
                self._note_reached(event, reached, max(todo, key=lambda frame: frame * step, default=None))
            self._changed()

    def _next_frame(self, tracking: Generator[int], runs: int) -> int | None:
        """Track one more frame; None at the end of the range, or if a step or `cancel` ended the propagation."""
        with self._lock:
            frame = next(tracking, None) if runs == self._runs else None
            if frame is None:
                tracking.close()
            return frame

    def _note_reached(self, event: dict[str, Any], reached: int | None, last: int | None) -> None:
        """Record in the log how far a propagation came; remove one without any frame."""
        if reached == last or not self._project.is_held:
            return
        if reached is not None:
            event["stop"] = reached
        elif self.log.cursor == len(self.log.events) and self.log.events[-1] is event:
            self.log.undo()
            self.log.events = self.log.events[: self.log.cursor]
        self._project.save_log()
