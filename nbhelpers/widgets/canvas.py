"""Layers of ipycanvas that survive an exception, a page reload and a stretched layout, and the mouse over them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ipycanvas import Canvas, MultiCanvas
from ipycanvas.canvas import COMMANDS

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.widgets.background import Later

_drawing = threading.RLock()  # JupyterLab lets widgets be answered beside a running cell; all canvases share a manager
MAX_SIDE = 1280  # page pixels; larger images cost more to send than they show
MAX_RATIO = 2.0  # canvas pixels for one page pixel
LEFT, MIDDLE, RIGHT = 0, 1, 2  # as in the DOM's MouseEvent.button
WATCHED = ["mouseenter", "mousedown", "mousemove", "mouseup", "mouseleave", "contextmenu"]


class LayeredCanvas:
    """Named layers over one another, painted in one message, repainted whenever a page (re)connects.

    Example:
        >>> screen = LayeredCanvas(1000, 700, ("photo", "marks"), repaint=lambda: draw_all())
        >>> with screen.hold():
        ...     screen["marks"].clear()
        ...     screen["marks"].fill_circle(320, 200, 7)

    Lines and shapes are drawn in page pixels, files (`put`) in canvas pixels.

    Args:
        width: page pixels, at most `MAX_SIDE`; a narrower page shows the canvas smaller.
        height: page pixels, at most `MAX_SIDE`.
        layers: names, from back to front.
        repaint: draws everything; called when a page has connected, whose layers are empty then.

    Attributes:
        size: ``(width, height)`` in page pixels.
        ratio: canvas pixels for one page pixel; see `fit_ratio`.

    Raises:
        NbHelpersError: a side outside 1 to `MAX_SIDE`.
    """

    def __init__(self, width: int, height: int, layers: Sequence[str], repaint: Callable[[], object]):
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise NbHelpersError(
                "the canvas size is out of range", given=f"{width} x {height}", expected=f"sides of 1 to {MAX_SIDE}"
            )
        self.widget = MultiCanvas(len(layers), width=width, height=height)
        self.size, self.ratio = (width, height), 1.0
        # Without a width of its own the canvas would be stretched to the box around it; "auto" keeps the
        # proportions where max_width shrinks it.
        self.widget.layout.width = f"{width}px"
        self.widget.layout.max_width = "100%"
        self.widget.layout.height = "auto"
        self.widget.layout.align_self = "flex-start"
        self._layers = dict(zip(layers, self.widget._canvases, strict=True))
        self.manager = self.widget._canvas_manager
        self._repaint, self.mouse = repaint, None
        self.widget.on_client_ready(self._connected)
        self._unhide = Later(self._show, 0.25)  # long enough for a busy page to draw the hidden state

    def __getitem__(self, layer: str) -> Canvas:
        return self._layers[layer]

    def fit_ratio(self, ratio: float) -> None:
        """Give the canvas as many pixels as the screen shows of it, and repaint it.

        Args:
            ratio: screen pixels for one page pixel (`window.devicePixelRatio`); 1 to `MAX_RATIO` is followed.
        """
        ratio = min(max(ratio, 1.0), MAX_RATIO)
        if ratio == self.ratio:
            return
        with _drawing:
            self.ratio = ratio
            self.widget.width, self.widget.height = (round(side * ratio) for side in self.size)
        self._repaint()

    def on_mouse(self, *callbacks: Callable[..., object]) -> None:
        """Watch the mouse; see `Mouse` for the callbacks ``press, move, release, cancel``."""
        self.mouse = Mouse(self, *callbacks)

    def close(self) -> None:
        """Take the canvas off the page. Its layers stay known, for the page may still work on earlier commands."""
        self._unhide.cancel()
        if self.mouse is not None:
            self.mouse.close()
        self.widget.close()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Collect drawing commands and send them as one message; after an exception send none of them.

        `ipycanvas.hold_canvas` goes on collecting for ever after an exception. It also remembers the layer that
        was drawn on last, which a reloaded page does not, and one command without a layer stops that page's
        drawing for good; so each message here names its layers again.
        """
        manager = self.manager
        with _drawing:
            if manager._caching:
                yield
                return
            manager._caching, manager._current_canvas = True, None
            try:
                for layer in self._layers.values():
                    self._scale(layer)
                yield
                manager.flush()
            finally:
                manager._caching, manager._current_canvas = False, None
                manager._commands_cache, manager._buffers_cache = [], []

    def put(self, layer: str, encoded: bytes, x: int, y: int, *, enlarge: bool = False) -> None:
        """Draw a PNG or JPEG file at ``(x, y)``, in canvas pixels.

        `Canvas.put_image_data` would encode an array itself, RGB as JPEG of quality 75 and RGBA at PNG's slowest;
        what it sends is the same command.

        Args:
            layer: its name.
            encoded: the file.
            x: of its left edge.
            y: of its upper edge.
            enlarge: whether position and file are in page pixels, and the page enlarges them.
        """
        if not enlarge and self.ratio != 1:
            self[layer].reset_transform()
        self.manager.send_draw_command(self[layer], COMMANDS["putImageData"], [x, y], [encoded])
        if not enlarge:
            self._scale(self[layer])

    @property
    def layers(self) -> tuple[str, ...]:
        """Their names, from back to front."""
        return tuple(self._layers)

    @property
    def reports_buttons(self) -> bool:
        """Whether the page reports which mouse button was pressed; see `Mouse`."""
        return self.mouse is not None and self.mouse.reports_buttons

    def blur(self) -> None:
        """Give up the focus.

        ipycanvas keeps every key from the page, Tab too; an element that is hidden for a moment loses the focus.
        """
        self.widget.layout.visibility = "hidden"
        self._unhide.ask()

    def _scale(self, layer: Canvas) -> None:
        """Let a layer be drawn on in page pixels; a page that has connected, or a new size, has forgotten it."""
        if self.ratio != 1:
            layer.set_transform(self.ratio, 0, 0, self.ratio, 0, 0)

    def _connected(self) -> None:
        if self.mouse is not None:
            self.mouse.reset()
        self._repaint()

    def _show(self) -> None:
        self.widget.layout.visibility = "visible"


def _nothing(*_: float) -> None:
    """Default of a gesture that a canvas does not use."""


class Mouse:
    """Presses, moves and releases on a canvas, in page pixels.

    ipycanvas reports where a button was pressed but not which one; ipyevents reports both and suppresses the browser's
    context menu. Their messages arrive in no fixed order, so only one of the two is used: ipyevents as soon as the page
    has sent one of its events, ipycanvas until then. Where ipyevents or its JavaScript is missing, every press counts
    as one of the left button. Touches always come from ipycanvas.

    Only one button counts at a time: a second one pressed during a gesture is ignored. Shift or Ctrl with the left
    button (on a Mac, Ctrl is how a trackpad clicks right) count as the right button.

    Args:
        screen: what is watched.
        press: called with x, y and the button, `LEFT`, `MIDDLE` or `RIGHT`.
        move: called with x and y, whether or not a button is down.
        release: called with x and y when the pressed button is released or the mouse leaves the canvas.
        cancel: called when a gesture ends without effect, e.g. by a second finger.
    """

    def __init__(
        self,
        screen: LayeredCanvas,
        press: Callable[[float, float, int], object],
        move: Callable[[float, float], object] = _nothing,
        release: Callable[[float, float], object] = _nothing,
        cancel: Callable[[], object] = _nothing,
    ):
        self._screen, self._press, self._move, self._release, self._cancel = screen, press, move, release, cancel
        self._reports = False  # whether the page sends events of ipyevents
        self._taken: tuple[float, float] | None = None  # a press that ipycanvas reported before the first of these
        self._held = LEFT
        self._touched: tuple[float, float] | None = None
        canvas = screen.widget
        canvas.on_mouse_down(self._canvas_down)
        canvas.on_mouse_move(lambda x, y: None if self._reports else move(*self._on_page(x, y)))
        canvas.on_mouse_up(lambda x, y: None if self._reports else release(*self._on_page(x, y)))
        canvas.on_mouse_out(lambda x, y: None if self._reports else release(*self._on_page(x, y)))
        canvas.on_touch_start(self._touch_start)
        canvas.on_touch_move(self._touch_move)
        canvas.on_touch_end(self._touch_end)
        canvas.on_touch_cancel(lambda touches: self._touch_cancel())
        self._events = _watch(canvas)
        if self._events is not None:
            self._events.on_dom_event(self.dom_event)

    @property
    def reports_buttons(self) -> bool:
        """Whether the right button is distinguished from the left: False after a press for which it was not."""
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
        """Page pixels of an event, as if the page showed the canvas neither smaller nor larger."""
        x = (event["clientX"] - event["boundingRectLeft"]) / (event["boundingRectWidth"] or 1)
        y = (event["clientY"] - event["boundingRectTop"]) / (event["boundingRectHeight"] or 1)
        width, height = self._screen.size
        return x * width, y * height

    def _on_page(self, x: float, y: float) -> tuple[float, float]:
        """Page pixels of a place in canvas pixels, which ipycanvas reports."""
        return x / self._screen.ratio, y / self._screen.ratio

    def _canvas_down(self, x: float, y: float) -> None:
        if not self._reports:
            x, y = self._taken = self._on_page(x, y)
            self._cancel()  # a gesture whose end was not reported
            self._press(x, y, LEFT)

    def _touch_start(self, touches: list[tuple[float, float]]) -> None:
        if len(touches) == 1:
            self._touched = self._on_page(*touches[0])
            self._press(*self._touched, LEFT)
        else:
            self._touch_cancel()

    def _touch_move(self, touches: list[tuple[float, float]]) -> None:
        if touches and self._touched is not None:
            self._touched = self._on_page(*touches[0])
            self._move(*self._touched)

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
