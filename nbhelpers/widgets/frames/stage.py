"""The current frame of a rotoscoping session on a canvas: masks, mattes, cut-outs, neighbours' outlines, a wipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.video.frames import wrap_columns
from nbhelpers.plots import EXCLUDE_COLOUR, colour_of
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.frames.picture import CHECKERBOARD, cut_out_over, grey, seen, wiped
from nbhelpers.widgets.render import Photo, encode_overlay
from nbhelpers.widgets.stage import Stage

SHOWS = ("overlay", "matte", "cut-out")
BEFORE, AFTER = "#FF4FD8", "#7CFF4F"  # outlines of the frames before and after
KNOB = 13  # canvas pixels: radius of the wipe's handle


class FrameStage(Stage):
    """Paints what a `RotoSession` holds on its current frame.

    Args:
        session: what to show.
        width: canvas width in pixels; see `Stage`.
        on_ready: called after a page has connected and everything has been painted.
        on_look: called after the view has changed.
        guard: see `Stage`.
        also: paints more into the message of each redraw.
    """

    def __init__(
        self,
        session: RotoSession,
        width: int,
        *,
        on_ready: Callable[[], object] = lambda: None,
        on_look: Callable[[], object] = lambda: None,
        guard: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        also: Callable[[], object] = lambda: None,
    ):
        super().__init__(session, width, on_ready=on_ready, on_look=on_look, guard=guard)
        self.show = "overlay"
        """What is shown: one of `SHOWS`."""
        self.background = CHECKERBOARD
        self.onion = 0
        """How many frames before and after are outlined."""
        self.wipe: float | None = None
        """Where the wipe stands, 0 (left) to 1: the frame itself to its left, what is shown to its right."""
        self.hidden: set[str] = set()
        """Objects that are not shown."""
        self.stroke: list[tuple[float, float]] = []
        """A brush stroke that is being painted, in frame coordinates."""
        self.brush: tuple[float, float, float, bool] | None = None
        """The brush: x and y on the canvas, radius in frame pixels, whether it erases; None where it is not shown."""
        self.frame: int | None = None
        """The frame that was painted last."""
        self._also = also
        self._mattes: dict[str, tuple] = {}
        self._fault: NbHelpersError | None = None

    @property
    def subject(self) -> object:
        """What a gesture is about: the object, its points and the frame."""
        return super().subject, self.session.frame

    def follow(self) -> None:
        """Show the session's current frame: at once roughly, and exactly when it rests."""
        self.paint(preview=True)
        self.rest()

    def rest(self) -> None:
        """Paint exactly what was painted roughly, when nothing has moved for a moment."""
        self._settle.ask()

    def picture(self) -> Photo:
        """The current frame; where it cannot be read, a grey one."""
        if self._photo is None or self.frame != self.session.frame:
            self.frame, self._fault = self.session.frame, None
            try:
                self._photo = Photo(self.session.image())
            except NbHelpersError as error:
                self._fault = error
                self._photo = Photo(np.full((*self.session.size, 3), 90, np.uint8))
        return self._photo

    def check(self) -> None:
        """Raise the error of a frame that could not be read, once."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def paint(self, *, photo: bool = True, masks: bool = True, preview: bool = False) -> None:
        """Paint all layers, or only those that have changed; markers always."""
        stale = self.frame != self.session.frame
        photo = photo or stale or (masks and self.show != "overlay")
        with self.screen.hold():
            super().paint(photo=photo, masks=masks or stale, preview=preview)
            self._also()

    @property
    def wipe_column(self) -> int:
        """The wipe in canvas pixels; 0 where there is none."""
        return 0 if self.wipe is None else round(self.wipe * self.view.canvas[1])

    def on_knob(self, x: float, y: float) -> bool:
        """Whether a canvas position takes hold of the wipe's handle."""
        if self.wipe is None:
            return False
        return (x - self.wipe_column) ** 2 + (y - self._knob_row) ** 2 <= (KNOB + 3) ** 2

    @property
    def _knob_row(self) -> int:
        return self.view.canvas[0] - KNOB - 6

    def _picture_seen(self, preview: bool) -> UInt8[np.ndarray, "vh vw 3"]:
        before = super()._picture_seen(preview)
        if self.show == "overlay":
            return before
        alpha = self._alpha(before.shape[:2], preview)
        after = grey(alpha) if self.show == "matte" else cut_out_over(before, alpha, self.background)
        return wiped(before, after, self.wipe_column - self.view.placed()[0][0])

    def _alpha(self, shape: tuple[int, int], preview: bool) -> UInt8[np.ndarray, "vh vw"]:
        """The mattes of all shown objects in the view; masks while the view moves, for mattes cost more."""
        alpha = np.zeros(shape, np.uint8)
        for name in self.session.objects:
            if name not in self.hidden and self.session.has_mask(name=name):
                layer = self.session.mask(name=name) if preview else self.matte(name)
                np.maximum(alpha, seen(layer, self.view), out=alpha)
        return alpha

    def matte(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """The matte of an object on the current frame; the latest is kept."""
        session = self.session
        key = (session.frame, session.matte_settings(name))
        mask = session.mask(name=name)
        if name in self._mattes and self._mattes[name][0] is mask and self._mattes[name][1] == key:
            return self._mattes[name][2]
        matte = session.matte(name=name)
        if matte.shape != mask.shape:  # of a wrapped clip, mattes have the true width
            matte = wrap_columns(matte[:, :, None], session.frames.wrap)[:, :, 0]
        if not key[1].steady:  # else it depends on the neighbours' masks too
            self._mattes[name] = (mask, key, matte)
        return matte

    def _paint_masks(self) -> None:
        self.screen["masks"].clear()
        if self.show != "overlay":
            return
        (x0, y0, _, _), _ = self.view.placed()
        masks, active = [], None
        for number, name in enumerate(self.session.objects):
            if name == self.session.active:
                active = number
            if name not in self.hidden and self.session.has_mask(name=name):
                masks.append((number, self._wiped_mask(self.session.mask(name=name), x0)))
        masks.sort(key=lambda pair: pair[0] == active)  # the active object in front
        encoded = encode_overlay(masks, active, self.opacity, self._neighbours(x0))
        if encoded is not None:
            png, x, y = encoded
            self.screen.put("masks", png, x0 + x, y0 + y)

    def _neighbours(self, x0: int) -> list[tuple[str, Bool[np.ndarray, "vh vw"]]]:
        """Outlines of the active object on the frames around."""
        outlines = []
        for away in range(self.onion, 0, -1):
            for frame, colour in ((self.session.frame - away, BEFORE), (self.session.frame + away, AFTER)):
                if 0 <= frame < len(self.session.frames) and self.session.has_mask(frame):
                    outlines.append((colour, self._wiped_mask(self.session.mask(frame), x0)))
        return outlines

    def _wiped_mask(self, mask: Bool[np.ndarray, "h w"], x0: int) -> Bool[np.ndarray, "vh vw"]:
        part = seen(mask, self.view) > 127
        part[:, : max(0, self.wipe_column - x0)] = False
        return part

    def _paint_marks(self) -> None:
        super()._paint_marks()
        layer = self.screen["marks"]
        if self.brush is not None:
            self._paint_brush(*self.brush)
        if self.wipe is not None:
            for colour, width in (("rgba(0, 0, 0, 0.65)", 4), ("white", 2)):
                layer.stroke_style = layer.fill_style = colour
                layer.line_width = width
                layer.stroke_line(self.wipe_column, 0, self.wipe_column, self.view.canvas[0])
                layer.fill_circle(self.wipe_column, self._knob_row, KNOB - 2 + width / 2)
            layer.fill_style = "#333333"
            for way in (-1, 1):
                x, y = self.wipe_column + 3 * way, self._knob_row
                layer.fill_polygon(np.array([(x, y - 5), (x, y + 5), (x + 6 * way, y)]))

    def _paint_brush(self, x: float, y: float, radius: float, erase: bool) -> None:
        """The stroke so far, and the brush's ring."""
        layer, size = self.screen["marks"], radius * self.view.scale
        colour = EXCLUDE_COLOUR if erase else colour_of(self.session.objects.index(self.session.active))
        if self.stroke:
            path = np.array([self.view.to_canvas(*point) for point in self.stroke]) + 0.5
            layer.global_alpha = 0.6
            layer.stroke_style = layer.fill_style = colour
            layer.line_width, layer.line_cap, layer.line_join = 2 * size, "round", "round"
            if len(path) > 1:
                layer.stroke_lines(path)
            else:
                layer.fill_circle(*path[0], size)
            layer.global_alpha = 1
            layer.line_cap, layer.line_join = "butt", "miter"
        for ring, width in (("rgba(0, 0, 0, 0.65)", 3), (colour if erase else "white", 1.5)):
            layer.stroke_style = ring
            layer.line_width = width
            layer.stroke_circle(x + 0.5, y + 0.5, max(size, 2))
