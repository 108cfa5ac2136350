"""The frames widget: a clip to click on, track, correct, look at and export; every key is a button too."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import ipywidgets as widgets
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.background import Runner
from nbhelpers.widgets.base import CandidateRow, Current, HistoryRow, Panels, SessionWidget
from nbhelpers.widgets.controls import Row, space
from nbhelpers.widgets.drawing import still_of
from nbhelpers.widgets.frame_rows import (
    BrushSlider,
    DisplayRow,
    ExportPanel,
    FrameObjectRow,
    MattePanel,
    TimeRow,
    TrackRow,
)
from nbhelpers.widgets.frame_stage import FilmStrip, FramePointer, FrameStage, legend_html
from nbhelpers.widgets.stage import MODES, ModeRow, ZoomRow

ENCODING = "Encoding the frame ..."
FRAME_MODES = (
    *MODES[:3],
    ("brush", "Paint what is missing from the mask."),
    ("erase", "Erase what does not belong to the mask."),
    MODES[3],
    ("pan", "Drag the frame. The mouse wheel zooms in every mode."),
)
STATES = {
    "prompted": "prompted",
    "tracked": "tracked",
    "outdated": "outdated: track it again",
    "gone": "the object is gone",
    "empty": "no mask",
}
KEYS = (
    ("I E B D X R P", "include, exclude, box, brush (draw), erase, remove, pan"),
    ("Space", "play or pause"),
    ("Left Right", "previous or next frame"),
    ("Home End", "first or last frame of the range"),
    (", .", "the range begins or ends here"),
    ("F Shift+F A", "track forward, back, all"),
    ("H", "next meaning of the only click on this frame"),
    ("N T", "next doubtful frame, take the other candidate there"),
    ("Escape", "stop tracking; else leave the canvas"),
    ("Z Y C", "undo, redo, clear"),
    ("1 to 9", "choose an object"),
    ("V", "show or hide the object"),
    ("M O W", "overlay, matte or cut-out; onion skin; wipe"),
    ("[ ]", "smaller or larger brush"),
    ("+ - 0", "zoom in, zoom out, the whole frame"),
    ("Shift+arrows", "move the view"),
    ("Tab", "leave the canvas"),
)


class FramesWidget(SessionWidget[RotoSession]):
    """Shows a `RotoSession` and turns mouse, keys and buttons into its methods.

    Example:
        >>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
        >>> FramesWidget(session)                # as the last line of a cell
        >>> session.click(320, 200)              # in another cell: the widget follows

    In every mode the right mouse button (or Shift with the left one) excludes, or erases with a brush, and the middle
    one drags the frame. While the canvas has the focus (after a click) keys do what the buttons do; the panel *Keys*
    lists them. Tracking and exporting run beside the kernel's other work: frames can be looked at meanwhile, and
    *Stop* keeps what is done.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what is shown.
        width: width of the canvas in pixels, 320 to 1280; narrower pages shrink it.

    Raises:
        NbHelpersError: a width out of range.
    """

    def __init__(self, session: RotoSession, width: int = 1000):
        super().__init__(session, width, "nbhelpers-frames")
        self._lock = threading.RLock()  # a cell, the page and tracking may all ask for a redraw
        self._encoded: set[int] = set()
        self.strip, self.stage = FilmStrip(self, width), FrameStage(self, width)
        self.pointer, self.work = FramePointer(self.stage), Work(self)
        keys = {"brush": "d", "erase": "x"}
        self.modes = ModeRow(self, self.pointer, FRAME_MODES, keys, width="72px")
        self.modes.choice.observe(lambda _: self.pointer.show_brush(), "value")
        self.history = HistoryRow(self, session.clear, "this object on this frame")
        self.brush = BrushSlider(self)
        self.time, self.tracking = TimeRow(self), TrackRow(self, self.brush)
        self.objects, self.zoom, self.display = FrameObjectRow(self), ZoomRow(self, self.stage), DisplayRow(self)
        empty = "After one click on a frame the masks that it may mean are here."
        self.candidates = CandidateRow(self, self.current_candidates, empty, "H")
        self.matte, self.export = MattePanel(self), ExportPanel(self)
        panels = Panels(Matte=self.matte, Export=self.export, Keys=widgets.HTML(_keys_html()))
        self._add_keys()
        self.legend = widgets.HTML(legend_html(), layout=widgets.Layout(margin="0"))
        rows = (Row(self.modes, space(), self.history), self.objects, self.stage.screen, self.strip.screen,
                self.legend, self.time, self.status, self.candidates, self.tracking, self.display, self.zoom,
                panels)  # fmt: skip
        self.show_rows(rows)

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its steps, from whatever thread."""
        with self._lock:
            self.strip.refresh()
            if self.stage.frame != self.session.frame:
                self.stage.show_frame()
            else:
                self.stage.paint(photo=False)
            self.history.refresh(self.session.prompts().is_empty)
            for part in (self.objects, self.time, self.candidates, self.matte):
                part.refresh()

    def hint(self) -> str:
        """The progress of what is under way, else what a press on the frame means."""
        return self.work.progress or self.modes.hint()

    def detail(self) -> str:
        """The state of the active object on the current frame."""
        session = self.session
        state, drift = session.state(), session.drift()
        text = f"Frame {session.frame}: {session.active}: {STATES[state]}"
        text += " (draft)" if session.is_draft() else ""
        return text if drift is None or state not in ("tracked", "outdated") else f"{text}, drift {drift.score:.2f}"

    def still(self) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
        """The frame with its masks and markers, and the bar of the film strip below it."""
        with self._lock:
            frame, bar = still_of(self.stage), self.strip.bar()
        about = f"The frames widget on a clip of {len(self.session.frames)} frames. {self.detail()}"
        return np.concatenate([frame, bar]), about

    def number_of(self, name: str) -> int:
        """The number whose colour an object has."""
        return self.session.objects.index(name)

    def close_parts(self) -> None:
        """End what is under way and close the canvases."""
        for part in (self.work, self.time, self.pointer, self.strip, self.stage):
            part.close()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Run an action of the user; a frame that could not be read is reported too. See `SessionWidget.guard`."""
        with super().guard():
            yield
            self.stage.raise_unreadable()

    def current_candidates(self) -> Current | None:
        """What `CandidateRow` shows; only on frames whose embedding a click has computed, and not while they pass."""
        session = self.session
        if session.frame not in self._encoded or self.time.playing or self.work.running:
            return None
        candidates, chosen = session.candidates(), session.prompts().candidate
        if candidates is None:
            return None
        return session.image(), candidates, candidates.choice if chosen is None else chosen

    def stay(self) -> None:
        """Stop playing, and no longer show the frames that are being tracked."""
        self.time.pause()
        self.work.leave()

    def visit(self, frame: int) -> None:
        """Go to a frame because the user wants to see it, and stay there."""
        self.stay()
        if frame != self.session.frame:
            self.session.go(frame)

    def next_doubtful(self) -> None:
        """Go to the next doubtful frame."""
        with self.guard():
            frame = self.session.next_doubtful()
            if frame is None:
                self.note("No frame of this object is doubtful.")
            else:
                self.visit(frame)
                drift, other = self.session.drift(), self.session.other_candidate()
                why = "" if drift is None else f": {self.words(drift.why)}"
                self.note(f"Frame {frame}{why}.{'' if other is None else ' T takes the other one.'}")

    def next_candidate(self) -> None:
        """Take the next mask that the only click on this frame may mean."""
        with self.guard():
            index, candidates = self.session.next_candidate(), self.session.candidates()
            self.note(f"Meaning {index + 1} of {len(candidates or ())}.")

    def take_other(self) -> None:
        """Take the other candidate of this frame."""
        self.act(self.session.take_other)

    def show_tracked(self, frame: int, follow: bool) -> None:
        """A frame has new masks: show it if the user has not gone elsewhere."""
        with self._lock:
            self.strip.touch(frame)
            if follow and frame != self.session.frame:
                self.session.go(frame)
            elif frame == self.session.frame:
                self.stage.paint(photo=False)
            else:
                self.strip.paint()
            self.show_message("")

    def show_running(self, running: bool) -> None:
        """Enable the buttons that can be used while something runs, or does not."""
        self.tracking.show_running(running)
        self.export.show_running(running)

    def announce_encoding(self) -> None:
        """The first prompt on a frame takes longer: say so."""
        if self.session.frame not in self._encoded:
            self._encoded.add(self.session.frame)
            self.show_message(ENCODING)

    def _add_keys(self) -> None:
        """Keys that the rows have not added themselves."""
        session, row, display, work = self.session, self.time, self.display, self.work
        for side in ("Left", "Right", "Up", "Down"):
            self.keys_of[f"Shift+Arrow{side}"] = self.keys_of[f"Arrow{side}"]
        self.keys_of |= {
            " ": row.toggle_play,
            "ArrowLeft": lambda: row.step(-1),
            "ArrowRight": lambda: row.step(1),
            "Home": lambda: row.jump(0),
            "End": lambda: row.jump(1),
            ",": lambda: row.cut(0),
            ".": lambda: row.cut(1),
            "f": lambda: work.track("forward"),
            "Shift+f": lambda: work.track("back"),
            "a": lambda: work.track("all"),
            "n": self.next_doubtful,
            "t": self.take_other,
            "h": self.next_candidate,
            "Escape": lambda: work.stop() or self.stage.screen.blur(),
            "Tab": self.stage.screen.blur,
            "v": lambda: self.objects.toggle(session.active),
            "m": display.next_display,
            "o": display.next_onion,
            "w": display.toggle_wipe,
            "[": lambda: self.brush.scale(1 / 1.2),
            "]": lambda: self.brush.scale(1.2),
        } | {str(number): lambda number=number: self._choose_object(number) for number in range(1, 10)}

    def _choose_object(self, number: int) -> None:
        names = self.session.objects
        if number <= len(names):
            self.act(lambda: self.session.select(names[number - 1]))


class StoppedError(Exception):
    """Ends an export from within."""


class Work:
    """What runs in the background: tracking or an export, one at a time; it can be stopped.

    Args:
        widget: shows the progress.

    Attributes:
        progress: a sentence on what is under way; empty when nothing is.
    """

    def __init__(self, widget: FramesWidget):
        self._widget, self._runner, self.progress = widget, Runner(), ""
        self._follow = self._stopped = self._closed = False
        self._started, self._count = 0.0, 0

    @property
    def running(self) -> bool:
        """Whether something is under way."""
        return bool(self.progress)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is under way, at most some seconds."""
        self._runner.wait(seconds)

    def track(self, direction: str) -> None:
        """Track all objects ``"forward"`` or ``"back"`` from the current frame, or to ``"all"`` frames of the range."""
        session, (first, last) = self._widget.session, self._widget.strip.range

        def begin() -> Iterator[int]:
            if direction == "forward":
                return session.propagate(session.frame, max(last, session.frame))
            if direction == "back":
                return session.propagate(session.frame, min(first, session.frame), backwards=True)
            if (first, last) == (0, len(session.frames) - 1):
                return session.propagate_all()
            parts = session.propagate(first, last), session.propagate(last, first, backwards=True)
            return (frame for part in parts if not self._stopped for frame in part)

        self._start("Tracking ...", begin, self._show_tracked, self._tracking_outcome)

    def export(self, formats: list[str], folder: str, replace: bool) -> None:
        """Write the formats into the folder, and show what the verification found."""
        session = self._widget.session

        def write() -> Iterator:
            yield session.export(folder, formats, replace=replace, progress=self._show_exported)

        def begin() -> Iterator:
            if not formats:
                raise NbHelpersError("no export format is chosen", do="choose one format or more")
            self._widget.export.show([])
            return write()

        self._start("Exporting ...", begin, self._show_reports, self._export_outcome)

    def stop(self) -> bool:
        """End what is under way after the frame in progress; False when there is nothing."""
        if not self.running:
            return False
        self._stopped = True
        self._widget.session.cancel()
        return True

    def leave(self) -> None:
        """The user looks at something else: tracked frames are no longer shown as they come."""
        self._follow = False

    def close(self) -> None:
        """End what is under way, and report nothing more."""
        self.stop()
        self._closed = True

    def _start(self, progress: str, begin: Callable[[], Iterator], each: Callable, outcome: Callable[[], str]) -> None:
        widget = self._widget
        if self.running:
            return
        with widget.guard():
            widget.time.pause()
            self._stopped, self._follow, self._count, self._started = False, True, 0, time.perf_counter()
            steps = begin()
            self.progress = progress
            widget.show_running(True)
            self._runner.start(steps, each, lambda error: self._finish(error, outcome))

    def _finish(self, error: BaseException | None, outcome: Callable[[], str]) -> None:
        self.progress = ""
        if self._closed:
            return
        self._widget.show_running(False)
        self._widget.strip.update()
        self._widget.refresh()
        if error is not None and not isinstance(error, StoppedError):
            self._widget.fail(error)
        else:
            self._widget.note(outcome())

    def _show_tracked(self, frame: int) -> None:
        if self._closed:
            return
        self._count += 1
        self.progress = f"Tracking: frame {frame}, {self._seconds:.2f} s per frame ..."
        self._widget.show_tracked(frame, self._follow)

    def _tracking_outcome(self) -> str:
        if not self._count:
            return "Stopped." if self._stopped else "Nothing to track: the masks in this direction are up to date."
        frames = f"{self._count} frame{'s' * (self._count > 1)}, {self._seconds:.2f} s each"
        return f"Stopped; tracked {frames}." if self._stopped else f"Tracked {frames}."

    @property
    def _seconds(self) -> float:
        return (time.perf_counter() - self._started) / max(self._count, 1)

    def _show_exported(self, done: int, count: int) -> None:
        """Called while files are written."""
        if self._stopped:
            raise StoppedError
        self.progress = f"Exporting: frame {done} of {count} ..."
        self._widget.show_message("")

    def _show_reports(self, reports: list) -> None:
        self._widget.export.show([line for report in reports for line in str(report).splitlines()])

    def _export_outcome(self) -> str:
        return "Stopped; the next export resumes here." if self._stopped else "Exported and verified."


def _keys_html() -> str:
    """The table of keys."""
    key = "font-family:var(--jp-code-font-family, monospace);white-space:nowrap"
    rows = "".join(f'<span style="{key}">{names}</span><span>{what}</span>' for names, what in KEYS)
    return (
        '<div style="line-height:1.5">After a click on the frame or on the film strip these keys work:</div>'
        '<div style="display:grid;grid-template-columns:repeat(auto-fill, 130px minmax(260px, 1fr));gap:2px 12px;'
        f'line-height:1.5">{rows}</div>'
    )
