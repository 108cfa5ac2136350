"""The film strip: thumbnails of the clip, and below them the state of the active object on each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.plots import rgb
from nbhelpers.widgets.background import Later, Runner
from nbhelpers.widgets.canvas import LEFT, MAX_RATIO, LayeredCanvas
from nbhelpers.widgets.drawing import encode_photo

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


class FilmStrip:
    """A narrow canvas over the whole clip; a press or drag on it goes to a frame.

    Args:
        owner: a `FramesWidget`.
        width: canvas pixels.
    """

    def __init__(self, owner, width: int):
        self.owner, self.session = owner, owner.session
        session = self.session
        self.screen = LayeredCanvas(width, THUMB + GAP + BAR, ("thumbs", "bar", "cursor"), self._connected)
        self.screen.widget.add_class("nbhelpers-strip")
        self.width, count = width, len(session.frames)
        height, across = session.size
        self.slots = min(count, max(1, width // max(NARROWEST, round(THUMB * across / height))))
        self.range = (0, count - 1)
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
        return tuple(round(float(np.interp(doubt, (0.25, 0.5, 1.0), channel))) for channel in zip(*stops, strict=True))

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
