"""The pictures of the frames widget: the current frame with what the mouse does to it, and the film strip of the clip.

Below the thumbnails the strip shows the state of the active object on each frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import ObjectPrompts
from nbhelpers.core.video import wrap_columns
from nbhelpers.plots import EXCLUDE_COLOUR, colour_of, rgb
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.background import Later, Runner
from nbhelpers.widgets.canvas import LEFT, MAX_RATIO, RIGHT, LayeredCanvas
from nbhelpers.widgets.drawing import Photo, Viewport, encode_photo, visible
from nbhelpers.widgets.stage import Pointer, Stage

if TYPE_CHECKING:
    from nbhelpers.widgets.frames import FramesWidget

DISPLAYS = (
    ("overlay", "The frame with the masks over it (M: next)"),
    ("matte", "The mattes in grey: white is the object (M: next)"),
    ("cut-out", "The objects without their surroundings (M: next)"),
)
BEFORE, AFTER = "#FF4FD8", "#7CFF4F"  # outlines of the frames before and after
OTHER = "#00E5FF"  # outline of the other candidate on a doubtful frame
KNOB = 13  # canvas pixels: radius of the wipe's handle
TILE = 12  # canvas pixels of a square of the checkerboard
LIGHT, DARK = 235, 190
CHECKERBOARD = "checkerboard"
BACKGROUNDS = {"black": "#000000", "white": "#FFFFFF", "green": "#00B140", "magenta": "#FF00FF"}
BRUSHES = ("brush", "erase")
SPACING = 0.25  # of the brush's radius: nearer points of a stroke add nothing to it
THUMB, GAP, BAR = 54, 3, 16  # canvas pixels: height of the pictures, of what is between, and of the bar
NARROWEST = 30  # canvas pixels of a thumbnail
COLOURS = {
    "prompted": "#0072B2",
    "sure": "#009E73",
    "doubtful": "#E69F00",
    "wrong": "#D55E00",
    "gone": "#3A3A3A",
    "empty": "#9A9A9A",
}
LEGEND = (
    ("prompted", "prompted"),
    ("sure", "tracked"),
    ("doubtful", "doubtful"),
    ("wrong", "probably wrong"),
    ("outdated", "outdated"),
    ("gone", "gone"),
    ("other", "another candidate"),
    ("empty", "no mask"),
)
FILLS = {
    "outdated": f"repeating-linear-gradient(135deg, {COLOURS['sure']} 0 3px, white 3px 5px)",
    "other": "radial-gradient(circle at 6px 3px, black 2px, transparent 2.5px), "
    f"radial-gradient(circle at 6px 9px, black 2px, transparent 2.5px), {COLOURS['doubtful']}",
}
"""Backgrounds of the legend that are not one colour, as CSS."""
URGENT = ("empty", "gone", "tracked", "outdated", "prompted")  # the last is shown where frames share a pixel


class FrameStage(Stage[RotoSession]):
    """Paints what a `RotoSession` holds on its current frame: masks, mattes, cut-outs, neighbours' outlines, a wipe.

    Args:
        owner: whose film strip is painted in the same message.
        width: canvas width in pixels; see `Stage`.
    """

    owner: FramesWidget

    def __init__(self, owner: FramesWidget, width: int):
        super().__init__(owner, width)
        self.display = "overlay"
        """What is shown: one of `DISPLAYS`."""
        self.background = CHECKERBOARD
        """What is behind a cut-out: `CHECKERBOARD`, or one of `BACKGROUNDS`."""
        self.onion = 0
        """How many frames before and after are outlined."""
        self.wipe: float | None = None
        """Position of the wipe, 0 (left) to 1: the frame itself to its left, the display to its right."""
        self.hidden: set[str] = set()
        """Objects that are not shown."""
        self.stroke: list[tuple[float, float]] = []
        """A brush stroke that is being painted, in frame coordinates."""
        self.brush: tuple[float, float, float, bool] | None = None
        """The brush: x and y on the canvas, radius in frame pixels, whether it erases; None where it is not shown."""
        self.frame: int | None = None
        """The frame that was painted last."""
        self.on_wipe = lambda: None
        """Called after the wipe has been dragged."""
        self._mattes: dict[str, tuple] = {}
        self._unreadable: NbHelpersError | None = None

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the frames."""
        return self.session.size

    @property
    def subject(self) -> object:
        """What a gesture is about: the object, its points and the frame."""
        return self.session.active, self.prompts().points, self.session.frame

    def prompts(self) -> ObjectPrompts:
        """The prompts of the active object on the current frame."""
        return self.session.prompts()

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current frame."""
        return self.session.image()

    def show_frame(self) -> None:
        """Show the session's current frame: coarsely at once, exactly when it rests."""
        self.paint(preview=True)
        self.rest()

    def photo(self) -> Photo:
        """The current frame; where it cannot be read, a grey one."""
        if self._photo is None or self.frame != self.session.frame:
            self.frame, self._unreadable = self.session.frame, None
            try:
                self._photo = Photo(self.image())
            except NbHelpersError as error:
                self._unreadable = error
                self._photo = Photo(np.full((*self.session.size, 3), 90, np.uint8))
        return self._photo

    def raise_unreadable(self) -> None:
        """Raise the error of a frame that could not be read, once."""
        error, self._unreadable = self._unreadable, None
        if error is not None:
            raise error

    def paint(self, *, photo: bool = True, masks: bool = True, preview: bool = False) -> None:
        """Paint all layers, or only those that have changed; markers and the film strip always."""
        outdated = self.frame != self.session.frame
        photo = photo or outdated or (masks and self.display != "overlay")
        with self.screen.hold():
            super().paint(photo=photo, masks=masks or outdated, preview=preview)
            self.owner.strip.paint()

    @property
    def wipe_column(self) -> int:
        """The wipe in page pixels; 0 where there is none."""
        return 0 if self.wipe is None else round(self.wipe * self.viewport.canvas[1])

    @property
    def knob_row(self) -> int:
        """Where the middle of the wipe's handle is, in canvas pixels."""
        return self.viewport.canvas[0] - KNOB - 6

    def on_knob(self, x: float, y: float) -> bool:
        """Whether a press at a canvas position grabs the wipe's handle."""
        return self.wipe is not None and math.hypot(x - self.wipe_column, y - self.knob_row) <= KNOB + 3

    def visible_photo(self, preview: bool) -> UInt8[np.ndarray, "vh vw 3"]:
        """The visible part of the frame, matte or cut-out; see `Stage.visible_photo`."""
        frame = super().visible_photo(preview)
        if self.display == "overlay":
            return frame
        alpha = self._alpha(frame.shape[:2], preview)
        shown = cv2.merge([alpha] * 3) if self.display == "matte" else over_background(frame, alpha, self.background)
        column = self._wipe_in(self.viewport if preview else self.fine)
        return np.concatenate([frame[:, :column], shown[:, column:]], axis=1)

    def matte(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """The matte of an object on the current frame; the latest is kept."""
        session = self.session
        key = (session.frame, session.matte_settings(name))
        mask = session.mask(name=name)
        if name in self._mattes and self._mattes[name][0] is mask and self._mattes[name][1] == key:
            return self._mattes[name][2]
        matte = session.matte(name=name)
        if matte.shape != mask.shape:  # of a wrapped clip, mattes have the true width
            matte = wrap_columns(matte[:, :, None], (mask.shape[1] - matte.shape[1]) // 2)[:, :, 0]
        if not key[1].steady:  # else it depends on the neighbours' masks too
            self._mattes[name] = (mask, key, matte)
        return matte

    def masks(self) -> list[tuple[int, bool, Bool[np.ndarray, "vh vw"]]]:
        """Number, whether it is active, and the visible part of each mask in canvas pixels; see `Stage.masks`."""
        session = self.session
        return [
            (number, name == session.active, self._beside_wipe(session.mask(name=name)))
            for number, name in enumerate(session.objects if self.display == "overlay" else ())
            if name not in self.hidden and session.has_mask(name=name)
        ]

    def outlines(self) -> list[tuple[str, Bool[np.ndarray, "vh vw"]]]:
        """Outlines of the active object on the frames around, and of the other candidate on a doubtful frame."""
        outlines, session = [], self.session
        drift = session.drift() if self.display == "overlay" and session.active not in self.hidden else None
        if drift is not None and drift.has_other and (other := session.other_candidate()) is not None:
            outlines.append((OTHER, self._beside_wipe(other)))
        for away in range(self.onion if self.display == "overlay" else 0, 0, -1):
            for frame, colour in ((self.session.frame - away, BEFORE), (self.session.frame + away, AFTER)):
                if 0 <= frame < len(self.session.frames) and self.session.has_mask(frame):
                    outlines.append((colour, self._beside_wipe(self.session.mask(frame))))
        return outlines

    def paint_marks(self) -> None:
        """Paint the box, the markers, the brush and the wipe."""
        super().paint_marks()
        layer = self.surface["marks"]
        if self.brush is not None:
            self._paint_brush(*self.brush)
        if self.wipe is not None:
            for colour, width in (("rgba(0, 0, 0, 0.65)", 4), ("white", 2)):
                layer.stroke_style = layer.fill_style = colour
                layer.line_width = width
                layer.stroke_line(self.wipe_column, 0, self.wipe_column, self.viewport.canvas[0])
                layer.fill_circle(self.wipe_column, self.knob_row, KNOB - 2 + width / 2)
            layer.fill_style = "#333333"
            for way in (-1, 1):
                x, y = self.wipe_column + 3 * way, self.knob_row
                layer.fill_polygon(np.array([(x, y - 5), (x, y + 5), (x + 6 * way, y)]))

    def _alpha(self, shape: tuple[int, int], preview: bool) -> UInt8[np.ndarray, "vh vw"]:
        """The mattes of all shown objects; masks while the viewport moves, for mattes cost more."""
        alpha = np.zeros(shape, np.uint8)
        for name in self.session.objects:
            if name not in self.hidden and self.session.has_mask(name=name):
                layer = self.session.mask(name=name) if preview else self.matte(name)
                np.maximum(alpha, visible(layer, self.viewport if preview else self.fine), out=alpha)
        return alpha

    def _beside_wipe(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "vh vw"]:
        """The visible part of a mask to the right of the wipe."""
        part = visible(mask, self.fine) > 127
        part[:, : self._wipe_in(self.fine)] = False
        return part

    def _wipe_in(self, viewport: Viewport) -> int:
        """The wipe's column in what a viewport shows of the frame; 0 where there is none."""
        column = 0 if self.wipe is None else round(self.wipe * viewport.canvas[1])
        return max(0, column - viewport.placed()[0][0])

    def _paint_brush(self, x: float, y: float, radius: float, erase: bool) -> None:
        """Paint the stroke so far, and the brush's ring."""
        layer, size = self.surface["marks"], radius * self.viewport.scale
        colour = EXCLUDE_COLOUR if erase else colour_of(self.session.objects.index(self.session.active))
        if self.stroke:
            path = np.array([self.viewport.to_canvas(*point) for point in self.stroke]) + 0.5
            layer.global_alpha = 0.6
            layer.stroke_style = layer.fill_style = colour
            layer.line_width, layer.line_cap, layer.line_join = 2 * size, "round", "round"
            if len(path) > 1:
                layer.stroke_lines(path)
            else:
                layer.fill_circle(path[0, 0], path[0, 1], size)
            layer.global_alpha = 1
            layer.line_cap, layer.line_join = "butt", "miter"
        for ring, width in (("rgba(0, 0, 0, 0.65)", 3), (colour if erase else "white", 1.5)):
            layer.stroke_style = ring
            layer.line_width = width
            layer.stroke_circle(x + 0.5, y + 0.5, max(size, 2))


class FramePointer(Pointer[FrameStage]):
    """Mouse gestures on a `FrameStage`; see `Pointer`. With a brush the right button erases."""

    def __init__(self, stage: FrameStage):
        super().__init__(stage)
        self.radius = 12.0
        """Of the brush, in pixels of the frame."""
        self._marks = Later(lambda: self._paint(photo=False, masks=False), 0.03)
        self._wipe_moves = Later(lambda: self._paint(preview=True), 0.03)

    def show_brush(self) -> None:
        """Show or hide the brush's ring, as the mode wants it."""
        brush = None
        mode = self.drag[0] if self.drag and self.drag[0] in BRUSHES else self.mode
        if mode in BRUSHES:
            height, width = self.stage.viewport.canvas
            x, y = self.at or (width / 2, height / 2)
            brush = (x, y, self.radius, mode == "erase")
        if brush != self.stage.brush:
            self.stage.brush = brush
            self._marks.ask()

    def press(self, x: float, y: float, button: int = LEFT) -> None:
        """A click, or the beginning of a drag or stroke."""
        mode = self.meaning(button)
        if mode != "pan":
            self.stage.owner.stay()
        self._subject = self.stage.subject
        if button == LEFT and self.stage.on_knob(x, y):
            self.drag, self.at = ("wipe", x, y), (x, y)
        elif mode in BRUSHES:
            self.drag, self.at = (mode, x, y), (x, y)
            self.stage.stroke = [self.photo_point(x, y)]
            self.show_brush()
            self._marks.ask()
        else:
            if mode in ("include", "exclude"):
                self.stage.owner.announce_encoding()
            super().press(x, y, button)

    def move(self, x: float, y: float) -> None:
        """The mouse has moved; without a drag only the brush's ring follows it."""
        mode = self.drag[0] if self.drag else None
        if mode in BRUSHES and self.dropped():
            return
        if mode == "wipe":
            self.at = (x, y)
            self.stage.wipe = min(max(x / self.stage.viewport.canvas[1], 0.0), 1.0)
            self._wipe_moves.ask()
        elif mode in BRUSHES:
            self.at = (x, y)
            place, last = self.photo_point(x, y), self.stage.stroke[-1]
            if (place[0] - last[0]) ** 2 + (place[1] - last[1]) ** 2 >= (SPACING * self.radius) ** 2:
                self.stage.stroke.append(place)
            self.show_brush()
        else:
            super().move(x, y)
            if mode is None and self.mode in BRUSHES:
                self.show_brush()

    def release(self, x: float, y: float) -> None:
        """The end of a drag or stroke, by the button or by leaving the canvas."""
        mode, owner = self.drag[0] if self.drag else None, self.stage.owner
        if mode in BRUSHES and self.dropped():
            return
        if mode == "wipe":
            self.move(x, y)
            self.end()
            with owner.guard():
                self.stage.paint()
                self.stage.on_wipe()
        elif mode in BRUSHES:
            self.move(x, y)
            stroke = self.stage.stroke
            self.end()
            self.show_brush()
            with owner.guard():
                try:
                    self.stage.session.stroke(stroke, self.radius, mode == "erase")
                finally:
                    self._marks.ask()  # a stroke that is refused is removed
        else:
            if mode == "box":
                owner.announce_encoding()
            super().release(x, y)

    def close(self) -> None:
        """Stop painting."""
        self._marks.cancel()
        self._wipe_moves.cancel()

    def meaning(self, button: int) -> str:
        """The mode of a press."""
        return "erase" if button == RIGHT and self.mode in BRUSHES else super().meaning(button)

    def end(self) -> None:
        """Forget the drag."""
        super().end()
        self.stage.stroke = []

    def _paint(self, **what: bool) -> None:
        with self.stage.owner.guard():
            self.stage.paint(**what)


def over_background(
    frame: UInt8[np.ndarray, "vh vw 3"], alpha: UInt8[np.ndarray, "vh vw"], background: str
) -> UInt8[np.ndarray, "vh vw 3"]:
    """The frame where ``alpha`` is 255, the background where it is 0."""
    if background == CHECKERBOARD:
        rows, columns = (np.arange(side) // TILE % 2 for side in alpha.shape)
        behind = cv2.merge([np.where(rows[:, None] ^ columns[None], DARK, LIGHT).astype(np.uint8)] * 3)
    else:
        behind = np.full((*alpha.shape, 3), rgb(BACKGROUNDS[background]), np.uint8)
    weight: Float32[np.ndarray, "vh vw"] = alpha.astype(np.float32) / 255
    return cv2.blendLinear(np.ascontiguousarray(frame), behind, weight, 1 - weight)


class FilmStrip:
    """A narrow canvas over the whole clip; a press or drag on it goes to a frame.

    Args:
        owner: whose clip is shown.
        width: canvas pixels.
    """

    def __init__(self, owner: FramesWidget, width: int):
        self.owner, self.session = owner, owner.session
        session = self.session
        self.screen = LayeredCanvas(width, THUMB + GAP + BAR, ("thumbs", "bar", "cursor"), self._connected)
        self.screen.widget.add_class("nbhelpers-strip")
        self.width, count = width, len(session.frames)
        height, across = session.size
        self.slots = min(count, max(1, width // max(NARROWEST, round(THUMB * across / height))))
        self.range: tuple[int, int] = (0, count - 1)
        """First and last frame, both included, of what is played and tracked."""
        self.thumbs: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
        self._states, self._doubts, self._others = ["empty"] * count, np.zeros(count), np.zeros(count, bool)
        self._painted: tuple | None = None
        self._basis: tuple | None = None
        self._pressed, self._wanted = False, 0
        self._scrub = Later(self._arrive, 0.03)
        self._loader, self._open = Runner(), True
        self.screen.on_mouse(self.press, self.move, self.release, lambda: self.release(0, 0))

    def span(self, frame: int) -> tuple[float, float]:
        """Where a frame begins and ends on the strip, in canvas pixels."""
        count = len(self.session.frames)
        return frame * self.width / count, (frame + 1) * self.width / count

    def frame_at(self, x: float) -> int:
        """The frame at a canvas position; beyond the ends the first or last."""
        count = len(self.session.frames)
        return min(max(int((x + 0.5) * count / self.width), 0), count - 1)

    def press(self, x: float, y: float, button: int = LEFT) -> None:
        """Go to a frame, and begin to drag over the strip."""
        self._pressed = button == LEFT
        self.move(x, y)

    def move(self, x: float, y: float) -> None:
        """Go on to another frame during a drag."""
        if self._pressed and self.frame_at(x) != self.session.frame:
            self._wanted = self.frame_at(x)
            self._scrub.ask()

    def release(self, x: float, y: float) -> None:
        """The end of a drag."""
        self._pressed = False

    def refresh(self) -> None:
        """Read the state of all frames again, if anything but the current frame has changed."""
        session = self.session
        known = (session.log.events, session.log.cursor, session.active)
        if self._basis is None or self._basis[0] is not known[0] or self._basis[1:] != known[1:]:
            self.update()

    def update(self) -> None:
        """Read the state of all frames again."""
        session = self.session
        self._basis = (session.log.events, session.log.cursor, session.active)
        for frame in range(len(session.frames)):
            self._read(frame)
        self._painted = None

    def touch(self, frame: int) -> None:
        """A frame has a new mask: show it with the next `paint`."""
        self._read(frame)
        self._painted = None

    def paint(self) -> None:
        """Paint the bar and the cursor if they have changed: one message."""
        now = (self.session.frame, self.range)
        if self._painted == now:
            return
        with self.screen.hold():
            if self._painted is None:
                self.screen["bar"].clear()
                self.screen.put(
                    "bar", encode_photo(self._fine(self.bar())), 0, round((THUMB + GAP) * self.screen.ratio)
                )
            self._paint_cursor()
        self._painted = now

    def bar(self) -> UInt8[np.ndarray, "h w 3"]:
        """The states of all frames as a picture: a column a frame, or the most urgent of a column's frames."""
        count = len(self._states)
        urgency = np.array([URGENT.index(state) for state in self._states]) + 0.99 * self._doubts
        starts = np.arange(self.width) * count // self.width
        if count > self.width:
            spans = pairwise([*starts.tolist(), count])
            best = [start + int(urgency[start:stop].argmax()) for start, stop in spans]
        else:
            best = starts.tolist()
        image = np.empty((BAR, self.width, 3), np.uint8)
        for x, frame in enumerate(best):
            image[:, x] = self.colour(frame)
        rows, columns = np.mgrid[:BAR, : self.width]
        outdated = np.array([self._states[frame] == "outdated" for frame in best])
        image[((rows + columns) % 6 < 3) & outdated[None]] = 255  # hatched
        wide = self.width / count
        for frame in range(count if wide >= 5 else 0):
            image[:, int(self.span(frame)[0])] = 255
        for frame, state in enumerate(self._states):
            if state == "prompted" or self._others[frame]:
                (_diamond if state == "prompted" else _two_dots)(image, int(sum(self.span(frame)) / 2))
        return image

    def colour(self, frame: int) -> tuple[int, int, int]:
        """The colour of the state of the active object on a frame."""
        state, doubt = self._states[frame], self._doubts[frame]
        if state not in ("tracked", "outdated"):
            return rgb(COLOURS[state])
        stops = [rgb(COLOURS[name]) for name in ("sure", "doubtful", "wrong")]
        red, green, blue = (round(float(np.interp(doubt, (0.25, 0.5, 1.0), each))) for each in zip(*stops, strict=True))
        return red, green, blue

    def close(self) -> None:
        """Stop painting."""
        self._open = False
        self._scrub.cancel()
        self.screen.close()

    def _read(self, frame: int) -> None:
        drift = self.session.drift(frame)
        self._states[frame], self._doubts[frame] = self.session.state(frame), 0.0 if drift is None else drift.score
        self._others[frame] = drift is not None and drift.has_other

    def _connected(self) -> None:
        """A page has connected, whose layers are empty: paint what there is, and load the missing thumbnails."""
        self._painted = None
        with self.owner.reporting(), self.screen.hold():
            self.screen["thumbs"].clear()
            for slot in self.thumbs:
                self._paint_thumb(slot)
            self.paint()
        if len(self.thumbs) < self.slots and not self._loader.running:
            self._loader.start(self._missing_thumbs(), self._show_thumb, self._end_loading)

    def _arrive(self) -> None:
        with self.owner.guard():
            self.owner.visit(self._wanted)

    def _missing_thumbs(self) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Slots and their thumbnails, decoded one by one in a thread."""
        count = len(self.session.frames)
        for slot in range(self.slots):
            if slot in self.thumbs or not self._open:
                continue
            x0, x1 = self._slot(slot)
            try:
                image = self.session.frames[min(int((slot + 0.5) * count / self.slots), count - 1)]
            except NbHelpersError:  # the canvas reports it when the frame is shown
                image = np.full((*self.session.size, 3), 60, np.uint8)
            yield slot, _fitted(image, int(MAX_RATIO * (x1 - x0 - 1)), int(MAX_RATIO * THUMB))

    def _show_thumb(self, loaded: tuple[int, UInt8[np.ndarray, "h w 3"]]) -> None:
        slot, self.thumbs[loaded[0]] = loaded[0], loaded[1]
        if self._open:
            with self.screen.hold():
                self._paint_thumb(slot)

    def _end_loading(self, error: BaseException | None) -> None:
        if error is not None and self._open:
            with self.owner.reporting():
                raise error

    def _slot(self, slot: int) -> tuple[int, int]:
        return round(slot * self.width / self.slots), round((slot + 1) * self.width / self.slots)

    def _paint_thumb(self, slot: int) -> None:
        left = round(self._slot(slot)[0] * self.screen.ratio)
        self.screen.put("thumbs", encode_photo(self._fine(self.thumbs[slot], MAX_RATIO), preview=True), left, 0)

    def _fine(self, image: UInt8[np.ndarray, "h w 3"], ratio: float = 1.0) -> UInt8[np.ndarray, "fh fw 3"]:
        """A picture of ``ratio`` pixels for one of the page, in pixels of the canvas."""
        if ratio == self.screen.ratio:
            return image
        height, width = (round(side / ratio * self.screen.ratio) for side in image.shape[:2])
        how = cv2.INTER_AREA if ratio > self.screen.ratio else cv2.INTER_NEAREST
        return cv2.resize(image, (width, height), interpolation=how)

    def _paint_cursor(self) -> None:
        layer = self.screen["cursor"]
        layer.clear()
        (start, _), (_, stop) = self.span(self.range[0]), self.span(self.range[1])
        layer.fill_style = "rgba(20, 20, 20, 0.6)"
        for x, width in ((0, start), (stop, self.width - stop)):
            if width > 0.5:
                layer.fill_rect(x, 0, width, THUMB + GAP + BAR)
        left, right = self.span(self.session.frame)
        middle, width = (left + right) / 2, max(right - left, 5)
        for colour, line in (("black", 5), ("white", 2.5)):
            layer.stroke_style = colour
            layer.line_width = line
            layer.stroke_rect(min(max(middle - width / 2, 2), self.width - width - 2), 2, width, THUMB + GAP + BAR - 4)


def legend_html(words: Mapping[str, str] | None = None) -> str:
    """What the colours of the strip mean; ``words`` are given in place of some texts of `LEGEND`."""
    items = []
    for state, text in LEGEND:
        colour = COLOURS.get(state, COLOURS["sure"])
        fill = FILLS.get(state, colour)
        items.append(
            '<span style="white-space:nowrap">'
            '<span style="display:inline-block;width:12px;height:12px;margin-right:4px;'
            f'vertical-align:-1px;background:{fill}"></span>{(words or {}).get(state, text)}</span>'
        )
    return (
        '<div class="nbhelpers-legend" style="display:flex;flex-wrap:wrap;gap:2px 14px;line-height:1.5;'
        f'color:var(--jp-ui-font-color2, inherit)">{"".join(items)}</div>'
    )


def _fitted(image: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "th tw 3"]:
    """A frame, whole, in the middle of a slot of the strip."""
    width = max(width, 1)
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    out = np.full((height, width, 3), 60, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return out


def _two_dots(image: UInt8[np.ndarray, "h w 3"], x: int) -> None:
    """The mark of a frame with another candidate: one dot above the other."""
    middle = image.shape[0] // 2
    for y in (middle - 4, middle + 4):
        cv2.circle(image, (x, y), 3, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
        cv2.circle(image, (x, y), 2, (0, 0, 0), cv2.FILLED, cv2.LINE_AA)


def _diamond(image: UInt8[np.ndarray, "h w 3"], x: int) -> None:
    """The mark of a prompted frame."""
    y, reach = image.shape[0] // 2, 6
    corners = np.array([[x, y - reach], [x + reach, y], [x, y + reach], [x - reach, y]], np.int32)
    cv2.fillConvexPoly(image, corners, (255, 255, 255), cv2.LINE_AA)
    corners = np.array([[x, y - 4], [x + 4, y], [x, y + 4], [x - 4, y]], np.int32)
    cv2.fillConvexPoly(image, corners, rgb(COLOURS["prompted"]), cv2.LINE_AA)
