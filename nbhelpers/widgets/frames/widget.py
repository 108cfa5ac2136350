"""The frames widget: a clip to click on, follow through, correct, look at and export; every key is a button too."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.controls import Row, button, choice, colab_notice, exclude_hint, label, space, status_html
from nbhelpers.widgets.frames.keys import help_html, keys
from nbhelpers.widgets.frames.pointer import FramePointer
from nbhelpers.widgets.frames.rows import BrushSlider, ExportPanel, FrameObjectRow, MattePanel, ShowRow
from nbhelpers.widgets.frames.stage import FrameStage
from nbhelpers.widgets.frames.strip import FilmStrip, legend_html
from nbhelpers.widgets.frames.time import FollowRow, TimeRow
from nbhelpers.widgets.frames.work import Work
from nbhelpers.widgets.listening import Listening
from nbhelpers.widgets.rows import ViewRow

LOOKING = "Looking at the frame ..."
MODES = (
    ("include", "", "Click on the object. {exclude} Drag a marker to move it."),
    ("exclude", "", "Click on what does not belong to the object. Drag a marker to move it."),
    ("box", "", "Drag a box around the object."),
    ("brush", "", "Paint what is missing from the mask."),
    ("erase", "", "Wipe away what does not belong to the mask."),
    ("remove", "", "Click on a marker to remove it."),
    ("pan", "", "Drag the frame. The mouse wheel zooms in every mode."),
)
HINTS = {mode: hint for mode, _, hint in MODES}
STATES = {
    "prompted": "prompted",
    "tracked": "followed",
    "outdated": "outdated: follow it again",
    "gone": "the object is gone",
    "empty": "nothing yet",
}


class FramesWidget(Listening, widgets.VBox):
    """Shows a `RotoSession` and turns mouse, keys and buttons into its methods; holds no prompt or mask of its own.

    Example:
        >>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
        >>> FramesWidget(session)                # as the last line of a cell
        >>> session.click(320, 200)              # in another cell: the widget follows

    In every mode the right mouse button (or Shift with the left one) excludes, or erases with a brush, and the middle
    one drags the frame. While the canvas has the focus (after a click) keys do what the buttons do; the panel *Keys*
    lists them. Following and exporting run beside the kernel's other work: frames can be looked at meanwhile, and
    *Stop* keeps what is done.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what to show.
        width: width of the canvas in pixels, 320 to 1280; narrower pages shrink it.

    Raises:
        NbHelpersError: a width out of range.
    """

    def __init__(self, session: RotoSession, width: int = 1000):
        if not 320 <= width <= 1280:
            raise NbHelpersError("the widget's width is out of range", given=width, expected="320 to 1280 pixels")
        self.session, self._lock = session, threading.RLock()  # a cell, the page and following may all ask for a redraw
        self._note, self._busy, self._failed = "", False, False
        self._looked: set[int] = set()
        self.strip = FilmStrip(session, width, self.visit, self.guard, self.watched)
        self.stage = FrameStage(
            session,
            width,
            on_look=lambda: self.view.refresh(),
            guard=self.watched,
            also=lambda: self.strip.paint(),
        )
        self.pointer = FramePointer(self.stage, self.guard, lambda: self.show_row.refresh(), self._look, self._stay)
        self.work = Work(self)
        self._mode = choice(MODES, self._set_mode, width="74px")
        do = self.act
        self._undo = button("Undo", "Take the last step back (Z)", lambda: do(session.undo), icon="undo", width="84px")
        self._redo = button("Redo", "Do the step again (Y)", lambda: do(session.redo), icon="redo", width="84px")
        self._clear = button(
            "Clear", "Remove the prompts of this object on this frame (C)", lambda: do(session.clear),
            icon="broom", width="84px",
        )  # fmt: skip
        self.brush = BrushSlider(session.size, self._set_radius)
        self._set_radius(float(self.brush.slider.value))
        self.time = TimeRow(session, self.strip, self.visit, self.guard)
        self.follow = FollowRow(
            {
                "back": lambda: self.work.follow("back"),
                "forward": lambda: self.work.follow("forward"),
                "all": lambda: self.work.follow("all"),
                "stop": self.work.stop,
                "doubtful": self.next_doubtful,
            },
            self.brush,
        )
        self.objects, self.view = FrameObjectRow(session, self.guard, self.stage), ViewRow(self.stage, self.guard)
        self.show_row = ShowRow(self.stage, self.guard)
        self.matte = MattePanel(session, self.guard, self.tell)
        self.export = ExportPanel(session, self.work.export)
        self._panels = widgets.Accordion(
            [self.matte, self.export, widgets.HTML(help_html())],
            titles=["Matte", "Export", "Keys"],
            selected_index=None,
        )
        self._status = widgets.HTML(layout=widgets.Layout(margin="0"))
        canvas, strip = self.stage.screen.widget, self.strip.screen.widget
        modes, edits = Row(label("Mode"), self._mode), Row(self._undo, self._redo, self._clear)
        modes.layout.flex_flow, modes.layout.align_items = "row nowrap", "flex-start"
        steps = Row(modes, space(), edits)
        rows = (steps, self.objects, canvas, strip, widgets.HTML(legend_html(), layout=widgets.Layout(margin="0")),
                self.time, self._status, self.follow, self.show_row, self.view, self._panels)  # fmt: skip
        for place, shown in enumerate(rows):
            shown.layout.order = str(place)
        # A canvas swallows keys. To the eye they come third, in the order of Tab last, behind all controls.
        layout = widgets.Layout(width=f"{width}px", max_width="100%", grid_gap="6px", overflow="visible")
        super().__init__([*(shown for shown in rows if shown not in (canvas, strip)), strip, canvas], layout=layout)
        self.add_class("nbhelpers-frames")
        canvas.add_class("nbhelpers-canvas")
        strip.add_class("nbhelpers-strip")
        self._keys = keys(self)
        canvas.on_key_down(self._key)
        strip.on_key_down(self._key)
        self._listen()
        self._show_controls()
        self.say(colab_notice())

    def _close_parts(self) -> None:
        self.work.close()
        self.time.close()
        self.pointer.close()
        self.strip.close()
        self.stage.close()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Run an action; afterwards the status line tells its outcome, or what went wrong."""
        self._busy, self._failed, self._note = True, False, ""
        try:
            with self.watched():
                yield
                self.stage.check()
        finally:
            self._busy = False
        if not self._failed:
            self.say(self._note)

    def act(self, action: Callable[[], object]) -> None:
        """Run an action as `guard` does."""
        with self.guard():
            action()

    def choose_mode(self, mode: str) -> None:
        """Let a press on the canvas mean this: one of `MODES`."""
        self._mode.value = mode

    def _stay(self) -> None:
        """Playing ends, and following no longer takes the person along."""
        self.time.pause()
        self.work.leave()

    def visit(self, frame: int) -> None:
        """Go to a frame because the person wants to see it, and stay there."""
        self._stay()
        if frame != self.session.frame:
            self.session.go(frame)

    def next_doubtful(self) -> None:
        """Go to the next frame that should be looked at."""
        with self.guard():
            frame = self.session.next_doubtful()
            if frame is None:
                self.tell("No frame of this object is doubtful.")
            else:
                self.visit(frame)
                self.tell(f"Frame {frame}: {self.session.drift().why}.")

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its steps, from whatever thread."""
        with self._lock:
            self.strip.refresh()
            if self.stage.frame != self.session.frame:
                self.stage.follow()
            else:
                self.stage.paint(photo=False)
            self._show_controls()
            if not self._busy:
                self.say("")

    def followed(self, frame: int, along: bool) -> None:
        """A frame has new masks: show it, if the person goes along."""
        with self._lock:
            self.strip.touch(frame)
            if along and frame != self.session.frame:
                self.session.go(frame)
            elif frame == self.session.frame:
                self.stage.paint(photo=False)
            else:
                self.strip.paint()
            self.say("")

    def show_running(self, running: bool) -> None:
        """Let those buttons be pressed that make sense while something runs, or does not."""
        self.follow.show_running(running)
        self.export.show_running(running)

    def tell(self, message: str) -> None:
        """Say something that stands when the running action has ended."""
        self._note = message
        self.say(message)

    def say(self, message: str, *, error: bool = False) -> None:
        """Put a sentence into the status line; without one, what the mode is for."""
        hint = HINTS[self._mode.value].replace("{exclude}", exclude_hint(self.stage.screen.mouse.reports_buttons))
        told = message or self.work.told or hint
        self._status.value = status_html(told, self._about_frame(), error=error)

    def _say(self, message: str, *, error: bool = False) -> None:
        self.say(message, error=error)

    def _look(self) -> None:
        """The first click on a frame takes longer: say so."""
        if self.session.frame not in self._looked:
            self._looked.add(self.session.frame)
            self.say(LOOKING)

    def _about_frame(self) -> str:
        session = self.session
        state, drift = session.state(), session.drift()
        text = f"Frame {session.frame}: {session.active}: {STATES[state]}"
        return f"{text}, drift {drift.score:.2f}" if state in ("tracked", "outdated") else text

    def _show_controls(self) -> None:
        session = self.session
        self._undo.disabled, self._redo.disabled = not session.can_undo, not session.can_redo
        self._clear.disabled = session.prompts().is_empty
        for part in (self.objects, self.time, self.matte):
            part.refresh()
        self._panels.set_title(0, f"Matte of {session.active}")

    def _set_mode(self, mode: str) -> None:
        self.pointer.mode = mode
        self.pointer.show_brush()
        self.say("")

    def _set_radius(self, radius: float) -> None:
        self.pointer.radius = radius
        self.pointer.show_brush()

    def _key(self, key: str, shift: bool, control: bool, meta: bool) -> None:
        """A key pressed while a canvas has the focus."""
        name = key if len(key) > 1 else key.lower()
        action = self._keys.get(f"Shift+{name}" if shift and f"Shift+{name}" in self._keys else name)
        if action is not None and (name in "zy" or not (control or meta)):
            action()
