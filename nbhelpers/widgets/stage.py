"""The picture of a click session: photo, masks and markers on a canvas, at a zoom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.canvas import Later, LayeredCanvas
from nbhelpers.widgets.render import Photo, draw_box, draw_marker, encode_overlay, encode_photo
from nbhelpers.widgets.view import View

BACKGROUND = "#80808030"  # a margin beside the photo, grey on light and dark pages


Session = ClickSession | RotoSession
"""What has a size, objects, and prompts to be drawn."""


class Stage:
    """Paints what a `ClickSession` holds; knows the view, and what is being dragged, and nothing else.

    Args:
        session: what to show.
        width: canvas width in pixels; the height follows the photo, between 0.3 and 0.75 of the width.
        on_ready: called after a page has connected and everything has been painted.
        on_look: called after the view has changed.
        guard: makes a context that reports what goes wrong when the page, not a method, has asked for a redraw.
    """

    def __init__(
        self,
        session: Session,
        width: int,
        *,
        on_ready: Callable[[], object] = lambda: None,
        on_look: Callable[[], object] = lambda: None,
        guard: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self.session, self._on_ready, self._on_look, self._guard = session, on_ready, on_look, guard
        height = round(width * min(max(session.size[0] / session.size[1], 0.3), 0.75))
        self.screen = LayeredCanvas(width, height, ("photo", "masks", "marks"), self._connected)
        self.view = View.fit(session.size, (height, width))
        self.opacity = 0.5
        self.rubber: tuple[float, float, float, float] | None = None
        """A box that is being drawn, in photo coordinates."""
        self.dragged: tuple[int, float, float] | None = None
        """A point that is being moved: its index, and x and y in photo coordinates."""
        self._photo: Photo | None = None
        self._preview = Later(lambda: self._moved(preview=True), 0.03)
        self._settle = Later(self._moved, 0.25, restart=True)

    @property
    def subject(self) -> object:
        """What a gesture is about; when it changes, the gesture has lost its meaning."""
        return self.session.active, self.session.prompts().points

    def picture(self) -> Photo:
        """What lies beneath the masks, with its halved copies."""
        if self._photo is None:
            self._photo = Photo(self.session.image)
        return self._photo

    def paint(self, *, photo: bool = True, masks: bool = True, preview: bool = False) -> None:
        """Paint all layers, or only those that have changed; markers always."""
        with self.screen.hold():
            if photo:
                self._paint_photo(preview)
            if masks:
                self._paint_masks()
            self._paint_marks()

    def look(self, view: View, *, moving: bool = False) -> None:
        """Show another view; while it is ``moving`` with the mouse, coarser pictures do until it rests."""
        self.view = view
        if moving:
            self._preview.ask()
            self._settle.ask()
        else:
            self._preview.cancel()
            self._settle.cancel()
            self.paint()
        self._on_look()

    def close(self) -> None:
        """Stop painting."""
        self._preview.cancel()
        self._settle.cancel()
        self.screen.close()

    def _moved(self, *, preview: bool = False) -> None:
        with self._guard():
            self.paint(preview=preview)

    def _connected(self) -> None:
        with self._guard():
            self.paint()
            self._on_ready()

    def _paint_photo(self, preview: bool) -> None:
        layer = self.screen["photo"]
        (x0, y0, x1, y1), _ = self.view.placed()
        layer.clear()
        if (x0, y0, x1, y1) != (0, 0, self.view.canvas[1], self.view.canvas[0]):
            layer.fill_style = BACKGROUND
            layer.fill_rect(0, 0, self.view.canvas[1], self.view.canvas[0])
        self.screen.put("photo", encode_photo(self._picture_seen(preview), preview=preview), x0, y0)

    def _picture_seen(self, preview: bool) -> UInt8[np.ndarray, "vh vw 3"]:
        """The part of the picture that is in view, at canvas size."""
        return self.picture().crop(self.view)

    def _paint_masks(self) -> None:
        self.screen["masks"].clear()
        (x0, y0, x1, y1), window = self.view.placed()
        masks, active = [], None
        for number, name in enumerate(self.session.objects):
            if name == self.session.active:
                active = number
            prediction = self.session.prediction(name)
            if prediction is not None:
                candidate = self.session.candidate(name)
                masks.append((number, prediction.view(candidate, window, (y1 - y0, x1 - x0))))
        masks.sort(key=lambda pair: pair[0] == active)  # the active object in front
        encoded = encode_overlay(masks, active, self.opacity)
        if encoded is not None:
            png, x, y = encoded
            self.screen.put("masks", png, x0 + x, y0 + y)

    def _paint_marks(self) -> None:
        layer = self.screen["marks"]
        layer.clear()
        prompts = self.session.prompts()
        box = prompts.box if self.rubber is None else self.rubber
        if box is not None:
            corners = (*self.view.to_canvas(*box[:2]), *self.view.to_canvas(*box[2:]))
            draw_box(layer, corners, dashed=self.rubber is not None)
        for index, ((x, y), label) in enumerate(zip(prompts.points, prompts.labels, strict=True)):
            if self.dragged is not None and self.dragged[0] == index:
                x, y = self.dragged[1:]
            draw_marker(layer, *self.view.to_canvas(x, y), label)

    def point_at(self, x: float, y: float, reach: float) -> int | None:
        """Index of the active object's point nearest to canvas ``(x, y)`` within ``reach`` pixels, or None."""
        near = []
        for index, point in enumerate(self.session.prompts().points):
            px, py = self.view.to_canvas(*point)
            near.append(((px - x) ** 2 + (py - y) ** 2, index))
        return min(near)[1] if near and min(near)[0] <= reach**2 else None
