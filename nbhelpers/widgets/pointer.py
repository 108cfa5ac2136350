"""What a mouse does to a click session: the canvas tells x, y and the button, the mode says what is meant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.widgets.mouse import LEFT, MIDDLE, RIGHT
from nbhelpers.widgets.stage import Stage

REACH = 11  # canvas pixels from a marker's centre that still take hold of it
SMALLEST_DRAG = 4  # canvas pixels; less is a trembling hand
WHEEL = 1.0015  # zoom factor for one unit that a wheel turns


class Pointer:
    """Mouse gestures on a `Stage`.

    The mode says what the left button does; in every mode the right one excludes, and the middle one pans. Unless the
    press draws a box or pans, a marker under it is taken hold of (or removed). A gesture that leaves the canvas ends
    at its edge, since a release outside is not reported; one whose object or frame is exchanged meanwhile is dropped.

    Args:
        stage: where the mouse is.
        guard: see `nbhelpers.widgets.rows.Guard`.
    """

    def __init__(self, stage: Stage, guard: Callable[[], contextlib.AbstractContextManager]):
        self.stage, self._guard = stage, guard
        self.mode = "include"
        """What a press of the left button means: ``include``, ``exclude``, ``box``, ``remove`` or ``pan``."""
        self._drag: tuple[str, float, float] | None = None
        self._at: tuple[float, float] | None = None
        self._subject: object = None  # what the gesture began on
        stage.screen.on_mouse(self.press, self.move, self.release, self.cancel)
        stage.screen.widget.on_mouse_wheel(self.wheel)

    def press(self, x: float, y: float, button: int = LEFT) -> None:
        """A click, or the beginning of a drag."""
        stage, self._drag, self._at, self._subject = self.stage, None, (x, y), self.stage.subject
        mode = self._meaning(button)
        with self._guard():
            if mode in ("box", "pan"):
                self._drag = (mode, x, y)
                return
            hit = stage.point_at(x, y, REACH)
            if mode == "remove":
                if hit is None:
                    raise NbHelpersError("there is no marker here", do="click on the marker to remove")
                stage.session.remove(hit)
            elif hit is not None:
                stage.dragged = (hit, *stage.session.prompts().points[hit])
                self._drag = ("point", x, y)
            else:
                stage.session.click(*self._photo_point(x, y), mode == "include")

    def move(self, x: float, y: float) -> None:
        """The mouse has moved; of interest during a drag only."""
        before, self._at = self._at, (x, y)
        if self._drag is None or self._dropped():
            return
        stage, (what, start_x, start_y) = self.stage, self._drag
        with self._guard():
            if what == "pan":
                stage.look(stage.view.panned(x - before[0], y - before[1]), moving=True)
                return
            place = stage.view.clamp_to_photo(*stage.view.to_photo(x, y))
            if what == "box":
                start = stage.view.clamp_to_photo(*stage.view.to_photo(start_x, start_y))
                stage.rubber = _sorted_box(start, place)
            elif abs(x - start_x) + abs(y - start_y) >= SMALLEST_DRAG:
                stage.dragged = (stage.dragged[0], *place)
            stage.paint(photo=False, masks=False)

    def release(self, x: float, y: float) -> None:
        """The end of a drag, by the button or by leaving the canvas."""
        if self._drag is None or self._dropped():
            return
        self.move(x, y)
        stage, (what, start_x, start_y), dragged, rubber = self.stage, self._drag, self.stage.dragged, self.stage.rubber
        self._end()
        far = abs(x - start_x) + abs(y - start_y) >= SMALLEST_DRAG
        with self._guard():
            if what == "point" and far:
                stage.session.move(*dragged)
            elif what == "box" and far:
                stage.session.set_box(rubber)
            elif what != "pan":
                stage.paint(photo=False, masks=False)
            if what == "box" and not far:
                raise NbHelpersError("a box needs a drag", do="press in one corner, release in the opposite one")

    def wheel(self, dx: float, dy: float) -> None:
        """Zoom about the mouse."""
        with self._guard():
            steps = min(max(dy, -400), 400)
            self.stage.look(self.stage.view.zoomed(WHEEL**-steps, about=self._at), moving=True)

    def cancel(self) -> None:
        """Drop a drag: nothing is done, and what was drawn of it is wiped away."""
        if self._drag is not None:
            self._end()
            with self._guard():
                self.stage.paint(photo=False, masks=False)

    def _meaning(self, button: int) -> str:
        """The mode of a press."""
        return {RIGHT: "exclude", MIDDLE: "pan"}.get(button, self.mode)

    def _dropped(self) -> bool:
        """Whether the drag has lost its object or frame, e.g. to the player; it is dropped then."""
        if self._drag is None or self._drag[0] == "pan" or self.stage.subject == self._subject:
            return False
        self.cancel()
        with self._guard():
            raise NbHelpersError("the picture or the object changed during the drag", do="drag once more")
        return True

    def _end(self) -> None:
        self._drag = self.stage.rubber = self.stage.dragged = None

    def _photo_point(self, x: float, y: float) -> tuple[float, float]:
        """Photo coordinates to a tenth of a pixel, which is what a log should hold and a person can read.

        A press beside the photo by less than a canvas pixel counts as one on its edge: a photo may be thinner than that
        on the canvas, and a page may place the canvas at fractions of a pixel.
        """
        view = self.stage.view
        px, py = view.to_photo(x, y)
        inside = view.clamp_to_photo(px, py)
        if 0.5 <= max(abs(px - inside[0]), abs(py - inside[1])) <= 0.5 + 1 / view.scale:
            px, py = inside
        return round(px, 1), round(py, 1)


def _sorted_box(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = one, other
    return round(min(x0, x1), 1), round(min(y0, y1), 1), round(max(x0, x1), 1), round(max(y0, y1), 1)
