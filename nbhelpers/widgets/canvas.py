"""Layers of ipycanvas that survive an exception, a page reload and a stretched layout."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ipycanvas import Canvas, MultiCanvas
from ipycanvas.canvas import COMMANDS

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.widgets.mouse import Mouse

_drawing = threading.RLock()  # JupyterLab lets widgets be answered beside a running cell; all canvases share a manager
MAX_SIDE = 1280  # pixels; larger images cost more to send than they show


class LayeredCanvas:
    """Named layers over one another, painted in one message, repainted whenever a page (re)connects.

    Example:
        >>> screen = LayeredCanvas(1000, 700, ("photo", "marks"), repaint=lambda: draw_all())
        >>> with screen.hold():
        ...     screen["marks"].clear()
        ...     screen["marks"].fill_circle(320, 200, 7)

    Args:
        width: canvas pixels, at most `MAX_SIDE`; also the width on the page, less where the page is narrower.
        height: canvas pixels, at most `MAX_SIDE`.
        layers: names, from back to front.
        repaint: draws everything; called when a page has connected, for it then shows empty layers.

    Raises:
        NbHelpersError: a side outside 1 to `MAX_SIDE`.
    """

    def __init__(self, width: int, height: int, layers: Sequence[str], repaint: Callable[[], object]):
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise NbHelpersError(
                "the canvas size is out of range", given=f"{width} x {height}", expected=f"sides of 1 to {MAX_SIDE}"
            )
        self.widget = MultiCanvas(len(layers), width=width, height=height)
        # Without a width of its own the canvas would be stretched to the box around it; "auto" keeps the
        # proportions where max_width shrinks it.
        self.widget.layout.width = f"{width}px"
        self.widget.layout.max_width = "100%"
        self.widget.layout.height = "auto"
        self.widget.layout.align_self = "flex-start"
        self._layers = dict(zip(layers, self.widget._canvases, strict=True))
        self._manager = self.widget._canvas_manager
        self._repaint, self.mouse = repaint, None
        self.widget.on_client_ready(self._connected)
        self._unhide = Later(self._show, 0.25)  # long enough for a busy page to draw the hidden state

    def __getitem__(self, layer: str) -> Canvas:
        return self._layers[layer]

    def on_mouse(self, *callbacks: Callable[..., object]) -> Mouse:
        """Watch the mouse; see `Mouse` for the callbacks ``press, move, release, cancel``."""
        self.mouse = Mouse(self.widget, *callbacks)
        return self.mouse

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
        drawing for good; so each message here names its layers anew.
        """
        manager = self._manager
        with _drawing:
            if manager._caching:
                yield
                return
            manager._caching, manager._current_canvas = True, None
            try:
                yield
                manager.flush()
            finally:
                manager._caching, manager._current_canvas = False, None
                manager._commands_cache, manager._buffers_cache = [], []

    def put(self, layer: str, encoded: bytes, x: int, y: int) -> None:
        """Draw a PNG or JPEG file at ``(x, y)``.

        `Canvas.put_image_data` would encode an array itself, RGB as JPEG of quality 75 and RGBA at PNG's slowest;
        what it sends is the same command.
        """
        self._manager.send_draw_command(self[layer], COMMANDS["putImageData"], [x, y], [encoded])

    def blur(self) -> None:
        """Give up the focus.

        ipycanvas keeps every key from the page, Tab too; an element that is hidden for a moment loses the focus.
        """
        self.widget.layout.visibility = "hidden"
        self._unhide.ask()

    def _connected(self) -> None:
        if self.mouse is not None:
            self.mouse.reset()
        self._repaint()

    def _show(self) -> None:
        self.widget.layout.visibility = "visible"


class Later:
    """Call a function once, a little later, however often it was asked for meanwhile.

    Mouse moves and wheel turns arrive faster than a view can be drawn. In the main thread without a running event loop
    (a script, a test) the call happens at once.

    Args:
        function: what to call.
        seconds: the pause.
        restart: whether asking again begins the pause anew.
    """

    def __init__(self, function: Callable[[], object], seconds: float, *, restart: bool = False):
        self._function, self._seconds, self._restart = function, seconds, restart
        self._handle: asyncio.TimerHandle | threading.Timer | None = None
        self._due = 0.0

    @property
    def waiting(self) -> bool:
        """Whether the call is still to come; one that is long overdue was lost with its event loop."""
        return self._handle is not None and time.monotonic() < self._due + 1

    def ask(self) -> None:
        """Have the function called after the pause."""
        if self.waiting and not self._restart:
            return
        self.cancel()
        self._due = time.monotonic() + self._seconds
        try:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._run)
        except RuntimeError:
            if threading.current_thread() is threading.main_thread():
                self._function()
                return
            self._handle = threading.Timer(self._seconds, self._run)
            self._handle.daemon = True
            self._handle.start()

    def cancel(self) -> None:
        """Forget what was asked for."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def _run(self) -> None:
        self._handle = None
        self._function()
