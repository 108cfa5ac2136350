"""The click widget: a photo to click on, and every step also as a button or slider."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.controls import Row, button, choice, colab_notice, exclude_hint, label, space, status_html
from nbhelpers.widgets.exact import ExactPanel
from nbhelpers.widgets.listening import Listening
from nbhelpers.widgets.pointer import Pointer
from nbhelpers.widgets.rows import STEP, CandidateRow, ObjectRow, SaveRow, ViewRow
from nbhelpers.widgets.stage import Stage

LOOKING = "Looking at the photo ..."
MODES = (
    ("include", "plus", "Click on the object. {exclude} Drag a marker to move it."),
    ("exclude", "minus", "Click on what does not belong to the object. Drag a marker to move it."),
    ("box", "vector-square", "Drag a box around the object."),
    ("remove", "times", "Click on a marker to remove it."),
    ("pan", "hand-paper", "Drag the photo. The mouse wheel zooms in every mode."),
)
HINTS = {mode: hint for mode, _, hint in MODES}


class ClickWidget(Listening, widgets.VBox):
    """Shows a `ClickSession` and turns clicks and buttons into its methods; holds no state of its own.

    Example:
        >>> session = ClickSession("cat.jpg")
        >>> ClickWidget(session)                 # as the last line of a cell
        >>> session.click(320, 200)              # in another cell: the widget follows

    In every mode the right mouse button (or Shift with the left one) excludes, and the middle one drags the photo.
    While the canvas has the focus (after a click): I, E, B, R, P choose the mode, Z takes back, Y does again,
    plus, minus and 0 zoom, arrows pan, Tab leaves.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what to show.
        width: width of the canvas in pixels, 320 to 1280; narrower pages shrink it.

    Raises:
        NbHelpersError: a width out of range.
    """

    def __init__(self, session: ClickSession, width: int = 1000):
        if not 320 <= width <= 1280:
            raise NbHelpersError("the widget's width is out of range", given=width, expected="320 to 1280 pixels")
        self.session = session
        self.stage = Stage(
            session, width, on_ready=self._ready, on_look=lambda: self._view.refresh(), guard=self.watched
        )
        self.pointer = Pointer(self.stage, self._guard)
        self._busy = self._looked = False
        self._timing = self._note = ""
        self._mode = choice(MODES, self._set_mode)
        self._undo = button("Undo", "Take the last step back", lambda: self._do(session.undo), icon="undo")
        self._redo = button("Redo", "Do the step again", lambda: self._do(session.redo), icon="redo")
        self._clear = button(
            "Clear", "Remove all prompts of this object", lambda: self._do(session.clear), icon="eraser"
        )
        steps = Row(label("Mode"), self._mode, space(), self._undo, self._redo, self._clear)
        self._objects, self._candidates = ObjectRow(session, self._guard), CandidateRow(session, self._guard)
        self._view, self._save = ViewRow(self.stage, self._guard), SaveRow(session, self._guard, self._tell)
        self._exact, self._status = ExactPanel(session, self._guard), widgets.HTML(layout=widgets.Layout(margin="0"))
        canvas = self.stage.screen.widget
        rows = (steps, self._objects, canvas, self._status, self._candidates, self._view, self._save, self._exact)
        for place, shown in enumerate(rows):
            shown.layout.order = str(place)
        # The canvas swallows keys. To the eye it comes third, in the order of Tab last, behind all controls.
        layout = widgets.Layout(width=f"{width}px", max_width="100%", grid_gap="6px", overflow="visible")
        super().__init__([*(shown for shown in rows if shown is not canvas), canvas], layout=layout)
        self.add_class("nbhelpers-click")
        canvas.add_class("nbhelpers-canvas")
        canvas.on_key_down(self._key)
        self._listen()
        self._show_controls()
        self._say(colab_notice())

    def _close_parts(self) -> None:
        self.stage.close()

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its steps."""
        self.stage.paint(photo=False)
        self._show_controls()
        if not self._busy:
            self._tell_time(None)
            self._say("")

    def _show_controls(self) -> None:
        session = self.session
        self._undo.disabled, self._redo.disabled = not session.can_undo, not session.can_redo
        self._clear.disabled = session.prompts().is_empty
        for part in (self._objects, self._candidates, self._exact):
            part.refresh()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Run an action; afterwards the status line tells its outcome, its time, or what went wrong."""
        started, asked = time.perf_counter(), self.session.seconds
        self._busy, self._failed, self._note = True, False, ""
        try:
            with self.watched():
                yield
        finally:
            self._busy = False
        if not self._failed:
            if self.session.seconds != asked:
                self._tell_time(time.perf_counter() - started)
            self._say(self._note)

    def _do(self, action: Callable[[], object]) -> None:
        with self._guard():
            action()

    def _ready(self) -> None:
        """A page has connected and shows the photo: let the segmenter look at it while the person aims."""
        if not self._looked:
            self._say(LOOKING)
            with self._guard():
                self.session.encode()
                self._looked = True

    def _tell(self, message: str) -> None:
        """Say something that stands when the running action has ended."""
        self._note = message
        self._say(message)

    def _say(self, message: str, *, error: bool = False) -> None:
        hint = HINTS[self._mode.value].replace("{exclude}", exclude_hint(self.stage.screen.mouse.reports_buttons))
        self._status.value = status_html(message or hint, self._timing, error=error)

    def _tell_time(self, total: float | None) -> None:
        if self.session.seconds is not None:
            segmenter = f"segmenter {1000 * self.session.seconds:.0f} ms"
            self._timing = segmenter if total is None else f"Last click {1000 * total:.0f} ms ({segmenter})"

    def _set_mode(self, mode: str) -> None:
        self.pointer.mode = mode
        self._say("")

    def _key(self, key: str, shift: bool, control: bool, meta: bool) -> None:
        """A key pressed while the canvas has the focus."""
        for mode in HINTS:
            if key.lower() == mode[0] and not (control or meta):
                self._mode.value = mode
        match key.lower():
            case "z" if not shift:
                self._do(self.session.undo)
            case "y" | "z":
                self._do(self.session.redo)
            case "+" | "=":
                self._view.closer(STEP)
            case "-":
                self._view.closer(1 / STEP)
            case "0":
                self._view.closer(0)
            case "arrowleft" | "arrowright":
                self._view.pan(1 if key.lower() == "arrowleft" else -1, 0)
            case "arrowup" | "arrowdown":
                self._view.pan(0, 1 if key.lower() == "arrowup" else -1)
            case "tab" | "escape":
                self.stage.screen.blur()
