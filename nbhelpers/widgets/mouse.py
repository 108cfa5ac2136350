"""Mouse and touch gestures on a canvas, with the button that was pressed where the page reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipycanvas import MultiCanvas

LEFT, MIDDLE, RIGHT = 0, 1, 2  # as in the DOM's MouseEvent.button
WATCHED = ["mouseenter", "mousedown", "mousemove", "mouseup", "mouseleave", "contextmenu"]


def _nothing(*_: float) -> None:
    """Default of a gesture that a canvas does not use."""


class Mouse:
    """Presses, moves and releases on a canvas, in canvas pixels.

    ipycanvas reports where a button was pressed but not which one; ipyevents reports both and suppresses the browser's
    context menu. Their messages arrive in no fixed order, so only one of the two is used: ipyevents as soon as the page
    has sent one of its events, ipycanvas until then. Where ipyevents or its JavaScript is missing, every press counts
    as one of the left button. Touches always come from ipycanvas.

    Only one button counts at a time: a second one pressed during a gesture is ignored. Shift or Ctrl with the left
    button (on a Mac, Ctrl is how a trackpad clicks right) count as the right button.

    Args:
        canvas: what is watched.
        press: called with x, y and the button, `LEFT`, `MIDDLE` or `RIGHT`.
        move: called with x and y, whether or not a button is down.
        release: called with x and y when the pressed button is released or the mouse leaves the canvas.
        cancel: called when a gesture ends without effect, e.g. by a second finger.
    """

    def __init__(
        self,
        canvas: MultiCanvas,
        press: Callable[[float, float, int], object],
        move: Callable[[float, float], object] = _nothing,
        release: Callable[[float, float], object] = _nothing,
        cancel: Callable[[], object] = _nothing,
    ):
        self._canvas, self._press, self._move, self._release, self._cancel = canvas, press, move, release, cancel
        self._reports = False  # whether the page sends events of ipyevents
        self._taken: tuple[float, float] | None = None  # a press that ipycanvas reported before the first of these
        self._held = LEFT
        self._touched: tuple[float, float] | None = None
        canvas.on_mouse_down(self._canvas_down)
        canvas.on_mouse_move(lambda x, y: None if self._reports else move(x, y))
        canvas.on_mouse_up(lambda x, y: None if self._reports else release(x, y))
        canvas.on_mouse_out(lambda x, y: None if self._reports else release(x, y))
        canvas.on_touch_start(self._touch_start)
        canvas.on_touch_move(self._touch_move)
        canvas.on_touch_end(self._touch_end)
        canvas.on_touch_cancel(lambda touches: self._touch_cancel())
        self._events = _watch(canvas)
        if self._events is not None:
            self._events.on_dom_event(self.dom_event)

    @property
    def reports_buttons(self) -> bool:
        """Whether the right button can be told from the left: False as soon as a press shows that it cannot."""
        return self._events is not None and self._taken is None

    def reset(self) -> None:
        """A page has connected: a gesture in another one will not be finished, and it may have no ipyevents."""
        self._reports, self._taken, self._touched = False, None, None
        self._cancel()

    def close(self) -> None:
        """Stop watching."""
        if self._events is not None:
            self._events.close()

    def dom_event(self, event: dict[str, Any]) -> None:
        """Handle an event of ipyevents."""
        before, self._taken, self._reports = self._taken, None, True
        x, y = self._place(event)
        match event["event"]:
            case "mousedown":
                if event["buttons"] & (event["buttons"] - 1) or event["button"] not in (LEFT, MIDDLE, RIGHT):
                    return
                self._held = event["button"]
                if before is None or max(abs(before[0] - x), abs(before[1] - y)) > 0.01:
                    modified = event["button"] == LEFT and (event["shiftKey"] or event["ctrlKey"])
                    self._press(x, y, RIGHT if modified else event["button"])
            case "mousemove":
                self._move(x, y)
            case "mouseup":
                if event["button"] == self._held:
                    self._release(x, y)
            case "mouseleave":
                self._release(x, y)

    def _place(self, event: dict[str, Any]) -> tuple[float, float]:
        """Canvas pixels of an event, as ipycanvas computes them; the page may show the canvas smaller or larger."""
        x = (event["clientX"] - event["boundingRectLeft"]) / (event["boundingRectWidth"] or 1)
        y = (event["clientY"] - event["boundingRectTop"]) / (event["boundingRectHeight"] or 1)
        return x * self._canvas.width, y * self._canvas.height

    def _canvas_down(self, x: float, y: float) -> None:
        if not self._reports:
            self._taken = x, y
            self._cancel()  # a gesture whose end was not reported
            self._press(x, y, LEFT)

    def _touch_start(self, touches: list[tuple[float, float]]) -> None:
        if len(touches) == 1:
            self._touched = touches[0]
            self._press(*touches[0], LEFT)
        else:
            self._touch_cancel()

    def _touch_move(self, touches: list[tuple[float, float]]) -> None:
        if touches and self._touched is not None:
            self._touched = touches[0]
            self._move(*touches[0])

    def _touch_end(self, touches: list[tuple[float, float]]) -> None:
        if not touches and self._touched is not None:
            place, self._touched = self._touched, None
            self._release(*place)

    def _touch_cancel(self) -> None:
        self._touched = None
        self._cancel()


def _watch(canvas: MultiCanvas) -> Any:
    """An `ipyevents.Event` on the canvas, or None where the package is missing."""
    try:
        from ipyevents import Event
    except ImportError:
        return None
    return Event(source=canvas, watched_events=WATCHED, prevent_default_action=True)
