"""The picture of a session on a canvas, and what the mouse does to it: one way for all widgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import ipywidgets as widgets
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import ObjectPrompts
from nbhelpers.widgets.background import Later
from nbhelpers.widgets.base import Session, SessionWidget
from nbhelpers.widgets.canvas import LEFT, MIDDLE, RIGHT, LayeredCanvas
from nbhelpers.widgets.controls import Row, choice, label, space
from nbhelpers.widgets.drawing import Photo, StillScreen, Viewport, draw_box, draw_marker, encode_overlay, encode_photo

BACKGROUND = "#80808030"  # a margin beside the photo, grey on light and dark pages
MIN_HEIGHT, MAX_HEIGHT = 0.3, 0.75  # of a canvas, in widths
FINE_QUALITY = 95  # of JPEG
REACH = 11  # page pixels from a marker's centre within which a press grabs it
MIN_DRAG = 4  # page pixels; less is a trembling hand
WHEEL = 1.0015  # zoom factor for one unit that a wheel turns
ZOOM_STEP = 1.5  # zoom factor of one press on a button
MODES = (
    ("include", "Click on the object. {exclude} Drag a marker to move it."),
    ("exclude", "Click on what does not belong to the object. Drag a marker to move it."),
    ("box", "Drag a box around the object."),
    ("remove", "Click on a marker to remove it."),
    ("pan", "Drag the photo. The mouse wheel zooms in every mode."),
)


@runtime_checkable
class PromptedSession(Session, Protocol):
    """What a `Pointer` needs of a session; ``place`` names the frame or view as the session does, see `Stage.place`."""

    def click(self, x: float, y: float, label: int, /, *args: Any, **place: Any) -> object:
        """Add a point, 1 to include or 0 to exclude."""
        ...

    def move(self, index: int, x: float, y: float, /, *args: Any, **place: Any) -> object:
        """Move a point."""
        ...

    def remove(self, index: int, /, *args: Any, **place: Any) -> object:
        """Remove a point."""
        ...

    def set_box(self, box: Sequence[float] | None, /, *args: Any, **place: Any) -> object:
        """Set or, with None, remove the box."""
        ...


PromptedT_co = TypeVar("PromptedT_co", bound=PromptedSession, covariant=True)


class Stage(Generic[PromptedT_co]):
    """Paints the photo, masks and markers of a session; knows the viewport, and what is being dragged.

    A subclass says what those are: `size`, `subject`, `prompts`, `image` and `masks`.

    Args:
        owner: the widget of the session.
        width: canvas width in page pixels; the height follows the photo, between 0.3 and 0.75 of the width.
    """

    def __init__(self, owner: SessionWidget[PromptedT_co], width: int):
        self.owner, self.session = owner, owner.session
        height = round(width * min(max(self.size[0] / self.size[1], MIN_HEIGHT), MAX_HEIGHT))
        self.screen = LayeredCanvas(width, height, ("photo", "masks", "marks"), self._connected)
        self.screen.widget.add_class("nbhelpers-canvas")
        self.surface: LayeredCanvas | StillScreen = self.screen
        """What is painted on: the screen, or a still picture of it."""
        self.viewport = Viewport.fit(self.size, (height, width))
        self.opacity = 0.5
        self.rubber: tuple[float, float, float, float] | None = None
        """A box that is being drawn, in photo coordinates."""
        self.dragged: tuple[int, float, float] | None = None
        """A point that is being moved: its index, and x and y in photo coordinates."""
        self.on_viewport = self.on_ready = lambda: None
        """Called after the viewport has changed, and after a page has connected and everything is painted."""
        self._photo: Photo | None = None
        self._preview = Later(lambda: self._moved(preview=True), 0.03)
        self._settle = Later(self._moved, 0.25, restart=True)

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the photo."""
        raise NotImplementedError

    @property
    def place(self) -> dict[str, int]:
        """Keyword arguments of the session's methods that name the frame or view shown."""
        return {}

    @property
    def subject(self) -> object:
        """What a gesture is about; when it changes, the gesture has lost its meaning."""
        raise NotImplementedError

    @property
    def fine(self) -> Viewport:
        """The viewport in pixels of the canvas; `viewport` itself is in those of the page."""
        return self.viewport.finer(self.surface.ratio)

    def prompts(self) -> ObjectPrompts:
        """The prompts whose markers are shown."""
        raise NotImplementedError

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo."""
        raise NotImplementedError

    def photo(self) -> Photo:
        """The photo with its halved copies."""
        if self._photo is None:
            self._photo = Photo(self.image())
        return self._photo

    def show_photo(self) -> None:
        """Show another photo of the session, whole."""
        self._photo = None
        self.look(Viewport.fit(self.size, self.viewport.canvas))

    def masks(self) -> list[tuple[int, bool, Bool[np.ndarray, "vh vw"]]]:
        """Number, whether it is active, and the visible part of each mask in canvas pixels."""
        raise NotImplementedError

    def outlines(self) -> list[tuple[str, Bool[np.ndarray, "vh vw"]]]:
        """Colour and visible part of what is only outlined."""
        return []

    def paint(self, *, photo: bool = True, masks: bool = True, preview: bool = False) -> None:
        """Paint all layers, or only those that have changed; markers always."""
        with self.screen.hold():
            if photo:
                self.paint_photo(preview)
            if masks:
                self.paint_masks()
            self.paint_marks()

    def look(self, viewport: Viewport, *, moving: bool = False) -> None:
        """Show another part of the photo; while it is ``moving`` with the mouse, coarser until it rests."""
        self.viewport = viewport
        if moving:
            self._preview.ask()
            self._settle.ask()
        else:
            self._preview.cancel()
            self._settle.cancel()
            self.paint()
        self.on_viewport()

    def rest(self) -> None:
        """Paint exactly what was painted coarsely, when nothing has moved for a moment."""
        self._settle.ask()

    def close(self) -> None:
        """Stop painting."""
        self._preview.cancel()
        self._settle.cancel()
        self.screen.close()

    def visible_photo(self, preview: bool) -> UInt8[np.ndarray, "vh vw 3"]:
        """The part of the photo that is visible: in canvas pixels, or in those of the page for a preview."""
        return self.photo().crop(self.viewport if preview else self.fine)

    def paint_photo(self, preview: bool) -> None:
        """Paint the photo and the margin beside it."""
        layer, viewport = self.surface["photo"], self.viewport if preview else self.fine
        (x0, y0, x1, y1), _ = viewport.placed()
        layer.clear()
        if (y0, x0, y1, x1) != (0, 0, *viewport.canvas):
            layer.fill_style = BACKGROUND
            layer.fill_rect(0, 0, *self.surface.size)
        picture = self.visible_photo(preview)
        if preview:
            file = encode_photo(picture, preview=True)
        else:  # a screen with finer pixels hides the loss, and would get a file of megabytes
            file = encode_photo(picture, preview=self.surface.ratio > 1, quality=FINE_QUALITY)
        self.surface.put("photo", file, x0, y0, enlarge=preview)

    def paint_masks(self) -> None:
        """Paint the masks, the active one in front."""
        self.surface["masks"].clear()
        masks = sorted(self.masks(), key=lambda mask: mask[1])
        active = next((number for number, is_active, _ in masks if is_active), None)
        parts = [(number, part) for number, _, part in masks]
        encoded = encode_overlay(parts, active, self.opacity, self.outlines(), self.surface.ratio)
        if encoded is not None:
            png, x, y = encoded
            (x0, y0, _, _), _ = self.fine.placed()
            self.surface.put("masks", png, x0 + x, y0 + y)

    def paint_marks(self) -> None:
        """Paint the box and the markers."""
        layer = self.surface["marks"]
        layer.clear()
        prompts = self.prompts()
        box = prompts.box if self.rubber is None else self.rubber
        if box is not None:
            corners = (*self.viewport.to_canvas(*box[:2]), *self.viewport.to_canvas(*box[2:]))
            draw_box(layer, corners, dashed=self.rubber is not None)
        for index, ((x, y), kind) in enumerate(zip(prompts.points, prompts.labels, strict=True)):
            if self.dragged is not None and self.dragged[0] == index:
                x, y = self.dragged[1:]
            draw_marker(layer, *self.viewport.to_canvas(x, y), kind)

    def point_at(self, x: float, y: float) -> int | None:
        """Index of the point nearest to page ``(x, y)`` within `REACH` pixels, or None."""
        near = []
        for index, point in enumerate(self.prompts().points):
            px, py = self.viewport.to_canvas(*point)
            near.append(((px - x) ** 2 + (py - y) ** 2, index))
        return min(near)[1] if near and min(near)[0] <= REACH**2 else None

    def _moved(self, *, preview: bool = False) -> None:
        with self.owner.reporting():
            self.paint(preview=preview)

    def _connected(self) -> None:
        with self.owner.reporting():
            self.paint()
            self.on_ready()


StageT = TypeVar("StageT", bound=Stage[PromptedSession])


class Pointer(Generic[StageT]):
    """Mouse gestures on a `Stage`.

    The mode says what the left button does; in every mode the right one excludes, and the middle one pans. Unless the
    press draws a box or pans, it grabs (or removes) a marker under it. A gesture that leaves the canvas ends at its
    edge, since a release outside is not reported; one whose object or frame is exchanged meanwhile is dropped.
    """

    def __init__(self, stage: StageT):
        self.stage = stage
        self.mode = "include"
        """What a press of the left button means: one of `MODES`."""
        self.drag: tuple[str, float, float] | None = None
        """The gesture in progress: its mode, and where it began on the canvas."""
        self.at: tuple[float, float] | None = None
        """Where the mouse was last."""
        self._subject: object = None  # what the gesture began on
        stage.screen.on_mouse(self.press, self.move, self.release, self.cancel)
        stage.screen.widget.on_mouse_wheel(self.wheel)

    def press(self, x: float, y: float, button: int = LEFT) -> None:
        """A click, or the beginning of a drag."""
        stage, self.drag, self.at, self._subject = self.stage, None, (x, y), self.stage.subject
        mode = self.meaning(button)
        with stage.owner.guard():
            if mode in ("box", "pan"):
                self.drag = (mode, x, y)
                return
            hit = stage.point_at(x, y)
            if mode == "remove":
                if hit is None:
                    raise NbHelpersError("there is no marker here", do="click on the marker to remove")
                stage.session.remove(hit, **stage.place)
            elif hit is not None:
                stage.dragged = (hit, *stage.prompts().points[hit])
                self.drag = ("point", x, y)
            else:
                stage.session.click(*self.photo_point(x, y), int(mode == "include"), **stage.place)

    def move(self, x: float, y: float) -> None:
        """The mouse has moved; of interest during a drag only."""
        before, self.at = self.at or (x, y), (x, y)
        if self.drag is None or self.dropped():
            return
        stage, (mode, start_x, start_y) = self.stage, self.drag
        with stage.owner.guard():
            viewport = stage.viewport
            if mode == "pan":
                stage.look(viewport.panned(x - before[0], y - before[1]), moving=True)
                return
            place = viewport.clamp_to_photo(*viewport.to_photo(x, y))
            if mode == "box":
                start = viewport.clamp_to_photo(*viewport.to_photo(start_x, start_y))
                stage.rubber = _sorted_box(start, place)
            elif stage.dragged is not None and self._is_far(x, y):
                stage.dragged = (stage.dragged[0], *place)
            stage.paint(photo=False, masks=False)

    def release(self, x: float, y: float) -> None:
        """The end of a drag, by the button or by leaving the canvas."""
        if self.drag is None or self.dropped():
            return
        self.move(x, y)
        stage, mode, is_far = self.stage, self.drag[0], self._is_far(x, y)
        dragged, rubber = stage.dragged, stage.rubber
        self.end()
        with stage.owner.guard():
            if dragged is not None and is_far:
                stage.session.move(*dragged, **stage.place)
            elif mode == "box" and is_far:
                stage.session.set_box(rubber, **stage.place)
            elif mode != "pan":
                stage.paint(photo=False, masks=False)
            if mode == "box" and not is_far:
                raise NbHelpersError("a box needs a drag", do="press in one corner, release in the opposite one")

    def wheel(self, dx: float, dy: float) -> None:
        """Zoom about the mouse."""
        with self.stage.owner.guard():
            steps = min(max(dy, -400), 400)
            self.stage.look(self.stage.viewport.zoomed(WHEEL**-steps, about=self.at), moving=True)

    def cancel(self) -> None:
        """Drop a drag without effect."""
        if self.drag is not None:
            self.end()
            with self.stage.owner.guard():
                self.stage.paint(photo=False, masks=False)

    def meaning(self, button: int) -> str:
        """The mode of a press."""
        return {RIGHT: "exclude", MIDDLE: "pan"}.get(button, self.mode)

    def dropped(self) -> bool:
        """Whether the drag has lost its object or frame, e.g. to the player; it is dropped then."""
        if self.drag is None or self.drag[0] == "pan" or self.stage.subject == self._subject:
            return False
        self.cancel()
        with self.stage.owner.guard():
            raise NbHelpersError("the picture or the object changed during the drag", do="drag once more")
        return True

    def end(self) -> None:
        """Forget the drag."""
        self.drag = self.stage.rubber = self.stage.dragged = None

    def photo_point(self, x: float, y: float) -> tuple[float, float]:
        """Photo coordinates to a tenth of a pixel, which is what a log should hold and a user can read.

        A press beside the photo by less than a canvas pixel counts as one on its edge: a photo may be thinner than that
        on the canvas, and a page may place the canvas at fractions of a pixel.
        """
        viewport = self.stage.viewport
        px, py = viewport.to_photo(x, y)
        inside = viewport.clamp_to_photo(px, py)
        if 0.5 <= max(abs(px - inside[0]), abs(py - inside[1])) <= 0.5 + 1 / viewport.scale:
            px, py = inside
        return round(px, 1), round(py, 1)

    def _is_far(self, x: float, y: float) -> bool:
        """Whether the mouse has left the place where the drag began."""
        return self.drag is not None and abs(x - self.drag[1]) + abs(y - self.drag[2]) >= MIN_DRAG


class ModeRow(Row):
    """The modes as buttons, of which one is down.

    Args:
        owner: the widget.
        pointer: gets the mode.
        modes: ``(name, hint)`` of each.
        keys: by mode, its key; the first letter of its name where left out.
        width: of a button.
    """

    def __init__(
        self,
        owner: SessionWidget,
        pointer: Pointer,
        modes: Sequence[tuple[str, str]] = MODES,
        keys: Mapping[str, str] = {},
        width: str = "84px",
    ):
        self._pointer, self._hints = pointer, dict(modes)
        self.choice = choice([(mode, hint.replace("{exclude} ", "")) for mode, hint in modes], width)
        owner.bind(self.choice, self._choose)
        for mode in self._hints:
            owner.keys_of[keys.get(mode, mode[0])] = lambda mode=mode: self.choose(mode)
        super().__init__(label("Mode"), self.choice, wrap=False, align_items="flex-start")

    def choose(self, mode: str) -> None:
        """Let a press on the canvas mean this: one of the modes."""
        self.choice.value = mode

    def hint(self) -> str:
        """What a press means now."""
        reports = self._pointer.stage.screen.reports_buttons
        how = "Right-click or Shift-click" if reports else "Choose Exclude (E) and click"
        return self._hints[self._pointer.mode].replace("{exclude}", f"{how} on what does not belong to it.")

    def _choose(self, mode: str) -> None:
        self._pointer.mode = mode


class ZoomRow(Row):
    """Zoom, pan and the opacity of the masks."""

    def __init__(self, owner: SessionWidget, stage: Stage):
        self._owner, self._stage = owner, stage
        viewport = stage.viewport
        low, high = math.log2(viewport.min_scale), math.log2(viewport.max_scale)
        self.zoom = widgets.FloatLogSlider(
            value=viewport.scale, base=2, min=low, max=high, step=(high - low) / 200, readout_format=".0%"
        )
        self.zoom.tooltip = "Zoom: screen pixels for one pixel of the photo"
        owner.bind(
            self.zoom, lambda scale: stage.look(stage.viewport.zoomed(scale / stage.viewport.scale), moving=True)
        )
        self.opacity = widgets.FloatSlider(value=stage.opacity, min=0, max=1, step=0.05, readout_format=".0%")
        self.opacity.tooltip = "Opacity of the masks"
        owner.bind(self.opacity, self._set_opacity)
        for slider in (self.zoom, self.opacity):
            slider.layout = widgets.Layout(width="230px", margin="0")
        zooms = (
            ("search-minus", "Zoom out", 1 / ZOOM_STEP),
            ("search-plus", "Zoom in", ZOOM_STEP),
            ("expand", "The whole photo", 0),
        )
        near = [owner.button("", text, lambda by=by: self.zoom_by(by), icon=icon) for icon, text, by in zooms]
        arrows = (("left", 1, 0), ("right", -1, 0), ("up", 0, 1), ("down", 0, -1))
        pan = [
            owner.button("", f"Show more of the {side}", lambda x=x, y=y: self.pan(x, y), icon=f"arrow-{side}")
            for side, x, y in arrows
        ]
        for side, x, y in arrows:
            owner.keys_of[f"Arrow{side.capitalize()}"] = lambda x=x, y=y: self.pan(x, y)
        for key, by in {"+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, "0": 0}.items():
            owner.keys_of[key] = lambda by=by: self.zoom_by(by)
        stage.on_viewport = self.refresh
        # Rows within the row: what belongs together wraps together.
        super().__init__(Row(label("Zoom"), *near, self.zoom), Row(*pan), space(), Row(label("Opacity"), self.opacity))

    def refresh(self) -> None:
        """Bring the slider to the viewport's scale."""
        viewport = self._stage.viewport
        low, high = math.log2(viewport.min_scale), math.log2(viewport.max_scale)
        self._owner.show_value(self.zoom, min=min(low, self.zoom.max), max=high, value=viewport.scale)
        self._owner.show_value(self.zoom, min=low)

    def zoom_by(self, factor: float) -> None:
        """Zoom about the middle; 0 shows the whole photo."""
        with self._owner.guard():
            self._stage.look(self._stage.viewport.zoomed(factor))

    def pan(self, across: int, down: int) -> None:
        """Move the photo by quarters of the canvas."""
        with self._owner.guard():
            height, width = self._stage.viewport.canvas
            self._stage.look(self._stage.viewport.panned(across * width / 4, down * height / 4))

    def _set_opacity(self, opacity: float) -> None:
        self._stage.opacity = opacity
        self._stage.paint(photo=False)


def _sorted_box(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = one, other
    return round(min(x0, x1), 1), round(min(y0, y1), 1), round(max(x0, x1), 1), round(max(y0, y1), 1)
