"""What a mouse does to a rotoscoping session: clicks, boxes and markers as on a photo, and brush and wipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from nbhelpers.widgets.canvas import Later
from nbhelpers.widgets.frames.stage import FrameStage
from nbhelpers.widgets.mouse import LEFT, RIGHT
from nbhelpers.widgets.pointer import Pointer

BRUSHES = ("brush", "erase")
SPACING = 0.25  # of the brush's radius: nearer places of a stroke add nothing to it


class FramePointer(Pointer):
    """Mouse gestures on a `FrameStage`; see `Pointer`. With a brush the right button erases.

    Args:
        stage: where the mouse is.
        guard: see `nbhelpers.widgets.rows.Guard`.
        wiped: called after the wipe has been dragged.
        asking: called before the tracker is asked what a click or box means.
        begin: called before each press that does more than pan.
    """

    def __init__(
        self,
        stage: FrameStage,
        guard: Callable[[], contextlib.AbstractContextManager],
        wiped: Callable[[], object] = lambda: None,
        asking: Callable[[], object] = lambda: None,
        begin: Callable[[], object] = lambda: None,
    ):
        super().__init__(stage, guard)
        self.radius = 12.0
        """Of the brush, in pixels of the frame."""
        self._wiped, self._asking, self._begin = wiped, asking, begin
        self._marks = Later(lambda: self._paint(photo=False, masks=False), 0.03)
        self._wipe_moves = Later(lambda: self._paint(preview=True), 0.03)

    def show_brush(self) -> None:
        """Show or hide the brush's ring, as the mode wants it."""
        brush = None
        mode = self._drag[0] if self._drag and self._drag[0] in BRUSHES else self.mode
        if mode in BRUSHES:
            height, width = self.stage.view.canvas
            x, y = self._at or (width / 2, height / 2)
            brush = (x, y, self.radius, mode == "erase")
        if brush != self.stage.brush:
            self.stage.brush = brush
            self._marks.ask()

    def press(self, x: float, y: float, button: int = LEFT) -> None:
        """A click, or the beginning of a drag or stroke."""
        mode = self._meaning(button)
        if mode != "pan":
            self._begin()
        self._subject = self.stage.subject
        if button == LEFT and self.stage.on_knob(x, y):
            self._drag, self._at = ("wipe", x, y), (x, y)
        elif mode in BRUSHES:
            self._drag, self._at = (mode, x, y), (x, y)
            self.stage.stroke = [self._photo_point(x, y)]
            self.show_brush()
            self._marks.ask()
        else:
            if mode in ("include", "exclude"):
                self._asking()
            super().press(x, y, button)

    def move(self, x: float, y: float) -> None:
        """The mouse has moved; without a drag only the brush's ring follows it."""
        what = self._drag[0] if self._drag else None
        if what in BRUSHES and self._dropped():
            return
        if what == "wipe":
            self._at = (x, y)
            self.stage.wipe = min(max(x / self.stage.view.canvas[1], 0.0), 1.0)
            self._wipe_moves.ask()
        elif what in BRUSHES:
            self._at = (x, y)
            place, last = self._photo_point(x, y), self.stage.stroke[-1]
            if (place[0] - last[0]) ** 2 + (place[1] - last[1]) ** 2 >= (SPACING * self.radius) ** 2:
                self.stage.stroke.append(place)
            self.show_brush()
        else:
            super().move(x, y)
            if what is None and self.mode in BRUSHES:
                self.show_brush()

    def release(self, x: float, y: float) -> None:
        """The end of a drag or stroke, by the button or by leaving the canvas."""
        what = self._drag[0] if self._drag else None
        if what in BRUSHES and self._dropped():
            return
        if what == "wipe":
            self.move(x, y)
            self._end()
            with self._guard():
                self.stage.paint()
                self._wiped()
        elif what in BRUSHES:
            self.move(x, y)
            stroke = self.stage.stroke
            self._end()
            self.show_brush()
            with self._guard():
                try:
                    self.stage.session.stroke(stroke, self.radius, what == "erase")
                finally:
                    self._marks.ask()  # a stroke that is refused is wiped away
        else:
            if what == "box":
                self._asking()
            super().release(x, y)

    def close(self) -> None:
        """Stop painting."""
        self._marks.cancel()
        self._wipe_moves.cancel()

    def _paint(self, **what: bool) -> None:
        with self._guard():
            self.stage.paint(**what)

    def _meaning(self, button: int) -> str:
        """The mode of a press."""
        return "erase" if button == RIGHT and self.mode in BRUSHES else super()._meaning(button)

    def _end(self) -> None:
        super()._end()
        self.stage.stroke = []
